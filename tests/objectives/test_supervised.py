from __future__ import annotations

from typing import Any

import pytest
import torch

from polyclinic.fusion import Intermediate
from polyclinic.models import Model, TwoTower, build_model
from polyclinic.objectives import Finding, Hybrid, ObjectiveError, SegmentationPart, Structure, Supervised
from polyclinic.objectives.outcomes import cox_loss, finding_loss
from polyclinic.schema import Batch, Losses, Modality, Target
from polyclinic.tasks import Classes, Findings, Grade, LinearTask
from polyclinic.tokens import phantom

ENCODERS = phantom.encoders()
STANDARDS = {m: s.standard() for m, s in ENCODERS.items()}
TASKS = {
    "finding": Finding(Modality.TABLE, ("finding",), outcome="class"),
    "death": Finding(Modality.TABLE, ("death",), outcome="survival", inputs=(Modality.IMAGE,)),
}
SPEC = Supervised(tasks=("finding", "death"))


def model() -> Model:
    return build_model(
        TwoTower(width=16, embedding=16, fusion=Intermediate(depth=1, heads=2)), ENCODERS, phantom.fingerprint(), 0
    )


def batch(has: list[dict[Modality, int]], **targets: Target) -> Batch:
    data = phantom.batch(STANDARDS, {f"p{n}": own for n, own in enumerate(has)})
    data.targets.update(targets)
    return data


def ask(data: Batch, spec: Any = SPEC) -> Losses:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        objective = spec.build(net := model(), TASKS)
    return objective(net, data, torch.Generator())


def known(*values: Any, mask: tuple[bool, ...] = ()) -> Target:
    return Target(torch.tensor(values, dtype=torch.float32), torch.tensor(mask or [True] * len(values)))


IMAGE, TEXT = {Modality.IMAGE: 1}, {Modality.TEXT: 1}


def test_each_labelled_patient_weighs_the_same() -> None:
    logits, hazards = torch.tensor([0.3, -1.0, 2.0]), torch.tensor([[3.0, 1], [5, 0], [2, 1]])
    each = -torch.nn.functional.logsigmoid(logits * torch.tensor([1.0, -1, -1]))
    torch.testing.assert_close(finding_loss(TASKS["finding"], logits, torch.tensor([1.0, 0, 0])), each.mean())
    torch.testing.assert_close(finding_loss(TASKS["death"], logits, hazards), cox_loss(logits, *hazards.unbind(1)))
    assert finding_loss(TASKS["finding"], logits[:0], logits[:0]) is None


def test_each_patient_is_labelled_for_any_tasks() -> None:
    """The terms are what a batch of only the labelled gives, whoever else there is."""
    has = [IMAGE, TEXT, IMAGE | TEXT, IMAGE]
    both = batch(
        has, finding=known(1, 0, 0, 9, mask=(True, True, True, False)),
        death=known([3, 1], [9, 9], [5, 0], [4, 1], mask=(True, False, True, True)),
    )  # fmt: skip
    found = ask(both).terms
    alone = ask(batch(has[:3], finding=known(1, 0, 0))).terms
    assert alone.keys() == {"supervised/finding"}
    torch.testing.assert_close(found["supervised/finding"], alone["supervised/finding"])
    assert found.keys() == {"supervised/finding", "supervised/death"}


def test_a_task_reads_its_inputs_alone() -> None:
    """A note beside the image changes nothing of a task that reads images; a patient without an image is in none of its losses."""
    death = known([3, 1], [5, 0], [2, 1])
    bare = ask(batch([IMAGE, IMAGE, IMAGE], death=death)).terms
    beside = ask(batch([IMAGE | TEXT, IMAGE, IMAGE | TEXT], death=death)).terms
    torch.testing.assert_close(bare["supervised/death"], beside["supervised/death"])
    with_another = ask(batch([IMAGE, IMAGE, IMAGE, TEXT], death=known([3, 1], [5, 0], [2, 1], [1, 1]))).terms
    torch.testing.assert_close(bare["supervised/death"], with_another["supervised/death"])
    assert ask(batch([TEXT, TEXT], death=known([3, 1], [5, 0]))).terms == {}


def test_tasks_share_the_weight() -> None:
    data = batch([IMAGE, IMAGE], finding=known(1, 0), death=known([3, 1], [5, 0]))
    assert set(ask(data, SPEC.model_copy(update={"weight": 3.0})).weights.values()) == {1.5}


