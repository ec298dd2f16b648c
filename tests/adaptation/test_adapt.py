from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from polyclinic.adaptation import adapt, open_adapted
from polyclinic.adaptation.adapt import _steps
from polyclinic.adaptation.fine_tune import batch_of, orders
from polyclinic.adaptation.plan import AdaptError, Plan
from polyclinic.cohort import Cohort, labels_of
from polyclinic.inference import predict
from polyclinic.schema import Batch, Modality, Record
from polyclinic.tasks import SegmentationTask, TaskError
from polyclinic.training import Run
from polyclinic.training.methods import Lora

MODULE = sys.modules["polyclinic.adaptation.adapt"]
"""The file; the room's name of it is the function."""
TASKS = ("finding", "hippocampus", "survival")
TRAINED = (
    "probe",
    "lora",
    "dora",
    "adapter",
    "prompt",
    "prefix",
    "bitfit",
    "full",
    "scratch",
    "lora+bitfit",
    "adapter+prompt+prefix",
)
ADDED = {"lora", "dora", "adapter", "prompt", "prefix"}


class Relabelled(Cohort):
    """A cohort in which some patients' cells and masks are others."""

    def __init__(self, cohort: Cohort, patients: Sequence[str], cells: dict[str, Any], no_masks: bool = False) -> None:
        super().__init__(cohort.path)
        self.whom, self.cells, self.no_masks = set(patients), cells, no_masks

    def records(self, where: str | None = None, patients: Sequence[str] | None = None) -> list[Record]:
        found = []
        for record in super().records(where, patients):
            if record.patient in self.whom:
                if self.no_masks and record.attributes.get("mask_of"):
                    continue
                cells = {k: v for k, v in self.cells.items() if k in record.attributes}
                record = replace(record, attributes={**record.attributes, **cells})
            found.append(record)
        return found


