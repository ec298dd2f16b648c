from __future__ import annotations

import torch

from polyclinic.fusion import Early, Intermediate
from polyclinic.models import TwoTower, build_model
from polyclinic.schema import Modality
from polyclinic.tokens import join, phantom

ENCODERS = phantom.encoders()
STANDARDS = {m: s.standard() for m, s in ENCODERS.items()}


def model_of(fusion: Early | Intermediate):
    return build_model(TwoTower(width=16, embedding=16, fusion=fusion), ENCODERS, phantom.fingerprint(), 0)


def test_modalities_share_one_trunk_and_have_none_of_their_own() -> None:
    early, later = model_of(Early(depth=1, heads=2)), model_of(Intermediate(depth=1, heads=2))
    assert [len(early.encoder(m).blocks.blocks) for m in ENCODERS] == [0] * len(ENCODERS)
    assert [len(later.encoder(m).blocks.blocks) for m in ENCODERS] == [1] * len(ENCODERS)


def test_which_modality_is_concatenated_first_has_no_influence() -> None:
    """Whatever order the recipe names them in, the same bits; in another order in the bag, the same but for rounding."""
    data = phantom.batch(STANDARDS, {"a": dict.fromkeys(ENCODERS, 2), "b": {Modality.TEXT: 1, Modality.IMAGE: 1}})
    spec = TwoTower(width=16, embedding=16, fusion=Early(depth=2, heads=2))
    one, other = (
        build_model(spec, dict(named), phantom.fingerprint(), 0).eval()
        for named in (ENCODERS.items(), reversed(ENCODERS.items()))
    )
    with torch.no_grad():
        tokens, expected = one.encode(data), one(data).pooled
        assert torch.equal(other(data).pooled, expected)
        bag = join(list(tokens.values())[::-1])
        torch.testing.assert_close(one.fusion(bag).pooled, expected, atol=1e-6, rtol=1e-6)
    assert not torch.equal(bag.modality, join(list(tokens.values())).modality)


def test_before_the_fusion_no_token_has_seen_another() -> None:
    model, data = (
        model_of(Early(depth=1, heads=2)),
        phantom.batch(STANDARDS, {"a": {Modality.IMAGE: 1, Modality.TEXT: 1}}),
    )
    image = data.payloads[Modality.IMAGE].values
    assert isinstance(image, torch.Tensor)
    image.requires_grad_()
    tokens = model.encode(data)
    own = torch.autograd.grad(tokens[Modality.IMAGE].values[0].square().sum(), image, retain_graph=True)[0][0, 0]
    assert own[:8, :8].all()  # its patch
    assert not own[8:].any()
    assert not own[:, 8:].any()
    fused = model.fuse(tokens, 1).tokens
    word = fused.values[fused.modality == Modality.TEXT.number][0]
    assert torch.autograd.grad(word.square().sum(), image)[0].all()  # after it, a word has seen every pixel
