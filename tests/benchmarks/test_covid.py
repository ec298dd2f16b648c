"""The page on public chest radiographs: boxes and ends of masks, AUROC within folds, the whole way on a made-up folder like it."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from benchmarks.results.covid import MASKED, WHERE, Sizes, images_of, recipe
from benchmarks.results.covid_lungs import POINTS, SIDES, box_of, drawn, ends_of, kept_places, parts_of
from benchmarks.results.covid_page import area, mean_odds, shared, within
from PIL import Image

from polyclinic.cohort import Cohort, ingest
from polyclinic.tasks import Predictions

REPOSITORY = Path(__file__).parents[2]
SIDE = 64


def asked(names: str, outputs: list[float], truth: list[int]) -> Predictions:
    return Predictions("x", tuple(names), np.array(outputs), np.array(truth, float), np.ones(len(names), bool))


def two_lungs(shift: int = 0) -> np.ndarray:
    """Two rectangles: rows 10 to 39 and columns 8 to 19; rows 12 to 49 and columns 40 to 55."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[10 + shift : 40 + shift, 8:20] = 255
    mask[12 + shift : 50 + shift, 40:56] = 255
    return mask


def test_a_mask_is_two_lungs_with_their_boxes_and_ends() -> None:
    mask = two_lungs()
    mask[0, 0] = 255  # a speck is no lung
    right, left = parts_of(mask > 0)
    assert (box_of(right), box_of(left)) == ([8, 10, 12, 30], [40, 12, 16, 38])
    assert ends_of(right) == [14.0, 10.5, 2, 14.0, 39.5, 2]
    with pytest.raises(ValueError, match="two lungs expected"):
        parts_of(np.ones((4, 4), bool))


def test_areas_are_taken_within_folds_and_weighed_by_pairs() -> None:
    """By hand: of the first fold's 2 pairs both are right, of the second's 1 none, though over both folds scores could not be compared."""
    folds = [asked("abc", [0.9, 0.8, 0.7], [1, 1, 0]), asked("de", [0.2, 0.3], [1, 0])]
    assert within(folds, np.ones((1, 5))).tolist() == pytest.approx([2 / 3])
    # Whose image counts twice makes pairs that count twice.
    assert within(folds, np.array([[2.0, 1, 1, 1, 1]])).tolist() == pytest.approx([3 / 4])
    better = [folds[0], asked("de", [0.3, 0.2], [1, 0])]
    assert area(better, 20, folds).value == pytest.approx(1 / 3)
    assert area(folds, 20, images={"a": 2}).value == pytest.approx(3 / 4)


def test_log_odds_are_averaged_over_what_a_patient_has_and_compared_on_whom_both_answered() -> None:
    images, notes = [asked("ab", [0.8, 0.3], [1, 0])], [asked("b", [0.7], [0])]
    (both,) = mean_odds(images, notes)
    assert both.patients == ("a", "b")
    assert both.outputs.tolist() == pytest.approx([0.8, 0.5])
    mine, theirs = shared(images, notes)
    assert (mine[0].patients, theirs[0].patients) == (("b",), ("b",))
    assert mine[0].outputs.tolist() == [0.3]


