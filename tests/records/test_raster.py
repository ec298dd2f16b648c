from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from polyclinic import records
from polyclinic.records import raster
from polyclinic.schema import Modality
from reading import only, refused

GREY = np.arange(64, dtype=np.uint8).reshape(8, 8) * 3


def load(path: Path) -> np.ndarray:
    return records.load(only(path), path.parent).array


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_grey_values_are_kept(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    Image.fromarray(GREY).save(path)
    assert only(path).modality is Modality.IMAGE
    assert np.array_equal(load(path), GREY[None])
    assert records.load(only(path), tmp_path).to_world is None  # a picture has no scale, and none is made up


@pytest.mark.parametrize("dtype", ["<u2", ">u2", "int32", "float32"])
def test_deep_values_are_kept(tmp_path: Path, dtype: str) -> None:
    deep = (np.arange(64).reshape(8, 8) * 1000).astype(dtype)
    if dtype == ">u2":  # pillow writes little-endian only: a TIFF by hand
        entries = [
            (256, 3, 8),
            (257, 3, 8),
            (258, 3, 16),
            (259, 3, 1),
            (262, 3, 1),
            (273, 4, 8),
            (277, 3, 1),
            (278, 3, 8),
            (279, 4, 128),
        ]
        data = b"MM\x00*" + struct.pack(">L", 8 + 128) + deep.tobytes() + struct.pack(">H", len(entries))
        for tag, kind, value in entries:
            data += (
                struct.pack(">HHLHH", tag, kind, 1, value, 0)
                if kind == 3
                else struct.pack(">HHLL", tag, kind, 1, value)
            )
        (tmp_path / "a.tif").write_bytes(data + bytes(4))
    else:
        Image.fromarray(deep).save(tmp_path / "a.tif")
    assert np.array_equal(load(tmp_path / "a.tif")[0], deep.astype(np.float32))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK", "LA", "1"])
def test_colours_are_kept_and_grey_is_one_channel(tmp_path: Path, mode: str) -> None:
    picture = Image.fromarray(np.stack([GREY, GREY[::-1], GREY.T], axis=-1)).convert(mode)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    picture.save(path)
    expected = np.moveaxis(np.asarray(picture.convert("RGB")), 2, 0)
    channels = 1 if mode in ("LA", "1") else 3
    assert only(path).attributes["channels"] == channels
    assert np.allclose(load(path), expected[:channels], atol=1e-3)
    assert load(path).dtype == np.float32


@pytest.mark.parametrize("quality", [30, 75, 95])
@pytest.mark.parametrize("noise", [0, 2])
def test_a_grey_picture_saved_in_three_channels_is_grey(
    tmp_path: Path, hospital: Path, noise: int, quality: int
) -> None:
    """X-rays that a viewer exported as colour JPEG, whose rounding leaves the channels nearly equal."""
    source = next((hospital / "radiology").glob("CXR-*/*.dcm"))
    grey = records.load(only(source), source.parent).array[0].astype(np.int16)
    apart = np.random.default_rng(0).integers(-noise, noise + 1, (*grey.shape, 3))
    saved = Image.fromarray(np.clip(grey[..., None] + apart, 0, 255).astype(np.uint8))
    saved.save(tmp_path / "a.jpg", quality=quality, subsampling=0)
    assert only(tmp_path / "a.jpg").attributes["channels"] == 1
    seen = np.asarray(Image.open(tmp_path / "a.jpg"), float) @ [0.299, 0.587, 0.114]  # ITU-R BT.601
    assert np.allclose(load(tmp_path / "a.jpg"), seen, atol=1e-3)


@pytest.mark.parametrize(("share", "channels"), [(0.0005, 1), (0.002, 3)])
@pytest.mark.parametrize("apart", [15, 20, 255])
def test_a_picture_is_in_colours_by_how_many_pixels_are_and_how_much(share: float, channels: int, apart: int) -> None:
    rgb = np.full((100, 100, 3), 255, np.uint8)
    for channel in range(3):
        drawn = rgb.copy()
        drawn.reshape(-1, 3)[: round(share * 10_000), channel] -= apart
        expected = channels if apart > 16 else 1
        assert len(raster.channels_first(drawn)) == expected
        assert len(raster.channels_first(drawn.astype(np.uint16) * 257)) == expected
        assert len(raster.channels_first(drawn / np.float32(255))) == expected


def test_the_luminance_of_an_image_is_that_of_its_pixels() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.float32)
    assert raster.luminance(np.moveaxis(rgb, 2, 0)) == pytest.approx(rgb @ [0.299, 0.587, 0.114], abs=1e-3)
    assert np.array_equal(raster.luminance(rgb[None, :, :, 0]), rgb[:, :, 0])


def test_a_mask_keeps_its_numbers_and_black_and_white_is_zero_and_one(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    labels = np.zeros((8, 8), np.uint8)
    labels[2:4], labels[5:] = 1, 2
    for name, array, expected in (("a", labels, labels), ("b", (labels == 2) * np.uint8(255), labels == 2)):
        Image.fromarray(array).save(tmp_path / f"masks/{name}.png")
        record = only(tmp_path / f"masks/{name}.png", tmp_path)
        assert record.attributes["mask"] is True
        assert record.kind == "MASK image"
        assert np.array_equal(records.load(record, tmp_path).array[0], expected)


@pytest.mark.parametrize(
    ("place", "patient"),
    [
        ("P12_view1.png", "P12"),
        ("chest_001.png", "chest_001"),
        ("patient00001/study1/view1_frontal.png", "patient00001"),
        ("0012/lateral.png", "0012"),
        ("images/scan.png", "scan"),
        ("BraTS19_A_1/BraTS19_A_1_t1.png", "BraTS19_A_1"),
    ],
)
def test_whose_an_image_is_says_its_name(tmp_path: Path, place: str, patient: str) -> None:
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(GREY).save(tmp_path / place)
    assert only(tmp_path / place, tmp_path).patient == patient


def test_several_frames_are_refused(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.tif", save_all=True, append_images=[Image.fromarray(GREY)])
    assert refused(tmp_path / "a.tif") == "an image of 2 frames"


def test_a_truncated_image_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (99, 99), dtype=np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:5000])
    assert refused(tmp_path / "a.png") == "an image that was cut short"


def png(width: int, height: int) -> bytes:
    chunk = lambda name, data: struct.pack(">L", len(data)) + name + data + struct.pack(">L", zlib.crc32(name + data))
    head = struct.pack(">LLBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(999))) + chunk(b"IEND", b"")


def test_a_header_that_promises_gigabytes_is_refused_before_any_is_taken(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(100_000, 100_000))
    assert refused(tmp_path / "a.png") == "a header that promises more pixels than pillow takes"
    (tmp_path / "b.png").write_bytes(png(12_000, 12_000))  # within bound, and not there
    assert refused(tmp_path / "b.png") == "an image that was cut short"
