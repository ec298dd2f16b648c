from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyclinic.cohort import Cohort, Label, LabelError, ingest, labels_of, subset
from polyclinic.schema import Modality, Record

FINDING = Label("finding", "class", "finding", ("COVID-19",))


def rows(tmp_path: Path, text: str) -> list[Record]:
    (tmp_path / "in").mkdir(exist_ok=True)
    (tmp_path / "in/a.csv").write_text(text)
    return ingest(tmp_path / "in", tmp_path / "c").records()


def test_unlabelled_is_not_negative(tmp_path: Path) -> None:
    found = rows(
        tmp_path,
        "patient_id,finding\nP1,COVID-19\nP2,covid-19 \nP3,No Finding\nP4,?\nP5,\nP6,Would have been stated\nP7,todo\nP8,NA\n",
    )
    assert labels_of(found, FINDING) == {"P1": 1, "P2": 1, "P3": 0}


def test_any_positive_row_makes_a_patient_positive_and_a_named_negative_excludes_the_rest(tmp_path: Path) -> None:
    found = rows(tmp_path, "patient_id,finding\nP1,No Finding\nP1,COVID-19\nP2,No Finding\nP2,ARDS\nP3,ARDS\n")
    assert labels_of(found, FINDING) == {"P1": 1, "P2": 0, "P3": 0}
    strict = Label("finding", "class", "finding", ("COVID-19",), negative=("No Finding",))
    assert labels_of(found, strict) == {"P1": 1, "P2": 0}
    assert labels_of(list(reversed(found)), strict) == labels_of(found, strict)


@pytest.mark.parametrize(("cell", "positive"), [("1", "1"), ("1.0", "1"), ("1", "1.0"), ("Y", "y"), (" y ", "Y")])
def test_cells_are_compared_as_a_person_would(tmp_path: Path, cell: str, positive: str) -> None:
    found = rows(tmp_path, f"patient_id,x\nP1,{cell}\nP2,0\n")
    assert labels_of(found, Label("x", "class", "x", (positive,))) == {"P1": 1, "P2": 0}


def test_a_grade_is_its_rank_and_of_several_rows_the_highest(tmp_path: Path) -> None:
    label = Label("g", "grade", "stage", grades=(("I",), ("II", "2"), ("III",)))
    found = rows(tmp_path, "patient_id,stage\nP1,i\nP2,2.0\nP3,III\nP3,I\nP4,?\nP5,\nP6,X\n")
    assert labels_of(found, label) == labels_of(list(reversed(found)), label) == {"P1": 0, "P2": 1, "P3": 2}
    with pytest.raises(LabelError, match="no cell of 'stage' is one of its grades"):
        labels_of(found, Label("g", "grade", "stage", grades=(("low",), ("high",))))


BOTH = Label("b", "findings", parts=(Label("x", "class", "x", ("Y",), ("N",)), Label("y", "class", "y", ("1",))))


def test_of_several_findings_each_is_known_or_not(tmp_path: Path) -> None:
    found = rows(tmp_path, "patient_id,x,y\nP1,Y,0\nP2,N,\nP3,maybe,1\nP4,maybe,\nP5,,?\n")
    told = {p: [None if math.isnan(v) else v for v in values] for p, values in labels_of(found, BOTH).items()}
    assert told == {"P1": [1, 0], "P2": [0, None], "P3": [None, 1]}
    with pytest.raises(LabelError, match="task 'y': no cell of 'y' is 1"):
        labels_of(rows(tmp_path, "patient_id,x,y\nP1,Y,0\n"), BOTH)


@pytest.mark.parametrize(
    ("label", "values", "groups", "rarest", "lacking"),
    [
        (BOTH, [(1.0, 0.0), (0.0, math.nan), (0.0, 1.0)], [1, 0, 1], 1, None),
        (BOTH, [(1.0, 0.0), (0.0, math.nan), (math.nan, 0.0)], [1, 0, 0], 0, "of one class of y in 'b'"),
        (Label("f", "class", "x", ("Y",)), [1, 0, 0], [1, 0, 0], 1, None),
        (Label("f", "class", "x", ("Y",)), [0.0, 0.0], [0, 0], 0, "of one class of 'f'"),
        (Label("s", "survival", "t"), [(3.0, 1.0), (4.0, 0.0)], [1, 0], 1, None),
        (Label("s", "survival", "t"), [(3.0, 0.0)], [0], 0, "of 's' without an event"),
        (
            Label("g", "grade", "x", grades=(("a",), ("b", "c"), ("d",))),
            [0, 2, 2],
            [0, 2, 2],
            0,
            "of 'g' without the grade b or c",
        ),
        (Label("m", "mask"), [0, 0], None, None, None),
    ],
)
def test_a_label_says_what_can_be_told_apart(
    label: Label, values: list[Any], groups: list[int] | None, rarest: int | None, lacking: str | None
) -> None:
    if groups is not None:
        assert label.groups(values) == groups
        assert label.rarest(values) == rarest
    told = label.lacking(values)
    assert (told[0] if told else None) == lacking


def test_survival_is_a_time_and_whether_it_was_seen(tmp_path: Path) -> None:
    found = rows(tmp_path, "patient_id,months,censorship\nP1,12.5,0\nP2,30,1\nP3,,0\nP4,7,?\n")
    label = Label("survival", "survival", "months", event="censorship", event_value=0)
    assert labels_of(found, label) == {"P1": (12.5, 1.0), "P2": (30.0, 0.0)}


