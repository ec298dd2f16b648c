from __future__ import annotations

from dataclasses import asdict

import pytest

from polyclinic.cohort import Cohort
from polyclinic.cohort.catalogue import inputs
from polyclinic.inference import predict
from polyclinic.schema import Modality
from polyclinic.training import Run
from polyclinic.trust import figure, subsets
from polyclinic.trust.comparison import plain
from polyclinic.trust.subsets import every

MODALITIES = tuple(Modality)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_all_subsets_of_a_few(n: int) -> None:
    found = every(MODALITIES[:n])
    assert len(found) == len(set(found)) == 2**n - 1
    assert [len(s) for s in found] == sorted(len(s) for s in found)
    assert found[-1] == MODALITIES[:n]


def test_of_many_each_alone_each_left_out_and_all() -> None:
    found = every(MODALITIES[:7])
    assert [len(s) for s in found] == [1] * 7 + [6] * 7 + [7]


def test_each_is_the_figure_of_who_has_some_of_it(tiny_finding_run: Run, tiny_cohort: Cohort) -> None:
    found = subsets(tiny_finding_run, tiny_cohort, draws=100)
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
