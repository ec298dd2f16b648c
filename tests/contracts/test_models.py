"""What every model of the union promises, with every fusion: absence, isolation, any subset of modalities."""

from __future__ import annotations

from functools import cache
from itertools import combinations, product
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from polyclinic.fusion import FusionSpec
from polyclinic.models import Model, ModelFields, ModelSpec, build_model
from polyclinic.objectives import Contrastive, Hybrid, Masked
from polyclinic.schema import Batch, Modality
from polyclinic.tokens import phantom

KINDS: tuple[type[ModelFields], ...] = get_args(get_args(ModelSpec)[0])
SAMPLES: dict[str, dict[str, Any]] = {}
"""Of a model's or a fusion's kind whose fields have no defaults: a sample's."""
ENCODERS = phantom.encoders()
STANDARDS = {m: s.standard() for m, s in ENCODERS.items()}
FINGERPRINT = phantom.fingerprint()
Has = list[dict[Modality, int]]
PATIENT = st.dictionaries(st.sampled_from(list(ENCODERS)), st.integers(1, 2), max_size=4)
BATCH = st.lists(PATIENT, min_size=1, max_size=4)
few = settings(max_examples=5, deadline=None)


def fusions() -> list[Any]:
    """One specification for each fusion and style."""
    out = []
    for kind in get_args(get_args(FusionSpec)[0]):
        chosen = {
            n: get_args(f.annotation) for n, f in kind.model_fields.items() if get_origin(f.annotation) is Literal
        }
        small = {"depth": 1, "heads": 2} if "depth" in kind.model_fields else {}
        fields = small | SAMPLES.get(chosen["kind"][0], {})
        for choice in product(*chosen.values()):
            deep = {"depth": 2} if "bottleneck" in choice else {}  # what one block writes into it the next one reads
            out.append(kind.model_validate(fields | deep | dict(zip(chosen, choice, strict=True))))
    return out


def specs(kind: type[ModelFields]) -> list[ModelFields]:
    fields = SAMPLES.get(kind.model_fields["kind"].default, {})
    try:
        return [kind.model_validate({"width": 16, "embedding": 16, "fusion": f, **fields}) for f in fusions()]
    except ValidationError:
        return []  # test_every_kind_has_a_sample says so


SPECS: list[Any] = [spec for kind in KINDS for spec in specs(kind)]
name_of = lambda s: f"{s.kind}-{s.fusion.kind}-{getattr(s.fusion, 'style', '')}".rstrip("-")
every_model = pytest.mark.parametrize("spec", SPECS, ids=name_of)


@cache
def built(spec: Any, without: Modality | None = None, seed: int = 0) -> Model:
    return build_model(spec, {m: e for m, e in ENCODERS.items() if m is not without}, FINGERPRINT, seed).eval()


def batch(has: Has, seed: int = 0) -> Batch:
    return phantom.batch(STANDARDS, {f"p{n}": own for n, own in enumerate(has)}, seed)


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_sample(kind: type[ModelFields]) -> None:
    assert specs(kind), f"{kind.__name__} has fields without a default: add some to SAMPLES in {__file__}"


@every_model
def test_a_specification_survives_a_recipe(spec: Any) -> None:
    assert TypeAdapter(ModelSpec).validate_json(spec.model_dump_json()) == spec
    with pytest.raises(ValidationError):
        TypeAdapter(ModelSpec).validate_python({**spec.model_dump(), "no_such_key": 1})


@every_model
@pytest.mark.parametrize("modality", ENCODERS)
def test_absence_of_an_encoder_changes_nothing_else(spec: Any, modality: Modality) -> None:
    """The others' weights, tokens and answers, bit for bit; for a batch with or without records of it."""
    whole, less = built(spec), built(spec, without=modality)
    mine = less.state_dict()
    assert all(torch.equal(v, whole.state_dict()[k]) for k, v in mine.items())
    full = batch([dict.fromkeys(ENCODERS, 1), {Modality.TEXT: 2, Modality.IMAGE: 1}, {modality: 1}])
    lacking = Batch({m: r for m, r in full.payloads.items() if m is not modality}, {}, full.patients)
    with torch.no_grad():
        tokens = whole.encode(full)
        for m, t in less.encode(full).items():
            assert torch.equal(t.values, tokens[m].values)
            assert torch.equal(t.position, tokens[m].position)
        one, other = whole(lacking), less(full)
        towers, fewer = whole.towers(tokens), less.towers(less.encode(full))
    assert torch.equal(one.pooled, other.pooled)
    assert torch.equal(one.tokens.values, other.tokens.values)
    assert one.present.tolist() == other.present.tolist() == [True, True, False]
    assert all(torch.equal(tower.vectors, towers[m].vectors) for m, tower in fewer.items())


