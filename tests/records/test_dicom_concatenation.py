"""Objects that were split into several files: the whole is what it was before it was split."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.sequence import Sequence as Items
from pydicom.uid import RLELossless, generate_uid

from polyclinic import records
from polyclinic.cohort import Cohort, ingest
from polyclinic.records.deidentify import deidentify
from polyclinic.schema import Record, Rejected
from reading import parted
from records.test_dicom_multiframe import frame_at, write_enhanced  # noqa: F401 (a fixture)
from records.test_dicom_segmentation import SHAPE, drawn, segmentation

Spoil = Callable[[list[Dataset]], object]


def split(
    whole: Path, folder: Path, counts: Sequence[int], spoil: Spoil | None = None, name: str = "part"
) -> list[Path]:
    """The object's frames in as many files as there are counts, as PS3.3 C.7.6.16.2.2.4 has it; names in another order."""
    folder.mkdir(exist_ok=True)
    source = pydicom.dcmread(whole)
    packed = source.file_meta.TransferSyntaxUID.is_encapsulated
    count = int(source.NumberOfFrames)
    assert sum(counts) == count
    frames = list(generate_frames(source.PixelData, number_of_frames=count)) if packed else []
    uid, parts, start = generate_uid(), [], 0
    for number, some in enumerate(counts, start=1):
        one = pydicom.dcmread(whole)
        one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        one.ConcatenationUID, one.SOPInstanceUIDOfConcatenationSource = uid, source.SOPInstanceUID
        one.InConcatenationNumber, one.InConcatenationTotalNumber = number, len(counts)
        one.ConcatenationFrameOffsetNumber, one.NumberOfFrames = start, some
        one.PerFrameFunctionalGroupsSequence = Items(source.PerFrameFunctionalGroupsSequence[start : start + some])
        if packed:
            one.PixelData = encapsulate(frames[start : start + some])
        elif source.BitsAllocated == 1:
            size = source.Rows * source.Columns
            bits = np.unpackbits(np.frombuffer(source.PixelData, np.uint8), bitorder="little")
            one.PixelData = np.packbits(bits[start * size : (start + some) * size], bitorder="little").tobytes()
        else:
            each = len(source.PixelData) // count
            one.PixelData = source.PixelData[start * each : (start + some) * each]
        parts.append(one)
        start += some
    if spoil:
        spoil(parts)
    paths = [folder / f"{name}{-i % 7}.dcm" for i in range(len(parts))]
    for path, one in zip(paths, parts, strict=True):
        one.save_as(path, enforce_file_format=True)
    return paths


def taken(folder: Path) -> tuple[list[Record], list[Rejected]]:
    items = [item for _, item in records.read_patient(sorted(folder.glob("*.dcm")))]
    return [i for i in items if isinstance(i, Record)], [i for i in items if isinstance(i, Rejected)]


@pytest.fixture
def whole(tmp_path: Path, write_enhanced: Any) -> Path:  # noqa: F811
    """Seven frames of random values, out of order, two echoes at none of them."""
    pixels = np.random.default_rng(1).integers(0, 4000, (7, 5, 6))
    frames = [frame_at(2.0 * z) for z in (3, 0, 6, 1, 5, 2, 4)]
    write_enhanced(tmp_path / "whole.dcm", frames, pixels, SOPInstanceUID="1.2.9")
    return tmp_path / "whole.dcm"


def same(ours: Record, folder: Path, whole: Path) -> None:
    (record,), _ = parted(whole)
    expected, payload = records.load(record, whole.parent), records.load(ours, folder)
    assert np.array_equal(payload.array, expected.array)
    assert np.array_equal(payload.to_world, expected.to_world)  # type: ignore[arg-type]
    assert {k: v for k, v in ours.attributes.items() if k != "parts"} == dict(record.attributes)
    assert ours.modality is record.modality


