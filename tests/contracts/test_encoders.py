"""What every encoder of the union promises, on made-up records of the modality that it reads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

import snapshots
from polyclinic.schema import Modality, Ragged, Tokens
from polyclinic.tokens import (
    Components,
    Encoder,
    EncoderFields,
    EncoderSpec,
    PretrainedImage,
    PretrainedSlices,
    PretrainedText,
    phantom,
)

KINDS: tuple[type[EncoderFields], ...] = get_args(get_args(EncoderSpec)[0])
HAS = st.lists(st.integers(0, 2), min_size=1, max_size=4).filter(any)
"""How many records each patient has."""

every_encoder = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.model_fields["kind"].default)
few = settings(max_examples=8, deadline=None)


def small(kind: type[EncoderFields]) -> Any:
    known = {type(spec): spec for spec in phantom.encoders().values()}
    for own, name, fields in (
        (PretrainedImage, "vit", {}), (PretrainedSlices, "vit", {"size": (6, 16, 24), "heads": 2}), (PretrainedText, "roberta", {}),
    ):  # fmt: skip
        if kind is own:
            return own.model_validate({"folder": str(snapshots.folder(name)), "frozen": False, **fields})
    if kind in known:
        return known[kind]
    try:
        return kind(width=16, heads=2)
    except ValidationError as error:
        pytest.fail(
            f"{kind.__name__} has fields without a default: add a small one to `encoders` in src/polyclinic/tokens/phantom.py "
            f"({error.errors()[0]['loc']})"
        )


def built(kind: type[EncoderFields]) -> tuple[Encoder, Any]:
    spec = small(kind)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return spec.build(phantom.fingerprint()).eval(), spec.standard()


def named(has: list[int]) -> dict[str, int]:
    return {f"p{n}": count for n, count in enumerate(has)}


def of(tokens: Tokens, patient: int) -> Tensor:
    return tokens.values[tokens.patient == patient]


def floats(ragged: Ragged) -> list[Tensor]:
    """The payload's parts that a gradient can reach; words and 8-bit pixels have none."""
    parts = [ragged.values] if isinstance(ragged.values, Tensor) else ragged.values
    return [v for v in parts if v.is_floating_point()]


def test_kinds_are_told_apart() -> None:
    names = [kind.model_fields["kind"].default for kind in KINDS]
    assert len(set(names)) == len(names)


@every_encoder
def test_a_specification_survives_a_recipe(kind: type[EncoderFields]) -> None:
    spec = small(kind)
    assert TypeAdapter(EncoderSpec).validate_json(spec.model_dump_json()) == spec
    with pytest.raises(ValidationError):
        TypeAdapter(EncoderSpec).validate_python({**spec.model_dump(), "no_such_key": 1})
    with pytest.raises(ValidationError, match="do not divide"):
        kind.model_validate({**spec.model_dump(), "heads": spec.width - 1})


@every_encoder
@given(has=HAS)
@few
def test_tokens_keep_their_contract(kind: type[EncoderFields], has: list[int]) -> None:
    encoder, standard = built(kind)
    ragged = phantom.ragged(standard, named(has))
    tokens = encoder(ragged)
    n = len(tokens.values)
    assert tokens.values.shape == (n, encoder.width) == (n, small(kind).width)
    assert tokens.values.isfinite().all()
    assert [t.dtype for t in (tokens.values, tokens.position, tokens.time_h)] == [torch.float32] * 3
    whole = (tokens.patient, tokens.modality, tokens.record, tokens.lengths)
    assert [t.dtype for t in whole] == [torch.int64] * 4
    assert tokens.position.shape == (n, 4)
    assert tokens.position.isfinite().all()
    assert tokens.time_h.isfinite().all()
    assert (tokens.patient.diff() >= 0).all()
    assert (tokens.record.diff() >= 0).all()
    assert tokens.lengths.tolist() == [int((tokens.patient == p).sum()) for p in range(len(has))]
    assert [bool(count) for count in has] == (tokens.lengths > 0).tolist()
    assert (tokens.modality == encoder.modality.number).all()
    assert torch.equal(tokens.patient, ragged.patient[tokens.record])
    assert encoder.modality is Modality(standard.kind)


@every_encoder
@given(has=HAS)
@few
def test_packed_is_one_patient_at_a_time(kind: type[EncoderFields], has: list[int]) -> None:
    encoder, standard = built(kind)
    together = encoder(phantom.ragged(standard, named(has)))
    for number, (name, count) in enumerate(named(has).items()):
        if count:
            alone = encoder(phantom.ragged(standard, {name: count}))
            mine = together.patient == number
            torch.testing.assert_close(together.values[mine], alone.values, atol=1e-5, rtol=1e-5)
            assert torch.equal(together.position[mine], alone.position)
            assert torch.equal(together.time_h[mine], alone.time_h)


@every_encoder
def test_no_gradient_from_one_patient_to_another(kind: type[EncoderFields]) -> None:
    encoder, standard = built(kind)
    ragged = phantom.ragged(standard, {"a": 1, "b": 2, "c": 1})
    payload = floats(ragged)
    for part in payload:
        part.requires_grad_()
    tokens = encoder(ragged)
    own = of(tokens, 1).square().sum()
    if not payload:  # words and 8-bit pixels: turn another patient's round instead
        other = replace(ragged, values=[*ragged.values[:-1], ragged.values[-1].flip(-1)])
        assert not torch.equal(of(encoder(other), 2), of(tokens, 2))
        assert torch.equal(of(encoder(other), 1), of(tokens, 1))
        return
    gradients = torch.autograd.grad(own, payload)
    each = list(gradients[0]) if isinstance(ragged.values, Tensor) else list(gradients)
    for owner, gradient in zip(ragged.patient.tolist(), each, strict=True):
        assert bool((gradient.nan_to_num() != 0).any()) == (owner == 1)