@every_model
@pytest.mark.parametrize("modality", ENCODERS)
def test_absence_of_a_patients_records_changes_nothing_else(spec: Any, modality: Modality) -> None:
    model, has = built(spec), [dict.fromkeys(ENCODERS, 1), dict.fromkeys(ENCODERS, 2), {modality: 1, Modality.TEXT: 1}]
    lacking: Has = [has[0], {m: n for m, n in has[1].items() if m is not modality}, has[2]]
    with torch.no_grad():
        tokens, fewer = model.encode(batch(has)), model.encode(batch(lacking))
        for m in set(ENCODERS) - {modality}:
            assert torch.equal(fewer[m].values, tokens[m].values)
        for patient in (0, 2):
            mine = tokens[modality].patient == patient
            close(fewer[modality].values[fewer[modality].patient == patient], tokens[modality].values[mine])
        before, after = model(batch(has)).pooled, model(batch(lacking)).pooled
        never = built(spec, without=modality)(batch(lacking)).pooled
    close(after[[0, 2]], before[[0, 2]])
    close(after[1], never[1])


@every_model
@given(has=BATCH)
@few
def test_packed_is_one_patient_at_a_time(spec: Any, has: Has) -> None:
    model = built(spec)
    with torch.no_grad():
        tokens = model.encode(batch(has))
        together, towers = model.fuse(tokens, len(has)), model.towers(tokens)
        for number, own in enumerate(has):
            single = phantom.batch(STANDARDS, {f"p{number}": own})
            fused = model(single)
            close(together.pooled[number], fused.pooled[0])
            close(together.tokens.values[together.tokens.patient == number], fused.tokens.values)
            assert bool(together.present[number]) == bool(fused.present[0]) == bool(own)
            for m, tower in model.towers(model.encode(single)).items():
                close(towers[m].vectors[towers[m].patient == number], tower.vectors)


@every_model
def test_no_gradient_from_one_patient_to_another(spec: Any) -> None:
    data = batch(
        [{Modality.IMAGE: 1, Modality.VOLUME: 1}, {Modality.IMAGE: 2, Modality.OMICS: 1}, {Modality.VOLUME: 1}]
    )
    inputs = {m: r.values.requires_grad_() for m, r in data.payloads.items() if isinstance(r.values, Tensor)}
    fused = built(spec)(data)
    for patient in range(3):
        own = fused.pooled[patient].square().sum() + fused.tokens.values[fused.tokens.patient == patient].square().sum()
        gradients = torch.autograd.grad(own, list(inputs.values()), retain_graph=True)
        for m, gradient in zip(inputs, gradients, strict=True):
            reached = gradient.nan_to_num().flatten(1).abs().sum(1) > 0
            assert torch.equal(reached, data.payloads[m].patient == patient)


@every_model
def test_another_payload_of_a_patient_changes_no_bit_of_the_others(spec: Any) -> None:
    model, one = built(spec), batch([{Modality.IMAGE: 1, Modality.TEXT: 1}, {Modality.IMAGE: 1, Modality.VOLUME: 1}])
    image = one.payloads[Modality.IMAGE].values
    assert isinstance(image, Tensor)
    with torch.no_grad():
        before = model(one).pooled
        image[1] = image[1].flip(-1) + 1
        after = model(one).pooled
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1])


@every_model
def test_order_of_records_does_not_matter(spec: Any) -> None:
    model, data = built(spec), batch([dict.fromkeys(ENCODERS, 3)])
    with torch.no_grad():
        straight = model(data).pooled
        for ragged in data.payloads.values():
            turn = [2, 0, 1]
            values = ragged.values
            ragged.values = values[turn] if isinstance(values, Tensor) else [values[i] for i in turn]
            ragged.time_h = ragged.time_h[turn]
            ragged.spacing = None if ragged.spacing is None else ragged.spacing[turn]
            ragged.places = None if ragged.places is None else [ragged.places[i] for i in turn]
        turned = model(Batch(dict(reversed(data.payloads.items())), {}, data.patients)).pooled
    close(turned, straight)


@every_model
def test_a_patient_with_nothing(spec: Any) -> None:
    model = built(spec)
    fused = model(batch([{}, dict.fromkeys(ENCODERS, 1), {}]))
    assert fused.present.tolist() == [False, True, False]
    assert not fused.pooled[[0, 2]].any()
    fused.pooled.sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    empty = model(Batch({}, {}, ["a", "b"]))
    assert empty.pooled.shape == (2, 16)
    assert not empty.pooled.any()
    assert not empty.present.any()
    assert model.towers(model.encode(Batch({}, {}, ["a"]))) == {}


