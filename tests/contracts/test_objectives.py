"""What every objective of the union promises, on made-up patients with any subset of modalities."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from polyclinic.fusion import Early, Intermediate
from polyclinic.models import Model, TwoTower, build_model
from polyclinic.objectives import Finding, Objective, ObjectiveFields, ObjectiveSpec, Structure
from polyclinic.objectives.between import Between
from polyclinic.schema import Batch, Losses, Modality, Target
from polyclinic.tokens import EncoderFields, Gpt, phantom

KINDS: tuple[type[ObjectiveFields], ...] = get_args(get_args(ObjectiveSpec)[0])
TASK = "structure"
CLASSES = {
    TASK: Structure(Modality.VOLUME, ("one", "two"), (torch.tensor([2, 7]), torch.tensor([2, 8, 9]))),
    "finding": Finding(Modality.TABLE, ("finding",), (torch.tensor([2, 5]), torch.tensor([2, 6, 5]))),
    "death": Finding(
        Modality.TABLE, ("death",), (torch.tensor([2, 4, 9]),), "survival", (Modality.IMAGE, Modality.VOLUME)
    ),
    "cause": Finding(Modality.TABLE, ("a", "b", "c"), outcome="classes", balance=0.5),
    "stage": Finding(Modality.TABLE, ("i", "ii", "iii"), outcome="grade"),
    "signs": Finding(
        Modality.TABLE,
        ("x", "y"),
        outcome="findings",
        parts=tuple(Finding(Modality.TABLE, (name,), (torch.tensor([2, 6, n]),)) for name, n in (("x", 3), ("y", 4))),
    ),
    "kinds": Finding(Modality.TABLE, ("x", "y"), outcome="findings", parents=(-1, 0)),
}
SAMPLES: dict[str, list[dict[str, Any]]] = {
    "contrastive": [
        {},
        {"pairs": [["image", "text"]], "weight": 0.5},
        {"loss": "siglip", "pairs": "volume"},
        {"loss": "supcon", "pairs": [["image", "image"], ["text", "image"]]},
    ],
    "local": [{}, {"pairs": [["text", "image"], ["signal", "table"]]}],
    "symile": [
        {"modalities": ["image", "text", "omics"]},
        {"modalities": ["image", "text", "table", "signal"], "tuples": 5},
    ],
    "dino": [{"smalls": 2, "prototypes": 16, "width": 64}],
    "ibot": [{"smalls": 1, "prototypes": 16, "width": 64, "modalities": ["image", "text", "table"]}],
    "masked": [{"width": 16}, {"width": 16, "context": "patient"}, {"modalities": ["image", "table"], "width": 16}],
    "caption": [{"width": 16}, {"width": 16, "queries": 2, "modalities": ["image", "table"]}],
    "retell": [{"width": 16}, {"width": 16, "noise": 0.2, "tokens": 1, "teach": True, "weight": 2}],
    "translation": [
        {"target": "image", "width": 16},
        {"target": "omics", "source": ["image", "signal"], "width": 16},
    ],
    "latent_diffusion": [
        {"target": "image", "channels": 4, "width": 16},
        {"target": "volume", "channels": 4, "width": 16, "factor": 8, "source": []},
    ],
    "instruct": [{"pairs": [{"instruction": "question", "answer": "answer"}]}],
    "supervised": [
        {"tasks": ["finding", "death"]},
        {"tasks": ["finding"], "labels": 3, "weight": 2},
        {"tasks": ["cause", "stage", "signs", "kinds"]},
    ],
    "question": [
        {"tasks": ["finding", "death"]},
        {"tasks": ["finding"], "labels": 3, "weight": 2},
        {"tasks": ["signs", "finding"]},
    ],
    "segmentation": [{"task": TASK, "channels": 2}],
    "promptable": [
        {"tasks": [TASK], "width": 16, "channels": 2},
        {"tasks": [TASK], "prompts": ["text"], "width": 16, "channels": 2},
    ],
    "hybrid": [
        {
            "parts": [
                {"kind": "contrastive", "weight": 0.25},
                {"kind": "masked", "width": 16, "weight": 2},
                {"kind": "segmentation", "task": TASK, "channels": 2},
            ]
        },
        {"balance": "uncertainty", "parts": [{"kind": "contrastive"}, {"kind": "masked", "width": 16}]},
        {
            "balance": "gradnorm",
            "parts": [
                {"kind": "contrastive", "loss": "supcon"},
                {"kind": "masked", "width": 16},
                {"kind": "segmentation", "task": TASK, "channels": 2},
            ],
        },
    ],
}
"""Samples of a kind's fields; without one, the kind's defaults are tried."""
CAUSAL = Gpt(words=12, width=16, depth=1, heads=2)
READS: dict[str, EncoderFields] = {"causal_language": CAUSAL, "instruct": CAUSAL}
"""The encoder of words that a kind asks for, where it is not the made-up one."""
OWN_TRUNKS = {"masked_language", *READS}
"""Kinds that ask for an encoder that reads alone."""
ENCODERS = phantom.encoders()
STANDARDS = {m: s.standard() for m, s in ENCODERS.items()}
PATIENT = st.dictionaries(st.sampled_from(list(ENCODERS)), st.integers(1, 2), max_size=3)
Has = list[dict[Modality, int]]


def specs(kind: type[ObjectiveFields]) -> list[Any]:
    try:
        return [kind.model_validate(fields) for fields in SAMPLES.get(kind.model_fields["kind"].default, [{}])]
    except ValidationError:
        return []  # test_every_kind_has_a_sample says so


SPECS = [spec for kind in KINDS for spec in specs(kind)]
every_objective = pytest.mark.parametrize("spec", SPECS, ids=[f"{s.kind}-{n}" for n, s in enumerate(SPECS)])


@cache
def backbone(kind: str = "", early: bool = False) -> Model:
    """A model that objectives of a kind can be asked of."""
    fusion = Early(depth=1, heads=2) if early and kind not in OWN_TRUNKS else Intermediate(depth=1, heads=2)
    encoders = {**ENCODERS, Modality.TEXT: READS.get(kind, ENCODERS[Modality.TEXT])}
    return build_model(TwoTower(width=16, embedding=16, fusion=fusion), encoders, phantom.fingerprint(), 0)


def built(spec: ObjectiveFields, model: Model) -> Objective:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return spec.build(model, CLASSES)


def batch(has: Has, labelled: bool = True) -> Batch:
    """Everyone and all volumes are labelled, or nobody; of each text there are two at one time, a question and its answer."""
    twice = [own | {m: 2 * n for m, n in own.items() if m is Modality.TEXT} for own in has]
    data = phantom.batch(STANDARDS, {f"p{n}": own for n, own in enumerate(twice)})
    if (texts := data.payloads.get(Modality.TEXT)) is not None:
        texts.kinds = ["question", "answer"] * (len(texts) // 2)
        texts.time_h = torch.arange(len(texts) // 2).repeat_interleave(2).float()
    if (volumes := data.payloads.get(Modality.VOLUME)) is not None:
        assert isinstance(volumes.values, Tensor)
        masks = [(v[0] > 0).long() + (v[0] > 1).long() for v in volumes.values]
        data.targets[TASK] = Target(masks, torch.full((len(masks),), labelled))
    order, known = torch.arange(len(has)).float(), torch.full((len(has),), labelled)
    data.targets["finding"] = Target(order % 2, known)
    data.targets["death"] = Target(torch.stack([len(has) - order, order % 3 < 2], 1), known)
    data.targets |= {task: Target(order % 3, known) for task in ("cause", "stage")}
    signs = torch.stack([order % 2, torch.where(order % 3 > 1, torch.nan, 1 - order % 2)], 1)
    data.targets |= {task: Target(signs.clone(), known) for task in ("signs", "kinds")}
    return data


def ask(spec: Any, data: Batch, model: Model | None = None, **more: Any) -> Losses:
    model = model or backbone(spec.kind)
    return built(spec, model)(model, data, torch.Generator().manual_seed(0), **more)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_sample(kind: type[ObjectiveFields]) -> None:
    assert specs(kind), f"{kind.__name__} has fields without a default: add some to SAMPLES in {__file__}"


@every_objective
def test_a_specification_survives_a_recipe(spec: Any) -> None:
    assert TypeAdapter(ObjectiveSpec).validate_json(spec.model_dump_json()) == spec
    with pytest.raises(ValidationError):
        TypeAdapter(ObjectiveSpec).validate_python({**spec.model_dump(), "no_such_key": 1})
    assert spec.named() <= set(ENCODERS)


@every_objective
@given(has=st.lists(PATIENT, min_size=1, max_size=4), early=st.booleans())
@settings(max_examples=8, deadline=None)
def test_any_batch_gives_finite_terms_and_gradients(spec: Any, has: Has, early: bool) -> None:
    model, data = backbone(spec.kind, early), batch(has)
    model.zero_grad()
    losses = ask(spec, data, model)
    assert losses.terms.keys() == losses.weights.keys()
    assert all(term.shape == () and term.isfinite() for term in losses.terms.values())
    if losses.total is not None:
        losses.total.backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
        expected = sum(
            float(torch.as_tensor(losses.weights[name]).detach()) * float(term.detach())
            for name, term in losses.terms.items()
        )
        assert float(losses.total.detach()) == pytest.approx(expected, rel=1e-5)


@every_objective
def test_it_teaches_the_encoders_that_it_names(spec: Any) -> None:
    model = deepcopy(backbone(spec.kind))
    model.zero_grad()
    objective = built(spec, model)
    total = objective(model, batch([dict.fromkeys(ENCODERS, 1)] * 3), torch.Generator().manual_seed(0)).total
    assert total is not None
    total.backward()
    taught = {m for m in ENCODERS if any(p.grad is not None and p.grad.any() for p in model.encoder(m).parameters())}
    # Written by a decoder of its own.
    aside = {Modality.TEXT} if spec.kind == "caption" or getattr(spec, "teach", True) is False else set()
    aside |= {spec.target} if isinstance(spec, Between) else set()  # the same
    assert taught >= (spec.named() or set(ENCODERS) - {Modality.TABLE}) - aside
    idle = {name for name, p in objective.named_parameters() if p.requires_grad and p.grad is None}
    assert not {name for name in idle if not name.endswith("prototypes")}  # which stand still where a stage begins


@every_objective
def test_what_nothing_speaks_to_is_absent(spec: Any) -> None:
    for data in (Batch({}, {}, ["a", "b"]), batch([{}]), batch([{Modality.TABLE: 1}], labelled=False)):
        if spec.kind in ("masked", "ibot") and Modality.TABLE in spec.named() and data.payloads:
            continue
        losses = ask(spec, data)
        assert (losses.terms, losses.weights, losses.total) == ({}, {}, None)


@every_objective
def test_it_draws_from_its_generator_alone(spec: Any) -> None:
    model, data = backbone(spec.kind), batch([dict.fromkeys(ENCODERS, 1)] * 2)
    objective, world = built(spec, model), torch.get_rng_state()
    one, same = (objective(model, data, torch.Generator().manual_seed(3)).terms for _ in range(2))
    assert torch.equal(torch.get_rng_state(), world)
    assert all(torch.equal(term, same[name]) for name, term in one.items())


@every_objective
def test_tokens_that_were_made_already_are_no_other(spec: Any) -> None:
    model, data = backbone(spec.kind), batch([dict.fromkeys(ENCODERS, 1)] * 2)
    made, given = ask(spec, data).terms, ask(spec, data, tokens=model.encode(data)).terms
    assert made.keys() == given.keys()
    assert all(torch.equal(term, given[name]) for name, term in made.items())


@every_objective
def test_labels_of_the_unlabelled_are_not_read(spec: Any) -> None:
    """A volume without a mask has zeros in its place, which are not background; a patient without a label has a zero as well."""
    data, other = batch([dict.fromkeys(ENCODERS, 1)] * 3), batch([dict.fromkeys(ENCODERS, 1)] * 3)
    for some in (data, other):
        for target in some.targets.values():
            target.mask = torch.tensor([True, False, True])
    for target in other.targets.values():
        target.values[1] = torch.zeros_like(target.values[1])
    one, same = ask(spec, data).terms, ask(spec, other).terms
    assert all(torch.equal(term, same[name]) for name, term in one.items())
    unlabelled = ask(spec, batch([dict.fromkeys(ENCODERS, 1)] * 3, labelled=False))
    assert not [name for name in unlabelled.terms if name.startswith(("segmentation", "supervised", "question"))]


@every_objective
def test_tensors_are_made_where_the_input_is(spec: Any) -> None:
    model, data = backbone(spec.kind), batch([dict.fromkeys(ENCODERS, 1), {Modality.TEXT: 1, Modality.IMAGE: 2}])
    objective, draws = built(spec, model), torch.Generator("cpu")
    expected = objective(model, data, draws.manual_seed(0)).terms
    with torch.device("meta"):
        found = objective(model, data, draws.manual_seed(0)).terms
    assert all(torch.equal(term, found[name]) for name, term in expected.items())


@every_objective
def test_bfloat16_comes_close(spec: Any) -> None:
    data = batch([dict.fromkeys(ENCODERS, 1), {Modality.TEXT: 1, Modality.IMAGE: 2}])
    exact = ask(spec, data).terms
    with torch.autocast("cpu", torch.bfloat16):
        low = ask(spec, data).terms
    assert all(
        float(low[name].detach()) == pytest.approx(float(term.detach()), rel=0.05) for name, term in exact.items()
    )