def test_what_stands_beside_a_text_is_a_label_of_it(tmp_path: Path) -> None:
    talk = "Doctor: how long has it been? Patient: since last Monday, I think"
    found = rows(tmp_path, f'ID,section,talk\n1,ALLERGY,"{talk} (1)"\n2,PLAN,"{talk} (2)"\n3,?,"{talk} (3)"\n')
    assert {r.modality for r in found} == {Modality.TEXT}
    assert labels_of(found, Label("section", "class", "section", ("ALLERGY",))) == {"a 1": 1, "a 2": 0}


def test_masks_are_found_by_their_image(tiny_cohort: Cohort) -> None:
    found = tiny_cohort.records()
    masks = labels_of(found, Label("h", "mask", modality=Modality.VOLUME, kind_like="hippocampus"))
    assert len(masks) == 6
    volumes = {r.id for r in found if r.modality is Modality.VOLUME and not r.attributes.get("mask")}
    assert set(masks) == volumes
    assert labels_of(found, Label("h", "mask", modality=Modality.VOLUME, kind_like="liver")) == {}


@pytest.mark.parametrize(
    ("label", "found", "remedy"),
    [
        (
            Label("t", "class", "findings", ("COVID-19",)),
            "asks for the column 'findings', which no table has",
            "did you mean 'finding'?",
        ),
        (Label("t", "class", "zzz", ("COVID-19",)), "asks for the column 'zzz'", "correct the column's name"),
        (Label("t", "class", "finding", ("Covid",)), "no cell of 'finding' is Covid", "correct `positive`"),
        (
            Label("t", "survival", "survival_months", event="censorshp", event_value=0),
            "the column 'censorshp'",
            "did you mean 'censorship'?",
        ),
        (
            Label("t", "survival", "survival_month", event="censorship", event_value=0),
            "the column 'survival_month'",
            "did you mean 'survival_months'?",
        ),
    ],
)
def test_a_wrong_label_names_the_closest(tiny_cohort: Cohort, label: Label, found: str, remedy: str) -> None:
    with pytest.raises(LabelError) as told:
        labels_of(tiny_cohort.records(), label)
    assert found in told.value.found
    assert remedy in told.value.remedy
    assert "finding" in told.value.expected or "COVID-19" in told.value.expected


dealt = st.dictionaries(st.text(min_size=1, max_size=6), st.integers(0, 3), min_size=1, max_size=40)


@given(labels=dealt, seed=st.integers(0, 99), shuffle=st.randoms(use_true_random=False))
def test_a_smaller_subset_lies_in_every_larger_one(labels: dict[str, int], seed: int, shuffle: random.Random) -> None:
    names = list(labels)
    shuffle.shuffle(names)
    for n in range(len(labels) + 1):
        few = subset(labels, n, seed)
        assert len(few) == n
        assert few == subset(labels, n + 1, seed)[:n]
        assert few == subset({name: labels[name] for name in names}, n, seed)  # the order of the labels does not matter
    assert sorted(subset(labels, None, seed)) == sorted(labels)


@given(positive=st.integers(1, 20), negative=st.integers(1, 20), seed=st.integers(0, 9))
def test_two_labels_have_both_classes_and_every_prefix_its_share(positive: int, negative: int, seed: int) -> None:
    labels = {f"P{i}": int(i < positive) for i in range(positive + negative)}
    assert {labels[name] for name in subset(labels, 2, seed)} == {0, 1}
    for n in range(2, len(labels) + 1):
        ones = sum(labels[name] for name in subset(labels, n, seed))
        assert abs(ones - n * positive / len(labels)) <= 1


def test_findings_are_dealt_by_whether_anything_was_found() -> None:
    label = Label(
        "chest",
        "findings",
        "",
        parts=(Label("nodule", "class", "n", ("yes",)), Label("effusion", "class", "e", ("yes",))),
    )
    known = {f"P{i:02d}": (float(i < 6), 0.0) for i in range(24)}
    for seed in range(20):
        assert sum(known[p][0] for p in label.subset(known, 4, seed)) == 1


def drawn(of: str, shapes: int, labels: str = "nodule, mass", annotation: str = "boxes") -> Record:
    about = {"mask_of": of, "mask": True, "annotation": annotation, "shapes": shapes, "labels": labels}
    return Record(
        f"{annotation} {of} {labels}",
        f"of {of}",
        None,
        Modality.IMAGE,
        "BOXES image",
        f"{of}.json#item=0",
        attributes=about,
    )


def test_what_was_drawn_is_found_by_its_image_also_where_it_is_nothing() -> None:
    label = Label("x", "boxes", modality=Modality.IMAGE, classes=("Nodule",), drawn="shapes")
    both = [drawn("b", 2), drawn("b", 1, "nodule")]
    found = labels_of(
        [drawn("a", 0), *both, drawn("c", 3, annotation="keypoints"), drawn("d", 1, annotation="mask")], label
    )
    assert {image: len(records) for image, records in found.items()} == {"a": 1, "b": 2}
    assert label.placed
    assert label.width == 0
    assert label.lacking([0, 0]) == ("on whose image nothing is drawn for 'x'", "at least one with something drawn")
    assert label.lacking([0, 1]) is None
    points = Label("y", "points", modality=Modality.IMAGE, classes=("tip",), drawn="shapes")
    assert list(labels_of([drawn("c", 1, "tip, base", "keypoints"), *both], points)) == ["c"]
    with pytest.raises(LabelError, match="no keypoints are labelled 'tip'") as caught:
        labels_of([drawn("c", 1, "tpi, base", "keypoints")], points)
    assert "did you mean 'tpi'?" in str(caught.value)
