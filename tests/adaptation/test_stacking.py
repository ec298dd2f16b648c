from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from polyclinic.adaptation.probe import fit_head
from polyclinic.adaptation.stacking import fit_stacked
from polyclinic.models import TwoTower, build_model
from polyclinic.schema import Batch, Modality, Target
from polyclinic.tasks import Classification, ClassificationTask, Grade, Survival, TaskError
from polyclinic.tokens import Tfidf, phantom
from polyclinic.training.methods import Probe

IMAGE, TEXT = Modality.IMAGE, Modality.TEXT
SPEC = Classification(column="finding", positive=("yes",))
D = 16


def head() -> ClassificationTask:
    made = ClassificationTask("finding", SPEC, D)
    made.read_apart((IMAGE, TEXT))
    return made


def patients(n: int, tells: tuple[float, float], seed: int = 0, lack: float = 0.3) -> tuple[Tensor, Target]:
    """Vectors of two modalities, of which each moves along its own line by so much with the answer; some patients lack one."""
    random = torch.Generator().manual_seed(seed)
    truth = torch.arange(n) % 2
    blocks = torch.randn(n, 2, D + 1, generator=random)
    line = torch.randn(2, D, generator=torch.Generator().manual_seed(99))
    blocks[:, :, :D] += (truth[:, None, None] * 2.0 - 1) * torch.tensor(tells)[None, :, None] * line
    there = torch.ones(n, 2)
    lacks = torch.rand(n, generator=random) < lack
    there[lacks, torch.randint(2, (int(lacks.sum()),), generator=random)] = 0
    blocks[:, :, D] = 1
    return (blocks * there[:, :, None]).flatten(1), Target(truth, torch.ones(n, dtype=torch.bool))


def right(made: ClassificationTask, vectors: Tensor, target: Target) -> float:
    with torch.no_grad():
        said = made.read(vectors) > 0
    assert isinstance(target.values, Tensor)
    return float((said == (target.values > 0)).float().mean())


@torch.no_grad()
def moved(made: ClassificationTask, vectors: Tensor) -> list[float]:
    """How far each modality moves the answer from patient to patient."""
    spread = []
    for number in (0, 1):
        only = torch.zeros_like(vectors).unflatten(1, (2, D + 1))
        only[:, number] = vectors.unflatten(1, (2, D + 1))[:, number]
        spread.append(float(made.read(only.flatten(1)).std()))
    return spread


def test_a_modality_that_tells_nothing_is_hardly_heard_and_takes_nothing_off_the_other() -> None:
    made, alone = head(), ClassificationTask("finding", SPEC, D)
    vectors, target = patients(120, (0.0, 0.5), lack=0.0)
    fit_stacked(made, [(vectors, target)], 0)
    moves = moved(made, vectors)
    assert moves[0] < 0.2 * moves[1]
    fit_head(alone, [(vectors.unflatten(1, (2, D + 1))[:, 1, :D], target)], 0)
    asked, truth = patients(2000, (0.0, 0.5), seed=1, lack=0.0)
    both = right(made, asked, truth)
    assert both > right(alone, asked.unflatten(1, (2, D + 1))[:, 1, :D], truth) - 0.02


def test_two_that_tell_apart_different_patients_tell_more_together() -> None:
    made = head()
    vectors, target = patients(200, (0.3, 0.3), lack=0.0)
    fit_stacked(made, [(vectors, target)], 0)
    asked, truth = patients(2000, (0.3, 0.3), seed=1, lack=0.0)
    blocks = asked.unflatten(1, (2, D + 1))
    each = []
    for number in (0, 1):
        only = torch.zeros_like(blocks)
        only[:, number] = blocks[:, number]
        each.append(right(made, only.flatten(1), truth))
    assert right(made, asked, truth) > max(each) + 0.02


