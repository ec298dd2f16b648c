"""A grade and findings from end to end: a table of made-up patients, of whom two of its columns tell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from polyclinic.adaptation import AdaptError, adapt, open_adapted
from polyclinic.clinic import Desk
from polyclinic.cohort import Cohort, ingest
from polyclinic.inference import answer_cohort, predict, predict_files
from polyclinic.inference.export import export
from polyclinic.tasks import FindingsTask, GradeTask, LinearTask
from polyclinic.training import Run, pretrain
from polyclinic.trust import Evidence, card, compare, evaluate

RECIPE = """
name: graded
cohort: {split: {by: patient, test: 0.4, seed: 0}}
encoders: {table: {kind: events, width: 16, depth: 1, heads: 2, fewest: 2}}
model: {kind: two_tower, width: 16, embedding: 16, fusion: {kind: early, depth: 1, heads: 2}}
tasks:
  stage: {kind: grade, column: stage, grades: [[I], [II], [IIIA, IIIB], [IV]]}
  among: {kind: classes, column: stage, classes: [[I], [II], [IIIA, IIIB], [IV]]}
  kinds: {kind: findings, tree: {grown: large}, findings: {large: {column: large, positive: [Y]}, grown: {column: grown, positive: ["1"]}}}
  signs: {kind: findings, findings: {large: {column: large, positive: [Y], negative: [N]}, grown: {column: grown, positive: ["1"]}}}
