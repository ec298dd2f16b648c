from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.data import get_testdata_file

from polyclinic.cohort import Cohort, CohortError, EmptyCohortError, ingest
from polyclinic.schema import MissingExtraError, Modality, Record

FIVE = {
    "cardiology/12726.hea": "a WFDB header whose signal file 12726.dat is not there",
    "ehr/practitionerInformation1559319163815.json": "a bundle of 0 Patients",
    "neurology/hippocampus/labels/hippocampus_010.nii.gz": "a mask with no image",
    "radiology/broken/A99999.dcm": "a DICOM file that was cut short",
    "radiology/notes/CXR-9999_1.txt": "a note for an unknown patient",
}


def whole(cohort: Cohort) -> tuple[list[Record], list[Any]]:
    """All that a catalogue says, for comparison."""
    return cohort.records(), cohort.rejected()


def look(folder: Path) -> dict[str, tuple[str, int]]:
    return {
        p.relative_to(folder).as_posix(): (hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_mtime_ns)
        for p in folder.rglob("*") if p.is_file()
    }  # fmt: skip


@pytest.fixture(scope="module")
def hospital_cohort(hospital: Path, tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return ingest(hospital, tmp_path_factory.mktemp("hospital"))


@pytest.fixture
def few(hospital: Path, tmp_path: Path) -> Path:
    """A handful of files of four kinds."""
    place = tmp_path / "few"
    for pattern in (
        "radiology/CXR-0234/*",
        "radiology/CXR-0222/*",
        "radiology/studies.csv",
        "cardiology/s0010*",
        "radiology/notes/CXR-0222*",
    ):
        for path in hospital.glob(pattern):
            (place / path.relative_to(hospital)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, place / path.relative_to(hospital))
    for part in ("images", "labels"):
        (place / "mri" / part).mkdir(parents=True)
        shutil.copy2(hospital / f"neurology/hippocampus/{part}/hippocampus_001.nii.gz", place / "mri" / part)
    return place


def test_the_hospitals_five_wrong_things_are_set_aside_with_their_reasons(hospital_cohort: Cohort) -> None:
    assert {r.uri: r.found for r in hospital_cohort.rejected()} == FIVE
    assert all(r.expected and r.remedy for r in hospital_cohort.rejected())


def test_the_hospital_is_what_its_readme_says(hospital_cohort: Cohort) -> None:
    found = hospital_cohort.records()
    count = lambda modality, mask=False: sum(
        r.modality is modality and bool(r.attributes.get("mask")) is mask for r in found
    )
    assert count(Modality.IMAGE) == 85
    assert (count(Modality.VOLUME), count(Modality.VOLUME, mask=True)) == (60, 60)
    assert (count(Modality.OMICS), count(Modality.SIGNAL)) == (746, 2)
    assert all(hospital_cohort.load(r).array.size or r.modality is Modality.TEXT for r in found[::100])


def test_a_mask_has_its_images_id_and_patient(hospital_cohort: Cohort) -> None:
    found = {r.id: r for r in hospital_cohort.records()}
    masks = [r for r in found.values() if r.attributes.get("mask_of")]
    assert len(masks) == 63
    for mask in masks:
        image = found[str(mask.attributes["mask_of"])]
        assert image.patient == mask.patient
        assert mask.attributes["stem"] in (image.attributes.get("stem"), image.attributes.get("accession"))


def test_the_source_is_never_changed_and_a_second_run_adds_nothing(few: Path, tmp_path: Path) -> None:
    before = look(few)
    first = whole(ingest(few, tmp_path / "c"))
    parts = look(tmp_path / "c")
    said: list[tuple[int, int, str]] = []
    second = whole(ingest(few, tmp_path / "c", progress=lambda *told: said.append(told)))
    assert second == first
    assert look(tmp_path / "c") == parts  # it did not even write
    assert said == [(len(before), len(before), "nothing new")]
    assert look(few) == before


def test_a_changed_file_is_a_new_version_and_the_old_one_stays(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s/a.csv").write_text("patient,crp\nA,3\n")
    first = ingest(tmp_path / "s", tmp_path / "c").records()
    (tmp_path / "s/a.csv").write_text("patient,crp\nA,30\n")
    cohort = ingest(tmp_path / "s", tmp_path / "c")
    assert cohort.records() != first
    rows = cohort.query(
        "select id, attributes->>'crp' as crp, current, read_at from versions order by read_at"
    ).to_pylist()
    assert [(r["crp"], r["current"]) for r in rows] == [("3.0", False), ("30.0", True)]
    assert rows[0]["id"] == first[0].id
    assert rows[0]["read_at"] < rows[1]["read_at"]
    (tmp_path / "s/a.csv").unlink()
    (tmp_path / "s/b.csv").write_text("patient,crp\nB,1\n")
    cohort = ingest(tmp_path / "s", tmp_path / "c")
    assert cohort.patients() == ["B"]
    assert cohort.query("select count(*) as n from versions")["n"].to_pylist() == [3]


def test_the_order_of_the_files_does_not_matter(few: Path, tmp_path: Path) -> None:
    expected = whole(ingest(few, tmp_path / "whole"))
    paths = sorted(p for p in few.rglob("*") if p.is_file())
    for seed in range(2):
        random.Random(seed).shuffle(paths)
        growing = tmp_path / f"growing{seed}"
        cohort = None
        for start in range(0, len(paths), 4):  # the files arrive four at a time
            for path in paths[start : start + 4]:
                (growing / path.relative_to(few)).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, growing / path.relative_to(few))
            try:
                cohort = ingest(growing, tmp_path / f"c{seed}")
            except EmptyCohortError:
                continue
        assert cohort is not None
        assert whole(cohort) == expected


def test_two_processes_read_what_one_reads(small_hospital: Path, tiny_cohort: Cohort, tmp_path: Path) -> None:
    code = "import sys; from polyclinic.cohort import ingest\nif __name__ == '__main__': ingest(sys.argv[1], sys.argv[2], workers=2)"
    (tmp_path / "two.py").write_text(code)
    subprocess.run([sys.executable, tmp_path / "two.py", small_hospital, tmp_path / "c"], check=True, timeout=120)
    assert whole(Cohort.open(tmp_path / "c")) == whole(tiny_cohort)


SLOWLY = """
import sys, time
from polyclinic.cohort import ingest as _
ingest = sys.modules["polyclinic.cohort.ingest"]
ingest.PART_ROWS = 40
def told(done, total, what):
    print(done, flush=True)
    time.sleep(0.02)
ingest.ingest(sys.argv[1], sys.argv[2], progress=told)
"""


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_keeps_what_it_read_and_goes_on_to_the_same(
    small_hospital: Path, tiny_cohort: Cohort, tmp_path: Path, stop: signal.Signals
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SLOWLY, small_hospital, tmp_path / "c"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as run:
        assert run.stdout is not None
        for line in run.stdout:
            if int(line) >= 25:
                run.send_signal(stop)
                break
    assert run.returncode not in (0, None)
    kept = Cohort.open(tmp_path / "c").sources(small_hospital)
    assert 5 <= len(kept) < 45
    said: list[int] = []
    cohort = ingest(small_hospital, tmp_path / "c", progress=lambda done, total, what: said.append(done))
    assert said[0] > len(kept) - 1  # what was read is not read again
    assert whole(cohort) == whole(tiny_cohort)


def test_killed_at_any_moment(few: Path, tmp_path: Path) -> None:
    expected = whole(ingest(few, tmp_path / "whole"))
    for attempt in range(3):
        code = SLOWLY.replace("= 40", "= 1").replace("0.02", "0.0")
        run = subprocess.Popen(
            [sys.executable, "-c", code, few, tmp_path / "c"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert run.stdout is not None
        run.stdout.readline()
        time.sleep(0.01 * attempt)
        run.kill()
        run.communicate()
    assert whole(ingest(few, tmp_path / "c")) == expected


def test_a_full_disk_leaves_what_was_ingested_and_says_so(few: Path, hospital: Path, tmp_path: Path) -> None:
    before = whole(ingest(few / "mri", tmp_path / "c"))
    parts = look(tmp_path / "c")
    code = (
        "import resource, sys; from polyclinic.cohort import CohortError, ingest\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "try: ingest(sys.argv[1], sys.argv[2])\n"
        "except CohortError as error: print(error); sys.exit(3)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, hospital / "oncology", tmp_path / "c"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 3, run.stderr
    assert "no room on the disk for the catalogue" in run.stdout
    assert "what was already finished is intact" in run.stdout
    assert look(tmp_path / "c") == parts
    assert whole(Cohort.open(tmp_path / "c")) == before
    assert len(ingest(hospital / "oncology", tmp_path / "c").records()) > len(before[0])  # with room again, it goes on


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real disk of two megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("this user may not mount a small disk")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_really_full_disk(few: Path, small_disk: Path, tmp_path: Path) -> None:
    before = whole(ingest(few / "mri", small_disk / "c"))
    with contextlib.suppress(OSError), (small_disk / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    with pytest.raises(CohortError, match="no room on the disk"):
        ingest(few, small_disk / "c")
    with pytest.raises(CohortError, match="no room on the disk"):
        ingest(few, small_disk / "another")
    assert whole(Cohort.open(small_disk / "c")) == before
    (small_disk / "filler").unlink()
    assert whole(ingest(few, small_disk / "c"))[0]


def test_a_folder_that_is_not_there_or_empty_or_holds_nothing(tmp_path: Path) -> None:
    with pytest.raises(EmptyCohortError, match="nothing at"):
        ingest(tmp_path / "nowhere", tmp_path / "c")
    (tmp_path / "empty").mkdir()
    with pytest.raises(EmptyCohortError, match="no file in"):
        ingest(tmp_path / "empty", tmp_path / "c")
    assert not (tmp_path / "c").exists()
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd/a.xyz").write_text("?")
    with pytest.raises(
        EmptyCohortError, match=r"1 files .* none of which could be taken \(a file of unknown format \(\.xyz\)\)"
    ):
        ingest(tmp_path / "odd", tmp_path / "c")
    assert [r.uri for r in Cohort.open(tmp_path / "c").rejected()] == ["a.xyz"]


def test_one_file_is_enough(hospital: Path, tmp_path: Path) -> None:
    cohort = ingest(hospital / "clinic/visits.csv", tmp_path / "c")
    assert len(cohort.records()) == 240
    assert cohort.load(cohort.records()[0]).names


def test_a_corrected_file_takes_the_place_of_what_it_said_before(tmp_path: Path) -> None:
    table = tmp_path / "in/a.csv"
    table.parent.mkdir()
    table.write_text("patient_id,finding\nP1,COVDI\n,x\nP3,no\n")
    assert [r.found for r in ingest(table.parent, tmp_path / "c").rejected()] == ["row 2 without a patient"]
    table.write_text("patient_id,finding\nP1,COVID\nP2,x\n")
    cohort = ingest(table.parent, tmp_path / "c")
    assert sorted((r.patient, r.attributes["finding"]) for r in cohort.records()) == [("P1", "COVID"), ("P2", "x")]
    assert cohort.rejected() == []
    table.write_text("")
    with pytest.raises(EmptyCohortError, match="an empty file"):
        ingest(table.parent, tmp_path / "c")


def test_a_file_in_two_places_or_roots_is_one_record(hospital: Path, tmp_path: Path) -> None:
    source = hospital / "clinic/notes/MTS-0000_1.txt"
    for place in ("in/a", "in/b", "moved"):
        (tmp_path / place).mkdir(parents=True)
        shutil.copy(source, tmp_path / place)
    ingest(tmp_path / "in", tmp_path / "c")
    cohort = ingest(tmp_path / "moved", tmp_path / "c")
    (record,) = cohort.records()
    shutil.rmtree(tmp_path / "in")
    assert Cohort.open(tmp_path / "c").load(record).text  # where it was seen last


def test_a_slice_that_comes_late_joins_its_series(tmp_path: Path) -> None:
    place = tmp_path / "in"
    place.mkdir()
    for number in range(5):
        dataset = pydicom.dcmread(str(get_testdata_file("CT_small.dcm", download=False)))
        dataset.ImagePositionPatient = [0, 0, 5 * number]
        dataset.save_as(place / f"{number}.dcm")
    (place / "4.dcm").rename(tmp_path / "late")
    cohort = ingest(place, tmp_path / "c")
    assert [r.attributes["slices"] for r in cohort.records()] == [4]
    (tmp_path / "late").rename(place / "0late.dcm")
    (record,) = ingest(place, tmp_path / "c").records()
    assert record.attributes["slices"] == 5
    assert cohort.load(record).array.shape == (1, 5, 128, 128)
    (place / "2.dcm").write_bytes(b"x" * 200)  # and one that breaks leaves a gap
    with pytest.raises(EmptyCohortError, match="a series with missing slices"):
        ingest(place, tmp_path / "c")


def test_what_is_no_longer_there_no_longer_counts(few: Path, tmp_path: Path) -> None:
    cohort = ingest(few, tmp_path / "c")
    image = next(r for r in cohort.records() if r.modality is Modality.VOLUME and not r.attributes["mask"])
    (few / image.uri).unlink()
    (few / "cardiology/s0010_re.dat").unlink()
    cohort = ingest(few, tmp_path / "c")
    assert image.id not in cohort.ids()
    assert {r.uri: r.found for r in cohort.rejected()} == {
        image.uri: "a file that is no longer there", "mri/labels/hippocampus_001.nii.gz": "a mask with no image",
        "cardiology/s0010_re.dat": "a file that is no longer there",
        "cardiology/s0010_re.hea": "a WFDB header whose signal file s0010_re.dat is not there",
    }  # fmt: skip
    parts = look(tmp_path / "c")
    ingest(few, tmp_path / "c")
    assert look(tmp_path / "c") == parts
    ingest(few / "radiology/studies.csv", tmp_path / "c")  # one file says nothing of those beside it
    assert len(ingest(few / "radiology/studies.csv", tmp_path / "c").ids()) == len(cohort.ids())


def test_a_signal_that_comes_late_joins_its_header(hospital: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    shutil.copy(hospital / "cardiology/100.hea", tmp_path / "in")
    with pytest.raises(EmptyCohortError, match=r"100\.dat is not there"):
        ingest(tmp_path / "in", tmp_path / "c")
    shutil.copy(hospital / "cardiology/100.dat", tmp_path / "in")
    cohort = ingest(tmp_path / "in", tmp_path / "c")
    assert [r.kind for r in cohort.records()] == ["ECG 2-lead"]
    assert cohort.rejected() == []


def test_links_lead_nowhere_but_within(hospital: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret.txt").write_text("Patient: P9\n\nsecret")
    place = tmp_path / "in"
    place.mkdir()
    (place / "note_1.txt").write_text("Patient: P1\n\nwords")
    (place / "again.txt").symlink_to(place / "note_1.txt")
    (place / "out.txt").symlink_to("../outside/secret.txt")
    (place / "folder").symlink_to(tmp_path / "outside")
    (place / "round").symlink_to(place)
    (place / "broken.txt").symlink_to(place / "nowhere.txt")
    cohort = ingest(place, tmp_path / "c")
    assert [r.patient for r in cohort.records()] == ["P1"]
    assert {r.uri: r.found for r in cohort.rejected()} == {
        "out.txt": "a link that leads out of the folder", "folder": "a link that leads out of the folder",
        "broken.txt": "a file that is no longer there",
    }  # fmt: skip


def test_names_that_cannot_be_written_down_and_names_with_marks(tmp_path: Path) -> None:
    place = tmp_path / "in"
    place.mkdir()
    Path(os.fsdecode(os.fsencode(place) + b"/\xff\xfe.txt")).write_text("words")
    for name in ("a#row=x.txt", "a b.txt", "größe.txt", "x'y.txt", "new\nline.txt", "per%20cent.txt"):
        (place / name).write_text(f"words of {name}")
    cohort = ingest(place, tmp_path / "c's")
    assert len(cohort.records()) == 6
    assert all(cohort.load(r).text for r in cohort.records())
    assert [r.found for r in cohort.rejected()] == ["a name that is not UTF-8"]


def test_litter_is_passed_over_and_the_catalogue_is_not_its_own_source(tmp_path: Path) -> None:
    for name in ("README.md", ".hidden/a.txt", "__MACOSX/a.txt", "LICENSE", "Thumbs.db", "note.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("words")
    ingest(tmp_path, tmp_path / "cohort")
    cohort = ingest(tmp_path, tmp_path / "cohort")
    assert [r.uri for r in cohort.records()] == ["note.txt"]
    assert cohort.rejected() == []


def test_a_missing_library_stops_with_what_to_install_and_keeps_what_was_read(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(MissingExtraError, match=r"polyclinic\[volumes\]"):
        ingest(few, tmp_path / "c")
    assert any("s0010_re" in uri for uri in Cohort.open(tmp_path / "c").sources(few))
    monkeypatch.undo()
    assert whole(ingest(few, tmp_path / "c")) == whole(ingest(few, tmp_path / "other"))


def test_a_missing_library_in_a_worker_process_does_too(few: Path, tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(
        "import sys\nsys.modules['nibabel'] = None\nfrom polyclinic.cohort import ingest\n"
        "from polyclinic.schema import MissingExtraError\n"
        "if __name__ == '__main__':\n"
        "    try: ingest(sys.argv[1], sys.argv[2], workers=2)\n"
        "    except MissingExtraError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, tmp_path / "main.py", few, tmp_path / "c"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "pip install 'polyclinic[volumes]'" in done.stdout, done.stderr
