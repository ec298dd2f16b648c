from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    UID,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
    VLWholeSlideMicroscopyImageStorage,
    generate_uid,
)

from polyclinic import records
from polyclinic.cohort import ingest
from polyclinic.records import slide
from polyclinic.records.source import RecordError
from polyclinic.schema import Events, Modality, Payload, Record, Rejected

PLAIN = "1.2.840.10008.1.2.1"
SERIES = "1.2.826.0.1.3680043.8.498.77"


def picture(rows: int, columns: int) -> np.ndarray:
    y, x = np.mgrid[:rows, :columns]
    return np.stack([x * 255 // columns, y * 255 // rows, (x + y) % 97 + 100], axis=2).astype(np.uint8)


def tiles_of(array: np.ndarray, size: int) -> list[np.ndarray]:
    rows, columns = (-(-n // size) * size for n in array.shape[:2])
    whole = np.pad(array, ((0, rows - array.shape[0]), (0, columns - array.shape[1]), (0, 0)))
    return [whole[y : y + size, x : x + size] for y in range(0, rows, size) for x in range(0, columns, size)]


def item(**values: object) -> Items:
    one = Dataset()
    for keyword, value in values.items():
        setattr(one, keyword, value)
    return Items([one])


def header(array: np.ndarray, size: int, mpp: float, syntax: str) -> FileDataset:
    """Of a brightfield level, as PS3.3 A.32.8 wants it and no more."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = VLWholeSlideMicroscopyImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = UID(syntax)
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = VLWholeSlideMicroscopyImageStorage, meta.MediaStorageSOPInstanceUID
    dataset.PatientID, dataset.Modality, dataset.SeriesInstanceUID, dataset.StudyInstanceUID = "P7", "SM", SERIES, "1.2"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    dataset.Rows = dataset.Columns = size
    dataset.TotalPixelMatrixRows, dataset.TotalPixelMatrixColumns = array.shape[:2]
    dataset.SamplesPerPixel = array.shape[2]
    dataset.PhotometricInterpretation = "RGB" if array.shape[2] == 3 else "MONOCHROME2"
    dataset.PlanarConfiguration = 0
    bits = array.dtype.itemsize * 8
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = bits, bits, bits - 1, 0
    dataset.DimensionOrganizationType = "TILED_FULL"
    dataset.TotalPixelMatrixFocalPlanes = dataset.NumberOfOpticalPaths = 1
    dataset.ImageOrientationSlide = [0, -1, 0, -1, 0, 0]
    dataset.TotalPixelMatrixOriginSequence = item(
        XOffsetInSlideCoordinateSystem=20.5, YOffsetInSlideCoordinateSystem=40.25
    )
    dataset.OpticalPathSequence = item(OpticalPathIdentifier="1", ObjectiveLensPower=20)
    measures = item(PixelSpacing=[mpp / 1000, mpp / 1000], SliceThickness=0.003)
    dataset.SharedFunctionalGroupsSequence = item(PixelMeasuresSequence=measures)
    return dataset


def packed(tile: np.ndarray, syntax: str, dataset: FileDataset) -> bytes:
    if syntax == JPEGBaseline8Bit:
        buffer = io.BytesIO()
        Image.fromarray(tile).save(buffer, "JPEG", quality=92, subsampling="4:2:2")
        dataset.PhotometricInterpretation = "YBR_FULL_422"
        return buffer.getvalue()
    from highdicom.frame import encode_frame

    if syntax == JPEG2000Lossless:
        dataset.PhotometricInterpretation = "YBR_RCT"
    return encode_frame(
        tile, syntax, bits_allocated=dataset.BitsAllocated, bits_stored=dataset.BitsStored,
        photometric_interpretation=dataset.PhotometricInterpretation, pixel_representation=0, planar_configuration=0,
    )  # fmt: skip


def write_level(
    path: Path, array: np.ndarray, size: int = 64, mpp: float = 0.5, syntax: str = PLAIN, table: str = "basic",
    frames: Sequence[np.ndarray] | None = None, fragments: int = 1, **attributes: object,
) -> FileDataset:  # fmt: skip
    """One instance; `frames` are its tiles if those are not the picture's, row by row."""
    dataset = header(array, size, mpp, syntax)
    tiles = tiles_of(array, size) if frames is None else list(frames)
    dataset.NumberOfFrames = len(tiles)
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        data = [packed(np.ascontiguousarray(tile), syntax, dataset) for tile in tiles]
        if table == "extended":
            dataset.PixelData, dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = encapsulate_extended(
                data
            )
        else:
            dataset.PixelData = encapsulate(data, fragments_per_frame=fragments, has_bot=table == "basic")
        dataset["PixelData"].is_undefined_length = True
        dataset["PixelData"].VR = "OB"
    else:
        dataset.PixelData = b"".join(np.ascontiguousarray(tile).tobytes() for tile in tiles)
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path, enforce_file_format=True)
    return dataset


def sparse(places: Sequence[tuple[int, int]], **more: Sequence[object]) -> dict[str, Any]:
    """The functional groups of frames at (x, y) in pixels from 0, and their heights and optical paths."""
    rows = []
    for number, (x, y) in enumerate(places):
        place: dict[str, Any] = {
            "ColumnPositionInTotalImagePixelMatrix": x + 1,
            "RowPositionInTotalImagePixelMatrix": y + 1,
            "ZOffsetInSlideCoordinateSystem": more["z"][number] if "z" in more else 0,
        }
        one = Dataset()
        one.PlanePositionSlideSequence = item(**place)
        if "path" in more:
            one.OpticalPathIdentificationSequence = item(OpticalPathIdentifier=more["path"][number])
        rows.append(one)
    return {"DimensionOrganizationType": "TILED_SPARSE", "PerFrameFunctionalGroupsSequence": Items(rows)}


def read(folder: Path) -> list[Record | Rejected]:
    files = sorted(p for p in folder.iterdir() if p.is_file())
    every = (one for group in records.together(files) for one in records.read_together(group, folder))
    return [one for one in every if not isinstance(one, Events)]


def only(folder: Path) -> Record:
    (record,) = [one for one in read(folder) if isinstance(one, Record)]
    return record


def reasons(folder: Path) -> list[str]:
    return [one.found for one in read(folder) if isinstance(one, Rejected)]


def load(folder: Path) -> Payload:
    return records.load(only(folder), folder)


def at(record: Record, folder: Path) -> Record:
    place, fragment = records.split_uri(record.uri)
    return replace(record, uri=str(folder / place) + (f"#{fragment}" if fragment else ""))


@pytest.mark.parametrize(
    "name",
    ["sm_image", "sm_image_dots", "sm_image_numbers", "sm_image_jpegls", "sm_image_jpegls_nobot", "sm_image_grayscale"],
)
def test_a_real_slide_is_what_highdicom_reads(shared_data: Path, name: str) -> None:
    path = shared_data / f"dicom-objects/{name}.dcm"
    (record,) = records.read(path)
    assert isinstance(record, Record), record
    assert record.modality is Modality.SLIDE
    assert record.kind == ("SM slide" if "gray" in name else "SM slide H&E")
    payload = records.load(record, path.parent)
    reference = highdicom.imread(path).get_total_pixel_matrix()
    reference = reference[..., None] if reference.ndim == 2 else reference
    assert np.array_equal(payload.array, reference.transpose(2, 0, 1))
    dataset = pydicom.dcmread(path)
    assert record.patient == dataset.PatientID
    assert record.attributes["mpp"] == pytest.approx(0.499)
    assert payload.to_world is not None
    mapped = highdicom.spatial.PixelToReferenceTransformer(
        image_position=[dataset.TotalPixelMatrixOriginSequence[0].XOffsetInSlideCoordinateSystem,
                        dataset.TotalPixelMatrixOriginSequence[0].YOffsetInSlideCoordinateSystem, 0],
        image_orientation=dataset.ImageOrientationSlide,
        pixel_spacing=dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing,
    )  # fmt: skip
    points = np.array([[0, 0], [49, 0], [7, 33]])
    ours = np.column_stack([points, np.zeros(3), np.ones(3)]) @ payload.to_world.T
    assert np.abs(ours[:, :2] - mapped(points)[:, :2]).max() < 1e-6


@pytest.mark.parametrize("table", ["basic", "extended", "none"])
@pytest.mark.parametrize("syntax", [PLAIN, JPEGLSLossless, JPEG2000Lossless, RLELossless, JPEGBaseline8Bit])
def test_every_packing_gives_its_pixels(tmp_path: Path, syntax: str, table: str) -> None:
    array = picture(150, 200)
    write_level(tmp_path / "a.dcm", array, syntax=syntax, table=table)
    seen = load(tmp_path).array.transpose(1, 2, 0)
    if syntax == JPEGBaseline8Bit:
        assert np.abs(seen - array.astype(float))[..., :2].mean() < 3
    else:
        assert np.array_equal(seen, array)


@pytest.mark.parametrize("table", ["basic", "none"])
def test_a_frame_in_several_fragments_needs_its_table(tmp_path: Path, table: str) -> None:
    array = picture(128, 128)
    write_level(tmp_path / "a.dcm", array, syntax=JPEGLSLossless, table=table, fragments=2)
    if table == "basic":
        assert np.array_equal(load(tmp_path).array.transpose(1, 2, 0), array)
    else:
        assert reasons(tmp_path)[0].startswith("pixel data that was cut short")


def test_sparse_tiles_lie_where_they_say_and_the_rest_is_glass(tmp_path: Path) -> None:
    array = picture(200, 200)
    places = [(130, 10), (0, 0), (64, 128)]  # in no order, and one off any grid
    frames = [array[y : y + 64, x : x + 64] for x, y in places]
    write_level(tmp_path / "a.dcm", array, frames=frames, **sparse(places))
    expected = np.full_like(array, 255)
    for (x, y), frame in zip(places, frames, strict=True):
        expected[y : y + 64, x : x + 64] = frame
    assert np.array_equal(load(tmp_path).array.transpose(1, 2, 0), expected)


def levels(folder: Path, size: int = 1024, **attributes: Any) -> np.ndarray:
    """Three levels of one slide, with what a scanner writes beside them; the names say nothing of the order."""
    array = picture(size, size)
    for name, by in (("b", 1), ("c", 4), ("a", 16)):
        write_level(folder / f"{name}.dcm", array[::by, ::by], mpp=0.5 * by, **attributes)
    for name, role in (("d", "LABEL"), ("e", "OVERVIEW"), ("f", "THUMBNAIL")):
        write_level(folder / f"{name}.dcm", array[:64, :64], ImageType=["ORIGINAL", "PRIMARY", role, "NONE"])
    return array


def test_the_levels_of_a_series_are_one_slide_without_its_label(tmp_path: Path) -> None:
    (tmp_path / "scan").mkdir()
    array = levels(tmp_path / "scan")
    found = [
        one
        for g in records.together(sorted((tmp_path / "scan").iterdir()))
        for one in records.read_together(g, tmp_path)
    ]
    (record,) = found
    assert isinstance(record, Record)
    assert record.uri == f"scan#series={SERIES}"
    assert record.patient == "P7"
    assert [record.attributes[k] for k in ("levels", "width", "downsamples", "magnification")] == [
        3,
        1024,
        "1 4 16",
        20.0,
    ]
    assert record.attributes["associated"] == "label overview thumbnail"
    assert (record.attributes["rows"], record.attributes["columns"]) == (1024, 1024)
    seen = slide.region(at(record, tmp_path), 100, 200, (50, 60))
    assert np.array_equal(seen, array[200:260, 100:150])
    assert np.array_equal(slide.region(at(record, tmp_path), 0, 0, (64, 64), mpp=8.0), array[::16, ::16])


def test_a_slide_survives_ingest_and_a_level_that_comes_late(tmp_path: Path) -> None:
    (tmp_path / "in/scan").mkdir(parents=True)
    write_level(tmp_path / "in/scan/a.dcm", picture(512, 512))
    cohort = ingest(tmp_path / "in", tmp_path / "out")
    assert [r.attributes["levels"] for r in cohort.records()] == [1]
    write_level(tmp_path / "in/scan/b.dcm", picture(512, 512)[::4, ::4], mpp=2.0)
    cohort = ingest(tmp_path / "in", tmp_path / "out")
    assert [r.attributes["levels"] for r in cohort.records()] == [2]
    assert cohort.load(cohort.records()[0]).array.shape == (3, 512, 512)


def test_a_label_alone_is_no_record(tmp_path: Path) -> None:
    write_level(tmp_path / "a.dcm", picture(64, 64), ImageType=["ORIGINAL", "PRIMARY", "LABEL", "NONE"])
    assert reasons(tmp_path) == ["a slide's label alone"]
    write_level(tmp_path / "a.dcm", picture(64, 64), SpecimenLabelInImage="YES")
    assert reasons(tmp_path) == ["a slide with its label in the picture"]


def test_a_concatenation_is_one_level_and_wants_all_its_parts(tmp_path: Path) -> None:
    array = picture(128, 192)
    tiles = tiles_of(array, 64)
    for number, part in enumerate((tiles[:2], tiles[2:5], tiles[5:]), start=1):
        write_level(
            tmp_path / f"{9 - number}.dcm", array, frames=part, ConcatenationUID="1.2.3.4", InConcatenationNumber=number,
            InConcatenationTotalNumber=3, ConcatenationFrameOffsetNumber=(0, 2, 5)[number - 1],
        )  # fmt: skip
    assert np.array_equal(load(tmp_path).array.transpose(1, 2, 0), array)
    (tmp_path / "7.dcm").unlink()  # the second
    assert set(reasons(tmp_path)) == {"2 of 3 parts of a concatenation"}


def test_of_focal_planes_the_middle_one_and_of_optical_paths_the_first(tmp_path: Path) -> None:
    array = picture(64, 128)
    flat = lambda value: [np.full((64, 64, 3), value, np.uint8)] * 2
    (tmp_path / "full").mkdir()
    stack = [tile for value in (10, 20, 30, 110, 120, 130) for tile in flat(value)]  # by plane, then by path
    write_level(tmp_path / "full/a.dcm", array, frames=stack, TotalPixelMatrixFocalPlanes=3, NumberOfOpticalPaths=2)
    (tmp_path / "sparse").mkdir()
    rows = [(x, z, p) for p in ("2", "1") for z in (0.002, 0.0, 0.001) for x in (0, 64)]
    values = {("1", 0.0): 10, ("1", 0.001): 20, ("1", 0.002): 30}
    frames = [np.full((64, 64, 3), values.get((p, z), 200), np.uint8) for _, z, p in rows]
    about = sparse([(x, 0) for x, _, _ in rows], z=[z for _, z, _ in rows], path=[p for *_, p in rows])
    write_level(tmp_path / "sparse/a.dcm", array, frames=frames, **about)
    for name in ("full", "sparse"):
        record = only(tmp_path / name)
        assert [record.attributes[k] for k in ("focal_planes", "optical_paths")] == [3, 2]
        assert (records.load(record, tmp_path / name).array == 20).all()


def test_grey_slides_keep_their_depth_and_white_is_bright(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 4096, (100, 90, 1)).astype(np.uint16)
    write_level(tmp_path / "a.dcm", array, BitsStored=12, HighBit=11)
    assert np.array_equal(load(tmp_path).array[0], array[..., 0])
    write_level(tmp_path / "a.dcm", array, BitsStored=12, HighBit=11, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(load(tmp_path).array[0], 4095 - array[..., 0])


def test_the_place_of_a_slide_is_its_own(tmp_path: Path) -> None:
    write_level(tmp_path / "a.dcm", picture(64, 64))
    world = load(tmp_path).to_world
    assert world is not None
    # Columns run along -y and rows along -x of the slide, from its origin, which is the first pixel.
    assert world @ [10, 3, 0, 1] == pytest.approx([20.5 - 3 * 0.0005, 40.25 - 10 * 0.0005, 0, 1])
    write_level(tmp_path / "a.dcm", picture(64, 64), ImageOrientationSlide=[1, 0, 0, 1, 0, 0])
    assert reasons(tmp_path) == ["a slide whose orientation is none"]
    sides: dict[str, Any] = {"ImagedVolumeWidth": 0.032, "ImagedVolumeHeight": 0.032}
    write_level(tmp_path / "a.dcm", picture(64, 64), SharedFunctionalGroupsSequence=item(), **sides)
    assert only(tmp_path).attributes["mpp"] == pytest.approx(0.5, rel=1e-5)
    write_level(tmp_path / "a.dcm", picture(64, 64), SharedFunctionalGroupsSequence=item())
    assert only(tmp_path).attributes["mpp"] is None
    assert load(tmp_path).to_world is None


def test_what_is_no_level_of_the_slide_is_set_aside(tmp_path: Path) -> None:
    array = picture(256, 256)
    write_level(tmp_path / "a.dcm", array, InstanceNumber=1)
    write_level(tmp_path / "b.dcm", array, InstanceNumber=2)
    write_level(tmp_path / "c.dcm", array[:, ::4], InstanceNumber=3)
    write_level(tmp_path / "d.dcm", array[::4, ::4, :1], InstanceNumber=4)
    data = (tmp_path / "a.dcm").read_bytes()
    (tmp_path / "e.dcm").write_bytes(data)
    write_level(tmp_path / "f.dcm", array[::2, ::2])
    (tmp_path / "f.dcm").write_bytes((tmp_path / "f.dcm").read_bytes()[:-999])
    assert only(tmp_path).attributes["levels"] == 1
    found = sorted(reasons(tmp_path))
    assert [reason.split(":")[0] for reason in found] == [
        "a level of another aspect than the finest",
        "a level of another depth or colour than the finest",
        "a level of the size of another",
        "an instance that is there twice",
        "pixel data that was cut short",
    ]
    assert np.array_equal(load(tmp_path).array.transpose(1, 2, 0), array)


def coded(value: str, meaning: str, scheme: str = "SCT") -> Items:
    return item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


@pytest.mark.parametrize(
    ("substances", "stain"),
    [
        (["hematoxylin stain", "water soluble eosin stain"], "H&E"),
        (["hematoxylin stain"], "hematoxylin"),
        (["hematoxylin stain", "Ki-67"], "hematoxylin, ki-67"),
        ([], None),
    ],
)
def test_the_stain_is_what_the_preparation_says_in_codes(
    tmp_path: Path, substances: list[str], stain: str | None
) -> None:
    def step(kind: str, *values: str) -> Dataset:
        content = [
            item(
                ConceptNameCodeSequence=coded("111701", "Processing type", "DCM"), ConceptCodeSequence=coded(kind, "x")
            )[0]
        ]
        content += [
            item(
                ConceptNameCodeSequence=coded("424361007", "Using substance"), ConceptCodeSequence=coded(str(i), value)
            )[0]
            for i, value in enumerate(values)
        ]
        one = Dataset()
        one.SpecimenPreparationStepContentItemSequence = Items(content)
        return one

    steps = Items([step("433465004", "formalin"), step("127790008", *substances)])  # sampling, staining
    write_level(
        tmp_path / "a.dcm", picture(64, 64), SpecimenDescriptionSequence=item(SpecimenPreparationSequence=steps)
    )
    record = only(tmp_path)
    assert record.attributes["stain"] == stain
    assert record.kind == " ".join(filter(None, ("SM slide", stain)))


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"NumberOfFrames": 2**31 - 1}, "pixel data that was cut short"),
        ({"NumberOfFrames": 3}, "3 frames for 2 × 2 tiles"),
        ({"TotalPixelMatrixRows": 2**31, "TotalPixelMatrixColumns": 2**31}, "4 frames for"),
        ({"Rows": 60_000, "Columns": 60_000}, "frames of 60000 × 60000 pixels"),
        ({"TotalPixelMatrixRows": 0}, "a slide without TotalPixelMatrixRows"),
        ({"BitsAllocated": 32}, "a slide of 32 bits"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "a slide of 3 samples a pixel, PALETTE COLOR"),
        (sparse([(0, 0)]), "4 frames with functional groups for 1"),
        ({"PixelData": None}, "a slide without pixel data"),
    ],
)
def test_a_header_that_promises_what_is_not_there_is_refused(
    tmp_path: Path, attributes: dict[str, object], reason: str
) -> None:
    dataset = write_level(tmp_path / "a.dcm", picture(128, 128))
    for keyword, value in attributes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    dataset.save_as(tmp_path / "a.dcm")
    (found,) = reasons(tmp_path)
    assert found.startswith(reason)


