"""What every fusion of the union promises, in every style, on made-up bags of tokens."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from polyclinic.fusion import Fusion, FusionFields, FusionSpec
from polyclinic.schema import Modality, Tokens
from polyclinic.tokens import select

KINDS: tuple[type[FusionFields], ...] = get_args(get_args(FusionSpec)[0])
SAMPLES: dict[str, dict[str, Any]] = {}
"""Of a kind whose fields have no defaults: a sample's."""
WIDTH = 16
SOME = (Modality.IMAGE, Modality.VOLUME, Modality.TEXT, Modality.KINEMATICS)
Has = list[dict[Modality, int]]
PATIENT = st.dictionaries(st.sampled_from(SOME), st.integers(1, 5), max_size=3)
BATCH = st.lists(PATIENT, min_size=1, max_size=4)
few = settings(max_examples=12, deadline=None)


def styles(kind: type[FusionFields]) -> list[FusionFields]:
    """One specification for each combination of the kind's choices."""
    chosen = {n: get_args(f.annotation) for n, f in kind.model_fields.items() if get_origin(f.annotation) is Literal}
    fields = SAMPLES.get(chosen["kind"][0], {})
    try:
        return [kind.model_validate({**fields, **dict(zip(chosen, c, strict=True))}) for c in product(*chosen.values())]
    except ValidationError:
        return []  # test_every_kind_has_a_sample says so


SPECS = [spec for kind in KINDS for spec in styles(kind)]
every_fusion = pytest.mark.parametrize(
    "spec", SPECS, ids=lambda s: "-".join([s.kind, *([s.style] if hasattr(s, "style") else [])])
)


def built(spec: FusionFields, *modalities: Modality) -> Fusion:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return spec.build(WIDTH, modalities or SOME).eval()


def bag(has: Has) -> Tokens:
    """Tokens whose values depend on the patient's number in `names` and their own modality and number."""
    rows = [(p, m, i) for p, own in enumerate(has) for m in Modality for i in range(own.get(m, 0))]
    draw = lambda p, m, i: torch.randn(WIDTH, generator=torch.Generator().manual_seed(1000 * p + 100 * m.number + i))
    numbers = lambda k: torch.tensor(
        [row[k] if isinstance(row[k], int) else row[k].number for row in rows], dtype=torch.int64
    )
    values = torch.stack([draw(*row) for row in rows]) if rows else torch.zeros(0, WIDTH)
    counts = torch.tensor([sum(own.values()) for own in has], dtype=torch.int64)
    return Tokens(values, numbers(0), numbers(1), numbers(0), torch.zeros(len(rows), 4), torch.zeros(len(rows)), counts)


def alone(tokens: Tokens, patient: int) -> Tokens:
    own = select(tokens, tokens.patient == patient)
    return replace(own, patient=torch.zeros_like(own.patient), lengths=own.lengths[patient : patient + 1])


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_sample(kind: type[FusionFields]) -> None:
    assert styles(kind), f"{kind.__name__} has fields without a default: add some to SAMPLES in {__file__}"


@every_fusion
def test_a_specification_survives_a_recipe(spec: FusionFields) -> None:
    assert TypeAdapter(FusionSpec).validate_json(spec.model_dump_json()) == spec
    with pytest.raises(ValidationError):
        TypeAdapter(FusionSpec).validate_python({**spec.model_dump(), "no_such_key": 1})


@every_fusion
@given(has=BATCH)
@few
def test_its_answer_has_its_shape_and_its_tokens_their_places(spec: FusionFields, has: Has) -> None:
    tokens = bag(has)
    fused = built(spec)(tokens)
    assert fused.pooled.shape == (len(has), WIDTH)
    assert fused.tokens.values.shape == tokens.values.shape
    for name in ("patient", "modality", "record", "position", "time_h", "lengths"):
        assert torch.equal(getattr(fused.tokens, name), getattr(tokens, name))
    assert fused.present.tolist() == [bool(own) for own in has]


@every_fusion
@given(has=BATCH)
@few
def test_packed_is_one_patient_at_a_time(spec: FusionFields, has: Has) -> None:
    tokens, fusion = bag(has), built(spec)
    together = fusion(tokens)
    for patient in range(len(has)):
        single = fusion(alone(tokens, patient))
        close(together.pooled[patient], single.pooled[0])
        close(together.tokens.values[tokens.patient == patient], single.tokens.values)


@every_fusion
def test_no_gradient_from_one_patient_to_another(spec: FusionFields) -> None:
    tokens = bag([{Modality.IMAGE: 2}, {Modality.IMAGE: 3, Modality.TEXT: 1}, {Modality.TEXT: 5}])
    tokens.values.requires_grad_()
    fused = built(spec)(tokens)
    for patient in range(3):
        own = fused.pooled[patient].square().sum() + fused.tokens.values[tokens.patient == patient].square().sum()
        reached = torch.autograd.grad(own, tokens.values, retain_graph=True)[0].abs().sum(1) > 0
        assert torch.equal(reached, tokens.patient == patient)


