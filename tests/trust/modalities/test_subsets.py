from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest

from polyclinic.cohort import Cohort
from polyclinic.cohort.catalogue import inputs
from polyclinic.inference import predict
from polyclinic.schema import Modality
from polyclinic.tasks import (
    Baseline,
    Classes,
    Classification,
    Findings,
    Grade,
    Predictions,
    Report,
    Segmentation,
    Survival,
)
from polyclinic.training import Run
from polyclinic.trust import figure, subsets
from polyclinic.trust.measures.written import plain
from polyclinic.trust.modalities.subsets import each_subset, game_of, nothing_known

IMAGE, TEXT = Modality.IMAGE, Modality.TEXT


def test_each_is_the_figure_of_who_has_some_of_it(tiny_finding_run: Run, tiny_cohort: Cohort) -> None:
    found = subsets(tiny_finding_run, tiny_cohort, draws=100).each
    assert [s.modalities for s in found] == [
        ("image",), ("text",), ("table",), ("image", "text"), ("image", "table"), ("text", "table"), ("image", "text", "table"),
    ]  # fmt: skip
    split = tiny_finding_run.split
    label = tiny_finding_run.recipe.tasks["finding"].label("finding")
    assert label is not None
    labelled = {r.patient for r in tiny_cohort.records() if r.attributes.get("finding")} & set(split.test)
    has: dict[str, set[str]] = {}
    for record in inputs(tiny_cohort.records()):
        has.setdefault(record.patient, set()).add(record.modality.value)
    for s in found:
        answers = predict(tiny_finding_run, tiny_cohort, modalities=s.modalities)
        wanted = figure("auroc", answers, split.hash, draws=100)
        assert plain(asdict(s.figure)) == plain(asdict(wanted))
        assert s.figure.n <= sum(bool(has[p] & set(s.modalities)) for p in labelled)
        assert s.complete <= sum(set(s.modalities) <= has[p] for p in labelled)
        assert s.complete <= s.figure.n
    assert found[0].figure.n == sum("image" in has[p] for p in labelled)
    assert found[0].complete == found[0].figure.n  # who has a picture has all of what is asked for


def test_the_game_is_of_whom_the_whole_run_answers_about(tiny_finding_run: Run, tiny_cohort: Cohort) -> None:
    found = subsets(tiny_finding_run, tiny_cohort, draws=100)
    whole = found.each[-1].figure
    adds = found.contributions
    assert adds is not None
    assert (adds.metric, adds.n, adds.exact, adds.asked) == ("auroc", whole.n, True, 7)
    assert adds.whole == pytest.approx(whole.value)
    assert adds.nothing == 0.5  # everybody alike
    assert sum(c.shapley.value for c in adds.each) == pytest.approx(whole.value - 0.5)
    for each in adds.each:
        assert each.patients == next(s.complete for s in found.each if s.modalities == (each.modality,))


SPECS = {
    "classification": Classification(column="c", positive=("yes",)), "findings": Findings(
        findings={n: {"column": n, "positive": ["Y"]} for n in ("one", "other")}  # type: ignore[dict-item]
    ),
    "grade": Grade(column="g", grades=(("I",), ("II",), ("III",))), "classes": Classes(column="g", classes=(("a",), ("b",), ("c",))),
    "survival": Survival(time="t", event="e"), "segmentation": Segmentation(structure="s", classes=("a", "b")), "report": Report(),
}  # fmt: skip


def _said(outputs: list, targets: list, has: list, names: str = "abcdefgh", mask: list | None = None) -> Predictions:
    known = np.ones(len(outputs), dtype=bool) if mask is None else np.array(mask)
    many = lambda v: np.array(v, dtype=object if v and isinstance(v[0], str) else float)
    return Predictions("t", tuple(names[: len(outputs)]), many(outputs), many(targets), known, tuple(has))