def test_a_slide_of_empty_space_without_a_coarse_level_is_refused(tmp_path: Path) -> None:
    frame = np.zeros((64, 64, 3), np.uint8)
    about: dict[str, Any] = {"TotalPixelMatrixRows": 2**31, "TotalPixelMatrixColumns": 2**31} | sparse([(0, 0)])
    write_level(tmp_path / "a.dcm", picture(64, 64), frames=[frame], **about)
    assert reasons(tmp_path)[0].startswith("a slide without a level coarser than 2147483648")


def test_a_packed_frame_of_another_size_is_refused(tmp_path: Path) -> None:
    write_level(tmp_path / "a.dcm", picture(128, 128), syntax=JPEGBaseline8Bit)
    data = bytearray((tmp_path / "a.dcm").read_bytes())
    frame = data.rindex(b"\xff\xc0\x00\x11\x08")
    data[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"
    (tmp_path / "a.dcm").write_bytes(data)
    assert reasons(tmp_path) == ["a frame of 65535 × 65535 pixels under a header of 64 × 64"]


@pytest.mark.parametrize("syntax", [PLAIN, JPEGLSLossless])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.98])
def test_a_slide_that_was_cut_short_is_refused(tmp_path: Path, share: float, syntax: str) -> None:
    write_level(tmp_path / "a.dcm", picture(256, 256), syntax=syntax)
    data = (tmp_path / "a.dcm").read_bytes()
    (tmp_path / "a.dcm").write_bytes(data[: int(len(data) * share)])
    assert not [one for one in read(tmp_path) if isinstance(one, Record)]


@pytest.mark.parametrize("seed", range(20))
def test_damaged_bytes_never_crash(tmp_path: Path, seed: int) -> None:
    write_level(tmp_path / "a.dcm", picture(128, 128), syntax=JPEGLSLossless if seed % 2 else PLAIN)
    random = np.random.default_rng(seed)
    data = np.fromfile(tmp_path / "a.dcm", np.uint8)
    data[(len(data) * random.random(6) ** 3).astype(int)] = random.integers(0, 256, 6)
    data.tofile(tmp_path / "a.dcm")
    for one in read(tmp_path):
        if isinstance(one, Record):
            with suppress(RecordError):
                records.load(one, tmp_path)


def test_its_gigabytes_are_not_read_for_a_patch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from polyclinic.records.dicom_frames import Frames

    levels(tmp_path)
    record = at(only(tmp_path), tmp_path)
    decoded: list[int] = []
    kept = Frames.pixels
    monkeypatch.setattr(Frames, "pixels", lambda self, number: (decoded.append(number), kept(self, number))[1])
    slide.region(record, 100, 100, (40, 40))
    assert sorted(decoded) == [17, 18, 33, 34]  # of 256: the four of 64 × 64 that it touches
