"""Elements found by their places are those that pydicom reads; a file of which that is not sure is left to pydicom."""

from __future__ import annotations

import copy
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_partial
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from polyclinic import records
from polyclinic.records import dicom
from polyclinic.records.dicom_elements import Elements, elements
from polyclinic.records.dicom_header import HEAD, plane_of, silent
from polyclinic.schema import Record, Rejected

FOLDER = Path(str(get_testdata_file("CT_small.dcm", download=False))).parent
FRAMES = 0x00280008


def told(ask: Callable[[], Any]) -> str:
    """The answer, or what was raised."""
    try:
        return repr(ask())
    except LookupError:
        raise
    except Exception as error:
        return type(error).__name__


def assert_as_pydicom_has_them(found: Elements, dataset: Any) -> None:
    """The same elements, each with the same VR and bytes, and the same value unless it depends on others."""
    assert set(found.places) == set(dataset.keys())
    for tag in list(dataset.keys()):
        element = dataset.get_item(tag)
        vr, start, end = found.places[tag]
        if isinstance(element, RawDataElement):
            assert (element.VR, element.value or b"") == (vr, found.data[start:end])
        keyword = keyword_for_tag(tag)
        if keyword and keyword != "PixelData":
            try:
                mine = told(lambda k=keyword: found.get(k))
            except LookupError:
                continue
            assert mine == told(lambda k=keyword: dataset.get(k))


@silent
def compare(data: bytes) -> bool:
    """Whether the file is plain; what is found is what pydicom finds, whole and up to the number of frames."""
    if found := elements(data):
        dataset = pydicom.dcmread(BytesIO(data))
        assert_as_pydicom_has_them(found, dataset)
        assert found.file_meta is not None
        assert_as_pydicom_has_them(found.file_meta, dataset.file_meta)
        if "PixelData" in dataset:
            assert bytes(found.PixelData) == dataset.PixelData
    if head := elements(data[:HEAD], FRAMES):
        stop = lambda tag, vr, length: tag > FRAMES
        assert_as_pydicom_has_them(head, read_partial(BytesIO(data), stop_when=stop))
    return found is not None


def test_every_file_of_pydicom_has_the_elements_that_pydicom_finds() -> None:
    files = [*FOLDER.glob("*.dcm"), *(FOLDER.parent / "charset_files").glob("*.dcm")]
    plain = {path.name for path in files if compare(path.read_bytes())}
    assert len(plain) > 70
    assert {"CT_small.dcm", "MR_small_implicit.dcm", "MR_small_RLE.dcm", "693_J2KI.dcm", "JPEG-lossy.dcm"} <= plain


def test_real_series_and_objects_have_the_elements_that_pydicom_finds(shared_data: Path) -> None:
    for folder in ("ct-organs/example_ct_dicom", "dicom-objects"):
        assert all(compare(path.read_bytes()) for path in (shared_data / folder).glob("*.dcm"))


@pytest.mark.parametrize(
    "name",
    [
        "MR_small_bigendian.dcm", "image_dfl.dcm", "no_meta.dcm", "meta_missing_tsyntax.dcm", "UN_sequence.dcm",
        "nested_priv_SQ.dcm", "rtplan_truncated.dcm", "MR_truncated.dcm",
    ],
)  # fmt: skip
def test_what_is_unusual_is_left_to_pydicom(name: str) -> None:
    assert elements((FOLDER / name).read_bytes()) is None


@pytest.mark.parametrize("name", [b"ISO_IR\x00100", b"iso-8859\xff1"])
def test_a_charset_whose_name_is_none_is_left_to_pydicom(name: bytes) -> None:
    whole = (FOLDER / "CT_small.dcm").read_bytes()
    assert whole.count(b"ISO_IR 100") == 1
    assert elements(whole) is not None
    assert elements(whole.replace(b"ISO_IR 100", name)) is None