stages: [{name: first, steps: 4, batch: 8, lr: 1.0e-3, warmup: 1, objective: {kind: masked, modalities: [table], ratio: 0.5}}]
precision: fp32
"""
HEAD = "patient_id,size_mm,marker,noise,stage,large,grown"


def row_of(number: int, random: np.random.Generator) -> str:
    severity = random.normal()
    stage = ("I", "II", "IIIA" if number % 2 else "IIIB", "IV")[int(np.searchsorted([-0.6, 0.1, 0.8], severity))]
    size, marker, noise = 20 + 6 * severity + random.normal(), 5 + 2 * severity + random.normal(), random.normal()
    large = "not seen" if number % 4 == 0 else "NY"[severity > 0.5]
    grown = "" if number % 3 == 0 else "01"[marker > 7]
    return (
        f"P{number:03d},{size:.2f},{marker:.2f},{noise:.2f},{'unknown' if number % 10 == 0 else stage},{large},{grown}"
    )


def rows() -> list[str]:
    random = np.random.default_rng(0)
    return [row_of(number, random) for number in range(150)]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    folder = tmp_path_factory.mktemp("graded")
    (folder / "tumours.csv").write_text("\n".join([HEAD, *rows()]))
    return ingest(folder, tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def run(cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Run:
    place = tmp_path_factory.mktemp("runs")
    (place / "graded.yaml").write_text(RECIPE)
    return pretrain(place / "graded.yaml", cohort, into=place)


@pytest.fixture(scope="module")
def probed(run: Run) -> Run:
    return adapt(run, "stage", "probe")


@pytest.fixture(scope="module")
def measured(probed: Run, cohort: Cohort) -> Evidence:
    return evaluate(probed, cohort, draws=200)


def test_it_is_measured_with_intervals(measured: Evidence, probed: Run, cohort: Cohort) -> None:
    names = ["quadratic_kappa", "mean_absolute_error", "auroc_from_II", "auroc_from_IIIA", "auroc_from_IV"]
    assert [f.name for f in measured.figures] == names
    kappa = measured.figure("quadratic_kappa")
    assert kappa.low > 0.2, "two columns tell the stage"
    assert all(f.low <= f.value <= f.high for f in measured.figures)
    answers = predict(probed, cohort)
    assert kappa.n == int(answers.mask.sum()) < len(answers.patients)  # an unknown stage is no stage
    task = open_adapted(probed).task
    assert isinstance(task, GradeTask)
    assert task.score(answers) == {f.name: pytest.approx(f.value) for f in measured.figures}
    np.testing.assert_allclose(answers.outputs.sum(1), 1, atol=1e-5)
    assert set(answers.targets[answers.mask]) == {0, 1, 2, 3}
    assert "quadratic kappa" in card(probed, cohort, [measured])


@pytest.mark.parametrize("method", ["lora", "full", "scratch"])
def test_every_way_to_learn_learns_it(run: Run, cohort: Cohort, method: str, tmp_path: Path) -> None:
    adapted = adapt(run, "stage", method, steps=6, into=tmp_path / method)
    answers = predict(adapted, cohort)
    np.testing.assert_allclose(answers.outputs.sum(1), 1, atol=1e-5)
    assert np.ptp(answers.outputs[:, 3]) > 0
    assert open_adapted(adapted).task.thresholds.diff().min() > 0  # type: ignore[union-attr]


def test_a_cohort_and_a_file_are_answered_alike(
    probed: Run, measured: Evidence, cohort: Cohort, tmp_path: Path
) -> None:
    told = pq.read_table(answer_cohort(probed, cohort, into=tmp_path / "answers") / "answers-00000.parquet").to_pylist()
    row = next(r for r in told if r["patient"] == "P007")
    assert row["output"] is None
    assert sum(row["outputs"]) == pytest.approx(1, abs=1e-5)
    (tmp_path / "one.csv").write_text(f"{HEAD.removesuffix(',stage,large,grown')}\n{rows()[7].rsplit(',', 3)[0]}\n")
    answer = predict_files(probed, [tmp_path / "one.csv"])
    assert answer.headline == row["headline"]
    assert answer.values["grade"] in ("I", "II", "IIIA", "IV")
    reply = Desk(probed).answer([tmp_path / "one.csv"])
    assert reply.headline == answer.headline
    assert "quadratic-weighted kappa" in reply.uncertainty
    assert reply.evidence is not None
    assert reply.evidence.metric.chance == 0
    assert reply.evidence.metric.n == measured.figure("quadratic_kappa").n


def test_few_labels_have_every_grade_or_say_which_is_missing(run: Run, cohort: Cohort, tmp_path: Path) -> None:
    few = adapt(run, "stage", "probe", labels=4, into=tmp_path / "few")
    assert len(few.adapter["labelled"]) == 4
    with pytest.raises(AdaptError, match="3 labelled patients of 'stage' without the grade"):
        adapt(run, "stage", "probe", labels=3, into=tmp_path / "fewer")


@pytest.mark.parametrize("method", ["prototype", "zero_shot"])
def test_what_knows_no_order_refuses_a_grade(run: Run, method: str) -> None:
    with pytest.raises(AdaptError, match=f"{method} for 'stage', a grade") as refused:
        adapt(run, "stage", method)
    assert refused.value.remedy == "adapt by knn, probe or lora"


def test_findings_that_are_kinds_of_others_are_refused_where_nothing_is_trained(run: Run) -> None:
    with pytest.raises(AdaptError, match="knn for 'kinds', a findings with a tree") as refused:
        adapt(run, "kinds", "knn")
    assert refused.value.expected == "a classification, classes, findings or grade without `tree`"


@pytest.mark.parametrize(("task", "method", "metric", "least"), [
    ("stage", "knn", "quadratic_kappa", 0.4), ("among", "knn", "accuracy", 0.4),
    ("signs", "knn", "macro_auroc", 0.75), ("signs", "prototype", "macro_auroc", 0.75),
])  # fmt: skip
def test_without_training_two_columns_tell_it_too(
    run: Run, cohort: Cohort, tmp_path: Path, task: str, method: str, metric: str, least: float
) -> None:
    """Adapted, opened again, measured, answered from a file and written for other programs: as it is from any other method."""
    adapted = adapt(run, task, method, into=tmp_path / "one")
    found, answers = evaluate(adapted, cohort, draws=100), predict(adapted, cohort)
    head = open_adapted(adapted).task
    assert isinstance(head, LinearTask)
    score = head.score(answers)
    assert {name: found.figure(name).value for name in score} == {n: pytest.approx(v) for n, v in score.items()}
    assert score[metric] > least
    assert found.calibrations or task == "signs"
    if task != "signs":
        assert answers.outputs.sum(1) == pytest.approx(np.ones(len(answers.patients)), abs=1e-5)
    (tmp_path / "one.csv").write_text(f"{HEAD.removesuffix(',stage,large,grown')}\n{rows()[7].rsplit(',', 3)[0]}\n")
    told = pq.read_table(answer_cohort(adapted, cohort, into=tmp_path / "all") / "answers-00000.parquet").to_pylist()
    headline = next(r for r in told if r["patient"] == "P007")["headline"]
    assert predict_files(adapted, [tmp_path / "one.csv"]).headline == headline
    assert export(adapted, "safetensors", into=tmp_path / "all.safetensors").difference == 0


def test_findings_are_learned_measured_and_answered(run: Run, cohort: Cohort, tmp_path: Path) -> None:
    adapted = adapt(run, "signs", "probe", into=tmp_path / "signs")
    found, answers = evaluate(adapted, cohort, draws=200), predict(adapted, cohort)
    task = open_adapted(adapted).task
    assert isinstance(task, FindingsTask)
    assert task.score(answers) == {f.name: pytest.approx(f.value) for f in found.figures}
    for name, number in (("large", 0), ("grown", 1)):
        known = np.isfinite(answers.targets[:, number]) & answers.mask
        assert found.figure(f"auroc_{name}").n == int(known.sum()) < int(answers.mask.sum())
    assert found.figure("macro_auroc").low > 0.6
    assert found.figure("macro_f1").low <= found.figure("macro_f1").value <= found.figure("macro_f1").high
    (tmp_path / "one.csv").write_text(f"{HEAD.removesuffix(',stage,large,grown')}\n{rows()[7].rsplit(',', 3)[0]}\n")
    reply = Desk(adapted).answer([tmp_path / "one.csv"])
    told = pq.read_table(answer_cohort(adapted, cohort, into=tmp_path / "all") / "answers-00000.parquet").to_pylist()
    assert next(r for r in told if r["patient"] == "P007")["headline"] == reply.headline
    assert reply.headline.startswith("scores: ")
    assert set(reply.values) == {"above_threshold", "score_large", "score_grown"}
    tuned = adapt(run, "signs", "lora", steps=4, into=tmp_path / "lora")
    assert np.isfinite(predict(tuned, cohort).outputs).all()


def test_they_are_compared_with_simple_baselines(run: Run, cohort: Cohort) -> None:
    found = compare(
        run,
        cohort,
        tasks=["stage", "signs"],
        counts={"stage": [None], "signs": [None]},
        arms=("probe", "baseline"),
        draws=100,
    )
    assert not found.skipped
    rows = {(r.task, r.arm): r for r in found.rows}
    assert set(rows) == {(t, a) for t in ("stage", "signs") for a in ("probe", "baseline")}
    assert {r.figure.name for r in found.rows} == {"quadratic_kappa", "macro_auroc"}
    for task in ("stage", "signs"):
        over = rows[task, "probe"].over_baseline
        assert over is not None
        assert over.value == pytest.approx(rows[task, "probe"].figure.value - rows[task, "baseline"].figure.value)
        assert rows[task, "probe"].figure.n == rows[task, "baseline"].figure.n
    assert rows["stage", "baseline"].figure.low > 0.3  # two columns tell the stage
    assert rows["signs", "baseline"].figure.value > 0.8


def test_of_classes_the_nearest_mean_is_told(run: Run, cohort: Cohort, tmp_path: Path) -> None:
    answers = predict(adapt(run, "among", "prototype", into=tmp_path / "means"), cohort).labelled()
    assert answers.outputs.sum(1) == pytest.approx(np.ones(len(answers.patients)), abs=1e-5)
    right = (answers.outputs.argmax(1) == answers.targets).mean()
    assert right > 0.4, "two columns tell the stage; the commonest alone is right in a third"


def test_classes_are_compared_with_a_regression_and_with_the_commonest(run: Run, cohort: Cohort) -> None:
    found = compare(
        run, cohort, tasks=["among"], counts={"among": [None]}, arms=("probe", "baseline", "null"), draws=100
    )
    assert not found.skipped
    rows = {r.arm: r.figure for r in found.rows}
    assert {f.name for f in rows.values()} == {"accuracy"}
    assert len({f.n for f in rows.values()}) == 1
    assert rows["baseline"].value > rows["null"].value + 0.1, "two columns tell the stage"


def test_each_threshold_is_calibrated(measured: Evidence, probed: Run) -> None:
    assert [c.name for c in measured.calibrations] == ["II", "IIIA", "IV"]
    assert all(c.bins for c in measured.calibrations)
    again = Evidence.open(probed.path)
    assert [c.name for c in again.calibrations] == ["II", "IIIA", "IV"]
    assert again.calibrations[0].bins == measured.calibrations[0].bins
