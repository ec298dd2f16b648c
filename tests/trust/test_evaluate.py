from __future__ import annotations

import json
import math
import shutil
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from polyclinic.adaptation import Adapted, adapt, open_adapted
from polyclinic.cohort import Cohort
from polyclinic.inference import ask, predict
from polyclinic.models import Model
from polyclinic.schema import Batch, Modality
from polyclinic.tasks import ClassificationTask, Predictions, SegmentationTask
from polyclinic.training import Run
from polyclinic.training.run import file_hash
from polyclinic.trust import Evidence, EvidenceError, calibration, evaluate, figures, prognosis, subsets
from polyclinic.trust.measures.surfaces import WHAT
from polyclinic.trust.measures.written import plain

predicting = import_module("polyclinic.inference.predict")


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
    task = open_adapted(run).task
    assert isinstance(task, ClassificationTask)
    assert evidence.figures == figures("classification", answers, split, draws=200, thresholds=task.thresholds)
    said = answers.outputs >= task.thresholds[0]
    right = said == (answers.targets > 0)
    assert evidence.figure("sensitivity").value == pytest.approx(right[answers.mask & (answers.targets > 0)].mean())
    assert evidence.figure("specificity").value == pytest.approx(right[answers.mask & (answers.targets == 0)].mean())
    assert evidence.calibration is not None
    same = lambda one, other: plain(asdict(one)) == plain(asdict(other))  # NaN is not itself
    assert same(evidence.calibration, calibration(answers, split, draws=200))
    shown = subsets(run, tiny_cohort, draws=200)
    assert all(map(same, evidence.subsets, shown.each))
    assert shown.contributions is not None
    assert same(evidence.contributions, shown.contributions)
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


