from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import tifffile

from polyclinic import records
from polyclinic.cohort import ingest
from polyclinic.records import slide
from polyclinic.records.source import RecordError
from polyclinic.schema import Modality, Record
from reading import load, only, refused

DESCRIPTION = "Aperio Image Library v11.2.1 \r\n1536x2048 [0,0 1536x2048] (256x256) JPEG/RGB Q=70|AppMag = 20|MPP = 0.4990|Filename = X"


def picture(rows: int = 2048, columns: int = 1536) -> np.ndarray:
    """Smooth, so that JPEG keeps it: red grows to the right, green downwards."""
    y, x = np.mgrid[:rows, :columns]
    return np.stack([x * 255 // columns, y * 255 // rows, (x + y) % 97 + 100], axis=2).astype(np.uint8)


def halved(array: np.ndarray, by: int) -> np.ndarray:
    rows, columns = array.shape[0] // by, array.shape[1] // by
    return array[: rows * by, : columns * by].reshape(rows, by, columns, by, -1).mean(axis=(1, 3)).astype(array.dtype)


def write_svs(path: Path, array: np.ndarray, compression: str = "jpeg") -> None:
    """As Aperio's scanners write it: level 0, a thumbnail, the other levels, label and macro."""
    options: dict[str, Any] = {"photometric": "rgb", "metadata": None}
    with tifffile.TiffWriter(path) as file:
        file.write(array, tile=(256, 256), compression=compression, description=DESCRIPTION, **options)
        file.write(halved(array, 8), description="Aperio\r\nthumbnail", rowsperstrip=16, **options)
        file.write(halved(array, 4), tile=(256, 256), compression=compression, description="Aperio\r\nlevel", **options)
        file.write(array[:100, :200], description="Aperio\r\nlabel 200x100", subfiletype=1, **options)
        file.write(array[:100, :300], description="Aperio\r\nmacro 300x100", subfiletype=9, **options)


def write_pyramid(path: Path, array: np.ndarray, sub: bool = False, tags: bool = True, **options: Any) -> None:
    """A plain pyramid of three levels, as pages or as OME has them, in SubIFDs."""
    rgb: dict[str, Any] = {"photometric": "rgb" if array.ndim == 3 else "minisblack"}
    with tifffile.TiffWriter(path, bigtiff=True, ome=False) as file:
        about: dict[str, Any] = {"tile": (128, 128), "metadata": None} | rgb | options
        first: Any = about | {"subifds": 2 if sub else 0}
        file.write(array, **first)
        about.pop("description", None)
        for by in (2, 4):
            level = halved(array, by)
            file.write(level.reshape(level.shape[: array.ndim]), subfiletype=1 if tags else 0, **about)


def here(path: Path) -> Record:
    """A record whose uri is a path, as `slide.region` wants it."""
    from dataclasses import replace

    return replace(only(path), uri=str(path))


@pytest.fixture(scope="module")
def svs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("svs") / "TCGA-A2-A3XS-01Z-00-DX1.1A2B.svs"
    write_svs(path, picture())
    return path


def test_a_scanners_slide_says_what_openslide_knows_of_it(svs: Path) -> None:
    record = only(svs)
    assert record.modality is Modality.SLIDE
    assert (record.kind, record.patient, record.device) == ("SM slide", "TCGA-A2-A3XS", "aperio")
    with openslide.OpenSlide(svs) as reference:
        assert (record.attributes["width"], record.attributes["height"]) == reference.dimensions
        assert record.attributes["levels"] == reference.level_count
        assert record.attributes["mpp"] == pytest.approx(float(reference.properties["openslide.mpp-x"]))
        assert record.attributes["magnification"] == 20.0
        assert record.attributes["associated"] == " ".join(sorted(reference.associated_images))


def test_its_overview_is_the_level_that_openslide_gives_and_lies_where_it_is(svs: Path) -> None:
    payload = load(svs)
    with openslide.OpenSlide(svs) as reference:
        expected = np.asarray(reference.read_region((0, 0), 1, reference.level_dimensions[1]).convert("RGB"))
    assert np.array_equal(payload.array, expected.transpose(2, 0, 1))
    assert payload.to_world is not None
    # A pixel of the overview is four of level 0: its centre is that of the four.
    assert payload.to_world @ [0, 0, 0, 1] == pytest.approx([1.5 * 0.000499, 1.5 * 0.000499, 0, 1])
    assert np.linalg.norm(payload.to_world[:3, 0]) == pytest.approx(4 * 0.000499)
    assert payload.history[0].shape == (2048, 1536)


@pytest.mark.parametrize("sub", [False, True], ids=["pages", "SubIFDs"])
@pytest.mark.parametrize("compression", [None, "jpeg", "deflate", "zstd", "jpeg2000", "lzw"])
def test_a_plain_pyramid_is_read_to_the_pixel(tmp_path: Path, compression: str | None, sub: bool) -> None:
    array = picture(600, 500)
    write_pyramid(
        tmp_path / "a.tif", array, sub, compression=compression, resolution=(20000, 20000), resolutionunit="CENTIMETER"
    )
    record = here(tmp_path / "a.tif")
    assert [record.attributes[k] for k in ("levels", "width", "height", "mpp")] == [3, 500, 600, 0.5]
    assert record.attributes["downsamples"] == "1 2 4"
    reference = tifffile.imread(tmp_path / "a.tif")
    assert np.array_equal(slide.region(record, 37, 101, (300, 290)), reference[101:391, 37:337])
    half = slide.region(record, 40, 60, (100, 90), mpp=1.0)
    level = tifffile.imread(tmp_path / "a.tif", series=0, level=1)
    assert np.array_equal(half, level[30:120, 20:120])
    assert np.array_equal(slide.region(record, 40, 60, (100, 90), level=1), half)


def test_a_pyramid_without_tags_is_one_by_its_sizes(tmp_path: Path) -> None:
    write_pyramid(tmp_path / "a.tif", picture(300, 260), tags=False)
    assert only(tmp_path / "a.tif").attributes["levels"] == 3
    assert only(tmp_path / "a.tif").attributes["mpp"] is None
    assert load(tmp_path / "a.tif").to_world is None


@pytest.mark.parametrize(
    ("size", "unit", "mpp"), [("0.25", "µm", 0.25), ("250", "nm", 0.25), ("0.0005", "mm", 0.5), ("0.5", "inch", None)]
)
def test_omes_scale_is_read_in_its_unit(tmp_path: Path, size: str, unit: str, mpp: float | None) -> None:
    xml = (
        f'<?xml version="1.0"?><OME><Instrument><Objective NominalMagnification="40"/></Instrument><Image><Pixels '
        f'PhysicalSizeX="{size}" PhysicalSizeXUnit="{unit}" PhysicalSizeY="{size}" PhysicalSizeYUnit="{unit}"/></Image></OME>'
    )
    write_pyramid(tmp_path / "a.ome.tif", picture(300, 260), sub=True, description=xml.encode())
    record = only(tmp_path / "a.ome.tif")
    assert record.attributes["mpp"] == mpp
    assert record.attributes["magnification"] == 40.0


def test_seventy_two_dots_an_inch_are_no_scale(tmp_path: Path) -> None:
    write_pyramid(tmp_path / "a.tif", picture(300, 260), resolution=(72, 72), resolutionunit="INCH")
    assert only(tmp_path / "a.tif").attributes["mpp"] is None


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_grey_pyramid_keeps_its_depth(tmp_path: Path, dtype: str) -> None:
    array = (np.random.default_rng(0).random((300, 260)) * 200).astype(dtype)
    write_pyramid(tmp_path / "a.tif", array)
    record = here(tmp_path / "a.tif")
    assert record.attributes["colour"] is False
    seen = slide.region(record, 10, 20, (100, 50))
    assert seen.dtype == dtype
    assert np.array_equal(seen[..., 0], array[20:70, 10:110])
    assert load(tmp_path / "a.tif").array.shape == (1, 300, 260)


def test_a_mask_is_one_and_keeps_its_numbers(tmp_path: Path) -> None:
    labels = np.zeros((1024, 1024), np.uint8)
    labels[100:700, 300:800] = 3
    (tmp_path / "masks").mkdir()
    write_pyramid(tmp_path / "masks/a.tif", labels)
    record = only(tmp_path / "masks/a.tif", tmp_path)
    assert (record.kind, record.attributes["mask"]) == ("MASK slide", True)
    assert set(np.unique(records.load(record, tmp_path).array)) == {0, 3}


def test_planes_and_colours_that_are_no_slide_are_refused(tmp_path: Path) -> None:
    stack = np.zeros((3, 256, 256), np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.tif", ome=False) as file:
        for plane in stack:
            file.write(plane, tile=(128, 128), subifds=1, metadata=None)
            file.write(plane[::2, ::2], tile=(64, 64), metadata=None)
    assert refused(tmp_path / "a.tif") == "a pyramid of 3 planes or channels"
    cmyk = np.zeros((256, 256, 4), np.uint8)
    write_pyramid(tmp_path / "b.tif", cmyk, photometric="separated")
    assert refused(tmp_path / "b.tif") == "a pyramid of 4 samples a pixel, photometric 5"


def test_what_is_no_pyramid_stays_a_picture(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", picture(300, 260), tile=(128, 128), photometric="rgb")
    assert only(tmp_path / "a.tif").modality is Modality.IMAGE


def tiles_of(count: int) -> Iterator[np.ndarray | None]:
    yield np.full((256, 256, 3), (200, 100, 150), np.uint8)
    for _ in range(count - 1):
        yield None


def test_a_gigapixel_of_empty_tiles_takes_no_gigabytes(tmp_path: Path) -> None:
    side = 160 * 256
    with tifffile.TiffWriter(tmp_path / "a.tif", bigtiff=True) as file:
        file.write(
            tiles_of(160 * 160), shape=(side, side, 3), dtype="uint8", tile=(256, 256), photometric="rgb", compression="deflate",
            metadata=None, resolution=(40000, 40000), resolutionunit="CENTIMETER",
        )  # fmt: skip
    assert (tmp_path / "a.tif").stat().st_size < 1e6
    tracemalloc.start()
    payload = load(tmp_path / "a.tif")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6  # as a whole it has five gigabytes
    assert payload.array.shape == (3, 1280, 1280)  # 8 µm a pixel
    assert payload.array[:, 3, 3].tolist() == [200, 100, 150]
    assert (payload.array[:, 12:, 12:] == 255).all()


def test_a_tiled_picture_larger_than_pillow_takes_is_a_slide(tmp_path: Path) -> None:
    side = 60 * 256
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(tiles_of(3600), shape=(side, side, 3), dtype="uint8", tile=(256, 256), compression="deflate")
    assert only(tmp_path / "a.tif").modality is Modality.SLIDE


def test_a_region_says_what_it_cannot_give(tmp_path: Path) -> None:
    write_pyramid(tmp_path / "a.tif", picture(300, 260))
    record = here(tmp_path / "a.tif")
    with pytest.raises(RecordError, match="does not say its µm"):
        slide.region(record, 0, 0, (9, 9), mpp=1.0)
    with pytest.raises(RecordError, match="level 7"):
        slide.region(record, 0, 0, (9, 9), level=7)
    with pytest.raises(RecordError, match="GiB"):
        slide.region(record, 0, 0, (99_999, 99_999))


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8, 0.97])
def test_a_slide_that_was_cut_short_is_refused(svs: Path, tmp_path: Path, share: float) -> None:
    write_pyramid(tmp_path / "whole.tif", picture(600, 500))
    for name, whole in (("a.svs", svs), ("b.tif", tmp_path / "whole.tif")):
        data = whole.read_bytes()
        (tmp_path / name).write_bytes(data[: int(len(data) * share)])
        assert not [item for item in records.read(tmp_path / name) if isinstance(item, Record)]


def patched(path: Path, tag: int, value: int, page: int = 0) -> None:
    """The TIFF with another value of one tag: a header that lies."""
    with tifffile.TiffFile(path) as file:
        one: Any = file.pages[page]
        found = one.tags[tag]
        place, form = found.valueoffset, {3: "H", 4: "L", 16: "Q"}[found.dtype]
        order = file.byteorder
    with path.open("r+b") as file:
        file.seek(place)
        file.write(struct.pack(order + form, value))


@pytest.mark.parametrize("vendor", [True, False], ids=["svs", "plain"])
@pytest.mark.parametrize(
    ("tag", "value"),
    [(256, 60_000), (257, 60_000), (322, 65_520), (323, 65_520), (277, 60_000), (258, 64)],
    ids=["width", "height", "tile width", "tile height", "samples", "bits"],
)
def test_a_header_that_promises_what_is_not_there_is_refused(
    tmp_path: Path, vendor: bool, tag: int, value: int
) -> None:
    path = tmp_path / ("a.svs" if vendor else "a.tif")
    (write_svs if vendor else write_pyramid)(path, picture(600, 512))
    patched(path, tag, value)
    tracemalloc.start()
    assert not [item for item in records.read(path) if isinstance(item, Record)]
    assert tracemalloc.get_traced_memory()[1] < 100e6
    tracemalloc.stop()


def test_a_tile_that_unpacks_to_more_than_it_may_is_refused(tmp_path: Path) -> None:
    write_pyramid(tmp_path / "a.tif", picture(300, 260), compression="jpeg")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        start = file.pages[2].dataoffsets[0]  # type: ignore[union-attr]
    data = bytearray((tmp_path / "a.tif").read_bytes())
    frame = data.index(b"\xff\xc0\x00\x11\x08", start)
    data[frame + 5 : frame + 9] = b"\xff\xf0\xff\xf0"
    (tmp_path / "a.tif").write_bytes(data)
    record = here(tmp_path / "a.tif")  # the overview is of level 0
    with pytest.raises(RecordError, match="under a header"):
        slide.region(record, 0, 0, (65, 65), level=2)


def test_the_names_of_other_files_in_omes_xml_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "secret.tif", np.full((256, 256), 77, np.uint8))
    xml = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels '
        'DimensionOrder="XYCZT" ID="Pixels:0" SizeC="1" SizeT="1" SizeX="256" SizeY="256" SizeZ="1" Type="uint8"><TiffData '
        'IFD="0" PlaneCount="1"><UUID FileName="../secret.tif">urn:uuid:0</UUID></TiffData></Pixels></Image></OME>'
    )
    write_pyramid(tmp_path / "in/a.ome.tif", np.zeros((256, 256), np.uint8), description=xml.encode())
    assert load(tmp_path / "in/a.ome.tif").array.max() == 0


