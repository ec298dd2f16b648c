from __future__ import annotations

import math
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from polyclinic.adaptation import adapt, predict
from polyclinic.cohort import Cohort
from polyclinic.tasks import Predictions
from polyclinic.training import Run
from polyclinic.training.run import file_hash
from polyclinic.trust import Evidence, EvidenceError, calibration, evaluate, figures, subsets
from polyclinic.trust.comparison import plain


@pytest.fixture(scope="module")
def run(tiny_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    place = tmp_path_factory.mktemp("evaluated") / "tiny"
    shutil.copytree(tiny_run.path, place, ignore=shutil.ignore_patterns("adapted"))
    return Run.open(place)


@pytest.fixture(scope="module")
def finding(run: Run, tiny_cohort: Cohort) -> tuple[Run, Evidence]:
    adapted = adapt(run, "finding", "probe", cohort=tiny_cohort)
    return adapted, evaluate(adapted, tiny_cohort, draws=200)


def test_the_figures_are_those_of_the_test_side(finding: tuple[Run, Evidence], tiny_cohort: Cohort) -> None:
    run, evidence = finding
    answers = predict(run, tiny_cohort)
    split = run.split.hash
    assert evidence.figures == figures("classification", answers, split, draws=200)
    assert evidence.calibration is not None
    same = lambda one, other: plain(asdict(one)) == plain(asdict(other))  # NaN is not itself
    assert same(evidence.calibration, calibration(answers, split, draws=200))
    assert all(map(same, evidence.subsets, subsets(run, tiny_cohort, draws=200)))
    assert len(evidence.subsets) == 7
    assert evidence.split == split
    assert evidence.weights == file_hash(run.weights)
    assert (evidence.task, evidence.kind, evidence.method) == ("finding", "classification", "probe")
    assert evidence.labels == run.adapter["labels"]
    assert evidence.figures[0].n == int(answers.mask.sum())


def test_it_is_written_and_read_back(finding: tuple[Run, Evidence]) -> None:
    run, evidence = finding
    for place in (run.path, run.path / "evidence/evidence.json"):
        assert plain(asdict(Evidence.open(place))) == plain(asdict(evidence))
    assert "NaN" not in (run.path / "evidence/evidence.json").read_text()


def test_every_figure_carries_n_split_and_note(finding: tuple[Run, Evidence]) -> None:
    """Invariant 8."""
    run, evidence = finding
    assert evidence.calibration is not None
    every = [*evidence.figures, *evidence.calibration.figures, *(s.figure for s in evidence.subsets)]
    assert len(every) > 8
    for found in every:
        assert found.split == run.split.hash
        assert found.note
        assert math.isnan(found.value) or found.n > 0
        assert math.isnan(found.low) or found.low <= found.value <= found.high


def test_the_card_is_written_beside_it(finding: tuple[Run, Evidence]) -> None:
    run, _ = finding
    assert "## It must not be used for" in (run.path / "card.md").read_text()


def test_it_prints_every_figure_with_n(finding: tuple[Run, Evidence]) -> None:
    _, evidence = finding
    printed = str(evidence)
    assert printed.count("n = ") >= len(evidence.figures) + len(evidence.subsets)
    assert evidence.split[:12] in printed
    assert printed.count("brier") == 1


def test_a_figure_by_its_name(finding: tuple[Run, Evidence]) -> None:
    _, evidence = finding
    assert evidence.figure("auroc") is evidence.figures[0]
    assert evidence.figure("ece").name == "ece"
    with pytest.raises(EvidenceError, match="no figure 'dice'"):
        evidence.figure("dice")


@pytest.mark.parametrize(("task", "names"), [
    ("survival", ["concordance"]), ("hippocampus", ["dice", "dice_anterior", "dice_posterior"]),
])  # fmt: skip
def test_other_tasks(task: str, names: list[str], run: Run, tiny_cohort: Cohort, tmp_path: Path) -> None:
    adapted = adapt(run, task, "probe", steps=1, cohort=tiny_cohort, into=tmp_path)
    evidence = evaluate(adapted, tiny_cohort, draws=50)
    assert [f.name for f in evidence.figures] == names
    assert evidence.calibration is None
    assert len(evidence.subsets) == (3 if task == "survival" else 0)
    assert Evidence.open(tmp_path).figures[0].n == evidence.figures[0].n > 0


def test_a_pretrained_run_is_measured_by_retrieval(run: Run, tiny_cohort: Cohort) -> None:
    evidence = evaluate(run, tiny_cohort, draws=50)
    assert evidence.kind == "retrieval"
    assert evidence.inputs == ("image", "text")
    assert evidence.figures[0].name == "recall_at_1"
    assert Evidence.open(run.path).kind == "retrieval"


def test_several_retrievals_are_all_measured(run: Run, tiny_cohort: Cohort, tmp_path: Path) -> None:
    shutil.copytree(run.path, tmp_path / "tiny", ignore=shutil.ignore_patterns("adapted", "evidence"))
    recipe = tmp_path / "tiny/recipe.yaml"
    recipe.write_text(
        recipe.read_text().replace(
            "tasks:\n", "tasks:\n  genes_to_row: {kind: retrieval, query: omics, answer: table}\n"
        )
    )
    evidence = evaluate(tmp_path / "tiny", tiny_cohort, draws=50)
    assert [f.name for f in evidence.figures if "recall_at_1" in f.name and "back" not in f.name] == [
        "recall_at_1", "xray_to_note: recall_at_1",
    ]  # fmt: skip
    assert evidence.task == "genes_to_row"


def test_a_run_of_which_nothing_can_be_said(run: Run, tiny_cohort: Cohort, tmp_path: Path) -> None:
    shutil.copytree(run.path, tmp_path / "tiny", ignore=shutil.ignore_patterns("adapted", "evidence"))
    recipe = tmp_path / "tiny/recipe.yaml"
    text = recipe.read_text()
    start = text.index("  xray_to_note:")
    recipe.write_text(text[:start] + text[text.index("stages:") :])
    with pytest.raises(EvidenceError, match="no retrieval task"):
        evaluate(tmp_path / "tiny", tiny_cohort)


def test_nobody_to_test_on(finding: tuple[Run, Evidence], tiny_cohort: Cohort, monkeypatch: Any) -> None:
    run, _ = finding
    answers = predict(run, tiny_cohort)
    unlabelled = Predictions(answers.task, answers.patients, answers.outputs, answers.targets, answers.mask & False)
    monkeypatch.setitem(evaluate.__globals__, "predict", lambda *_: unlabelled)
    with pytest.raises(EvidenceError, match="no labelled test patient"):
        evaluate(run, tiny_cohort)