def test_a_segmentation(run: Run, tiny_cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapted = adapt(run, "hippocampus", "probe", steps=1, cohort=tiny_cohort, into=tmp_path)
    asked, masks = list[str](), SegmentationTask.masks

    def watched(task: SegmentationTask, model: Model, batch: Batch) -> list[Tensor]:
        asked.extend(batch.payloads[Modality.VOLUME].ids)
        return masks(task, model, batch)

    monkeypatch.setattr(SegmentationTask, "masks", watched)
    evidence = evaluate(adapted, tiny_cohort, draws=50)
    there = {p for p in adapted.split.test if p in {r.patient for r in tiny_cohort.records("modality = 'volume'")}}
    assert len(asked) == len(set(asked)) == len(there) > 1  # each of them once, for Dice and surfaces alike
    assert [f.name for f in evidence.figures[:3]] == ["dice", "dice_anterior", "dice_posterior"]
    assert {f.name.rsplit("_", 1)[0] for f in evidence.figures[3:]} == set(WHAT)
    assert (evidence.calibration, evidence.subsets, evidence.risks) == (None, (), ())
    assert Evidence.open(tmp_path).figures[0].n == evidence.figures[0].n > 0


def test_each_subset_is_asked_once(
    finding: tuple[Run, Evidence], tiny_cohort: Cohort, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, said = list[tuple[Modality, ...]](), predicting.said

    def watched(adapted: Adapted, batch: Batch) -> tuple[Tensor, Tensor]:
        asked.append(tuple(batch.payloads))
        return said(adapted, batch)

    monkeypatch.setattr(predicting, "said", watched)
    evaluate(finding[0], tiny_cohort, draws=20)
    assert len(asked) == len(set(asked)) == 7


def test_a_survival_is_measured_by_its_order_and_by_its_risks(run: Run, tiny_cohort: Cohort, tmp_path: Path) -> None:
    adapted = adapt(run, "survival", "probe", cohort=tiny_cohort, into=tmp_path)
    evidence = evaluate(adapted, tiny_cohort, draws=50)
    answers = predict(adapted, tiny_cohort)
    further, curves = prognosis(answers, adapted.split.hash, draws=50)
    assert evidence.figures[0].name == "concordance"
    same = lambda one, other: plain(asdict(one)) == plain(asdict(other))
    assert all(map(same, evidence.figures[1:], further))
    assert len(further) == len(evidence.figures) - 1 >= 7
    assert evidence.risks == curves
    assert curves
    assert (evidence.calibration, len(evidence.subsets)) == (None, 3)
    again = Evidence.open(tmp_path)
    assert again.risks == curves
    text = (tmp_path / "card.md").read_text()
    for curve in curves:
        assert f"predicted risk by {curve.horizon:g} months" in text


def test_evidence_of_before_risks_were_measured_is_read(finding: tuple[Run, Evidence], tmp_path: Path) -> None:
    written = json.loads((finding[0].path / "evidence/evidence.json").read_text())
    del written["risks"]
    (tmp_path / "evidence.json").write_text(json.dumps(written))
    assert Evidence.open(tmp_path / "evidence.json").risks == ()


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


@pytest.fixture(scope="module")
def asked(tiny_asked_run: Run, tiny_cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Evidence]:
    place = tmp_path_factory.mktemp("evaluated") / "asked"
    shutil.copytree(tiny_asked_run.path, place)
    run = Run.open(place)
    return run, evaluate(run, tiny_cohort, draws=50)


def test_what_pretraining_taught_is_measured_as_what_is_adapted_to(
    asked: tuple[Run, Evidence], tiny_cohort: Cohort
) -> None:
    """The same figures of the answers, in words or by a head, as of an adapted run's."""
    run, evidence = asked
    assert {e.task: e.method for e in evidence.every} == {
        "finding": "question", "survival": "supervised", "icu": "question",
    }  # fmt: skip
    same = lambda one, other: plain(asdict(one)) == plain(asdict(other))  # NaN is not itself
    for found in evidence.every:
        answers = ask(run, found.task, cohort=tiny_cohort)
        assert all(map(same, found.figures, figures(found.kind, answers, run.split.hash, draws=50)))
        assert found.figures[0].n == int(answers.mask.sum()) > 0
        assert (found.calibration is None) == (found.kind == "survival")
        assert (found.split, found.weights) == (run.split.hash, file_hash(run.weights))
    finding = evidence.of("finding")
    assert finding.calibration is not None
    assert same(finding.calibration, calibration(ask(run, "finding", cohort=tiny_cohort), run.split.hash, draws=50))
    assert [s.modalities for s in finding.subsets] == [
        ("image",), ("text",), ("table",), ("image", "text"), ("image", "table"), ("text", "table"), ("image", "text", "table"),
    ]  # fmt: skip
    image = figures(
        "classification", ask(run, "finding", cohort=tiny_cohort, inputs=["image"]), run.split.hash, draws=50
    )
    assert same(finding.subsets[0].figure, image[0])
    assert evidence.of("icu").subsets == ()
    with pytest.raises(EvidenceError, match="nothing measured of 'hippocampus'"):
        evidence.of("hippocampus")


def test_how_many_labels_pretraining_saw(asked: tuple[Run, Evidence], tiny_cohort: Cohort) -> None:
    """All of the finding, eight of survival, none of what was never asked."""
    run, evidence = asked
    known = run.loader(tiny_cohort, run.split.train, ("finding",)).labelled("finding")
    assert {e.task: e.labels for e in evidence.every} == {"finding": len(known), "survival": 8, "icu": 0}


def test_the_evidence_of_several_tasks_is_one_file_one_text_and_one_card(asked: tuple[Run, Evidence]) -> None:
    run, evidence = asked
    assert plain(asdict(Evidence.open(run.path))) == plain(asdict(evidence))
    printed, text = str(evidence), (run.path / "card.md").read_text()
    for found in evidence.every:
        assert f"{found.task} ({found.method}, " in printed
        assert f"### {found.task}, from {', '.join(found.inputs)}, {found.labels} labelled patients" in text
        assert f"`{found.task}` ({found.kind}, by `{found.method}`)" in text
    assert "no question until it is adapted" not in text


def test_evidence_of_before_it_could_be_of_several_tasks_is_read(asked: tuple[Run, Evidence], tmp_path: Path) -> None:
    old = plain(asdict(asked[1].of("icu")))
    old.pop("others")
    (tmp_path / "evidence.json").write_text(json.dumps(old))
    assert Evidence.open(tmp_path / "evidence.json").others == ()


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
    monkeypatch.setitem(evaluate.__globals__, "predict", lambda *_, **__: unlabelled)
    with pytest.raises(EvidenceError, match="no labelled test patient"):
        evaluate(run, tiny_cohort)


def test_of_several_tasks_one_that_nobody_can_test_says_so_and_stops_no_other(
    asked: tuple[Run, Evidence], tiny_cohort: Cohort, tmp_path: Path, monkeypatch: Any
) -> None:
    run = Run.open(shutil.copytree(asked[0].path, tmp_path / "asked"))
    blank = lambda found: Predictions(found.task, found.patients, found.outputs, found.targets, found.mask & False)
    nobody = lambda task: lambda *words, **more: blank(f) if (f := ask(*words, **more)).task in task else f
    monkeypatch.setitem(evaluate.__globals__, "ask", nobody(["icu"]))
    evidence = evaluate(run, tiny_cohort, subsets=False, draws=20)
    assert evidence.of("icu").figures[0].note == "not defined: no labelled patient"
    assert evidence.of("finding").figures[0].n > 0
    monkeypatch.setitem(evaluate.__globals__, "ask", nobody(["finding", "icu", "survival"]))
    with pytest.raises(EvidenceError, match="no labelled test patient of 'finding, survival, icu'"):
        evaluate(run, tiny_cohort, subsets=False, draws=20)
