"""A record is read once to be compared, whoever asks again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from polyclinic.cohort import Cohort, SplitSpec, guard, ingest, split
from polyclinic.cohort.leakage import near_duplicates
from polyclinic.schema import Payload, Record


class Counting(Cohort):
    """A cohort that remembers what was loaded."""

    def load(self, record: Record) -> Payload:
        self.loaded = [*getattr(self, "loaded", []), record.id]
        return super().load(record)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(8):
        walk = np.random.default_rng(i % 7).normal(size=(60, 60)).cumsum(0).cumsum(1)  # the last is the first again
        grey = np.interp(walk, (walk.min(), walk.max()), (0, 250 + i // 7)).astype(np.uint8)
        Image.fromarray(grey).save(folder / f"P{i}_1.png")
        (folder / f"P{i}_1.txt").write_text(" ".join(f"word{i}{n}" for n in range(40)))
    return folder


def test_splitting_and_guarding_read_each_record_once(pictures: Path, tmp_path: Path) -> None:
    ingest(pictures, tmp_path / "c")
    cohort = Counting(tmp_path / "c")
    found = cohort.records()
    first = split(found, SplitSpec(test=0.4), cohort.load)
    guard(first.train, first.test, found, cohort.load)
    assert sorted(cohort.loaded) == sorted(r.id for r in found)
    again = Counting(tmp_path / "c")
    assert split(found, SplitSpec(test=0.4), again.load) == first
    assert not hasattr(again, "loaded")
    assert split(found, SplitSpec(test=0.4), lambda r: cohort.load(r)) == first  # kept or not, it is the same
    (pictures / "P9_1.png").write_bytes((pictures / "P1_1.png").read_bytes() + b"x")
    newer = Counting(ingest(pictures, tmp_path / "c").path)
    split(newer.records(), SplitSpec(test=0.4), newer.load)
    assert len(newer.loaded) == 1


def test_what_is_damaged_is_made_anew_and_what_cannot_be_kept_is_not(pictures: Path, tmp_path: Path) -> None:
    cohort = ingest(pictures, tmp_path / "c")
    images = cohort.records("modality = 'image'")
    expected = near_duplicates(images, cohort.load)
    assert [{a.patient, b.patient} for a, b in expected] == [{"P0", "P7"}]
    (file,) = (tmp_path / "c/fingerprints").glob("images-*.parquet")
    file.write_bytes(file.read_bytes()[:-100])
    assert near_duplicates(images, cohort.load) == expected
    file.unlink()
    file.parent.rmdir()
    file.parent.write_text("in the way")
    assert near_duplicates(images, cohort.load) == expected