@every_encoder
def test_order_of_records_does_not_matter(kind: type[EncoderFields]) -> None:
    encoder, standard = built(kind)
    ragged = phantom.ragged(standard, {"a": 3})
    turn = [2, 0, 1]
    values = ragged.values[turn] if isinstance(ragged.values, Tensor) else [ragged.values[i] for i in turn]
    spacing = None if ragged.spacing is None else ragged.spacing[turn]
    places = None if ragged.places is None else [ragged.places[i] for i in turn]
    turned = encoder(replace(ragged, values=values, time_h=ragged.time_h[turn], spacing=spacing, places=places))
    straight = encoder(ragged)
    for new, old in enumerate(turn):
        one, other = straight.record == old, turned.record == new
        torch.testing.assert_close(turned.values[other], straight.values[one], atol=1e-5, rtol=1e-5)
        assert torch.equal(turned.position[other], straight.position[one])


@every_encoder
def test_every_weight_learns(kind: type[EncoderFields]) -> None:
    encoder, standard = built(kind)
    encoder(phantom.ragged(standard, {"a": 2, "b": 0, "c": 2})).values.square().sum().backward()
    idle = [name for name, p in encoder.named_parameters() if p.grad is None]
    assert not idle
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


@every_encoder
def test_answers_are_of_the_tokens(kind: type[EncoderFields]) -> None:
    encoder, standard = built(kind)
    ragged = phantom.ragged(standard, {"a": 2, "b": 1})
    if not encoder.answer_size:
        with pytest.raises(NotImplementedError, match=type(encoder).__name__):
            encoder.answer(ragged)
        return
    wanted, n = encoder.answer(ragged), len(encoder.embed(ragged).values)
    if encoder.answer_kind == "categorical":
        assert wanted.shape == (n,)
        assert wanted.dtype == torch.int64
        assert int(wanted.min()) >= 0
        assert int(wanted.max()) < encoder.answer_size
    else:
        assert wanted.shape == (n, encoder.answer_size)
        assert wanted.isfinite().any(1).all()  # something to ask of every token


@every_encoder
def test_a_token_is_of_its_own_piece_alone(kind: type[EncoderFields]) -> None:
    """Before the trunk; else masked reconstruction could read what it hides."""
    if kind is Components:
        pytest.skip("each is of all genes, and what one says the others do not: tests/tokens/test_components.py")
    encoder, standard = built(kind)
    ragged = phantom.ragged(standard, {"a": 1})
    payload = floats(ragged)
    for part in payload:
        part.requires_grad_()
    values = encoder.embed(ragged).values
    if not encoder.answer_size or not payload:
        pytest.skip(
            "nothing is asked of it, or a gradient does not reach words or bytes (tests/tokens/test_text.py, test_slide.py)"
        )
    reach = [torch.autograd.grad(v.sum(), payload, retain_graph=True) for v in values]
    touched = sum((torch.cat([(g.nan_to_num() != 0).flatten() for g in gs]).int() for gs in reach), torch.tensor(0))
    assert int(touched.max()) == 1


@every_encoder
def test_the_same_records_give_the_same_bits(kind: type[EncoderFields]) -> None:
    (one, standard), (other, _) = built(kind), built(kind)
    ragged = phantom.ragged(standard, {"a": 1, "b": 2})
    before = torch.get_rng_state()
    assert torch.equal(one(ragged).values, other(ragged).values)
    assert torch.equal(torch.get_rng_state(), before)


@every_encoder
def test_tensors_are_made_where_the_input_is(kind: type[EncoderFields]) -> None:
    """With another default device: one tensor that is made there does not fit the others."""
    encoder, standard = built(kind)
    ragged = phantom.ragged(standard, {"a": 1, "b": 2})
    expected = encoder(ragged).values
    with torch.device("meta"):
        assert torch.equal(encoder(ragged).values, expected)
        assert not encoder.answer_size or encoder.answer(ragged).device.type == "cpu"


@every_encoder
def test_bfloat16_comes_close(kind: type[EncoderFields]) -> None:
    encoder, standard = built(kind)
    ragged = phantom.ragged(standard, {"a": 1, "b": 2})
    with torch.autocast("cpu", torch.bfloat16):
        low = encoder(ragged).values.float()
    torch.testing.assert_close(low, encoder(ragged).values, atol=0.1, rtol=0.1)


@every_encoder
def test_a_record_is_put_together_of_its_pieces(kind: type[EncoderFields]) -> None:
    assert kind.pieced is (type(built(kind)[0]).pieces is not Encoder.pieces)
    encoder, standard = built(kind)
    if type(encoder).pieces is Encoder.pieces:
        with pytest.raises(NotImplementedError, match="no pieces"):
            encoder.pieces(phantom.ragged(standard, {"a": 1}))
        return
    ragged = phantom.ragged(standard, {"a": 1, "b": 2, "c": 1})
    pieces = encoder.pieces(ragged)
    assert pieces.shape == (len(encoder(ragged).values), encoder.answer_size)
    back = encoder.assembled(ragged, pieces)
    assert isinstance(back, Tensor) == isinstance(ragged.values, Tensor)
    for one, other in zip(back, ragged.values, strict=True):
        torch.testing.assert_close(one, other, equal_nan=True, atol=0, rtol=0)
