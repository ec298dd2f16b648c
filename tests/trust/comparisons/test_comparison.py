from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from polyclinic.adaptation import adapt
from polyclinic.cohort import Cohort, subset
from polyclinic.schema import Figure, Modality
from polyclinic.training import Run
from polyclinic.trust import Cell, Comparison, EvidenceError, Row, cells_of, compare, figure, verdict
from polyclinic.trust.comparisons.compare import _longer
from polyclinic.trust.comparisons.comparison import Skipped
from polyclinic.trust.measures.written import figure_of, interval, plain

IMAGE, TEXT, TABLE, OMICS, VOLUME = Modality.IMAGE, Modality.TEXT, Modality.TABLE, Modality.OMICS, Modality.VOLUME


@pytest.fixture(scope="module")
def run(tiny_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A copy, for a comparison writes into the run's folder."""
    place = tmp_path_factory.mktemp("compared") / "tiny"
    shutil.copytree(tiny_run.path, place, ignore=shutil.ignore_patterns("adapted"))
    return Run.open(place)


@pytest.fixture(scope="module")
def compared(run: Run, tiny_cohort: Cohort) -> Comparison:
    cells = [
        Cell("finding", (IMAGE, TEXT, TABLE), None),
        Cell("finding", (IMAGE, TEXT, TABLE), None, struck=True),
        Cell("survival", (TABLE, OMICS), 8),
        Cell("hippocampus", (VOLUME,), 2),
    ]
    return compare(run, tiny_cohort, cells=cells, steps=2, draws=100)


def row(**changes: Any) -> Row:
    figure = Figure("auroc", 0.7, 0.6, 0.8, 20, "hash")
    return replace(Row("finding", "lora", ("image",), 8, False, figure), **changes)


def gain(low: float, high: float) -> Figure:
    return Figure("auroc_difference", (low + high) / 2, low, high, 20, "hash")


def test_every_arm_of_every_cell_has_a_row(compared: Comparison) -> None:
    assert compared.skipped == ()
    arms = {(r.task, r.struck): [] for r in compared.rows}
    for r in compared.rows:
        arms[r.task, r.struck].append(r.arm)
    assert set(arms) == {("finding", False), ("finding", True), ("survival", False), ("hippocampus", False)}
    assert all(found == ["probe", "lora", "scratch", "baseline"] for found in arms.values())


def test_the_arms_of_a_cell_are_of_the_same_patients(compared: Comparison, run: Run) -> None:
    """They learn from the same labelled patients and answer about the same ones."""
    for task, struck in {(r.task, r.struck) for r in compared.rows}:
        mine = [r for r in compared.rows if (r.task, r.struck) == (task, struck)]
        assert len({r.labels for r in mine}) == 1
        assert len({r.figure.n for r in mine}) == 1
    for folder in (run.path / "comparison").iterdir():
        learned = [json.loads((arm / "adapter.json").read_text())["labelled"] for arm in folder.iterdir()]
        assert len(learned) == 3
        assert learned[0] == learned[1] == learned[2]
        assert set(learned[0]) <= set(run.split.train)


def test_every_figure_carries_n_split_and_note(compared: Comparison, run: Run) -> None:
    for r in compared.rows:
        for found in (f for f in (r.figure, r.over_scratch, r.over_baseline) if f is not None):
            assert found.split == run.split.hash == compared.split
            assert found.n > 0
            assert found.note


def test_pretrained_arms_have_differences_and_the_others_none(compared: Comparison) -> None:
    values = {(r.task, r.struck, r.arm): r.figure.value for r in compared.rows}
    for r in compared.rows:
        if r.arm in ("scratch", "baseline"):
            assert r.over_scratch is None
            assert r.over_baseline is None
            continue
        for other, over in (("scratch", r.over_scratch), ("baseline", r.over_baseline)):
            assert over is not None
            assert over.value == pytest.approx(r.figure.value - values[r.task, r.struck, other], nan_ok=True)


def test_it_is_written_and_read_back(compared: Comparison, run: Run, tmp_path: Path) -> None:
    back = Comparison.open(run.path / "evidence/comparison.json")
    assert plain({"rows": [vars_of(r) for r in back.rows]}) == plain({"rows": [vars_of(r) for r in compared.rows]})
    assert (back.split, back.seconds, back.skipped) == (compared.split, compared.seconds, compared.skipped)
    nan = Comparison(
        (row(figure=Figure("auroc", math.nan, math.nan, math.nan, 3, "h", "why")),), (Skipped("a", "b", "c"),), "h", 1.0
    )
    found = Comparison.open(nan.write(tmp_path / "x.json"))
    assert math.isnan(found.rows[0].figure.value)
    assert found.rows[0].figure.note == "why"
    assert found.skipped == nan.skipped
    assert "NaN" not in (tmp_path / "x.json").read_text()


def vars_of(r: Row) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(r)


def test_segmentation_says_what_pretraining_saw(compared: Comparison) -> None:
    notes = {r.arm: r.note for r in compared.rows if r.task == "hippocampus"}
    assert {notes[a] for a in ("probe", "lora")} == {"pretraining already saw 2 of these labels"}
    assert {"already saw" in notes[a] for a in ("scratch", "baseline")} == {False}
    assert {r.note for r in compared.rows if r.task != "hippocampus"} == {""}


def test_it_is_said_where_scratch_was_trained_for_longer() -> None:
    steps = {"probe": 120, "lora": 120, "scratch": 360}
    assert _longer("scratch", steps) == "trained for 360 steps, the pretrained for 120"
    assert _longer("lora", steps) == ""
    assert _longer("scratch", {"probe": 0, "lora": 40, "scratch": 40}) == ""
    assert _longer("scratch", {"scratch": 360}) == ""
    assert _longer("baseline", steps) == ""


def test_a_cell_with_fewer_masks_than_pretraining_saw_is_not_fair(
    run: Run, tiny_cohort: Cohort, tmp_path: Path
) -> None:
    shutil.copytree(run.path, tmp_path / "tiny", ignore=shutil.ignore_patterns("comparison", "evidence"))
    found = compare(
        tmp_path / "tiny",
        tiny_cohort,
        cells=[Cell("hippocampus", (VOLUME,), 1)],
        arms=("probe",),
        steps=1,
        draws=50,
    )
    assert {r.note for r in found.rows} == {
        "pretraining saw 1 labels that are not among these labels: not a fair comparison"
    }


def test_a_cohort_that_moved_is_asked_where_it_is_said(run: Run, tiny_cohort: Cohort, tmp_path: Path) -> None:
    """The lock names a place that is gone; the one that was given is used throughout."""
    shutil.copytree(run.path, tmp_path / "tiny", ignore=shutil.ignore_patterns("comparison", "evidence"))
    lock = tmp_path / "tiny/lock.json"
    lock.write_text(json.dumps(json.loads(lock.read_text()) | {"cohort": "/nowhere"}))
    cells = [Cell("hippocampus", (VOLUME,), 2)]
    found = compare(tmp_path / "tiny", tiny_cohort.path, cells=cells, arms=("baseline",), draws=50)
    assert [r.arm for r in found.rows] == ["baseline"]


def test_a_baseline_alone_learns_from_whom_the_arms_would(
    run: Run, compared: Comparison, tiny_cohort: Cohort, tmp_path: Path
) -> None:
    shutil.copytree(run.path, tmp_path / "tiny", ignore=shutil.ignore_patterns("comparison", "evidence"))
    cells = [Cell("survival", (TABLE, OMICS), 8)]
    (alone,) = compare(tmp_path / "tiny", tiny_cohort, cells=cells, arms=("baseline",), draws=100).rows
    (beside,) = [r for r in compared.rows if r.task == "survival" and r.arm == "baseline"]
    assert alone.figure == beside.figure
    assert alone.labels == beside.labels


def test_what_is_adapted_already_is_not_made_again(
    run: Run, compared: Comparison, tiny_cohort: Cohort, tmp_path: Path
) -> None:
    shutil.copytree(run.path, tmp_path / "tiny", ignore=shutil.ignore_patterns("comparison", "evidence"))
    here = Run.open(tmp_path / "tiny")
    made = [adapt(here, "finding", "probe", cohort=tiny_cohort, into=tmp_path / "tiny/a")]
    reads = (IMAGE, TEXT, TABLE)
    cells = [Cell("finding", reads, None), Cell("finding", reads, None, struck=True), Cell("finding", (IMAGE,), None)]
    found = compare(here, tiny_cohort, cells=cells, arms=("probe",), adapted=made, draws=100)
    folders = {p.name for p in (tmp_path / "tiny/comparison").iterdir()}
    assert folders == {"finding-image+text+table-None-struck", "finding-image-None"}
    figures = {r.figure for r in found.rows if not r.struck and len(r.inputs) == 3}
    assert figures == {r.figure for r in compared.rows if r.task == "finding" and r.arm == "probe" and not r.struck}


def test_what_no_longer_fits_the_time_is_listed(run: Run, tiny_cohort: Cohort, tmp_path: Path) -> None:
    shutil.copytree(run.path, tmp_path / "tiny", ignore=shutil.ignore_patterns("comparison", "evidence"))
    cells = [Cell("finding", (TABLE,), None), Cell("survival", (TABLE,), None), Cell("survival", (OMICS,), 8)]
    found = compare(tmp_path / "tiny", tiny_cohort, cells=cells, arms=("baseline",), budget_s=0.0, draws=50)
    assert {r.task for r in found.rows} == {"finding"}
    assert [(s.task, s.what) for s in found.skipped] == [
        ("survival", "table, all labels"),
        ("survival", "omics, 8 labels"),
    ]
    assert all(s.why == "what came before left no time" for s in found.skipped)
    assert "not run: survival omics, 8 labels" in str(found)


def test_an_arm_that_cannot_be_run_is_listed_and_the_others_go_on(
    run: Run, tiny_cohort: Cohort, tmp_path: Path
) -> None:
    shutil.copytree(run.path, tmp_path / "tiny", ignore=shutil.ignore_patterns("comparison", "evidence"))
    cells = [Cell("finding", (IMAGE,), 1), Cell("finding", (TABLE,), None)]
    found = compare(tmp_path / "tiny", tiny_cohort, cells=cells, arms=("probe", "baseline"), draws=50)
    assert [s.what for s in found.skipped] == ["image, 1 labels, probe", "image, 1 labels, baseline"]
    assert all("one class" in s.why for s in found.skipped)
    assert [r.arm for r in found.rows] == ["probe", "baseline"]


@pytest.mark.parametrize("wrong", [
    {"tasks": ["fnding"]}, {"counts": {"fnding": [3]}}, {"cells": [Cell("fnding", (IMAGE,), None)]}, {"arms": ["prob"]},
    {"tasks": ["xray_to_note"]},
])  # fmt: skip
def test_what_is_not_there_is_not_compared(wrong: dict[str, Any], run: Run, tiny_cohort: Cohort) -> None:
    with pytest.raises(EvidenceError, match="to compare"):
        compare(run, tiny_cohort, **wrong)


def test_the_cells_of_a_recipe(run: Run) -> None:
    cells = cells_of(run)
    assert Cell("finding", (IMAGE, TEXT, TABLE), None) in cells
    assert Cell("finding", (IMAGE,), None) in cells  # the X-ray alone, beside everything
    assert Cell("finding", (IMAGE, TEXT, TABLE), None, struck=True) in cells
    assert [c.labels for c in cells if c.task == "hippocampus"] == [12, 4]
    assert {c.task for c in cells} == {"finding", "hippocampus", "survival"}
    most = [c.labels for c in cells]
    assert most.index(8) > most.index(12)  # whatever is left out for time, each task has had its most labels
    assert {c.labels for c in cells_of(run, ["survival"], {"survival": [5, None]})} == {5, None}
    names = {
        c.labels: set(subset(dict.fromkeys("abcdefghijklmn", 0), c.labels, 0)) for c in cells if c.task == "hippocampus"
    }
    assert names[4] < names[12]


@pytest.mark.parametrize(("gains", "says"), [
    ([], "was not compared"),
    ([gain(-0.1, 0.2), gain(-0.3, 0.1)], "No difference shown"),
    ([gain(0.1, 0.2), gain(-0.3, 0.1)], "is better than the same network from scratch in 1 of 2 comparisons; in the others no"),
    ([gain(0.1, 0.2), gain(0.1, 0.3)], "is better than the same network from scratch in all 2 comparisons"),
    ([gain(-0.2, -0.1), gain(-0.3, 0.1)], "is worse than the same network from scratch in 1 of 2 comparisons; in the others no"),
    ([gain(-0.2, -0.1), gain(0.1, 0.2)], "better in 1, worse in 1 of 2 comparisons"),
    ([gain(math.nan, math.nan), gain(-0.1, 0.2)], "(1 could not be judged)"),
])  # fmt: skip
def test_the_verdict_says_what_the_intervals_show_and_no_more(gains: list[Figure], says: str) -> None:
    found = verdict(Comparison(tuple(row(over_scratch=g) for g in gains), (), "h", 0.0))
    assert says in found.sentence
    assert found.better + found.worse + found.none + found.unknown == len(gains)


@pytest.mark.parametrize("against", ["scratch", "baseline"])
def test_the_verdict_is_about_one_other_and_not_about_struck_notes(against: Literal["scratch", "baseline"]) -> None:
    over: dict[str, Any] = {f"over_{against}": gain(0.1, 0.2)}
    found = verdict(Comparison((row(**over), row(struck=True, **over), row()), (), "h", 0.0), against)
    assert found.better == 1


def test_figures_in_words() -> None:
    assert interval(Figure("d", -0.123, -0.2, 0.05, 9, "h")) == "−0.12 (−0.20–0.05)"
    assert interval(Figure("d", 0.5, math.nan, math.nan, 9, "h")) == "0.50 (no interval)"
    assert interval(Figure("d", math.nan, math.nan, math.nan, 9, "h")) == "not defined"
    assert Cell("t", (IMAGE, TEXT), None, struck=True).words == "image+text, all labels, disease words struck"
    assert figure_of(None) is None


def test_a_cell_s_figure_is_that_of_its_predictions(compared: Comparison, run: Run, tiny_cohort: Cohort) -> None:
    from polyclinic.inference import predict

    made = predict(run.path / "comparison/survival-table+omics-8/probe", tiny_cohort)
    (found,) = [r for r in compared.rows if r.task == "survival" and r.arm == "probe"]
    assert figure("concordance", made, run.split.hash, draws=100) == found.figure