def test_a_hybrid_is_shown_the_labels_of_its_parts() -> None:
    parts = (
        SPEC,
        Supervised(tasks=("finding",), labels=9),
        SegmentationPart(task="mask", labels=3),
        Supervised(tasks=("finding",), labels=5),
    )
    assert Hybrid(parts=parts).labelled() == {"finding": 5, "death": None, "mask": 3}


def test_masks_and_a_task_named_twice_are_refused() -> None:
    with pytest.raises(ObjectiveError, match="of masks"):
        Supervised(tasks=("mask",)).build(model(), {"mask": Structure(Modality.VOLUME, ("one",))})
    with pytest.raises(ValueError, match="twice"):
        Supervised(tasks=("finding", "finding"))


SEVERAL = {
    "cause": Finding(Modality.TABLE, ("a", "b", "c"), outcome="classes", balance=0.5),
    "stage": Finding(Modality.TABLE, ("i", "ii", "iii"), outcome="grade"),
    "signs": Finding(Modality.TABLE, ("x", "y"), outcome="findings"),
    "kinds": Finding(Modality.TABLE, ("x", "y"), outcome="findings", parents=(-1, 0)),
}
EACH = {name: {"column": name, "positive": ["Y"]} for name in ("x", "y")}
TOLD = {
    "cause": Classes(column="cause", classes=(("a",), ("b",), ("c",)), balance=0.5),
    "stage": Grade(column="stage", grades=(("i",), ("ii",), ("iii",))),
    "signs": Findings.model_validate({"findings": EACH}),
    "kinds": Findings.model_validate({"findings": EACH, "tree": {"y": "x"}}),
}
VALUES = {
    "cause": (2.0, 0, 1, 2), "stage": (2.0, 0, 1, 2),
    "signs": ([1.0, 0], [0, float("nan")], [1, 1], [0, 1]), "kinds": ([1.0, 0], [0, 0], [1, 1], [1, float("nan")]),
}  # fmt: skip


def test_what_a_task_tells_is_what_is_asked() -> None:
    assert {task: spec.taught(task, lambda *_: ()) for task, spec in TOLD.items() if task in ("cause", "stage")} == {
        task: SEVERAL[task] for task in ("cause", "stage")
    }
    (signs, kinds) = (TOLD[task].taught(task, lambda *_: ()) for task in ("signs", "kinds"))
    assert isinstance(signs, Finding)
    assert isinstance(kinds, Finding)
    assert [part.names for part in signs.questions] == [("x",), ("y",)]
    assert (signs.parents, kinds.parents) == ((), (-1, 0))


@pytest.mark.parametrize("task", SEVERAL)
def test_the_loss_is_the_task_s_own(task: str) -> None:
    """Of a head with the same weights, after adapting: one function says how wrong both are."""
    net, data = model(), batch([IMAGE, TEXT, IMAGE | TEXT, IMAGE], **{t: known(*v) for t, v in VALUES.items()})
    objective = Supervised(tasks=tuple(SEVERAL)).build(net, SEVERAL)
    head = TOLD[task].build(task, net)
    assert isinstance(head, LinearTask)
    with torch.no_grad():
        objective.steps[0].copy_(torch.tensor([0.3, -0.2]))
        head.head.weight.copy_(objective.head.weight[objective.rows[task]])
        if head.head.bias is not None:
            head.head.bias.copy_(objective.head.bias[objective.rows[task]])
        else:  # the thresholds are the offsets
            head.load_state_dict({"lowest": objective.steps[0][:1] - objective.head.bias[objective.rows[task]],
                                  "gaps": objective.steps[0][1:]}, strict=False)  # fmt: skip
    wanted = head.loss(head.output(net, data), data.targets[task])
    torch.testing.assert_close(objective(net, data, torch.Generator()).terms[f"supervised/{task}"], wanted)


@pytest.mark.parametrize("task", SEVERAL)
def test_who_is_not_labelled_changes_nothing(task: str) -> None:
    objective = Supervised(tasks=(task,)).build(net := model(), SEVERAL)
    has = [IMAGE, TEXT, IMAGE | TEXT, IMAGE]
    told = lambda n, *mask: objective(
        net, batch(has[:n], **{task: known(*VALUES[task][:n], mask=mask)}), torch.Generator()
    ).terms.get(f"supervised/{task}")
    found, alone, other = told(4, True, True, True, False), told(3), told(4)
    assert found is not None
    assert other is not None
    torch.testing.assert_close(found, alone)
    assert not torch.isclose(found, other)
    assert told(4, False, False, False, False) is None