@pytest.mark.parametrize("counts", [(3, 4), (1, 1, 5), (2, 2, 2, 1)])
@pytest.mark.parametrize("packed", [False, True])
def test_the_parts_together_are_the_whole(tmp_path: Path, whole: Path, counts: tuple[int, ...], packed: bool) -> None:
    if packed:
        dataset = pydicom.dcmread(whole)
        dataset.compress(RLELossless, generate_instance_uid=False)
        dataset.save_as(whole)
    split(whole, tmp_path / "in", counts)
    (record,), aside = taken(tmp_path / "in")
    assert not aside
    assert record.attributes["parts"] == len(counts)
    same(record, tmp_path / "in", whole)


def test_stacks_of_a_split_object_are_a_record_each(tmp_path: Path, write_enhanced: Any) -> None:  # noqa: F811
    frames = [frame_at(z, MREchoSequence={"EffectiveEchoTime": te}) for te in (5, 9) for z in (0, 1, 2)]
    write_enhanced(tmp_path / "whole.dcm", frames, Modality="MR")
    split(tmp_path / "whole.dcm", tmp_path / "in", (4, 2))
    found, aside = taken(tmp_path / "in")
    assert not aside
    assert [r.uri.partition("&")[2] for r in found] == ["stack=1", "stack=2"]
    assert len({r.id for r in found}) == 2
    loaded = [records.load(r, tmp_path / "in").array[0, :, 0, 0].tolist() for r in found]
    assert loaded == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_a_split_segmentation_is_the_whole(tmp_path: Path, write_series: Any, kind: str) -> None:
    """Frames of one bit a pixel do not begin at a byte."""
    (tmp_path / "series").mkdir()
    images = write_series(tmp_path / "series", (11, 13))
    labels = drawn()[:, : SHAPE[0] - 1, : SHAPE[1] - 3]
    made = segmentation(tmp_path / "whole.dcm", images, labels, kind)
    split(tmp_path / "whole.dcm", tmp_path / "in", (1, int(made.NumberOfFrames) - 1))
    (record,), aside = taken(tmp_path / "in")
    assert not aside
    assert record.attributes["mask"] is True
    same(record, tmp_path / "in", tmp_path / "whole.dcm")
    assert np.array_equal(records.load(record, tmp_path / "in").array[0], labels[[1, 2, 3, 4]])


def test_a_part_that_comes_late_makes_it_whole_and_a_second_ingest_adds_nothing(tmp_path: Path, whole: Path) -> None:
    paths = split(whole, tmp_path / "parts", (3, 2, 2))
    (tmp_path / "in").mkdir()
    shutil.copy(paths[0], tmp_path / "in")
    shutil.copy(paths[2], tmp_path / "in")
    shutil.copy(whole, tmp_path / "in/other.dcm")  # so that there is a record
    cohort = ingest(tmp_path / "in", tmp_path / "c")
    assert [r.uri for r in cohort.records()] == ["other.dcm"]
    (reason,) = cohort.rejected()
    assert reason.found == "2 of 3 parts of a concatenation: missing 2"
    shutil.copy(paths[1], tmp_path / "in")
    ingest(tmp_path / "in", tmp_path / "c")
    cohort = ingest(tmp_path / "in", tmp_path / "c")
    assert not cohort.rejected()
    (record,) = cohort.records("uri <> 'other.dcm'")
    assert np.array_equal(cohort.load(record).array, cohort.load(cohort.records("uri = 'other.dcm'")[0]).array)
    assert len(list((tmp_path / "c/parts").glob("[0-9]*"))) == 2  # the third ingest wrote none
    (tmp_path / "in" / paths[1].name).unlink()
    cohort = ingest(tmp_path / "in", tmp_path / "c")
    assert [r.uri for r in cohort.records()] == ["other.dcm"]
    assert "missing 2" in "".join(r.found for r in Cohort.open(tmp_path / "c").rejected())


def test_where_no_part_says_how_many_there_are_those_from_the_first_on_are_all(tmp_path: Path, whole: Path) -> None:
    def unsaid(parts: list[Dataset]) -> None:
        for one in parts:
            del one.InConcatenationTotalNumber

    paths = split(whole, tmp_path / "in", (3, 2, 2), unsaid)
    (record,), aside = taken(tmp_path / "in")
    assert not aside
    same(record, tmp_path / "in", whole)
    paths[1].unlink()
    found, (reason,) = taken(tmp_path / "in")
    assert not found
    assert reason.found == "2 parts of a concatenation: missing 2"