@every_fusion
@given(has=BATCH)
@few
def test_nothing_gives_zeros_and_finite_gradients(spec: FusionFields, has: Has) -> None:
    fusion, tokens = built(spec), bag([{}, *has, {}])
    tokens.values.requires_grad_()
    fused = fusion(tokens)
    assert not fused.present[0]
    assert not fused.present[-1]
    assert not fused.pooled[[0, -1]].any()
    fused.pooled.square().sum().backward()
    gradients = [p.grad for p in [*fusion.parameters(), tokens.values] if p.grad is not None]
    assert all(g.isfinite().all() for g in gradients)


@every_fusion
@given(turn=st.permutations(range(7)))
@few
def test_order_of_tokens_does_not_matter(spec: FusionFields, turn: list[int]) -> None:
    """Neither which modality is concatenated first nor which of its tokens."""
    tokens, fusion = bag([{Modality.IMAGE: 3, Modality.VOLUME: 2, Modality.TEXT: 2}]), built(spec)
    turned = replace(tokens, values=tokens.values[turn], modality=tokens.modality[turn])
    straight, other = fusion(tokens), fusion(turned)
    close(other.pooled, straight.pooled)
    close(other.tokens.values, straight.tokens.values[turn])


@every_fusion
@pytest.mark.parametrize("gone", SOME)
def test_absence_is_a_fusion_that_never_had_the_modality(spec: FusionFields, gone: Modality) -> None:
    """Its weights for the others, their tokens and the answers; for every patient, also those who have what is left alone."""
    whole, less = built(spec), built(spec, *(m for m in SOME if m is not gone))
    weights = whole.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in less.state_dict().items())
    others = [m for m in SOME if m is not gone]
    tokens = bag([dict.fromkeys(SOME, 3), {gone: 2}, {gone: 1, others[0]: 4}, dict.fromkeys(others[1:], 2)])
    left = select(tokens, tokens.modality != gone.number)
    one, other = whole(left), less(left)
    assert one.present.tolist() == other.present.tolist() == [True, False, True, True]
    torch.testing.assert_close(one.pooled, other.pooled, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(one.tokens.values, other.tokens.values, atol=1e-6, rtol=1e-6)


@every_fusion
def test_a_patients_only_modality_is_what_a_fusion_of_it_alone_makes_of_it(spec: FusionFields) -> None:
    """Beside patients who have more, and in a fusion that could read more."""
    tokens = bag([{Modality.TEXT: 4, Modality.IMAGE: 2}, {Modality.TEXT: 4}, {Modality.IMAGE: 20, Modality.VOLUME: 1}])
    fused, single = built(spec)(tokens), built(spec, Modality.TEXT)(alone(tokens, 1))
    torch.testing.assert_close(fused.pooled[1], single.pooled[0], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(fused.tokens.values[tokens.patient == 1], single.tokens.values, atol=1e-6, rtol=1e-6)


@every_fusion
def test_every_token_counts(spec: FusionFields) -> None:
    tokens = bag([{Modality.IMAGE: 2, Modality.TEXT: 1}])
    tokens.values.requires_grad_()
    built(spec)(tokens).pooled.square().sum().backward()
    assert tokens.values.grad is not None
    assert (tokens.values.grad.abs().sum(1) > 0).all()


@every_fusion
def test_every_weight_learns(spec: FusionFields) -> None:
    both = {Modality.IMAGE: 2, Modality.TEXT: 2}
    fusion, tokens = built(spec, *both), bag([both])
    tokens.values.requires_grad_()
    fused = fusion(tokens)
    direction = torch.randn(WIDTH, generator=torch.Generator().manual_seed(1))
    (fused.pooled.square() @ direction + (fused.tokens.values**2 @ direction).sum()).sum().backward()
    # What is added to the scores of all modalities alike cancels out in the gate's softmax.
    idle = [n for n, p in fusion.named_parameters() if p.grad is None or (n != "gate.bias" and not p.grad.any())]
    assert not idle


@every_fusion
def test_who_lacks_a_modality_teaches_its_weights_nothing(spec: FusionFields) -> None:
    fusion, tokens = built(spec), bag([{Modality.IMAGE: 2, Modality.TEXT: 2}, {Modality.IMAGE: 1}, {}])
    tokens.values.requires_grad_()
    fusion(tokens).pooled.square().sum().backward()
    of_others = {n: p.grad for n, p in fusion.named_parameters() if ".volume." in n or ".kinematics." in n}
    assert not [n for n, gradient in of_others.items() if gradient is not None and gradient.any()]


@every_fusion
def test_tensors_are_made_where_the_input_is(spec: FusionFields) -> None:
    fusion, tokens = built(spec), bag([{Modality.IMAGE: 2}, {}, {Modality.TEXT: 5}])
    expected = fusion(tokens).pooled
    with torch.device("meta"):
        assert torch.equal(fusion(tokens).pooled, expected)
