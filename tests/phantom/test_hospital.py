"""The hospital: the same to the bit however it is made, taken whole by the ingest, and its truth nowhere in it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from polyclinic.cohort import Cohort, ingest
from polyclinic.phantom import PEOPLE, Phantom, PhantomError, people, simulate
from polyclinic.phantom.anatomy import MASK
from polyclinic.schema import Modality

PATIENTS, SIZE, SEED = 14, 16, 3


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Phantom:
    return simulate(tmp_path_factory.mktemp("made") / "phantom", PATIENTS, seed=SEED, size=SIZE)


@pytest.fixture(scope="module")
def cohort(made: Phantom, tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return ingest(made.hospital, into=tmp_path_factory.mktemp("cohort") / "cohort")


def _files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_two_workers_give_the_same_bits(made: Phantom, tmp_path: Path) -> None:
    again = simulate(tmp_path / "again", PATIENTS, seed=SEED, size=SIZE, workers=2)
    assert _files(again.hospital) == _files(made.hospital)
    assert _files(again.truth) == _files(made.truth)
    assert again.records == made.records


def test_a_patient_does_not_depend_on_the_others_or_on_the_modalities(made: Phantom, tmp_path: Path) -> None:
    whole = _files(made.hospital)
    fewer = _files(simulate(tmp_path / "fewer", 5, seed=SEED, size=SIZE, modalities=["xray", "ecg", "report"]).hospital)
    own = {name: data for name, data in fewer.items() if not name.endswith(".csv")}
    assert any(name.endswith(".dcm") for name in own)
    assert any(name.endswith(".dat") for name in own)
    assert all(whole[name] == data for name, data in own.items())
    for table in ("outcomes.csv", "register.csv"):
        assert whole[table].startswith(fewer[table])
    other = simulate(tmp_path / "other", 2, seed=SEED + 1, size=SIZE, modalities=["report"])
    assert _files(other.hospital)["outcomes.csv"].splitlines()[1] != whole["outcomes.csv"].splitlines()[1]


def test_the_ingest_takes_everything_and_links_it(made: Phantom, cohort: Cohort) -> None:
    assert cohort.rejected() == []
    described = cohort.describe()
    truth = pq.read_table(made.truth / "records.parquet").to_pylist()
    assert described["patients"] == PATIENTS
    of = lambda modality: [r for r in truth if r["modality"] == modality and r["kind"] != "mask"]
    for modality in ("image", "volume", "video", "signal", "text", "omics"):
        assert described["modality"].get(modality, 0) == len(of(modality)) == made.records.get(modality, 0), modality
        assert described["patients_by_modality"].get(modality, 0) == len({r["patient"] for r in of(modality)})
    assert described["masks"] == sum(r["kind"] == "mask" for r in truth) == made.records["mask"]
    assert described["kind"]["table outcomes"] == described["kind"]["table register"] == PATIENTS
    held = lambda found: Counter((r["patient"], r["modality"]) for r in found)
    seen = held([{"patient": r.patient, "modality": r.modality.value} for r in cohort.records()])
    assert {k: n for k, n in seen.items() if k[1] != "table"} == {
        k: n for k, n in held(truth).items() if k[1] != "table"
    }


def test_sex_age_and_sites_are_those_of_the_truth(made: Phantom, cohort: Cohort) -> None:
    truth = {row["patient"]: row for row in pq.read_table(made.truth / "patients.parquet").to_pylist()}
    for record in cohort.records("kind not like 'MASK%'"):
        about = truth[record.patient]
        if record.attributes.get("sex"):
            assert record.attributes["sex"] == about["sex"]
        if (
            isinstance(age := record.attributes.get("age"), float) and record.kind != "DX chest PA"
        ):  # an earlier one is of a younger person
            assert age == pytest.approx(about["age"], abs=1.01)
        if record.site:
            assert record.site == about["site"]


def test_a_mask_lies_on_its_image(made: Phantom, cohort: Cohort) -> None:
    images = {r.id: r for r in cohort.records()}
    masks = [r for r in images.values() if r.attributes.get("mask_of")]
    volumes = 0
    for record in masks:
        image = images[str(record.attributes["mask_of"])]
        labels, pixels = cohort.load(record), cohort.load(image)
        assert labels.array.shape == pixels.array.shape
        assert record.patient == image.patient
        if record.modality is Modality.VOLUME:
            assert labels.to_world is not None
            assert pixels.to_world is not None
            np.testing.assert_allclose(labels.to_world, pixels.to_world, atol=1e-3)
            assert (
                record.kind == {"CT chest": "MASK chest", "MR head": "MASK head"}[image.kind]
            )  # by which a task chooses
            volumes += 1
        if image.kind == "CT chest":
            lung = labels.array == MASK["lung"]
            assert pixels.array[lung].mean() < pixels.array[labels.array == MASK["heart"]].mean() - 400
    assert volumes >= 2
    assert len(list((made.truth / "masks").iterdir())) > len(masks)  # the truth has those that nobody drew


def test_the_truth_is_nowhere_in_the_hospital(made: Phantom) -> None:
    hidden = [node.name for node in PEOPLE if not node.recorded and len(node.name) > 6]
    for name, data in _files(made.hospital).items():
        if name.endswith((".csv", ".json", ".txt", ".hea")):
            assert not [word for word in hidden if word.encode() in data], name
    assert not [p for p in made.hospital.rglob("*") if "truth" in p.name or p.suffix == ".parquet"]


def test_the_truth_is_the_graph_s(made: Phantom) -> None:
    told = pq.read_table(made.truth / "patients.parquet").to_pydict()
    drawn = people(SEED, range(PATIENTS))
    for node in PEOPLE:
        meant = [node.levels[v] for v in drawn[node.name]] if node.levels else drawn[node.name].tolist()
        meant = [v == "yes" for v in meant] if node.levels == ("no", "yes") else meant
        assert told[node.name] == meant, node.name
    for name, has in (
        ("optimal_pneumonia_labs", [True] * PATIENTS),
        ("optimal_nodule_xray", told["has_xray"]),
        ("beats_s", told["has_ecg"]),
    ):
        assert [value is not None for value in told[name]] == has
    sentences = pq.read_table(made.truth / "sentences.parquet").to_pylist()
    notes = {p.name.split("_")[0]: p.read_text() for p in made.hospital.rglob("notes/*.txt")}
    assert {s["patient"] for s in sentences} == set(notes)
    assert all(s["text"] in notes[s["patient"]] for s in sentences)


def test_what_nobody_coded_is_blank_and_not_no(made: Phantom) -> None:
    import csv

    told = pq.read_table(made.truth / "patients.parquet").to_pylist()
    with (made.hospital / "register.csv").open() as file:
        rows = {row["patient_id"]: row for row in csv.DictReader(file)}
    for who in told:
        wanted = {True: "Y", False: "N"}[who["pneumonia"]] if who["coded"] else ""
        assert rows[who["patient"]]["pneumonia"] == wanted
    assert {row["pneumonia"] for row in rows.values()} == {"Y", "N", ""}


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"modalities": ["xray", "pet"]}, "'pet'"), ({"size": 15}, "size of 15"), ({"size": 8}, "size of 8"),
        ({"patients": 0}, "0 patients"), ({"seed": -1}, "seed of -1"),
    ],
)  # fmt: skip
def test_what_cannot_be_made_is_said(options: dict, found: str, tmp_path: Path) -> None:
    with pytest.raises(PhantomError, match=found):
        simulate(tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten_and_nothing_is_left_half_done(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(PhantomError, match="something at"):
        simulate(tmp_path / "mine", 1)

    def stop(done: int, total: int, what: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(tmp_path / "out", 2, modalities=["report"], progress=stop)
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]