def adapter(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.path / "adapter.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(v, other[k]) for k, v in one.items())


@pytest.fixture(scope="module")
def made(tiny_run: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Run]:
    """Each task by each method, with a few steps."""
    place = tmp_path_factory.mktemp("adapted")
    return {
        (task, method): adapt(
            tiny_run, task, method, steps=1 if task == "hippocampus" else 3, into=place / f"{task}-{method}"
        )
        for task in TASKS
        for method in TRAINED
    }


def test_every_task_by_every_method_answers_about_the_test_side(made: dict[tuple[str, str], Run]) -> None:
    for (task, method), run in made.items():
        answers = predict(run)
        assert set(answers.patients) <= set(run.split.test), (task, method)
        assert answers.mask.any()
        assert np.isfinite(answers.outputs[answers.mask]).all()
        assert run.adapter["method"] == method
        assert run.adapter["labels"] == len(run.adapter["labelled"]) > 0
        assert set(run.adapter["labelled"]) <= set(run.split.train)


def test_what_is_kept_is_what_changed(made: dict[tuple[str, str], Run], tiny_run: Run) -> None:
    parts = lambda run: {name.split(".")[0] for name in adapter(run)}
    for (_, method), run in made.items():
        kinds = set(method.split("+"))
        wanted = (
            {"head"}
            | ({"added"} if kinds & ADDED else set())
            | ({"model"} if kinds & {"bitfit", "full", "scratch"} else set())
        )
        assert parts(run) == wanted, method
    size = lambda run: (run.path / "adapter.safetensors").stat().st_size
    assert size(made["finding", "probe"]) < 2000
    added = {n: t for n, t in adapter(made["finding", "lora"]).items() if n.startswith("added.")}
    linear = sum(t.numel() for t in added.values())
    weights = open_adapted(made["finding", "lora"]).model.state_dict()
    touched = {n.removeprefix("added.").rpartition(".lora.")[0] for n in added}
    assert touched
    assert all(f"{name}.weight" in weights for name in touched)
    # r (d + d') numbers a layer of d d': at a real width, a few hundredths of it.
    assert linear == sum(8 * sum(weights[f"{name}.weight"].shape) for name in touched)


def test_what_a_task_does_not_read_is_not_kept(made: dict[tuple[str, str], Run]) -> None:
    """A finding is read off images, words and cells: nothing of volumes and genes changes."""
    for method in ("lora", "dora", "adapter", "prefix", "bitfit", "full"):
        names = adapter(made["finding", method])
        assert not [n for n in names if ".encoders.volume." in f".{n}" or ".encoders.omics." in f".{n}"]
        assert [n for n in names if "encoders.image." in n]


def test_the_backbone_is_left_as_it_is(made: dict[tuple[str, str], Run], tiny_run: Run) -> None:
    before = tiny_run.model().state_dict()
    for task in TASKS:
        after = open_adapted(made[task, "probe"]).model.state_dict()
        assert all(torch.equal(v, after[k]) for k, v in before.items())
    assert made["finding", "lora"].adapter["backbone"] == made["finding", "probe"].adapter["backbone"]
    changed = open_adapted(made["finding", "lora"]).model.state_dict()
    moved = {k for k, v in before.items() if not torch.equal(v, changed[k])}
    assert moved
    assert all(k.endswith(".weight") and ".blocks." in k for k in moved)


def test_from_scratch_nothing_of_pretraining_is_left(made: dict[tuple[str, str], Run], tiny_run: Run) -> None:
    before, after = tiny_run.model().state_dict(), open_adapted(made["finding", "scratch"]).model.state_dict()
    matrices = [k for k, v in before.items() if v.is_floating_point() and v.ndim >= 2]
    assert matrices
    assert not [k for k in matrices if torch.equal(before[k], after[k])]


@pytest.mark.parametrize("method", ["probe", "lora", "scratch"])
def test_twice_the_same_bits(method: Any, tiny_run: Run, tmp_path: Path) -> None:
    one, two, other = (
        adapt(tiny_run, "finding", method, steps=3, seed=seed, into=tmp_path / str(n))
        for n, seed in enumerate((0, 0, 1))
    )
    assert same(adapter(one), adapter(two))
    if method != "probe":
        assert not same(adapter(one), adapter(other))


@pytest.mark.parametrize(("task", "cells", "method"), [
    ("finding", {"finding": "Pneumocystis", "went_icu": "Y", "survival": "N"}, "lora"),
    ("survival", {"survival_months": 1.0, "censorship": 0.0}, "lora"),
    ("hippocampus", {}, "full"),
])  # fmt: skip
def test_only_labels_of_the_training_side_are_touched(
    task: str, cells: dict[str, Any], method: Any, tiny_run: Run, tiny_cohort: Cohort, tmp_path: Path
) -> None:
    """Other labels of the test side change no bit; another label of one whose label is used does."""
    few, steps = {"finding": (4, 3), "survival": (6, 3), "hippocampus": (2, 1)}[task]
    plain = adapt(tiny_run, task, method, few, steps=steps, cohort=tiny_cohort, into=tmp_path / "plain")
    test = Relabelled(tiny_cohort, tiny_run.split.test, cells, no_masks=True)
    assert test.records() != tiny_cohort.records()
    planted = adapt(tiny_run, task, method, few, steps=steps, cohort=test, into=tmp_path / "test")
    assert (planted.path / "adapter.safetensors").read_bytes() == (
        plain.path / "adapter.safetensors"
    ).read_bytes() or all(torch.equal(v, adapter(planted)[k]) for k, v in adapter(plain).items())
    assert planted.adapter["labelled"] == plain.adapter["labelled"]
    label = tiny_run.recipe.tasks[task].label(task)
    assert label is not None
    known = labels_of(tiny_cohort.records(), label)
    someone = [p for p in plain.adapter["labelled"] if known.get(p, 1) not in (0, (1.0, 1.0))][:1]
    used = Relabelled(tiny_cohort, someone, cells, no_masks=True)
    try:
        other = adapt(tiny_run, task, method, few, steps=steps, cohort=used, into=tmp_path / "used")
    except AdaptError:  # fewer than two classes are left: the label was seen
        return
    assert not same(adapter(other), adapter(plain))


def test_an_unlabelled_patient_is_never_a_negative(tiny_run: Run, tiny_cohort: Cohort, tmp_path: Path) -> None:
    """`went_icu` is blank for some: they are not among the labelled, and who is among them has a known answer."""
    label = tiny_run.recipe.tasks["finding"].label("finding")
    assert label is not None
    answers = labels_of(tiny_cohort.records(), label)
    run = adapt(tiny_run, "finding", "probe", into=tmp_path / "a")
    assert set(run.adapter["labelled"]) <= set(answers)
    someone = run.adapter["labelled"][0]
    blank = Relabelled(tiny_cohort, [someone], {"finding": None})
    without = adapt(tiny_run, "finding", "probe", cohort=blank, into=tmp_path / "b")
    assert someone not in without.adapter["labelled"]
    assert without.adapter["labels"] == run.adapter["labels"] - 1
    judged = predict(without, blank, patients=[someone])
    assert judged.patients == (someone,)
    assert not judged.mask.any()


def test_fewer_labels_are_among_more(tiny_run: Run, tmp_path: Path) -> None:
    chosen = [
        set(adapt(tiny_run, "survival", "probe", n, into=tmp_path / str(n)).adapter["labelled"])
        for n in (3, 6, 9, None)
    ]
    assert all(few < more for few, more in pairwise(chosen))
    assert [len(c) for c in chosen[:3]] == [3, 6, 9]


def test_lora_starts_from_the_probe(tiny_run: Run, tiny_cohort: Cohort, tmp_path: Path, monkeypatch: Any) -> None:
    """With no step made, LoRA is the probe: B is zero and the head is the same optimum."""
    monkeypatch.setattr(MODULE, "AFTER_PROBE", 0.0)
    lora = adapt(tiny_run, "finding", "lora", steps=1, into=tmp_path / "lora")
    probe = adapt(tiny_run, "finding", "probe", into=tmp_path / "probe")
    np.testing.assert_array_equal(predict(lora, tiny_cohort).outputs, predict(probe, tiny_cohort).outputs)


def test_the_pretrained_decoder_is_the_start_of_a_segmentation(tiny_run: Run, tmp_path: Path) -> None:
    learned = load_file(tiny_run.path / "model/objective.safetensors")
    decoder = {k.partition("decoder.")[2]: v for k, v in learned.items() if "segmentation.decoder." in k}
    assert decoder
    for method, wanted in (("probe", True), ("scratch", False)):
        still = {"kind": method, "lr": 1e-30}
        found = adapter(adapt(tiny_run, "hippocampus", still, steps=1, into=tmp_path / method))
        assert all(torch.equal(found[f"head.decoder.{k}"], v) for k, v in decoder.items()) is wanted


def test_a_segmentation_learns_as_its_task_says(tiny_run: Run, tmp_path: Path, monkeypatch: Any) -> None:
    """As many patients a step as `batch` says, whose records are changed as `augment` says, another way in each step."""
    place = shutil.copytree(tiny_run.path, tmp_path / "run")
    told = yaml.safe_load((place / "recipe.yaml").read_text())
    told["tasks"]["hippocampus"] |= {"batch": 1, "augment": {}}
    (place / "recipe.yaml").write_text(yaml.safe_dump(told))
    seen: list[Batch] = []
    output = SegmentationTask.output
    monkeypatch.setattr(
        SegmentationTask, "output", lambda self, model, batch: seen.append(batch) or output(self, model, batch)
    )
    adapt(place, "hippocampus", "probe", labels=1, steps=2, into=tmp_path / "one")
    first, second = (batch.payloads[Modality.VOLUME].values for batch in seen)
    assert isinstance(first, torch.Tensor)
    assert isinstance(second, torch.Tensor)
    assert seen[0].patients == seen[1].patients
    assert len(seen[0].patients) == len(first) == 1
    assert not torch.equal(first, second)
    again = list(seen)
    seen.clear()
    adapt(place, "hippocampus", "probe", labels=1, steps=2, into=tmp_path / "two")
    for one, other in zip(again, seen, strict=True):  # the same arguments give the same bits
        assert torch.equal(one.payloads[Modality.VOLUME].values, other.payloads[Modality.VOLUME].values)  # pyright: ignore[reportArgumentType]
        assert torch.equal(one.targets["hippocampus"].values[0], other.targets["hippocampus"].values[0])


def test_from_scratch_a_segmentation_is_given_longer(tiny_run: Run, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(MODULE, "STEPS", {"segmentation": 1, "classification": 2})
    made = lambda task, method: adapt(tiny_run, task, method, into=tmp_path / f"{task}-{method}").adapter["steps"]
    assert {m: made("hippocampus", m) for m in ("probe", "scratch")} == {"probe": 1, "scratch": 2}
    assert {m: made("finding", m) for m in ("lora", "scratch")} == {"lora": 2, "scratch": 2}


def test_of_few_labels_a_backbone_is_not_taught_for_long() -> None:
    assert [_steps("survival", False, n) for n in (1, 24, 160, 1000)] == [1, 6, 40, 40]
    assert _steps("survival", True, 24) == 40
    assert _steps("segmentation", False, 4) == 60


def test_a_probability_is_among_patients_like_the_training_ones(tiny_run: Run, tmp_path: Path) -> None:
    """The mean answer of the training patients is near the share of the finding, not near one half."""
    run = adapt(tiny_run, "finding", "probe", into=tmp_path)
    answers = predict(run, patients=run.adapter["labelled"])
    assert abs(answers.outputs.mean() - answers.targets.mean()) < 0.1


def test_orders_are_shuffled_rounds_with_as_many_of_each_class(tiny_run: Run) -> None:
    names = [f"p{i:02}" for i in range(13)]
    known = {name: int(i < 3) for i, name in enumerate(names)}

    class Known:
        def labelled(self, task: str) -> dict[str, int]:
            return known

        def left(self, patients: list[str]) -> list[str]:
            return patients

    plan = Plan(tiny_run, "finding", (Lora(),), (Modality.TEXT,), Known(), names, 0, 10)  # type: ignore[arg-type]
    dealt = orders(plan, 4)
    assert all(len(set(batch)) == 4 and sum(known[p] for p in batch) == 2 for batch in dealt)
    first_round = [p for batch in dealt[:5] for p in batch if not known[p]]
    assert sorted(first_round) == names[3:]  # ten without it: five steps of two see each once
    assert orders(plan, 4) == dealt
    assert orders(replace(plan, seed=1), 4) != dealt
    assert all(set(names) == set(batch) for batch in orders(plan, 40))


def test_half_of_the_steps_show_one_modality_alone(tiny_run: Run, tiny_cohort: Cohort) -> None:
    reads = (Modality.IMAGE, Modality.TEXT, Modality.TABLE)
    loader = tiny_run.loader(tiny_cohort, tiny_run.split.train, ("finding",))
    names = [p for p in loader.patients if set(reads) & set(loader.by_patient[p])]
    plan = Plan(tiny_run, "finding", (Lora(),), reads, loader, names, 0, 90)
    seen = [batch_of(plan, names[:8], step) for step in range(plan.steps)]
    alone = [tuple(batch.payloads) for batch in seen if len(batch.payloads) == 1]
    assert set(alone) == {(m,) for m in reads if any(m in loader.by_patient[p] for p in names[:8])}
    assert 0.3 < len(alone) / plan.steps < 0.7
    for batch in seen:  # nobody comes who has no record of what is read
        assert all(set(batch.payloads) & set(loader.by_patient[p]) for p in batch.patients)
    again = [batch_of(plan, names[:8], step).patients for step in range(plan.steps)]
    assert again == [batch.patients for batch in seen]


def test_adapting_again_leaves_no_evidence_of_other_weights(tiny_run: Run, tmp_path: Path) -> None:
    run = adapt(tiny_run, "finding", "probe", into=tmp_path)
    (run.path / "evidence").mkdir()
    (run.path / "evidence/evidence.json").write_text("{}")
    (run.path / "card.md").write_text("# of old weights")
    adapt(tiny_run, "finding", "probe", 4, into=tmp_path)
    assert sorted(p.name for p in run.path.iterdir()) == ["adapter.json", "adapter.safetensors"]


@pytest.mark.parametrize(("arguments", "found", "remedy"), [
    ({"task": "fnding"}, "no task 'fnding'", "did you mean 'finding'?"),
    ({"task": "finding", "labels": 0}, "0 labels", ""),
    ({"task": "finding", "labels": -1}, "-1 labels", ""),
    ({"task": "finding", "steps": 0}, "0 steps", ""),
    ({"task": "finding", "inputs": ["xray"]}, "inputs of 'xray'", ""),
    ({"task": "finding", "inputs": ["signal"]}, "inputs of 'signal'", ""),
    ({"task": "finding", "inputs": ["imag"]}, "inputs of 'imag'", "did you mean 'image'?"),
    ({"task": "finding", "inputs": []}, "inputs of nothing", ""),
    ({"task": "finding", "inputs": ["volume"]}, "no training patient with a label of 'finding' and one of volume", ""),
    ({"task": "hippocampus", "inputs": ["text"]}, "inputs of text", "add it"),
    ({"task": "finding", "labels": 1}, "1 labelled patients of one class of 'finding'", "give more labels"),
])  # fmt: skip
def test_what_cannot_be_adapted_to_is_said(arguments: dict[str, Any], found: str, remedy: str, tiny_run: Run) -> None:
    with pytest.raises(AdaptError) as caught:
        adapt(tiny_run, **{"method": "probe", **arguments})
    assert found in caught.value.found
    assert remedy in caught.value.remedy


def test_a_retrieval_has_no_head(tiny_run: Run) -> None:
    with pytest.raises(TaskError, match="retrieval"):
        adapt(tiny_run, "xray_to_note", "probe")


def test_survival_without_an_event(tiny_run: Run, tiny_cohort: Cohort) -> None:
    nobody = Relabelled(tiny_cohort, tiny_run.split.train, {"censorship": 1.0})
    with pytest.raises(AdaptError, match="without an event"):
        adapt(tiny_run, "survival", "probe", cohort=nobody)


def test_inputs_are_put_in_order_and_named_in_the_run(tiny_run: Run) -> None:
    run = adapt(tiny_run, "finding", "probe", 4, inputs=["table", "image"])
    try:
        assert run.adapter["inputs"] == ["image", "table"]
        assert run.path.name == "finding-probe-4-0-image+table"
    finally:
        shutil.rmtree(run.path)


def test_a_pretrained_run_does_not_answer(tiny_run: Run) -> None:
    with pytest.raises(AdaptError, match="is not adapted to a task"):
        open_adapted(tiny_run)


@pytest.mark.parametrize("spoil", ["cut", "other"])
def test_an_adapter_that_does_not_fit(spoil: str, tiny_run: Run, tmp_path: Path) -> None:
    run = adapt(tiny_run, "finding", "probe", into=tmp_path)
    place = run.path / "adapter.safetensors"
    if spoil == "cut":
        place.write_bytes(place.read_bytes()[:-20])
    else:
        about = json.loads((run.path / "adapter.json").read_text())
        (run.path / "adapter.json").write_text(json.dumps(about | {"task": "hippocampus"}))
    with pytest.raises(AdaptError, match="do not fit"):
        open_adapted(run.path)


def test_from_an_adapted_run_one_adapts_its_backbone(tiny_finding_run: Run, tiny_run: Run, tmp_path: Path) -> None:
    run = adapt(tiny_finding_run, "survival", "probe", into=tmp_path)
    assert run.backbone.path.resolve() == tiny_run.path.resolve()
