"""What every task of the union promises, on made-up patients and labels."""

from __future__ import annotations

from functools import cache
from itertools import combinations
from typing import Any, get_args

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from polyclinic.fusion import Intermediate
from polyclinic.models import Model, TwoTower, build_model
from polyclinic.schema import Batch, Modality, Target
from polyclinic.tasks import LinearTask, Predictions, Task, TaskError, TaskFields, TaskSpec
from polyclinic.tokens import phantom

KINDS: tuple[type[TaskFields], ...] = get_args(get_args(TaskSpec)[0])
SAMPLES: dict[str, list[dict[str, Any]]] = {
    "classification": [{"column": "finding", "positive": ["COVID-19"]}],
    "classes": [{"column": "kind", "classes": [["a"], ["b"], ["c", "d"]], "balance": 0.5}],
    "findings": [
        {"findings": {n: {"column": n, "positive": ["Y"], "negative": ["N"]} for n in ("effusion", "nodule")}},
        {
            "findings": {n: {"column": n, "positive": ["Y"]} for n in ("opacity", "nodule")},
            "tree": {"nodule": "opacity"},
        },
    ],
    "grade": [{"column": "stage", "grades": [["I"], ["II"], ["III", "IV"]]}],
    "hazards": [
        {"time": "months", "event": "cause", "events": {"disease": ["cancer"], "other": ["heart"]}, "intervals": 4},
        {"time": "months", "event": "dead", "events": {"death": [1]}, "landmarks": [0, 6]},
    ],
    "segmentation": [
        {"structure": "hippocampus", "classes": ["anterior", "posterior"], "channels": 2},
        {"structure": "lung", "classes": ["lung"], "modality": "image", "inputs": ["image", "text"], "channels": 2},
    ],
    "detection": [
        {"classes": ["nodule", "mass"], "channels": 8},
        {"classes": ["lesion"], "modality": "volume", "source": "masks", "structure": "lesion", "channels": 8},
    ],
    "keypoints": [
        {"points": ["tip", "base"], "channels": 8},
        {"points": ["tip"], "modality": "volume", "source": "masks", "structure": "organ", "channels": 8},
    ],
    "survival": [{"time": "months", "event": "dead"}],
    "retrieval": [{"query": "image", "answer": "text"}],
}
"""Samples of a kind's fields; without one, the kind's defaults are tried."""
ENCODERS = phantom.encoders()
STANDARDS = {m: s.standard() for m, s in ENCODERS.items()}


def specs(kind: type[TaskFields]) -> list[Any]:
    try:
        return [kind.model_validate(fields) for fields in SAMPLES.get(kind.model_fields["kind"].default, [{}])]
    except ValidationError:
        return []  # test_every_kind_has_a_sample says so


SPECS = [spec for kind in KINDS for spec in specs(kind)]
every_task = pytest.mark.parametrize("spec", SPECS, ids=[f"{s.kind}-{n}" for n, s in enumerate(SPECS)])


@cache
def backbone() -> Model:
    return build_model(
        TwoTower(width=16, embedding=16, fusion=Intermediate(depth=1, heads=2)), ENCODERS, phantom.fingerprint(), 0
    )


def head_of(spec: TaskFields) -> Task:
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            head = spec.build("asked", backbone())
    except TaskError:
        pytest.skip("it has no head")
    for parameter in head.parameters():  # a linear head begins with zeros, which would hide what it reads
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    return head


def batch(*some: Modality, patients: int = 4) -> Batch:
    return phantom.batch(STANDARDS, {f"p{n}": dict.fromkeys(some, 1) for n in range(patients)})


