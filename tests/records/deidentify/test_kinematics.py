"""JIGSAWS: motion and gestures stay byte for byte, and a trial's files still have one name; the surgeon is a pseudonym."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from polyclinic.cohort import ingest
from polyclinic.records.deidentify import Report, open_key
from reading import load, only


def trial(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savetxt(path, np.random.default_rng(seed).normal(size=(100, 76)), fmt="%.6f", delimiter="     ")
    return path


def test_a_trials_files_still_link(place: Path, clean: Callable[..., Report]) -> None:
    """Surgeon B, whose letter is a word of file names, and D, whose letter is none."""
    tasks = ("Suturing", "Knot_Tying", "Zebedee_Transfer")
    stems = [f"{task}_{who}00{n}" for task in tasks for who in "BD" for n in (1, 2)]
    for n, stem in enumerate(stems):
        trial(place / f"in/kinematics/AllGestures/{stem}.txt", n)
        (place / f"in/transcriptions/{stem}.txt").parent.mkdir(exist_ok=True)
        (place / f"in/transcriptions/{stem}.txt").write_text(f"5 {40 + n} G1 \n{41 + n} 90 G11 \n91 100 G2 \n")
    report = clean()
    assert report.kinds == {"kinematics": 24}
    assert "Zebedee" not in " ".join(report.files)
    key = open_key(place / "key")
    assert f"kinematics/AllGestures/Suturing_{key.pseudonym('surgeon B')}-001.txt" in report.files
    bytes_of = lambda folder: sorted(p.read_bytes() for p in (place / folder).rglob("*.txt"))
    assert bytes_of("in") == bytes_of("out")
    cohort = ingest(place / "out", place / "cohort")
    described = cohort.describe()
    assert (described["patients"], described["records"], described["rejected"]) == (2, 24, 0)
    of = {r.id: r for r in cohort.records()}
    masks = [r for r in of.values() if r.attributes.get("mask")]
    assert len(masks) == 12
    assert all(of[str(r.attributes["mask_of"])].attributes["stem"] == r.attributes["stem"] for r in masks)
    for path in (place / "out/kinematics").rglob("*.txt"):
        record = only(path, place / "out")
        assert record.patient in {key.pseudonym(f"surgeon {letter}") for letter in "BD"}
        assert record.attributes["trial"] in (1, 2)
        gestures = only(place / f"out/transcriptions/{path.name}", place / "out")
        assert gestures.attributes["stem"] == record.attributes["stem"]
        assert load(path).array.shape == (76, 100)


def test_a_trials_videos_stay_with_its_motion(place: Path, clean: Callable[..., Report]) -> None:
    trial(place / "in/kinematics/Suturing_B001.txt")
    video = place / "in/video/Suturing_B001_capture1.avi"
    video.parent.mkdir()
    with av.open(str(video), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for shade in range(10):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 * shade, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    clean()
    (motion,), (seen,) = (list((place / "out").rglob(f"*.{ending}")) for ending in ("txt", "avi"))
    one, other = only(motion, place / "out"), only(seen, place / "out")
    assert one.patient == other.patient == open_key(place / "key").pseudonym("surgeon B")
    assert (one.attributes["task"], one.attributes["trial"]) == (other.attributes["task"], other.attributes["trial"])
    assert other.attributes["capture"] == 1


def test_the_same_form_of_another_file_keeps_no_number(place: Path, clean: Callable[..., Report]) -> None:
    (place / "in/Report_D123.txt").write_text("Patient: 77\n\nNo change.\n")
    assert "123" not in "".join(f for f in clean().files if not f.split("P")[-1][:15].isdigit())


@pytest.mark.parametrize("said", ["# Zebedee", "Zebedee 1 2"])
def test_words_among_the_numbers_set_it_aside(place: Path, clean: Callable[..., Report], said: str) -> None:
    path = trial(place / "in/Suturing_B001.txt")
    path.write_text(path.read_text() + said + "\n")
    report = clean(aside=True)
    assert report.files == []
    assert not list((place / "out").glob("*.txt"))