def slices(kind: str) -> list[bytes]:
    """Five small slices of one series, written in one of the ways that there are."""
    made = []
    for number in range(5):
        data: Any = pydicom.dcmread(FOLDER / "CT_small.dcm")
        pixels = data.pixel_array[::8, ::8].copy()
        del data[0xFFFCFFFC]  # padding
        data.Rows, data.Columns = pixels.shape
        data.PixelData = pixels.tobytes()
        data.ImagePositionPatient = [*data.ImagePositionPatient[:2], 5.0 * number]
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"1.2.{number + 1}"
        data.SpecificCharacterSet, data.InstitutionName = "ISO_IR 192", "Spital Zürich"
        inner, outer = Dataset(), Dataset()
        inner.CodeValue, inner.CodeMeaning = "1", "one"
        outer.ConceptNameCodeSequence, outer.CodeValue = [inner, Dataset()], "2"
        data.ProcedureCodeSequence = [outer, copy.deepcopy(outer)]
        if kind.startswith("delimited"):
            data["ProcedureCodeSequence"].is_undefined_length = True
            for item in data.ProcedureCodeSequence:
                item.is_undefined_length_sequence_item = True
                item["ConceptNameCodeSequence"].is_undefined_length = True
        if kind == "packed":
            data.compress(RLELossless, generate_instance_uid=False)
        else:
            implicit, deflated = kind.endswith("implicit"), kind == "deflated"
            explicit = DeflatedExplicitVRLittleEndian if deflated else ExplicitVRLittleEndian
            data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
        file = BytesIO()
        data.save_as(file, enforce_file_format=True)
        made.append(file.getvalue())
    return made