def test_an_ending_alone_makes_no_slide(tmp_path: Path) -> None:
    (tmp_path / "a.mrxs").write_bytes(b"\xff\xd8\xff" + bytes(99))
    assert refused(tmp_path / "a.mrxs") == "a .mrxs that OpenSlide does not know"
    (tmp_path / "b.svs").write_bytes(b"II*\x00" + bytes(99))
    assert "TIFF" in refused(tmp_path / "b.svs")


def test_the_folder_of_an_mrxs_is_read_with_it(tmp_path: Path) -> None:
    (tmp_path / "a.mrxs").write_bytes(b"\xff\xd8\xff" + bytes(99))
    (tmp_path / "a").mkdir()
    for name in ("Slidedat.ini", "Data0000.dat", "Index.dat"):
        (tmp_path / "a" / name).write_bytes(b"x")
    files = [p for p in sorted(tmp_path.rglob("*")) if p.is_file()]
    (group,) = records.together(files)
    assert group.paths[0].name == "a.mrxs"
    assert len(group.paths) == 4


def test_what_a_file_says_is_not_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_pyramid(tmp_path / "a.tif", picture(300, 260), description=b"JANE DOE")
    patched(tmp_path / "a.tif", 262, 4711)
    list(records.read(tmp_path / "a.tif"))
    assert not caplog.records


def test_another_byte_of_it_is_another_slide(svs: Path, tmp_path: Path) -> None:
    (tmp_path / svs.name).write_bytes(svs.read_bytes() + b"\0")
    assert only(tmp_path / svs.name).id != only(svs).id


def test_a_folder_of_slides_is_ingested(svs: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / svs.name).write_bytes(svs.read_bytes())
    cohort = ingest(tmp_path / "in", tmp_path / "out")
    (record,) = cohort.records()
    assert record.attributes["mpp"] == pytest.approx(0.499)
    assert cohort.load(record).array.shape == (3, 512, 384)
