"""EDF and BDF: patient, recording and notes cleaned, dates moved with the person's; every sample the same to the bit."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyedflib
import pytest

from polyclinic import records
from polyclinic.records.deidentify import Key, Known, Options, Report, open_key
from polyclinic.records.deidentify.cleaning import Cleaning
from polyclinic.records.deidentify.edf import _notes
from polyclinic.records.deidentify.naming import Namer
from reading import taken
from recordings import with_gaps

PLANTED = (
    "Zebedee", "Quillon", "MRN55001", "Vandermeer", "Barnaby", "Elsewhere", "Thistlewood", "Ottoline", "Clementine", "zq@example.org",
    "S19-88123", "SN77120", "01-JAN-1950", "14.03.19", "14-MAR-2019", "2019-03-14",
)  # fmt: skip
Look = Callable[[Iterable[str]], None]
START = datetime(2019, 3, 14, 3, 4, 5)
KINDS = {
    "a.edf": pyedflib.FILETYPE_EDF, "b.edf": pyedflib.FILETYPE_EDFPLUS, "c.bdf": pyedflib.FILETYPE_BDF, "d.bdf": pyedflib.FILETYPE_BDFPLUS
}  # fmt: skip
LABELS = ("EEG Fpz-Cz", "ECG II", "Resp oro-nasal", "Zebedee Q")
NOTES = (
    (0.5, 1.0, "Sleep stage W"), (1.5, 2.0, "Zebedee turned, Dr. Vandermeer called"),
    (2, -1, "Obstructive apnea"), (3, -1, "Ottoline asleep"),
    (4, 0.5, "S19-88123 zq@example.org at Saint Elsewhere"), (5, -1, "Bo J. Quillon came in"), (6, -1, "EEG arousal"),
    (7, -1, "after Quilonazole"),
)  # fmt: skip


def write(path: Path, kind: str, **header: Any) -> None:
    """Ten seconds of four signals, and notes where the format has them."""
    rates = (100, 100, 10, 1)
    with pyedflib.EdfWriter(str(path), 4, file_type=KINDS[kind]) as writer:
        about = {
            "patientcode": "MRN55001", "patientname": "Zebedee Quillon", "sex": 0, "startdate": START, "birthdate": "01 jan 1950",
            "equipment": "SN77120", "technician": "Barnaby", "admincode": "S19-88123", "patient_additional": "zq@example.org",
            "recording_additional": "Thistlewood",
        }  # fmt: skip
        writer.setHeader(about | header)
        for number, (label, rate) in enumerate(zip(LABELS, rates, strict=True)):
            most = 8388607 if kind.endswith("bdf") else 32767
            said = {
                "label": label,
                "transducer": "by Clementine",
                "prefilter": "HP:0.1Hz LP:75Hz" if number else "Zebedee",
            }
            scale = {"physical_max": 100, "physical_min": -100, "digital_max": most, "digital_min": -most - 1}
            writer.setSignalHeader(
                number, {"dimension": "uV" if number else "Quillon", "sample_frequency": rate, **said, **scale}
            )
        random = np.random.default_rng(0)
        writer.writeSamples([random.uniform(-90, 90, 10 * rate) for rate in rates])
        for note in NOTES if kind in ("b.edf", "d.bdf") else ():
            writer.writeAnnotation(*note)


def name_of(kind: str) -> str:
    return f"MRN55001_Zebedee_{kind}"


def samples(path: Path) -> list[list[int]]:
    with pyedflib.EdfReader(str(path)) as file:
        return [file.readSignal(i, digital=True).tolist() for i in range(file.signals_in_file)]


@pytest.mark.parametrize("kind", list(KINDS))
def test_nothing_but_the_recording_comes_along(
    place: Path, clean: Callable[..., Report], none_left: Look, kind: str
) -> None:
    path = place / "in" / name_of(kind)
    write(path, kind)
    (place / "key").write_text("7" * 64)  # another key may move the birthday onto itself
    report = clean()
    none_left(PLANTED)
    (after,) = (place / "out").glob(f"*.{kind[2:]}")
    assert samples(path) == samples(after)
    assert path.stat().st_size == after.stat().st_size
    old, new, key = taken(path), taken(after), open_key(place / "key")
    for one, other in zip(old, new, strict=True):
        assert one.time == START
        assert other.time == START + timedelta(days=key.days(one.patient))
        assert other.patient == key.pseudonym(one.patient)
        arrays = [records.load(r, p.parent).array for r, p in ((one, path), (other, after))]
        assert (arrays[0] == arrays[1]).all()
        assert {k: one.attributes[k] for k in ("rate_hz", "seconds", "channels")} == {
            k: other.attributes[k] for k in ("rate_hz", "seconds", "channels")
        }
    with pyedflib.EdfReader(str(after)) as file:
        assert [label.strip() for label in file.getSignalLabels()] == [*LABELS[:3], "signal 4"]
        assert (file.getPrefilter(1).strip(), file.getPhysicalDimension(1).strip()) == ("HP:0.1Hz LP:75Hz", "uV")
    assert report.kinds == {"edf": 1}


@pytest.mark.parametrize("kind", ["b.edf", "d.bdf"])
def test_edf_plus_keeps_who_how_old_and_what_was_noted(place: Path, clean: Callable[..., Report], kind: str) -> None:
    path = place / "in" / name_of(kind)
    write(path, kind)
    report = clean()
    (after,) = (place / "out").glob(f"*.{kind[2:]}")
    first = taken(after)[0]
    assert first.patient == open_key(place / "key").pseudonym("MRN55001")
    assert (first.attributes["sex"], first.device) == ("F", None)
    assert first.attributes["age"] == pytest.approx(69, abs=0.01)  # in whole years: born on that day
    noted = json.loads(str(first.attributes["annotations"]))
    assert [note[:2] for note in noted] == [list(note[:2]) for note in NOTES]
    assert [noted[n][2] for n in (0, 2, 6, 7)] == [NOTES[n][2] for n in (0, 2, 6, 7)]
    assert noted[1][2].startswith("[NAME] turned, Dr. [NAME]")
    assert noted[3][2] == "[NAME] asleep"
    assert [r.place for r in report.review] == ["note 8 characters 6–17"]


@pytest.mark.parametrize("kind", ["b.edf", "d.bdf"])
def test_gaps_stay_where_they_were_and_nothing_else(
    place: Path, clean: Callable[..., Report], none_left: Look, kind: str
) -> None:
    path = place / "in" / name_of(kind)
    write(path, kind)
    with_gaps(path, [0, 1, 2, 30.5, 31.5, 32.5, 33.5, 90, 91, 92])
    clean()
    none_left(PLANTED)
    (after,) = (place / "out").glob(f"*.{kind[2:]}")
    days = open_key(place / "key").days("MRN55001")
    old, new = taken(path), taken(after)
    assert len(old) == len(new) == 9
    for one, other in zip(old, new, strict=True):
        assert one.time
        assert other.time == one.time + timedelta(days=days)
        assert [other.attributes[k] for k in ("run", "onset_s", "seconds")] == [
            one.attributes[k] for k in ("run", "onset_s", "seconds")
        ]
        assert np.array_equal(records.load(one, path.parent).array, records.load(other, after.parent).array)


def test_dates_and_characteristics_go_where_that_is_asked(
    place: Path, clean: Callable[..., Report], none_left: Look
) -> None:
    write(place / "in/MRN55001.edf", "b.edf")
    clean(Options(dates="remove", retain_characteristics=False, retain_device=True))
    none_left([p for p in PLANTED if p != "SN77120"])
    (after,) = (place / "out").glob("*.edf")
    first = taken(after)[0]
    assert (first.time, first.attributes["age"], first.attributes["sex"], first.device) == (None, None, None, "SN77120")


def test_a_person_of_over_ninety_is_ninety(place: Path, clean: Callable[..., Report]) -> None:
    write(place / "in/MRN55001.edf", "b.edf", birthdate="29 feb 1920")
    clean()
    (after,) = (place / "out").glob("*.edf")
    assert taken(after)[0].attributes["age"] == pytest.approx(90, abs=0.01)


@pytest.mark.parametrize("spare", range(3))
def test_a_surrogate_longer_than_a_name_does_not_move_the_samples(spare: int) -> None:
    """Notes that fill their place to its last bytes; each is cut to the length that it had."""
    key, known = Key(b"7" * 32), Known()
    cleaning = Cleaning(key, Options(), Report("", {}), "a.edf", (), known, Namer(key, known), "")
    onsets = [b"+%d" % n for n in range(5)]
    block = b"".join(
        onset + b"\x14" + (b"Dr. Ng\x14" if n else b"\x14") + b"\0" for n, onset in enumerate(onsets)
    ) + bytes(spare)
    new = _notes(block, iter(range(1, 99)), cleaning)
    assert len(new) == len(block)
    assert b"Ng" not in new
    assert [note.split(b"\x14")[0] for note in new.strip(b"\0").split(b"\0")] == onsets


@pytest.mark.parametrize(("at", "said"), [(256 + 5 * (16 + 80 + 8), b"Zebedee "), (176, b"Zebedee ")])
def test_words_in_a_field_of_numbers_set_it_aside(
    place: Path, clean: Callable[..., Report], none_left: Look, at: int, said: bytes
) -> None:
    path = place / "in/MRN55001.edf"
    write(path, "b.edf")
    data = path.read_bytes()
    path.write_bytes(data[:at] + said + data[at + 8 :])
    assert clean(aside=True).files == []
    none_left(PLANTED)
