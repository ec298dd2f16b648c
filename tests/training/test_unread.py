"""Pretraining on a cohort of whom some cannot be read: they are on no side, or another stands in; the bits are the files' all the same."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from polyclinic.cohort import Cohort, ingest
from polyclinic.harmonise.unread import UnreadError
from polyclinic.schema import Modality
from polyclinic.training import InterruptedRunError, Recipe, Run, pretrain


@pytest.fixture
def place(small_hospital: Path, tmp_path: Path) -> Path:
    shutil.copytree(small_hospital, tmp_path / "in")
    return tmp_path / "in"


@pytest.fixture
def cohort(place: Path, tmp_path: Path) -> Cohort:
    return ingest(place, tmp_path / "cohort")


@pytest.fixture
def recipe(tiny_recipe: Path) -> Recipe:
    return Recipe.load(tiny_recipe)


def weights(run: Run) -> tuple[bytes, bytes]:
    return run.weights.read_bytes(), run.objective_weights.read_bytes()


def test_who_cannot_be_read_is_on_no_side(
    cohort: Cohort, place: Path, recipe: Recipe, tiny_recipe: Path, tmp_path: Path
) -> None:
    note = next(r for r in cohort.records() if r.modality is Modality.TEXT)
    (place / note.uri).unlink()
    run = pretrain(recipe, cohort, into=tmp_path / "runs")
    assert [one["record"] for one in run.lock["unread"]] == [note.id]
    assert note.patient not in {*run.split.train, *run.split.test}
    assert note.id in run.lock["left"]
    assert [one.patient for one in run.set_aside] == [note.patient]
    without = Recipe.load(tiny_recipe, [f"cohort.where=patient <> '{note.patient}'"])
    others = pretrain(without, cohort, into=tmp_path / "without")  # the same as if they had been kept away
    assert others.split == run.split
    assert weights(others) == weights(run)
    assert "unread" not in others.lock
    assert weights(pretrain(recipe, cohort, into=tmp_path / "runs")) == weights(run)  # it is finished, and the same


def test_another_stands_in_while_it_trains_and_resumed_it_is_the_same(
    cohort: Cohort, place: Path, recipe: Recipe, tmp_path: Path, tiny_run: Run
) -> None:
    """A volume is read when it is drawn, not before."""
    drawn = [r for r in cohort.records() if "/images/" in r.uri and r.patient in tiny_run.split.train]
    for record in drawn[:2]:
        path = place / record.uri
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:4000]))
    whole = pretrain(recipe, cohort, into=tmp_path / "whole")
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
        pretrain(recipe, cohort, into=tmp_path / "stopped", progress=stop)
    again = pretrain(recipe, cohort, into=tmp_path / "stopped")
    assert weights(again) == weights(whole)


def test_nobody_is_left(cohort: Cohort, place: Path, recipe: Recipe, tmp_path: Path) -> None:
    shutil.rmtree(place)
    with pytest.raises(UnreadError, match="patients who cannot be read, the first for no file at"):
        pretrain(recipe, cohort, into=tmp_path / "runs")
    assert not (tmp_path / "runs/tiny/recipe.yaml").exists()


def test_the_lock_says_why(cohort: Cohort, place: Path, recipe: Recipe, tmp_path: Path) -> None:
    note = next(r for r in cohort.records() if r.modality is Modality.TEXT)
    (place / note.uri).write_bytes(b"\x00\x01" * 40)
    run = pretrain(recipe, cohort, into=tmp_path / "runs")
    (told,) = json.loads((run.path / "lock.json").read_text())["unread"]
    assert told["patient"] == note.patient
    assert "; expected " in told["why"]
