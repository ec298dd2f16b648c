"""A folder: nothing unknown is copied, names are new, the key decides, and a hospital stays the same hospital."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path

import pytest

from polyclinic.cohort import ingest
from polyclinic.records.deidentify import DeidentifyError, Key, Options, deidentify, open_key


def digest(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    (tmp_path / "in/Zebedee Smith").mkdir(parents=True)
    (tmp_path / "in/Zebedee Smith/MRN55001_1.txt").write_text(
        "Patient: MRN55001\nDate: 2019-03-14\nType: note\n\nZebedee is well. Seen by Dr. Quillon.\n"
    )
    (tmp_path / "in/people.csv").write_text("patient_id,last_name,value\nMRN55001,Zebedee,3\n")
    return tmp_path


def test_the_key_is_the_owners_alone_and_stays_apart(notes: Path) -> None:
    report = deidentify(notes / "in", notes / "out", notes / "secrets/key")
    assert stat.S_IMODE((notes / "secrets/key").stat().st_mode) == 0o600
    assert stat.S_IMODE((notes / "secrets/key.names.csv").stat().st_mode) == 0o600
    secret = (notes / "secrets/key").read_bytes().strip()
    assert len(secret) == 64
    assert all(secret not in p.read_bytes() for p in (notes / "out").rglob("*") if p.is_file())
    assert report.warnings == []
    assert repr(open_key(notes / "secrets/key")) == "Key()"


def test_one_key_gives_one_output_and_another_another(notes: Path) -> None:
    deidentify(notes / "in", notes / "a", notes / "key")
    deidentify(notes / "in", notes / "b", notes / "key")
    deidentify(notes / "in", notes / "c", notes / "other")
    assert digest(notes / "a") == digest(notes / "b")
    assert set(digest(notes / "a").values()) & set(digest(notes / "c").values()) == set()


def test_an_output_is_written_again_with_its_own_key_only(notes: Path) -> None:
    deidentify(notes / "in", notes / "out", notes / "key")
    first = digest(notes / "out")
    deidentify(notes / "in", notes / "out", notes / "key")
    assert digest(notes / "out") == first
    with pytest.raises(DeidentifyError, match="another key"):
        deidentify(notes / "in", notes / "out", notes / "other")


def test_the_source_is_never_changed(notes: Path) -> None:
    before = digest(notes / "in")
    deidentify(notes / "in", notes / "out", notes / "key")
    assert digest(notes / "in") == before


def test_names_of_files_and_folders_are_new(notes: Path) -> None:
    report = deidentify(notes / "in", notes / "out", notes / "key")
    written = json.dumps(report.as_data()) + " ".join(digest(notes / "out"))
    for secret in ("Zebedee", "Smith", "MRN55001", "Quillon", "2019-03-14"):
        assert secret.casefold() not in written.casefold()
        assert all(secret.encode() not in p.read_bytes() for p in (notes / "out").rglob("*") if p.is_file())
    key = open_key(notes / "key")
    assert any(f.endswith(f"/{key.pseudonym('MRN55001')}_1.txt") for f in report.files)
    names = (notes / "key.names.csv").read_text()
    assert "Zebedee Smith/MRN55001_1.txt" in names


def test_what_is_not_known_is_not_copied(notes: Path) -> None:
    (notes / "in/letter.docx").write_bytes(b"PK\x03\x04 Zebedee")
    (notes / "in/.hidden").write_text("Zebedee")
    (notes / "in/empty.txt").write_text("")
    (notes / "in/link.txt").symlink_to("/etc/hostname")
    (notes / "in/broken.json").write_text('{"resourceType": "Bundle", Zebedee')
    report = deidentify(notes / "in", notes / "out", notes / "key")
    assert len(report.aside) == 5
    assert len(report.files) == 2
    assert all(b"Zebedee" not in p.read_bytes() for p in (notes / "out").rglob("*") if p.is_file())


@pytest.mark.parametrize(("out", "key"), [("in/out", "key"), ("out", "in/key"), ("out", "out/key"), (".", "key")])
def test_places_that_cannot_be(notes: Path, out: str, key: str) -> None:
    before = digest(notes / "in")
    with pytest.raises(DeidentifyError):
        deidentify(notes / "in", notes / out, notes / key)
    assert digest(notes / "in") == before


def test_one_file_with_its_output_beside_it(notes: Path) -> None:
    report = deidentify(notes / "in/people.csv", notes / "in/out", notes / "in/key")
    assert len(report.files) == 1
    assert "Zebedee" not in (notes / "in/out" / report.files[0]).read_text()
    assert "Zebedee" in (notes / "in/people.csv").read_text()


def test_a_full_folder_and_a_short_key_are_refused(notes: Path) -> None:
    (notes / "full").mkdir()
    (notes / "full/x").write_text("x")
    with pytest.raises(DeidentifyError, match="files in"):
        deidentify(notes / "in", notes / "full", notes / "key")
    (notes / "short").write_text("abc")
    with pytest.raises(DeidentifyError, match="a key file of 3 bytes"):
        deidentify(notes / "in", notes / "out", notes / "short")
    with pytest.raises(DeidentifyError, match="nothing at"):
        deidentify(notes / "nowhere", notes / "out", notes / "key")


def test_a_key_that_others_may_read_is_warned_of(notes: Path) -> None:
    (notes / "open").write_bytes(os.urandom(32).hex().encode())
    (notes / "open").chmod(0o644)
    assert deidentify(notes / "in", notes / "out", notes / "open").warnings


def test_what_is_derived_from_a_key() -> None:
    one, other = Key(b"a" * 32), Key(b"b" * 32)
    assert one.pseudonym("MRN55001") == one.pseudonym(" mrn55001 ") != other.pseudonym("MRN55001")
    assert len(one.pseudonym("MRN55001")) == 16  # DICOM SH
    assert one.pseudonym("sub-07").startswith("sub-P")
    assert one.uid("1.2.3.4.5") == one.uid("urn:oid:1.2.3.4.5") == one.pseudonym("1.2.3.4.5")
    assert 0 < int(one.uid("1.2.3").removeprefix("2.25.")) < 2**128
    days = [one.days(f"p{n}") for n in range(4000)]
    assert {abs(d) for d in days} == set(range(1, 366))
    assert abs(sum(d > 0 for d in days) / 4000 - 0.5) < 0.04  # five standard deviations
    import uuid

    assert uuid.UUID(one.uuid("x")).version == 8


@pytest.mark.slow
def test_the_embedded_hospital_goes_through_whole(hospital: Path, tmp_path: Path) -> None:
    """As many patients, records and linked masks as before; the only file that is not copied was never whole."""
    report = deidentify(hospital, tmp_path / "out", tmp_path / "key", Options(burned_in="keep"))
    assert [a.found for a in report.aside] == ["a DICOM file that was cut short"]
    before, after = (ingest(s, tmp_path / n).describe() for s, n in ((hospital, "a"), (tmp_path / "out", "b")))
    for what in ("patients", "records", "masks", "modality", "missingness", "sex"):
        assert after[what] == before[what], what
    assert after["rejected"] == before["rejected"] - 1
    names = " ".join(report.files)
    assert "CXR-" not in names
    assert "MTS-" not in names


def test_sets_that_flag_burned_in_text_are_set_aside(small_hospital: Path, tmp_path: Path) -> None:
    report = deidentify(small_hospital / "radiology", tmp_path / "out", tmp_path / "key")
    assert any("pixels" in a.found for a in report.aside)


def test_an_identifier_that_is_a_word_or_a_short_number_spoils_nothing(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.csv").write_text("patient_id,finding,dose\n1000,chest,1000\nchest,head,20\n")
    (tmp_path / "in/n_1.txt").write_text("Patient: 1000\n\nThe chest is clear. Take 1000 mg.\n")
    report = deidentify(tmp_path / "in", tmp_path / "out", tmp_path / "key")
    assert "chest is clear. Take 1000 mg." in next((tmp_path / "out").glob("*.txt")).read_text()
    rows = (tmp_path / "out" / next(f for f in report.files if f.endswith(".csv"))).read_text().splitlines()
    assert rows[1].endswith(",chest,1000")
    assert not rows[1].startswith("1000")