def test_parts_without_a_uid_are_those_of_their_folder(tmp_path: Path, whole: Path) -> None:
    def nameless(parts: list[Dataset]) -> None:
        for one in parts:
            del one.ConcatenationUID

    split(whole, tmp_path / "in", (3, 4), nameless)
    (record,), aside = taken(tmp_path / "in")
    assert not aside
    same(record, tmp_path / "in", whole)


def test_a_part_sent_twice_and_a_part_cut_short_are_named(tmp_path: Path, whole: Path) -> None:
    paths = split(whole, tmp_path / "in", (3, 4))
    shutil.copy(paths[0], tmp_path / "in/zz.dcm")
    (record,), (again,) = taken(tmp_path / "in")
    assert (again.uri, again.found) == ("zz.dcm", "part 1 of a concatenation once more")
    same(record, tmp_path / "in", whole)
    paths[1].write_bytes(paths[1].read_bytes()[:-50])
    found, aside = taken(tmp_path / "in")
    assert not found
    assert any(r.uri == paths[1].name and "cut short" in r.found for r in aside)
    assert any(r.found == "1 of 2 parts of a concatenation: missing 2" for r in aside)


def _other_rows(parts: list[Dataset]) -> None:
    parts[1].Rows, parts[1].Columns = 6, 5


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_other_rows, "parts 1 and 2 of a concatenation with another Rows"),
        (lambda parts: setattr(parts[1], "SOPInstanceUIDOfConcatenationSource", "1.5"), "parts 1 and 2 of a "),
        (
            lambda parts: setattr(parts[1], "ConcatenationFrameOffsetNumber", 4),
            "part 2 of a concatenation that begins with frame 5, after 3 frames",
        ),
        (lambda parts: setattr(parts[1], "InConcatenationNumber", 1), "part 1 of a concatenation once more"),
        (lambda parts: setattr(parts[1], "InConcatenationNumber", 0), "part 0 of a concatenation"),
        (
            lambda parts: setattr(parts[0], "InConcatenationTotalNumber", 65535),
            "2 of 65535 parts of a concatenation: missing 3, ",
        ),
        (lambda parts: setattr(parts[1], "NumberOfFrames", 2**31 - 1), "a header that promises"),
    ],
)
def test_parts_that_do_not_fit_are_refused(tmp_path: Path, whole: Path, spoil: Spoil, reason: str) -> None:
    split(whole, tmp_path / "in", (3, 4), spoil)
    found, aside = taken(tmp_path / "in")
    assert not found
    assert any(r.found.startswith(reason) for r in aside), aside


def test_a_part_that_is_gone_since_says_so(tmp_path: Path, whole: Path) -> None:
    paths = split(whole, tmp_path / "in", (3, 4))
    (record,), _ = taken(tmp_path / "in")
    paths[1].unlink()
    with pytest.raises(records.RecordError, match="1 of 2 parts of a concatenation: missing 2"):
        records.load(record, tmp_path / "in")


def test_parts_that_no_memory_holds_are_refused_before_they_are_read(tmp_path: Path, whole: Path) -> None:
    paths = split(whole, tmp_path / "in", (3, 4))
    with paths[1].open("r+b") as file:
        file.truncate(3 * 2**30)  # a hole that takes no room
    found, (reason,) = taken(tmp_path / "in")
    assert not found
    assert reason.found.startswith("a header that promises 3.0 GiB")


def test_without_identifiers_the_parts_still_are_one(tmp_path: Path, whole: Path) -> None:
    split(whole, tmp_path / "in", (3, 4))
    (tmp_path / "key").write_bytes(b"0123456789abcdef" * 2)
    deidentify(tmp_path / "in", tmp_path / "out", tmp_path / "key")
    (record,), aside = taken(tmp_path / "out")
    assert not aside
    assert record.attributes["parts"] == 2
    expected = records.load(next(r for r in parted(whole)[0]), tmp_path)
    assert np.array_equal(records.load(record, tmp_path / "out").array, expected.array)