def test_who_has_nothing_of_a_subset_is_answered_as_one_about_whom_nothing_is_known() -> None:
    """Four patients, two without text: AUROC with text alone has their pairs as ties."""
    both, only = (IMAGE, TEXT), (IMAGE,)
    answers = {
        (IMAGE,): _said([0.9, 0.2, 0.8, 0.1], [1, 0, 1, 0], [both, both, only, only]),
        (TEXT,): _said([0.1, 0.9], [1, 0], [both, both]),
        both: _said([0.9, 0.2, 0.8, 0.1], [1, 0, 1, 0], [both, both, only, only]),
    }
    game = game_of(answers, both, SPECS["classification"], [0, 1])
    rows, ones = np.arange(4), np.ones((1, 4))
    assert {s: float(v(rows, ones)[0]) for s, v in game.values.items()} == {
        (IMAGE,): 1.0, (TEXT,): pytest.approx((0 + 0 + 0 + 0.5) / 4), both: 1.0, (): 0.5,
    }  # fmt: skip
    found = each_subset(answers.__getitem__, both, SPECS["classification"], "s", [0, 1], draws=50)
    assert found.contributions is not None
    assert [c.patients for c in found.contributions.each] == [4, 2]
    assert found.contributions.each[1].lost.n == 2  # who has text and something else


def test_what_is_said_where_nothing_is_known() -> None:
    whole = _said([[0.2, 0.8], [0.6, 0.4]], [1, 0], [(), ()])
    assert nothing_known("grade", whole, [0, 1, 1, 1]) == pytest.approx([0.25, 0.75])
    assert nothing_known("findings", whole, [(1.0, np.nan), (0.0, 1.0)]) == pytest.approx([0.5, 1.0])
    assert nothing_known("segmentation", whole, []) == pytest.approx([0, 0])
    assert nothing_known("report", whole, []) == ""
    hazards = _said([1.0, 2.0, 9.0], [[1, 1], [2, 0], [3, 1]], [(), (), ()])
    assert nothing_known("survival", hazards, [(1.0, 1.0)]) == 2.0
    from dataclasses import replace

    curve = np.array([1.0, 2.0])
    known = replace(hazards, baseline=Baseline(curve, curve, curve, 0.5, curve, "months"))
    assert nothing_known("survival", known, [(1.0, 1.0)]) == 0.5


@pytest.mark.parametrize("kind", ["findings", "grade", "classes", "survival", "segmentation", "report"])
def test_every_kind_of_task_takes_part(kind: str) -> None:
    both = (IMAGE, TEXT)
    n = 8
    random = np.random.default_rng(0)
    has = [both if i < 6 else (IMAGE,) for i in range(n)]
    noise = random.random(n)
    match kind:
        case "findings":
            targets = [[i % 2, float("nan") if i == 3 else i // 4] for i in range(n)]
            told = lambda good: [[noise[i] * (1 - good) + good * (i % 2), noise[i]] for i in range(n)]
            known, nothing = [(0.0, 1.0), (1.0, 0.0)], 0.5
        case "grade" | "classes":
            targets = [i % 3 for i in range(n)]
            told = lambda good: [[0.9 if i % 3 == g and good else 0.33 for g in range(3)] for i in range(n)]
            known, nothing = [0, 1, 2], 0.0 if kind == "grade" else 3 / 8
        case "survival":
            targets = [[i + 1.0, i % 2] for i in range(n)]
            told = lambda good: [-good * i + noise[i] for i in range(n)]
            known, nothing = [], 0.5
        case "segmentation":
            targets = [[1.0, 2.0]] * n
            told = lambda good: [[0.5 + 0.4 * good, 0.5]] * n
            known, nothing = [], 0.0
        case _:
            targets = ["There is a pleural effusion."] * n
            told = lambda good: [targets[0] if good else "No pleural effusion."] * n
            known, nothing = [], 0.0
    answers = {
        both: _said(told(1), targets, has),
        (IMAGE,): _said(told(0), targets, has),
        (TEXT,): _said(told(1)[:6], targets[:6], has[:6]),
    }
    found = each_subset(answers.__getitem__, both, SPECS[kind], "s", known, draws=60)
    assert [s.modalities for s in found.each] == [("image",), ("text",), ("image", "text")]
    adds = found.contributions
    assert adds is not None
    assert adds.n == n
    assert adds.nothing == pytest.approx(nothing)
    assert adds.whole == pytest.approx(found.each[-1].figure.value)
    assert sum(c.shapley.value for c in adds.each) == pytest.approx(adds.whole - adds.nothing)
    assert adds.each[1].lost.value >= 0
