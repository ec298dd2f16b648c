from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from polyclinic.objectives import MaskDecoder, PatchDecoder
from polyclinic.schema import Modality, Tokens
from polyclinic.tokens import Vit3d, phantom, select


def tokens_of(spec: Vit3d, seed: int = 0) -> tuple[Tokens, torch.Tensor]:
    ragged = phantom.ragged(spec.standard(), {"a": 2, "b": 1}, seed)
    assert isinstance(ragged.values, torch.Tensor)
    return spec.build(phantom.fingerprint())(ragged), ragged.values


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("patch", [4, 8, 16])
def test_every_token_reaches_the_mask(patch: int, full: bool) -> None:
    """Be there more tokens than samples at the lowest level, or fewer; none is thrown away."""
    spec = Vit3d(size=(32, 32, 32), patch=(patch, patch, patch), width=16, depth=0, heads=2)
    tokens, x = tokens_of(spec)
    tokens.values = tokens.values.detach().requires_grad_()
    logits = MaskDecoder(16, Modality.VOLUME, spec.patch, 2, channels=2, full=full)(tokens, x)
    assert logits.shape == (3, 2, 32, 32, 32)
    assert torch.autograd.grad(logits.square().sum(), tokens.values)[0].abs().sum(1).all()


def test_a_token_enters_at_its_own_place_of_its_own_record() -> None:
    spec = Vit3d(size=(32, 32, 32), patch=(8, 8, 8), width=16, depth=0, heads=2)
    tokens, x = tokens_of(spec)
    decoder, entered = MaskDecoder(16, Modality.VOLUME, spec.patch, 2, channels=2), []
    decoder.bottom.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
    decoder(tokens, x)
    tokens.values = tokens.values.detach().clone()
    tokens.values[64 + (2 * 4 + 0) * 4 + 3] += 1  # of the second volume, the box (2, 0, 3) of 4 x 4 x 4
    decoder(tokens, x)
    changed = (entered[1] - entered[0]).abs().amax(1).nonzero().tolist()
    assert changed == [[1, 2, 0, 3]]


def test_records_do_not_see_each_other() -> None:
    spec = Vit3d(size=(16, 16, 16), patch=(8, 8, 8), width=16, depth=0, heads=2)
    tokens, x = tokens_of(spec)
    tokens.values = tokens.values.detach().requires_grad_()
    own = MaskDecoder(16, Modality.VOLUME, spec.patch, 2, channels=2)(tokens, x.requires_grad_())[1].square().sum()
    by_token, by_sample = torch.autograd.grad(own, (tokens.values, x))
    assert [bool(g.any()) for g in by_token.split(8)] == [False, True, False]
    assert [bool(g.any()) for g in by_sample] == [False, True, False]


@pytest.mark.parametrize("full", [False, True])
def test_sizes_that_are_no_multiple_of_eight(full: bool) -> None:
    spec = Vit3d(size=(20, 12, 36), patch=(4, 4, 4), width=16, depth=0, heads=2)
    tokens, x = tokens_of(spec)
    assert MaskDecoder(16, Modality.VOLUME, spec.patch, 3, channels=2, full=full)(tokens, x).shape == (3, 3, 20, 12, 36)


def test_a_decoder_knows_where_it_is_asked_and_not_what_was_there() -> None:
    spec = Vit3d(size=(16, 16, 16), patch=(8, 8, 8), width=16, depth=0, heads=2)
    every, _ = tokens_of(spec)
    keep = torch.tensor([True, False, True, False, True, True, False, False] * 3)
    decoder = PatchDecoder(16, 5, inner=16, depth=1, heads=2, scale=(1, 1, 1, 1))
    answers = decoder(every, select(every, keep), keep)
    assert answers.shape == (12, 5)
    assert (answers[0] - answers[1]).abs().max() > 1e-4  # two places of one record
    louder = replace(every, values=torch.where(keep[:, None], every.values, 1e3))
    assert torch.equal(decoder(louder, select(every, keep), keep), answers)
