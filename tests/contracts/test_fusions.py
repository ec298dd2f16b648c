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


def built(spec: FusionFields) -> Fusion:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return spec.build(WIDTH).eval()


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
def test_order_of_tokens_does_not_matter(spec: FusionFields) -> None:
    tokens, fusion = bag([{Modality.IMAGE: 3, Modality.TEXT: 2}]), built(spec)
    turn = torch.tensor([4, 2, 0, 3, 1])
    turned = replace(tokens, values=tokens.values[turn], modality=tokens.modality[turn])
    straight, other = fusion(tokens), fusion(turned)
    close(other.pooled, straight.pooled)
    close(other.tokens.values, straight.tokens.values[turn])


@every_fusion
def test_every_token_counts(spec: FusionFields) -> None:
    tokens = bag([{Modality.IMAGE: 2, Modality.TEXT: 1}])
    tokens.values.requires_grad_()
    built(spec)(tokens).pooled.square().sum().backward()
    assert tokens.values.grad is not None
    assert (tokens.values.grad.abs().sum(1) > 0).all()


@every_fusion
def test_every_weight_learns(spec: FusionFields) -> None:
    fusion, tokens = built(spec), bag([{Modality.IMAGE: 2, Modality.TEXT: 1}])
    tokens.values.requires_grad_()
    fused = fusion(tokens)
    (fused.pooled.square().sum() + fused.tokens.values.square().sum()).backward()
    assert not [name for name, p in fusion.named_parameters() if p.grad is None]


@every_fusion
def test_tensors_are_made_where_the_input_is(spec: FusionFields) -> None:
    fusion, tokens = built(spec), bag([{Modality.IMAGE: 2}, {}, {Modality.TEXT: 5}])
    expected = fusion(tokens).pooled
    with torch.device("meta"):
        assert torch.equal(fusion(tokens).pooled, expected)