def test_a_modality_that_only_tells_who_lacks_the_other_is_not_heard() -> None:
    """Who has no note has the finding, and an image is of another machine: among those who have both it says nothing."""
    random = torch.Generator().manual_seed(3)
    n = 160
    lacks = torch.arange(n) % 4 == 0
    truth = torch.where(lacks, torch.ones(n), (torch.arange(n) // 4 % 2).float()).long()
    blocks = torch.randn(n, 2, D + 1, generator=random)
    line = torch.randn(2, D, generator=random)
    blocks[lacks, 0, :D] += 2 * line[0]
    blocks[:, 1, :D] += 0.5 * (truth[:, None] * 2.0 - 1) * line[1]
    blocks[:, :, D] = 1
    blocks[lacks, 1] = 0
    made = head()
    fit_stacked(made, [(blocks.flatten(1), Target(truth, torch.ones(n, dtype=torch.bool)))], 0)
    moves = moved(made, blocks[~lacks].flatten(1))
    assert moves[0] < 0.35 * moves[1]


def test_what_is_said_is_the_sum_of_what_each_says_and_the_offset() -> None:
    made = head()
    vectors, target = patients(80, (0.4, 0.4))
    fit_stacked(made, [(vectors, target)], 0, ridge=0.02)
    blocks = vectors.unflatten(1, (2, D + 1))
    parts = []
    for number in (0, 1):
        only = torch.zeros_like(blocks)
        only[:, number] = blocks[:, number]
        parts.append(made.read(only.flatten(1)))
    nothing = made.read(torch.zeros_like(vectors))
    torch.testing.assert_close(made.read(vectors), parts[0] + parts[1] - nothing)
    torch.testing.assert_close(nothing, made.head.bias.expand(80))


def test_of_few_labels_the_sum_is_left_as_it_is() -> None:
    made = head()
    vectors, target = patients(8, (1.0, 1.0), lack=0.0)
    told = fit_stacked(made, [(vectors, target)], 0)
    assert [one["weight"] for one in told.values()] == [1.0, 1.0]


def test_one_class_among_those_who_have_a_modality_teaches_it_nothing() -> None:
    made = head()
    vectors, target = patients(40, (0.5, 0.5), lack=0.0)
    assert isinstance(target.values, Tensor)
    blocks = vectors.unflatten(1, (2, D + 1)).clone()
    blocks[target.values == 0, 0] = 0
    told = fit_stacked(made, [(blocks.flatten(1), target)], 0)
    assert list(told) == ["text"]
    assert not made.head.weight.unflatten(1, (2, D + 1))[:, 0].any()


def test_the_same_labels_give_the_same_bits() -> None:
    one, other = head(), head()
    vectors, target = patients(60, (0.5, 0.2))
    assert fit_stacked(one, [(vectors, target)], 0) == fit_stacked(other, [(vectors, target)], 0)
    assert torch.equal(one.head.weight, other.head.weight)


def test_a_survival_is_stacked() -> None:
    model = build_model(TwoTower(width=D, embedding=D), {TEXT: Tfidf(width=D, heads=2)}, phantom.fingerprint(), 0)
    made = Survival(time="t", event="e").build("death", model)
    made.read_apart((IMAGE, TEXT))
    vectors, target = patients(120, (0.0, 0.5))
    assert isinstance(target.values, Tensor)
    random = torch.Generator().manual_seed(5)
    time = torch.rand(120, generator=random) * torch.where(target.values > 0, 1.0, 8.0)
    outcome = Target(torch.stack([time, (torch.rand(120, generator=random) < 0.8).float()], 1), target.mask)
    told = fit_stacked(made, [(vectors, outcome)], 0)
    assert told["image"]["weight"] < told["text"]["weight"]
    with torch.no_grad():
        hazard = made.read(vectors)
    assert hazard[target.values > 0].mean() > hazard[target.values == 0].mean() + 0.5


def test_a_grade_is_refused() -> None:
    model = build_model(TwoTower(width=D, embedding=D), {TEXT: Tfidf(width=D, heads=2)}, phantom.fingerprint(), 0)
    grade: Any = Grade(column="grade", grades=(("1",), ("2",), ("3",))).build("grade", model)
    with pytest.raises(TaskError, match="add up"):
        grade.read_apart((TEXT,))


def test_vectors_of_a_model_hold_each_modality_by_itself() -> None:
    encoders = {IMAGE: phantom.encoders()[IMAGE], TEXT: Tfidf(width=D, heads=2)}
    model = build_model(TwoTower(width=D, embedding=D), encoders, phantom.fingerprint(), 0).eval()
    standards = {m: spec.standard() for m, spec in encoders.items()}
    has = {"a": {IMAGE: 1, TEXT: 2}, "b": {TEXT: 1}, "c": {IMAGE: 1}, "d": {}}
    batch = phantom.batch(standards, has)
    made = head()
    vectors, present = made.pooled(model, batch)
    blocks = vectors.unflatten(1, (2, D + 1))
    assert present.tolist() == [True, True, True, False]
    assert blocks[:, :, D].tolist() == [[1, 1], [0, 1], [1, 0], [0, 0]]
    text = model(Batch({TEXT: batch.payloads[TEXT]}, {}, batch.patients)).pooled
    torch.testing.assert_close(blocks[:, 1, :D], text)
    assert Probe(modalities="stacked").modalities == "stacked"
