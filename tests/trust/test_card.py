from __future__ import annotations

import pytest

from polyclinic.cohort import Cohort
from polyclinic.schema import Figure
from polyclinic.training import Run
from polyclinic.training.run import file_hash
from polyclinic.trust import Evidence, card
from polyclinic.trust.card import NOT_FOR


@pytest.fixture(scope="module")
def evidence(tiny_finding_run: Run) -> Evidence:
    split = tiny_finding_run.split.hash
    return Evidence(
        "finding", "finding", "classification", "probe", ("image", "text"), 7, split, "weights",
        (
            Figure("auroc", 0.712, 0.55, 0.88, 23, split, "95% interval, BCa bootstrap over patients"),
            Figure("brier", float("nan"), float("nan"), float("nan"), 4, split, "not defined: nobody"),
        ),
    )  # fmt: skip


def test_every_figure_stands_there_with_its_interval_n_and_how(
    evidence: Evidence, tiny_finding_run: Run, tiny_cohort: Cohort
) -> None:
    text = card(tiny_finding_run, tiny_cohort, [evidence])
    assert "| auroc | 0.71 (0.55–0.88) | 23 | 95% interval, BCa bootstrap over patients |" in text
    assert "| brier | not defined | 4 | not defined: nobody |" in text
    assert f"(split `{tiny_finding_run.split.hash}`)" in text


def test_what_it_must_not_be_used_for_comes_before_how_well_it_does(
    evidence: Evidence, tiny_finding_run: Run, tiny_cohort: Cohort
) -> None:
    text = card(tiny_finding_run, tiny_cohort, [evidence])
    assert all(line in text for line in NOT_FOR)
    assert text.index("## It must not be used for") < text.index("## How well it does")


def test_where_it_comes_from(tiny_finding_run: Run, tiny_cohort: Cohort) -> None:
    text = card(tiny_finding_run, tiny_cohort)
    assert "Nothing has been measured." in text
    assert f"backbone weights `{file_hash(tiny_finding_run.weights)}`" in text
    assert f"adapter `{file_hash(tiny_finding_run.path / 'adapter.safetensors')}`" in text
    assert f"{len(tiny_finding_run.split.train)} training patients" in text
    assert "torch " in text
    assert f"with {tiny_finding_run.adapter['labels']} labelled patients" in text


def test_no_patient_is_named(tiny_finding_run: Run, tiny_cohort: Cohort, evidence: Evidence) -> None:
    text = card(tiny_finding_run, tiny_cohort, [evidence])
    assert not [p for p in tiny_cohort.patients() if p in text]


def test_a_backbone_s_card(tiny_run: Run, tiny_cohort: Cohort) -> None:
    text = card(tiny_run, tiny_cohort)
    assert "answers no question until it is adapted" in text
    assert "adapter `" not in text


def test_the_people_are_those_it_learned_from(tiny_run: Run, tiny_cohort: Cohort) -> None:
    """The test side's are not described as people that it knows."""
    train = set(tiny_run.split.train)
    sexes: dict[str, str] = {}
    for record in tiny_cohort.records():
        if record.patient in train and isinstance(record.attributes.get("sex"), str):
            sexes[record.patient] = str(record.attributes["sex"])
    text = card(tiny_run, tiny_cohort)
    (line,) = [row for row in text.splitlines() if row.startswith("- sex: ")]
    counts = {part.split()[0]: int(part.split()[1]) for part in line.removeprefix("- sex: ").split(", ")}
    assert sum(counts.values()) == len(train)
    assert counts.get("F", 0) + counts.get("M", 0) >= len(sexes)
