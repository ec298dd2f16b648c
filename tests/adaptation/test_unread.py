"""Who can no longer be read while a run is being adapted is left out of the rest, and stands in the adapter."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from damaged import cut_inside, of, path_of
from polyclinic.adaptation import adapt, open_adapted
from polyclinic.adaptation.adapt import planned, taught_by
from polyclinic.adaptation.plan import AdaptError
from polyclinic.adaptation.probe import views
from polyclinic.cohort import Cohort
from polyclinic.harmonise.cache import Cache
from polyclinic.harmonise.unread import UnreadError
from polyclinic.inference import predict
from polyclinic.schema import Modality, Payload, Record
from polyclinic.tasks import LinearTask
from polyclinic.training import Run
from polyclinic.training.methods import Probe, Prototype


@pytest.fixture
def forgetful(own_run: Run) -> Run:
    """A run whose memory is full and whose disk takes no cache: each record is read again in each step."""
    own_run.__dict__["cache"] = Cache(None, most_bytes=0)
    return own_run


def after(step: int, damage: Callable[[], object]) -> Callable[[int, int, str], Any]:
    """Do it when so many steps are done."""
    return lambda done, total, what: damage() if done == step else None


def told(run: Run) -> list[tuple[str, str]]:
    return [(one["patient"], one["record"]) for one in run.adapter["unread"]]


def test_a_file_that_vanishes_while_it_learns(
    forgetful: Run, own_cohort: Cohort, own_hospital: Path, tmp_path: Path
) -> None:
    gone = of(own_cohort, forgetful.split.train, Modality.IMAGE)
    made = adapt(
        forgetful, "finding", "lora", cohort=own_cohort, steps=12, into=tmp_path / "made",
        progress=after(2, path_of(gone, own_hospital).unlink),
    )  # fmt: skip
    assert told(made) == [(gone.patient, gone.id)]
    assert "no file at" in made.adapter["unread"][0]["why"]
    assert gone.patient not in made.adapter["labelled"]
    assert made.adapter["labels"] == len(made.adapter["labelled"])
    assert np.isfinite(predict(made, own_cohort).outputs).all()


def test_a_mask_that_breaks_while_it_learns(
    forgetful: Run, own_cohort: Cohort, own_hospital: Path, tmp_path: Path
) -> None:
    mine = [r for r in own_cohort.records() if r.patient in forgetful.split.train and "/labels/" in r.uri]
    made = adapt(
        forgetful, "hippocampus", "lora", cohort=own_cohort, steps=4, into=tmp_path / "made",
        progress=after(1, lambda: cut_inside(path_of(mine[0], own_hospital))),
    )  # fmt: skip
    assert told(made) == [(mine[0].patient, mine[0].id)]
    assert mine[0].patient not in made.adapter["labelled"]


@pytest.mark.parametrize(("task", "steps"), [("finding", 12), ("hippocampus", 4)])
def test_where_nearly_nobody_is_left_it_stops(
    task: str, steps: int, forgetful: Run, own_cohort: Cohort, own_hospital: Path, tmp_path: Path
) -> None:
    with pytest.raises(UnreadError, match="patients who cannot be read, the first for no file at"):
        adapt(
            forgetful, task, "lora", cohort=own_cohort, steps=steps, into=tmp_path / "made",
            progress=after(1, lambda: shutil.rmtree(own_hospital)),
        )  # fmt: skip
    assert not (tmp_path / "made").exists()


def test_whom_pretraining_is_asked_of_is_told_too(
    forgetful: Run, own_cohort: Cohort, own_hospital: Path, tmp_path: Path
) -> None:
    """Of `full` it is measured what pretraining lost, on patients kept for testing."""
    volumes = [r for r in own_cohort.records() if r.patient in forgetful.split.test and "/images/" in r.uri]
    for record in volumes:
        path_of(record, own_hospital).unlink()
    made = adapt(forgetful, "survival", "full", cohort=own_cohort, steps=1, into=tmp_path / "made")
    assert told(made)
    assert {record for _, record in told(made)} <= {r.id for r in volumes}
    assert all(np.isfinite(v) for v in made.adapter["forgetting"]["after"].values())


def seen(run: Run, cohort: Cohort, load: Callable[[Record], Payload] | None = None) -> tuple[Any, Any]:
    """The plan of a probe for the finding, and its patients as the model shows them, read by `load`."""
    plan = planned(run, "finding", (Probe(),), None, cohort, 0, None, (Modality.IMAGE, Modality.TEXT, Modality.TABLE))
    plan.loader.load = load or plan.loader.load
    adapted = open_adapted(adapt(run, "finding", "probe", cohort=cohort, into=run.path / "adapted/probe"))
    assert isinstance(adapted.task, LinearTask)
    return plan, views(adapted.model, adapted.task, plan.loader, plan.patients, plan.reads)


def test_all_views_are_of_the_same_patients(
    forgetful: Run, own_cohort: Cohort, own_hospital: Path, tiny_cohort: Cohort
) -> None:
    """An image that vanished between the first view and the second."""
    gone, asked = of(own_cohort, forgetful.split.train, Modality.IMAGE), list[str]()

    def load(record: Record) -> Payload:
        asked.append(record.id)
        if asked.count(gone.id) == 2:
            path_of(gone, own_hospital).unlink(missing_ok=True)
        return own_cohort.load(record)

    plan, found = seen(forgetful, own_cohort, load)
    assert [one.patient for one in plan.aside] == [gone.patient]
    assert gone.patient not in plan.patients
    whole, before = seen(forgetful, tiny_cohort)
    kept = torch.tensor([p != gone.patient for p in whole.patients])
    assert len(found) == len(before) == 4
    for (vectors, target), (own, answers) in zip(found, before, strict=True):
        torch.testing.assert_close(vectors, own[kept], atol=1e-5, rtol=1e-5)
        assert torch.equal(target.values, answers.values[kept])


def test_one_class_that_vanishes_is_said(forgetful: Run, own_cohort: Cohort, own_hospital: Path) -> None:
    plan = planned(forgetful, "finding", (Prototype(),), None, own_cohort, 0, None, (Modality.IMAGE,))
    known = plan.loader.labelled("finding")
    for record in own_cohort.records():
        if known.get(record.patient) == 1 and record.modality is Modality.IMAGE:
            path_of(record, own_hospital).unlink()
    with pytest.raises(AdaptError, match="labelled patients"):
        taught_by(plan)
