"""Pretraining on a cohort of whom some cannot be read: they are on no side, or another stands in; the bits are the files' all the same."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from damaged import cut_inside, path_of
from polyclinic.cohort import Cohort
from polyclinic.harmonise.unread import UnreadError
from polyclinic.schema import Modality
from polyclinic.training import InterruptedRunError, Recipe, Run, pretrain


@pytest.fixture
def recipe(tiny_recipe: Path) -> Recipe:
    return Recipe.load(tiny_recipe)


def weights(run: Run) -> tuple[bytes, bytes]:
    return run.weights.read_bytes(), run.objective_weights.read_bytes()


def test_who_cannot_be_read_is_on_no_side(
    own_cohort: Cohort, own_hospital: Path, recipe: Recipe, tiny_recipe: Path, tmp_path: Path
) -> None:
    note = next(r for r in own_cohort.records() if r.modality is Modality.TEXT)
    (own_hospital / note.uri).unlink()
    run = pretrain(recipe, own_cohort, into=tmp_path / "runs")
    assert [one["record"] for one in run.lock["unread"]] == [note.id]
    assert note.patient not in {*run.split.train, *run.split.test}
    assert note.id in run.lock["left"]
    assert [one.patient for one in run.set_aside] == [note.patient]
    without = Recipe.load(tiny_recipe, [f"cohort.where=patient <> '{note.patient}'"])
    others = pretrain(without, own_cohort, into=tmp_path / "without")  # the same as if they had been kept away
    assert others.split == run.split
    assert weights(others) == weights(run)
    assert "unread" not in others.lock
    assert weights(pretrain(recipe, own_cohort, into=tmp_path / "runs")) == weights(run)  # it is finished, and the same


def test_another_stands_in_while_it_trains_and_resumed_it_is_the_same(
    own_cohort: Cohort, own_hospital: Path, recipe: Recipe, tmp_path: Path, tiny_run: Run
) -> None:
    """A volume is read when it is drawn, not before."""
    drawn = [r for r in own_cohort.records() if "/images/" in r.uri and r.patient in tiny_run.split.train]
    for record in drawn[:2]:
        cut_inside(path_of(record, own_hospital))
    whole = pretrain(recipe, own_cohort, into=tmp_path / "whole")
    aside = {one.record for one in whole.set_aside}
    assert aside
    assert aside <= {r.id for r in drawn[:2]}
    assert "unread" not in whole.lock
    assert {one["record"] for one in whole.training["sessions"][0]["unread"]} == aside
    assert {r.patient for r in drawn[:2]} <= {*whole.split.train}

    def stop(done: int, total: int, what: str) -> None:
        if done == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(InterruptedRunError):
        pretrain(recipe, own_cohort, into=tmp_path / "stopped", progress=stop)
    again = pretrain(recipe, own_cohort, into=tmp_path / "stopped")
    assert weights(again) == weights(whole)


def test_a_file_may_vanish_while_it_trains(
    own_cohort: Cohort, own_hospital: Path, recipe: Recipe, tmp_path: Path, tiny_run: Run
) -> None:
    """After the first step, which read none of these: a volume is read when it is drawn."""
    images = [r for r in own_cohort.records() if "/images/" in r.uri and r.patient in tiny_run.split.train]

    def vanish(done: int, total: int, what: str) -> None:
        if done == 1:
            for record in images:
                path_of(record, own_hospital).unlink()

    run = pretrain(recipe, own_cohort, into=tmp_path / "runs", progress=vanish)
    aside = {one.record for one in run.set_aside}
    assert aside
    assert aside <= {r.id for r in images}
    assert run.metrics().num_rows


def test_nobody_is_left(own_cohort: Cohort, own_hospital: Path, recipe: Recipe, tmp_path: Path) -> None:
    shutil.rmtree(own_hospital)
    with pytest.raises(UnreadError, match="patients who cannot be read, the first for no file at"):
        pretrain(recipe, own_cohort, into=tmp_path / "runs")
    assert not (tmp_path / "runs/tiny/recipe.yaml").exists()


def test_the_lock_says_why(own_cohort: Cohort, own_hospital: Path, recipe: Recipe, tmp_path: Path) -> None:
    note = next(r for r in own_cohort.records() if r.modality is Modality.TEXT)
    (own_hospital / note.uri).write_bytes(b"\x00\x01" * 40)
    run = pretrain(recipe, own_cohort, into=tmp_path / "runs")
    (told,) = json.loads((run.path / "lock.json").read_text())["unread"]
    assert told["patient"] == note.patient
    assert "; expected " in told["why"]