KINDS = ("explicit", "implicit", "delimited", "delimited implicit", "packed", "deflated")
PLAIN = {kind: slices(kind) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_every_way_to_write_a_slice(kind: str) -> None:
    assert compare(PLAIN[kind][0]) == (kind != "deflated")


@st.composite
def broken(draw: st.DrawFn, kinds: tuple[str, ...] = KINDS[:5]) -> bytes:
    """A slice of which bytes are changed, lost, doubled or cut off."""
    data = bytearray(draw(st.sampled_from([PLAIN[kind][0] for kind in kinds])))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(128, len(data) - 1))
        count = draw(st.integers(1, 12))
        how = draw(st.sampled_from(["bit", "byte", "lost", "doubled", "vr", "length", "cut"]))
        if how == "bit":
            data[place] ^= 1 << draw(st.integers(0, 7))
        elif how == "byte":
            data[place] = draw(st.sampled_from([0, 1, 0x20, 0x41, 0xE0, 0xFE, 0xFF]))
        elif how == "lost":
            del data[place : place + count]
        elif how == "doubled":
            data[place:place] = data[place : place + count]
        elif how == "vr":
            data[place : place + 2] = draw(st.sampled_from([b"SQ", b"UN", b"OB", b"UT", b"US", b"XX", b"\0\0"]))
        elif how == "length":
            data[place : place + 4] = draw(st.sampled_from([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\2\0\0\0"]))
        elif draw(st.booleans()):
            del data[place:]
        if len(data) < 140:
            break
    return bytes(data)


@given(broken())
def test_of_a_broken_file_nothing_else_is_found_than_pydicom_finds(data: bytes) -> None:
    compare(data)


def items(folder: Path) -> list[Record | Rejected]:
    return [item for _, item in records.read_patient(sorted(folder.iterdir()))]


def without_elements(folder: Path) -> list[Record | Rejected]:
    """What pydicom alone makes of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dicom, "elements", lambda data: None)
        patch.setattr(dicom, "beginning", lambda head: None)
        return items(folder)


def laid_out(folder: Path, files: list[bytes]) -> Path:
    folder.mkdir()
    for number, data in enumerate(files):
        (folder / f"{number}.dcm").write_bytes(data)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_series_is_the_record_that_it_is_by_pydicom_alone(tmp_path: Path, kind: str) -> None:
    folder = laid_out(tmp_path / "a", PLAIN[kind])
    (record,) = found = items(folder)
    assert found == without_elements(folder)
    assert isinstance(record, Record)
    assert (record.attributes["slices"], record.site) == (5, "Spital Zürich")
    volume = records.load(record, folder).array[0]
    assert np.array_equal(volume[2:3], dicom.dicom_pixels.image(pydicom.dcmread(BytesIO(PLAIN[kind][2]))))


@given(kind=st.sampled_from(KINDS[:5]), data=st.data())
def test_a_broken_slice_is_set_aside_as_it_is_by_pydicom_alone(
    tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject
) -> None:
    files = [data.draw(broken((kind,))), *PLAIN[kind][1:4], data.draw(broken((kind,)))]
    folder = laid_out(tmp_path_factory.mktemp("broken") / "a", files)
    assert items(folder) == without_elements(folder)


@pytest.mark.parametrize("number", [0, 2, 4])
def test_a_slice_that_is_described_unlike_the_first_is_decoded_too(tmp_path: Path, number: int) -> None:
    folder = laid_out(tmp_path / "a", PLAIN["explicit"])
    odd: Any = pydicom.dcmread(folder / f"{number}.dcm")
    del odd.PixelRepresentation
    odd.save_as(folder / f"{number}.dcm")
    reasons = {item.uri: item.found for item in items(folder) if isinstance(item, Rejected)}
    assert "pixels that do not decode" in reasons[f"{number}.dcm"]
    kept = [item.attributes["slices"] for item in items(folder) if isinstance(item, Record)]
    assert kept == ([] if number == 2 else [4])  # two and two beside a gap are no volume


def test_packed_pixels_are_decoded_each_by_itself(tmp_path: Path) -> None:
    last = bytearray(PLAIN["packed"][4])
    at = last.rfind(b"\xfe\xff\x00\xe0") + 8
    last[at : at + 12] = b"\x02\0\0\0\xff\xff\0\0\xff\xff\0\0"  # of its RLE header: two segments that begin nowhere
    reason, record = items(laid_out(tmp_path / "a", [*PLAIN["packed"][:4], bytes(last)]))
    assert isinstance(reason, Rejected)
    assert isinstance(record, Record)
    assert "pixels that do not decode" in reason.found
    assert (reason.uri, record.attributes["slices"]) == ("4.dcm", 4)


def test_what_is_asked_of_elements() -> None:
    found = elements(PLAIN["explicit"][0])
    assert found is not None
    assert (found.Rows, found.get("Modality"), found.get("NumberOfFrames", 7)) == (16, "CT", 7)
    assert "ProcedureCodeSequence" in found
    with pytest.raises(LookupError):
        found.get("ProcedureCodeSequence")
    with pytest.raises(AttributeError):
        _ = found.NumberOfFrames
    with pytest.raises(AttributeError):
        _ = found.NoKeyword


def test_a_head_that_ends_before_it_says_all_is_not_judged() -> None:
    data = PLAIN["explicit"][0]
    found = elements(data)
    assert found is not None
    ends = max(end for tag, (_, _, end) in found.places.items() if tag <= FRAMES)
    assert elements(data[:ends], FRAMES) is None
    assert elements(data[: ends + 8], FRAMES) is not None


@pytest.mark.parametrize(
    "wrong", [["nan"] * 6, [1, 0, 0, 0, "nan", 0], [1, 0, 0, 1, 0, 0], [1, 0, 0, 0, 1], [2, 0, 0, 0, 2, 0]]
)
def test_cosines_that_are_none_give_no_plane(wrong: list[Any]) -> None:
    said: dict[str, list[Any]] = {"ImagePositionPatient": [0, 0, 0], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
    assert plane_of(said) is not None
    assert plane_of(said | {"ImageOrientationPatient": wrong}) is None
    assert plane_of(said | {"ImagePositionPatient": [0, "inf", 0]}) is None