def target_of(output: Tensor, spec: Any, known: list[bool]) -> Target:
    """Labels for an output of the task, as the loader makes them."""
    draws, mask = torch.Generator().manual_seed(1), torch.tensor(known)
    if spec.label("asked").kind == "mask":
        shape = (output.shape[0], *output.shape[2:])
        return Target(list(torch.randint(0, output.shape[1], shape, generator=draws)), mask)
    if spec.label("asked").kind in ("boxes", "points"):
        d = output.ndim - 2
        low = 16 * torch.rand(len(known), 2, d, generator=draws)
        boxes = torch.cat([torch.zeros(len(known), 2, 1), low, low + 9], 2)
        points = low[:, : len(getattr(spec, "points", "xy"))]
        return Target(list(boxes if spec.label("asked").kind == "boxes" else points), mask)
    if spec.label("asked").kind == "survival":
        return Target(torch.tensor([[5.0, 1.0], [3.0, 1.0], [8.0, 0.0], [1.0, 1.0]]), mask)
    if spec.label("asked").kind == "outcome":
        k, m = len(spec.events), max(len(spec.landmarks), 1)
        return Target(torch.tensor([[5.0, 1.0, 0], [3.0, k, m - 1], [8.0, 0.0, 0], [1.0, 1.0, m - 1]]), mask)
    if spec.label("asked").kind == "findings":
        return Target(torch.tensor([[1.0, 0.0], [0.0, float("nan")], [0.0, 1.0], [float("nan"), 1.0]]), mask)
    if spec.label("asked").kind in ("classes", "grade"):
        return Target(torch.tensor([2.0, 0.0, 1.0, 1.0]), mask)
    return Target(torch.tensor([1.0, 0.0, 0.0, 1.0]), mask)


def placed(spec: Any, how_sure: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[tuple[str, ...], ...]]:
    """Answers about one image of each of five patients: all find what is there but the last one, who misses it."""
    outputs, targets = np.empty(5, object), np.empty(5, object)
    for n, sure in enumerate(how_sure):
        off = 0.0 if n < 4 else 90.0
        if spec.kind == "keypoints":
            outputs[n], targets[n] = np.full((1, len(spec.points)), 1.0 + n + off), np.array([[20.0, 1.0]])
            continue
        d = 3 if spec.modality == Modality.VOLUME else 2
        box = np.array([[0.0] * d + [10.0] * d])
        truth = [np.concatenate([[[0.0, k]], box], 1) for k in range(len(spec.classes))]
        targets[n] = np.concatenate(truth)
        outputs[n] = np.concatenate(
            [np.concatenate([[[0.0, k, sure]], box + off], 1) for k in range(len(spec.classes))]
        )
    return outputs, targets, (("image",),) * 5


def needs(spec: Any) -> tuple[Modality, ...]:
    return (Modality(spec.modality),) if hasattr(spec, "modality") else ()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_sample(kind: type[TaskFields]) -> None:
    assert specs(kind), f"{kind.__name__} has fields without a default: add some to SAMPLES in {__file__}"


@every_task
def test_a_specification_survives_a_recipe(spec: Any) -> None:
    assert TypeAdapter(TaskSpec).validate_json(spec.model_dump_json()) == spec
    for wrong in ({"no_such_key": 1}, {"inputs": []}, {"inputs": ["smell"]}):
        with pytest.raises(ValidationError):
            TypeAdapter(TaskSpec).validate_python({**spec.model_dump(), **wrong})


@every_task
def test_no_column_of_a_label_is_an_input(spec: Any) -> None:
    label = spec.label("asked")
    named = {label.column, label.event} - {None} if label else set()
    assert named <= set(spec.columns())
    assert label is None or label.task == "asked"


@every_task
def test_every_subset_of_modalities_is_answered(spec: Any) -> None:
    head = head_of(spec)
    with torch.no_grad():
        for k in range(1, len(ENCODERS) + 1):
            for some in list(combinations(ENCODERS, k))[:4]:
                if set(needs(spec)) <= set(some):
                    assert head.output(backbone(), batch(*some, patients=2)).isfinite().all()
                elif needs(spec):
                    with pytest.raises(TaskError, match=needs(spec)[0]):
                        head.output(backbone(), batch(*some, patients=2))


@every_task
def test_an_answer_reads_its_own_patient_alone(spec: Any) -> None:
    head, data = head_of(spec), batch(Modality.IMAGE, Modality.VOLUME)
    inputs = {m: r.values.requires_grad_() for m, r in data.payloads.items() if isinstance(r.values, Tensor)}
    output = head.output(backbone(), data)
    gradients = torch.autograd.grad(output[1].square().sum(), list(inputs.values()))
    for gradient in gradients:
        assert (gradient.flatten(1).abs().sum(1) > 0).tolist() == [False, True, False, False]