@every_model
def test_records_of_which_nothing_was_measured(spec: Any) -> None:
    """They are no tokens, alone in the batch or beside others."""
    model, data = built(spec), batch([{Modality.OMICS: 1}, {Modality.OMICS: 1, Modality.TEXT: 1}])
    genes = data.payloads[Modality.OMICS].values
    assert isinstance(genes, Tensor)
    genes[:] = torch.nan
    assert model(data).present.tolist() == [False, True]
    assert len(model.towers(model.encode(data))[Modality.OMICS].patient) == 0
    alone = Batch({Modality.OMICS: data.payloads[Modality.OMICS]}, {}, data.patients)
    fused = model(alone)
    assert not fused.present.any()
    fused.pooled.sum().backward()


def subsets(spec: Any) -> list[tuple[Modality, ...]]:
    """Each modality alone, all together, and this model's share of the other subsets: all models together try every one."""
    alone, *between = (list(combinations(ENCODERS, k)) for k in range(1, len(ENCODERS) + 1))
    others = [some for same in between for some in same if len(some) < len(ENCODERS)]
    return [*alone, *others[SPECS.index(spec) :: len(SPECS)], tuple(ENCODERS)]


@every_model
def test_every_subset_of_modalities_trains_and_answers(spec: Any) -> None:
    model = built(spec)
    objective = Hybrid(parts=(Contrastive(), Masked(width=16))).build(model, {})
    for number, some in enumerate(subsets(spec)):
        data = batch([dict.fromkeys(some, 1), dict.fromkeys(some[:1], 1), dict.fromkeys(some, 1)], number)
        losses = objective(model, data, torch.Generator().manual_seed(number))
        assert all(term.isfinite() for term in losses.terms.values()), some
        # A table alone: there is nothing to compare it with, and nothing of it is hidden.
        assert (losses.total is None) is (some == (Modality.TABLE,)), some
        fused = model(data)
        assert fused.present.all()
        total = fused.pooled.square().sum() if losses.total is None else losses.total + fused.pooled.square().sum()
        model.zero_grad()
        total.backward()
        learned = {m: any(p.grad is not None for p in model.encoder(m).parameters()) for m in ENCODERS}
        assert [m for m in ENCODERS if learned[m]] == list(some)
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None), some


@every_model
def test_the_seed_makes_the_weights(spec: Any) -> None:
    world = torch.get_rng_state()
    one, same, other = (build_model(spec, ENCODERS, FINGERPRINT, seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), world)
    assert all(torch.equal(v, same[k]) for k, v in one.items())
    assert any(not torch.equal(v, other[k]) for k, v in one.items())


@every_model
def test_no_weight_is_there_for_nothing(spec: Any) -> None:
    """What the fusion makes idle is not built: every weight of encoders, bridges and fusion learns from an answer."""
    model = build_model(spec, ENCODERS, FINGERPRINT, 0)
    fused = model(batch([dict.fromkeys(ENCODERS, 1)]))
    (fused.pooled.square().sum() + fused.tokens.values.square().sum()).backward()
    idle = [n for n, p in model.named_parameters() if p.grad is None and not n.startswith("project.")]
    assert not idle


@every_model
def test_tensors_are_made_where_the_input_is(spec: Any) -> None:
    model, data = built(spec), batch([dict.fromkeys(ENCODERS, 1), {}, {Modality.TEXT: 2}])
    objective = Hybrid(parts=(Contrastive(), Masked(width=16, context="patient"))).build(model, {})
    with torch.no_grad():
        expected = model(data).pooled, model(Batch({}, {}, ["a"])).pooled
        losses = objective(model, data, torch.Generator().manual_seed(0)).terms
        with torch.device("meta"):
            assert torch.equal(model(data).pooled, expected[0])
            assert torch.equal(model(Batch({}, {}, ["a"])).pooled, expected[1])
            again = objective(model, data, torch.Generator("cpu").manual_seed(0)).terms
    assert all(torch.equal(losses[k], v) for k, v in again.items())


@every_model
def test_bfloat16_comes_close(spec: Any) -> None:
    model, data = built(spec), batch([dict.fromkeys(ENCODERS, 1), {Modality.TEXT: 2}])
    with torch.no_grad():
        exact = model(data).pooled
        with torch.autocast("cpu", torch.bfloat16):
            low = model(data).pooled
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, exact, atol=0.1, rtol=0.1)