def test_places_are_kept_as_they_were(tmp_path: Path) -> None:
    made = np.empty(2, object)
    made[0], made[1] = np.ones((2, 7)), np.zeros((0, 7))
    true = np.empty(2, object)
    true[0] = true[1] = np.ones((1, 6))
    whole = Predictions("boxes", ("a", "b"), made, true, np.ones(2, bool), (), (("i", "j"), ("k",)))
    kept_places(tmp_path / "placed.json", lambda: whole)
    again = kept_places(tmp_path / "placed.json", lambda: pytest.fail("it was kept"))
    assert again.records == whole.records
    assert [o.shape for o in again.outputs] == [(2, 7), (0, 7)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty patients with a frontal view each, five of them with a lateral one; one in four has another pneumonia, one nobody named."""
    place, random = tmp_path_factory.mktemp("covid"), np.random.default_rng(0)
    for name in ("images", "lung_masks"):
        (place / name).mkdir()
    rows = []
    for n in range(20):
        mask, ill = two_lungs(n % 5), n % 4 != 0
        picture = (120 - 0.3 * mask + random.normal(0, 12, mask.shape) + 30 * ill).clip(0, 255).astype(np.uint8)
        Image.fromarray(picture).save(place / f"images/p{n:02d}.png")
        if n < 15:
            Image.fromarray(mask).save(place / f"lung_masks/p{n:02d}.png")
        note = f"Case {n}. Fever and {'COVID-19 pneumonia, dry cough' if ill else 'Klebsiella, purulent sputum'} for {n + 2} days."
        finding = "todo" if n == 19 else "COVID-19" if ill else "Klebsiella"
        rows.append([n, finding, "PA", f"Town {n % 7}", "images", f"p{n:02d}.png", note])
        if n < 5:
            Image.fromarray(255 - picture.T).save(place / f"images/p{n:02d}L.png")
            rows.append([n, finding, "L", f"Town {n % 7}", "images", f"p{n:02d}L.png", f"Lateral view of case {n}."])
    with (place / "metadata.csv").open("w", newline="") as file:
        write = csv.writer(file)
        write.writerow(["patientid", "finding", "view", "location", "folder", "filename", "clinical_notes"])
        write.writerows(rows)
    return place


@pytest.fixture(scope="module")
def cohort(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return ingest(folder, tmp_path_factory.mktemp("cohort"))


def test_the_frontal_views_and_their_rows_notes_take_part(cohort: Cohort) -> None:
    found = cohort.records(WHERE)
    count = lambda kind: sum(r.kind == kind for r in found)
    assert (count("image"), count("table metadata"), count("clinical notes"), len(found)) == (20, 20, 20, 60)
    assert not any("L.png" in r.uri for r in found)
    assert sorted(images_of(cohort).values()) == [1] * 19  # who was not labelled is not counted
    assert sum(r.kind == "MASK image" for r in cohort.records(MASKED)) == 15
    splits = [recipe(by, turn, Sizes()).cohort.split for by in ("patient", "place") for turn in range(5)]
    assert {(s.by, s.turn) for s in splits} == {(by, turn) for by in ("patient", "site") for turn in range(5)}


def test_masks_become_drawings_of_the_same_patients(folder: Path, cohort: Cohort, tmp_path: Path) -> None:
    made = drawn(folder, cohort, MASKED, tmp_path)
    boxes = {r.patient: r for r in made.records("kind = 'BOXES image'")}
    assert set(boxes) == {str(n) for n in range(15)}
    one = made.load(boxes["0"])
    assert dict(zip(one.names, one.array.tolist(), strict=True)) == {
        SIDES[0]: [8, 10, 20, 40], SIDES[1]: [40, 12, 56, 50],
    }  # fmt: skip
    (ends,) = made.records("kind = 'KEYPOINTS image'", patients=["0"])
    assert made.load(ends).names == POINTS


@pytest.mark.slow
def test_it_runs_and_goes_on(folder: Path, tmp_path: Path) -> None:
    again = lambda: subprocess.run(
        [sys.executable, "-m", "benchmarks.results.covid", str(folder), "--out", str(tmp_path), "--quick"],
        cwd=REPOSITORY, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    done = again()
    assert done.returncode == 0, done.stderr[-2000:]
    told = (tmp_path / "covid.md").read_text()
    assert told in done.stdout
    for line in (
        "### Five folds by patient",
        "### Five folds by place",
        "| ours, from scratch | 1 | ",
        "| 1 by place | note → X-ray |",
    ):
        assert line in told
    answers = sorted((tmp_path / "answers").iterdir())
    assert json.loads((tmp_path / "answers/finding-patient-0-scratch-x-ray.json").read_text())["patients"]
    before = [place.stat().st_mtime_ns for place in answers]
    assert again().returncode == 0
    assert [place.stat().st_mtime_ns for place in answers] == before