@every_task
def test_the_unlabelled_touch_no_loss(spec: Any) -> None:
    head, data = head_of(spec), batch(*ENCODERS)
    output = head.output(backbone(), data)
    target = target_of(output, spec, [True, True, False, True])
    loss = head.loss(output, target)
    assert loss is not None
    assert loss.isfinite()
    gradient = torch.autograd.grad(loss, output, retain_graph=True)[0].flatten(1) if output.ndim > 1 else None
    gradient = torch.autograd.grad(loss, output, retain_graph=True)[0][:, None] if gradient is None else gradient
    assert (gradient.abs().sum(1) > 0).tolist() == [True, True, False, True]
    other = target_of(output, spec, [True, True, False, True])
    other.values[2] = torch.zeros_like(other.values[2])
    again = head.loss(output, other)
    assert again is not None
    assert torch.equal(loss, again)
    assert head.loss(output, target_of(output, spec, [False] * 4)) is None


@every_task
def test_the_unlabelled_touch_no_metric(spec: Any) -> None:
    head = head_of(spec)
    dense = spec.label("asked").kind == "mask"
    outputs = np.array([0.9, 0.2, 0.6, 0.4, 0.7])
    targets = np.array([[1.0, 1.0], [6.0, 1.0], [4.0, 0.0], [2.0, 1.0], [9.0, 1.0]])
    records: tuple[tuple[str, ...], ...] = ()
    if spec.label("asked").kind in ("boxes", "points"):
        outputs, targets, records = placed(spec, outputs)
    elif dense:
        outputs = np.repeat(outputs[:, None], len(spec.classes), 1)
    elif spec.label("asked").kind == "class":
        targets = np.array([1, 0, 1, 0, 0])
    elif spec.label("asked").kind == "outcome":
        outputs = np.stack([np.stack([outputs * t / 4 for t in range(4)], -1)] * len(spec.events), 1) / len(spec.events)
        targets = np.concatenate([targets * [1, len(spec.events)], np.zeros((5, 1))], 1)
        targets[0, 1] = min(targets[0, 1], 1)
    elif spec.label("asked").kind == "findings":
        outputs, targets = (
            np.stack([outputs, 1 - outputs], 1),
            np.array([[1, 0], [0, np.nan], [np.nan, 1], [0, 1], [0, 1]]),
        )
    elif spec.label("asked").kind in ("classes", "grade"):
        outputs, targets = np.eye(3)[[2, 0, 1, 1, 2]], np.array([2, 0, 1, 0, 0])
    known = np.array([True, True, True, True, False])
    made = lambda values, truth, mask: Predictions(
        "asked", tuple("abcde")[: len(mask)], values, truth, mask, (), records[: len(mask)]
    )
    with_fifth, without = made(outputs, targets, known), made(outputs[:4], targets[:4], known[:4])
    assert head.score(with_fifth) == head.score(without)
    assert head.score(made(outputs, targets, np.ones(5, bool))) != head.score(without)
    assert all(np.isfinite(v) for v in head.score(without).values())
    nobody = head.score(made(outputs, targets, np.zeros(5, bool)))
    assert nobody
    assert all(np.isnan(v) for v in nobody.values())
    empty = head.score(made(np.zeros(0), np.zeros(0), np.zeros(0, bool)))
    assert all(np.isnan(v) for v in empty.values())


@every_task
def test_tensors_are_made_where_the_input_is(spec: Any) -> None:
    head, data = head_of(spec), batch(*ENCODERS)
    output = head.output(backbone(), data)
    loss = head.loss(output, target_of(output, spec, [True] * 4))
    target = target_of(output, spec, [True] * 4)
    with torch.device("meta"):
        assert torch.equal(head.output(backbone(), data), output)
        again = head.loss(output, target)
    assert loss is not None
    assert again is not None
    assert torch.equal(loss, again)


@every_task
def test_ranks_survive_bfloat16(spec: Any) -> None:
    """A number by which patients are ranked is float32, whatever the model's precision."""
    head, data = head_of(spec), batch(*ENCODERS, patients=3)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        output = head.output(backbone(), data)
    if isinstance(head, LinearTask):
        assert output.dtype == torch.float32
        assert not torch.equal(output, output.bfloat16().float())
    assert output.isfinite().all()
