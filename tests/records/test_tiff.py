from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from polyclinic import records
from polyclinic.schema import Modality
from reading import load, only, refused

random = np.random.default_rng(0)


def grey(dtype: str) -> np.ndarray:
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return (random.random((40, 30)) * 2 - 1).astype(kind)
    info = np.iinfo(kind)
    return random.integers(max(info.min, -(2**20)), min(info.max, 2**20), (40, 30)).astype(kind)


@pytest.mark.parametrize("big", [False, True], ids=["TIFF", "BigTIFF"])
@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float16", "float32", "float64"]
)
def test_every_depth_is_kept(tmp_path: Path, dtype: str, big: bool) -> None:
    array = grey(dtype)
    tifffile.imwrite(tmp_path / "a.tif", array, bigtiff=big)
    assert only(tmp_path / "a.tif").modality is Modality.IMAGE
    assert np.array_equal(load(tmp_path / "a.tif").array[0], array.astype(np.float32))


@pytest.mark.parametrize("compression", ["deflate", "lzw", "zstd", "packbits", "jpeg2000"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_every_packing_gives_its_pixels(tmp_path: Path, dtype: str, compression: str) -> None:
    array = random.integers(0, 200, (90, 70)).astype(dtype)
    for layout in ({"rowsperstrip": 16}, {"tile": (32, 32)}):
        options: dict[str, Any] = {"compression": compression} | layout
        tifffile.imwrite(tmp_path / "a.tif", array, **options)
        assert np.array_equal(load(tmp_path / "a.tif").array[0], array)


def test_deep_colours_keep_their_depth(tmp_path: Path) -> None:
    colour = random.integers(0, 60_000, (40, 30, 3)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", colour, photometric="rgb")
    tifffile.imwrite(tmp_path / "b.tif", np.moveaxis(colour, 2, 0), photometric="rgb", planarconfig="separate")
    for name in "ab":
        assert only(tmp_path / f"{name}.tif").attributes["channels"] == 3
        assert np.array_equal(load(tmp_path / f"{name}.tif").array, np.moveaxis(colour, 2, 0))


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_white_is_bright(tmp_path: Path, dtype: str) -> None:
    array = grey(dtype)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="miniswhite")
    assert np.array_equal(load(tmp_path / "a.tif").array[0], np.iinfo(dtype).max - array.astype(np.float32))


def test_a_palette_is_seen_in_a_picture_and_is_a_legend_in_a_mask(tmp_path: Path) -> None:
    labels = random.integers(0, 5, (40, 30)).astype(np.uint8)
    legend = random.integers(0, 256, (3, 256)).astype(np.uint16) * 257
    (tmp_path / "masks").mkdir()
    for folder in (tmp_path, tmp_path / "masks"):
        tifffile.imwrite(folder / "a.tif", labels, photometric="palette", colormap=legend)
    assert np.array_equal(load(tmp_path / "a.tif").array, (legend // 257)[:, labels])
    record = only(tmp_path / "masks/a.tif", tmp_path)
    assert np.array_equal(records.load(record, tmp_path).array[0], labels)


def test_label_numbers_beyond_a_byte_are_kept(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    cells = np.arange(40 * 30, dtype=np.uint16).reshape(40, 30)
    tifffile.imwrite(tmp_path / "masks/a.tif", cells)
    Image.fromarray(cells).save(tmp_path / "masks/b.png")
    for name in ("a.tif", "b.png"):
        record = only(tmp_path / "masks" / name, tmp_path)
        assert np.array_equal(records.load(record, tmp_path).array[0], cells)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_picture_is_seen_as_pillow_shows_it(tmp_path: Path, orientation: int) -> None:
    array = grey("uint8")
    tifffile.imwrite(tmp_path / "a.tif", array, extratags=[(274, "H", 1, orientation, True)])
    photograph = Image.fromarray(array)
    photograph.getexif()[274] = orientation
    expected = np.asarray(ImageOps.exif_transpose(photograph))
    assert np.array_equal(load(tmp_path / "a.tif").array[0], expected)
    attributes = only(tmp_path / "a.tif").attributes
    assert (attributes["rows"], attributes["columns"]) == expected.shape


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photograph_stands_upright(tmp_path: Path, orientation: int) -> None:
    about = Image.Exif()
    about[274] = orientation
    Image.fromarray(grey("uint8")).save(tmp_path / "a.png", exif=about)
    record = only(tmp_path / "a.png")
    assert (record.attributes["rows"], record.attributes["columns"]) == ((30, 40) if orientation > 4 else (40, 30))
    assert load(tmp_path / "a.png").array.shape[1:] == (record.attributes["rows"], record.attributes["columns"])


def test_a_stack_in_colours_is_a_volume_of_luminance(tmp_path: Path) -> None:
    stack = random.integers(0, 255, (5, 40, 30, 3), dtype=np.uint8)
    tifffile.imwrite(
        tmp_path / "a.tif", stack, imagej=True, resolution=(2, 2), metadata={"spacing": 2.0, "unit": "um", "axes": "ZYXS"}
    )  # fmt: skip
    assert only(tmp_path / "a.tif").modality is Modality.VOLUME
    assert load(tmp_path / "a.tif").array[0] == pytest.approx(stack @ [0.299, 0.587, 0.114], abs=1e-3)  # ITU-R BT.601


def test_a_stack_whose_file_states_its_spacing_is_a_volume(tmp_path: Path) -> None:
    stack = random.integers(0, 255, (5, 40, 30), dtype=np.uint8)
    tifffile.imwrite(
        tmp_path / "imagej.tif", stack, imagej=True, resolution=(1 / 0.5, 1 / 0.25), metadata={"spacing": 2.0, "unit": "um", "axes": "ZYX"}
    )  # fmt: skip
    sizes = {
        "PhysicalSizeX": 500.0,
        "PhysicalSizeXUnit": "nm",
        "PhysicalSizeY": 0.25,
        "PhysicalSizeZ": 0.002,
        "PhysicalSizeZUnit": "mm",
    }
    tifffile.imwrite(tmp_path / "ome.tif", stack, ome=True, metadata={"axes": "ZYX", **sizes})
    for name in ("imagej", "ome"):
        record = only(tmp_path / f"{name}.tif")
        assert (record.modality, record.kind, record.attributes["slices"]) == (Modality.VOLUME, "volume", 5)
        payload = records.load(record, tmp_path)
        assert np.array_equal(payload.array[0], stack)
        assert payload.to_world is not None
        assert np.diag(payload.to_world) == pytest.approx([0.0005, 0.00025, 0.002, 1])


@pytest.mark.parametrize(
    "metadata",
    [
        {"unit": "pixel", "spacing": 2.0, "axes": "ZYX"},
        {"unit": "um", "spacing": 2.0, "axes": "TYX"},
        {"unit": "um", "spacing": 2.0, "axes": "CYX"},
        {"unit": "um", "axes": "ZYX"},
    ],
)
def test_frames_that_are_no_stack_are_refused(tmp_path: Path, metadata: dict[str, Any]) -> None:
    stack = np.zeros((5, 40, 30), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", stack, imagej=True, resolution=(2, 2), metadata=metadata)
    assert refused(tmp_path / "a.tif") == "an image of 5 frames"


def test_colours_that_are_none_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif", np.zeros((40, 30, 5), np.uint8), photometric="minisblack", planarconfig="contig"
    )
    assert refused(tmp_path / "a.tif") == "a TIFF of 5 samples a pixel, photometric 1"


@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
@pytest.mark.parametrize("compression", [None, "deflate", "jpeg2000"])
def test_a_truncated_one_is_refused(tmp_path: Path, compression: str | None, share: float) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif",
        random.integers(0, 255, (200, 200), dtype=np.uint8),
        compression=compression,
        rowsperstrip=16,
    )
    data = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(data[: int(share * len(data))])
    assert refused(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("tag", "value", "reason"),
    [(256, 2**31, "a header that promises"), (257, 2**20, "a TIFF with"), (277, 60_000, "a")],
)
def test_a_header_that_promises_what_is_not_there_is_refused(tmp_path: Path, tag: int, value: int, reason: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", grey("uint8"), bigtiff=True)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        one: Any = file.pages[0]
        place, form = one.tags[tag].valueoffset, {3: "<H", 4: "<L", 16: "<Q"}[one.tags[tag].dtype]
    with (tmp_path / "a.tif").open("r+b") as raw:
        raw.seek(place)
        raw.write(struct.pack(form, value))
    assert refused(tmp_path / "a.tif").startswith(reason)


def test_a_chain_of_pages_that_bites_its_tail_ends(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", grey("uint8"))
    data = bytearray((tmp_path / "a.tif").read_bytes())
    start = struct.unpack("<L", data[4:8])[0]
    after = start + 2 + 12 * struct.unpack("<H", data[start : start + 2])[0]
    data[after : after + 4] = struct.pack("<L", start)
    (tmp_path / "a.tif").write_bytes(data)
    assert list(records.read(tmp_path / "a.tif"))
