"""Text in pixels: lines that are drawn are found, images without any have none, and blanking changes the boxes and nothing else."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.processing import apply_color_lut
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    RLELossless,
    UltrasoundMultiFrameImageStorage,
)

from polyclinic.records.deidentify import Options, Report, deidentify
from polyclinic.records.deidentify.burned_in import Line, as_grey, lines_of_text

WORDS = "ZEBEDEE, Quillon  1931-04-05"


def ink(height: int, words: str = WORDS) -> np.ndarray:
    """(y x) 0 to 1 of a line of words with capitals of about so many pixels."""
    font = ImageFont.load_default(size=height / 0.73)
    left, top, right, bottom = (round(v) for v in font.getbbox(words))
    drawn = Image.new("L", (right - left + 2, bottom - top + 2))
    ImageDraw.Draw(drawn).text((1 - left, 1 - top), words, font=font, fill=255)
    return np.asarray(drawn) / 255


def anatomy(rows: int = 256, columns: int = 384, seed: int = 0) -> np.ndarray:
    """(y x) 0 to 255: a bright body with soft shadows, on black, and noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:rows, :columns].astype(float)
    body = 150.0 * ((((y - rows / 2) / (0.48 * rows)) ** 2 + ((x - columns / 2) / (0.42 * columns)) ** 2) < 1)
    for _ in range(6):
        cy, cx, s = rng.uniform(0.2, 0.8) * rows, rng.uniform(0.2, 0.8) * columns, rng.uniform(15, 50)
        body *= 1 - 0.5 * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * s**2))
    return np.clip(body + rng.normal(0, 2, body.shape), 0, 255)


def written(image: np.ndarray, drawn: np.ndarray, top: int, left: int, value: float) -> np.ndarray:
    out = image.copy()
    box = slice(top, top + drawn.shape[0]), slice(left, left + drawn.shape[1])
    out[box] = out[box] * (1 - drawn) + value * drawn
    return out


def covered(lines: list[Line], shape: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    for line in lines:
        mask[line.box] = True
    return mask


@pytest.mark.parametrize("height", [7, 9, 12, 16, 24, 36, 60])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("value", [255, 0])
def test_a_line_is_found_and_all_of_its_ink_is_within_the_boxes(height: int, turned: bool, value: int) -> None:
    drawn = np.rot90(ink(height)) if turned else ink(height)
    ground = np.pad(
        anatomy(400, 400) if value else 255 - 0.4 * anatomy(400, 400), [(60, d + 60) for d in drawn.shape], "edge"
    )
    image = written(ground, drawn, 40, 40, value).astype(np.uint8)
    assert lines_of_text(ground.astype(np.uint8)) == []
    mask = covered(lines_of_text(image), image.shape)
    here = np.zeros(image.shape)
    here[40 : 40 + drawn.shape[0], 40 : 40 + drawn.shape[1]] = drawn
    assert here[mask].sum() > 0.97 * here.sum()
    assert mask.sum() < 4 * drawn.size


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float32])
def test_depth_and_colour_do_not_matter(dtype: Any) -> None:
    image = written(anatomy(), ink(14), 200, 60, 250)
    grey = lines_of_text(image.astype(np.uint8))
    scaled = (
        (image * 8 - 1000).astype(dtype) if np.dtype(dtype).kind in "if" and dtype != np.uint8 else image.astype(dtype)
    )
    assert grey
    assert lines_of_text(scaled)
    assert lines_of_text(np.stack([image.astype(np.uint8)] * 3, -1)) == grey


def test_a_side_marker_is_no_line() -> None:
    for marker in ("R", "L", "AP"):
        assert lines_of_text(written(anatomy(), ink(20, marker), 20, 20, 255).astype(np.uint8)) == []


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 2.0, 10.0, 40.0]))
def test_noise_and_smooth_shapes_are_no_text(seed: int, sigma: float) -> None:
    rng = np.random.default_rng(seed)
    image = np.clip(anatomy(seed=seed) + rng.normal(0, sigma, (256, 384)), 0, 255)
    assert lines_of_text(image.astype(np.uint8)) == []


@pytest.mark.parametrize("shape", [(1, 1), (3, 500), (13, 13), (0, 5), (64, 64)])
@pytest.mark.parametrize("value", [0, 7, np.nan, np.inf])
def test_an_image_of_one_value_or_none_has_no_text(shape: tuple[int, int], value: float) -> None:
    assert lines_of_text(np.full(shape, value, np.float32)) == []
    assert as_grey(np.full(shape, value, np.float32)).shape == shape


# --- in a folder ---------------------------------------------------------------------------------------------------------------


def an_object(path: Path, pixels: np.ndarray, syntax: str = ExplicitVRLittleEndian, **more: Any) -> np.ndarray:
    """Write (y x), (y x 3) or frames of either as a CT or an ultrasound; gives the pixels."""
    d: Any = Dataset()
    meta: Any = FileMetaDataset()
    d.SOPClassUID = more.pop("SOPClassUID", CTImageStorage)
    d.SOPInstanceUID, d.StudyInstanceUID, d.SeriesInstanceUID = "1.2.3.4.5", "1.2.3.4", "1.2.3"
    d.Modality, d.PatientID, d.PatientName = "CT", "4711", "ZEBEDEE^QUILLON"
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = d.SOPClassUID, d.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian if syntax == RLELossless else syntax
    d.file_meta = meta
    coloured = pixels.shape[-1] == 3
    frames = pixels.reshape(-1, *pixels.shape[-3 if coloured else -2 :])
    if len(frames) > 1:
        d.NumberOfFrames = len(frames)
    d.Rows, d.Columns = frames.shape[1:3]
    d.SamplesPerPixel, d.PhotometricInterpretation = (3, "RGB") if coloured else (1, "MONOCHROME2")
    if coloured:
        d.PlanarConfiguration = 0
    d.BitsAllocated = d.BitsStored = 8 * pixels.itemsize
    d.HighBit, d.PixelRepresentation = d.BitsStored - 1, int(pixels.dtype.kind == "i")
    for name, value in more.items():
        setattr(d, name, value)
    stored = np.moveaxis(frames, -1, 1) if coloured and d.PlanarConfiguration else frames
    d.PixelData = np.ascontiguousarray(
        stored.astype(stored.dtype.newbyteorder(">" if syntax == ExplicitVRBigEndian else "<"))
    ).tobytes()
    d["PixelData"].VR = "OW" if pixels.itemsize > 1 else "OB"
    if syntax == RLELossless:
        d.compress(RLELossless, generate_instance_uid=False)
    d.save_as(path, enforce_file_format=True)
    return pixels


def run(place: Path, how: Any) -> Report:
    return deidentify(place / "in", place / how, place / "key", Options(burned_in=how))


def after(place: Path, report: Report, how: str) -> Any:
    return pydicom.dcmread(place / how / report.files[0])


def deep(image: np.ndarray) -> np.ndarray:
    return (image * 8 - 1000).astype(np.int16)


def test_a_ct_with_a_name_in_its_corner_is_set_aside_or_listed(place: Path) -> None:
    before = an_object(place / "in/a.dcm", deep(written(anatomy(), ink(12), 8, 8, 250)))
    aside = run(place, "aside")
    assert aside.files == []
    assert "looks like text" in aside.aside[0].found
    kept = run(place, "keep")
    assert (after(place, kept, "keep").pixel_array == before).all()
    assert any("rows" in a.place and "columns" in a.place and a.action == "looks like text" for a in kept.review)


@pytest.mark.parametrize("how", ["aside", "keep", "blank"])
def test_an_image_without_text_stays_bit_identical(how: str, place: Path) -> None:
    an_object(place / "in/a.dcm", deep(anatomy()), RLELossless)
    data = pydicom.dcmread(place / "in/a.dcm").PixelData
    Image.fromarray(anatomy().astype(np.uint8)).save(place / "in/b.png")
    report = run(place, how)
    assert len(report.files) == 2, report.aside
    assert pydicom.dcmread(next((place / how).rglob("*.dcm"))).PixelData == data
    assert (np.asarray(Image.open(next((place / how).rglob("*.png")))) == anatomy().astype(np.uint8)).all()
    assert not any("looks like text" in a.action for a in report.review)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_blanking_changes_the_boxes_and_nothing_else(syntax: str, photometric: str, place: Path) -> None:
    text = deep(written(anatomy(), ink(14), 20, 30, 250))
    before = an_object(place / "in/a.dcm", text, syntax, PhotometricInterpretation=photometric)
    found = covered(lines_of_text(before), before.shape)
    report = run(place, "blank")
    object_ = after(place, report, "blank")
    now = object_.pixel_array
    assert object_.file_meta.TransferSyntaxUID == (ExplicitVRLittleEndian if syntax == RLELossless else syntax)
    assert found[20:34, 30:100].mean() > 0.9
    assert (now[~found] == before[~found]).all()
    assert (now[found] == (before.max() if photometric == "MONOCHROME1" else before.min())).all()
    assert lines_of_text(now) == []
    assert any("is it all" in a.action for a in report.review)
    assert any(a.action == "C: blanked" for a in report.actions)


@pytest.mark.parametrize("planar", [0, 1])
def test_what_stands_in_some_frames_is_blanked_in_all(planar: int, place: Path) -> None:
    grey = [anatomy(seed=s) for s in range(3)]
    grey[1] = written(grey[1], ink(12), 12, 10, 255)
    pixels = np.stack([np.stack([g] * 3, -1) for g in grey]).astype(np.uint8)
    an_object(
        place / "in/a.dcm", pixels, PlanarConfiguration=planar, SOPClassUID=UltrasoundMultiFrameImageStorage, Modality="US"
    )  # fmt: skip
    found = covered(lines_of_text(pixels[1]), pixels.shape[1:3])
    report = run(place, "blank")
    now = after(place, report, "blank").pixel_array
    assert (now[:, ~found] == pixels[:, ~found]).all()
    assert not now[:, found].any()
    assert any("may have text burned in" in a.action for a in report.review)  # an ultrasound, whatever was found


def test_a_title_in_the_midst_of_a_long_clip_is_blanked(place: Path) -> None:
    """More frames than are looked at where it is only to be judged."""
    clip = np.stack([anatomy(64, 240)] * 50)
    clip[7] = written(clip[7], ink(10), 12, 10, 255)
    pixels = an_object(place / "in/a.dcm", clip.astype(np.uint8))
    now = after(place, run(place, "blank"), "blank").pixel_array
    assert all(lines_of_text(frame) == [] for frame in now)
    assert (now[:, 40:] == pixels[:, 40:]).all()


def test_jpeg_pixels_are_written_unpacked(place: Path) -> None:
    coloured = np.stack([written(anatomy(), ink(14), 20, 30, 255)] * 3, -1).astype(np.uint8)
    an_object(place / "in/a.dcm", coloured)
    packed = io.BytesIO()
    Image.fromarray(coloured).save(packed, "JPEG", quality=92)
    d: Any = pydicom.dcmread(place / "in/a.dcm")
    d.file_meta.TransferSyntaxUID, d.PhotometricInterpretation = JPEGBaseline8Bit, "YBR_FULL_422"
    d.PixelData = encapsulate([packed.getvalue()])
    d["PixelData"].is_undefined_length = True
    d.save_as(place / "in/a.dcm", enforce_file_format=True)
    before = pydicom.dcmread(place / "in/a.dcm").pixel_array
    found = covered(lines_of_text(before), before.shape[:2])
    now = after(place, run(place, "blank"), "blank")
    assert found[20:34, 30:100].mean() > 0.9
    assert (now.file_meta.TransferSyntaxUID, now.PhotometricInterpretation) == (ExplicitVRLittleEndian, "RGB")
    assert (now.pixel_array[~found] == before[~found]).all()
    assert not now.pixel_array[found].any()


PICTURES = [("png", m) for m in ("L", "RGB", "P", "I;16", "RGBA")] + [("tif", m) for m in ("L", "I;16", "RGB")]


@pytest.mark.parametrize(("ending", "mode"), PICTURES)
def test_pictures_are_blanked_and_stay_what_they_are_elsewhere(ending: str, mode: str, place: Path) -> None:
    grey = written(anatomy(), ink(14), 20, 30, 255)
    if mode == "I;16":
        picture = Image.fromarray((grey * 200).astype(np.uint16))
    else:
        picture = Image.fromarray(grey.astype(np.uint8)).convert("RGB" if mode == "P" else mode)
        picture = picture.quantize(64) if mode == "P" else picture
    picture.save(place / f"in/a.{ending}")
    before = Image.open(place / f"in/a.{ending}")
    assert run(place, "aside").files == []
    report = run(place, "blank")
    now = Image.open(place / "blank" / report.files[0])
    assert (now.mode, now.format) == (before.mode, before.format)
    old, new = np.asarray(before.convert("RGB")) if mode == "P" else np.asarray(before), np.asarray(now)
    new = np.asarray(now.convert("RGB")) if mode == "P" else new
    found = covered(lines_of_text(old), old.shape[:2])
    assert found.any()
    assert (new[~found] == old[~found]).all()
    assert lines_of_text(new) == []


def test_a_jpeg_with_text_is_set_aside_and_says_what_to_do(place: Path) -> None:
    Image.fromarray(written(anatomy(), ink(14), 20, 30, 255).astype(np.uint8)).save(place / "in/a.jpg", quality=95)
    report = run(place, "blank")
    assert report.files == []
    assert "PNG" in report.aside[0].remedy
    assert len(run(place, "keep").files) == 1


def test_pixels_that_do_not_decode_are_kept_only_where_everything_is(place: Path) -> None:
    an_object(place / "in/a.dcm", deep(anatomy()), RLELossless)
    d: Any = pydicom.dcmread(place / "in/a.dcm")
    d.PixelData = d.PixelData[:40] + bytes(len(d.PixelData) - 48) + d.PixelData[-8:]
    d.save_as(place / "in/a.dcm")
    assert run(place, "aside").files == []
    assert run(place, "blank").files == []
    kept = run(place, "keep")
    assert len(kept.files) == 1
    assert any("could not be looked into" in a.action for a in kept.review)


def test_real_radiographs_that_carry_words(shared_data: Path) -> None:
    """Some of those that an eye found words in, and some that it found none in."""
    images = shared_data / "covid-chestxray/images"
    seen = (Path(__file__).parents[3] / "benchmarks/results/burned_in_seen.txt").read_text().split()
    read = lambda name: np.asarray(Image.open(images / name).convert("L"))
    hits = [bool(lines_of_text(read(name))) for name in seen[::8]]
    assert sum(hits) >= len(hits) - 1
    plain = sorted({p.name for p in images.iterdir()} - set(seen))[::30]
    assert sum(bool(lines_of_text(read(name))) for name in plain) <= 2


def test_the_words_on_a_real_ultrasound_are_blanked(place: Path) -> None:
    """pydicom's `examples_palette.dcm`: a clip of Philips in a palette of colours, with date, time and place above the fan."""
    source = Path(str(get_testdata_file("examples_palette.dcm", download=False)))
    (place / "in/a.dcm").write_bytes(source.read_bytes())
    before: Any = pydicom.dcmread(source)
    now = after(place, run(place, "blank"), "blank")
    seen = lambda d: np.asarray(apply_color_lut(d.pixel_array, d))[..., :3]
    found = covered(lines_of_text(seen(before)), before.pixel_array.shape)
    assert found[8:22, 670:770].all()  # the date
    assert found[38:52, 94:266].all()  # the study's number
    assert not found[110:330, 320:580].any()  # the fan below its top
    assert (now.pixel_array[~found] == before.pixel_array[~found]).all()
    assert seen(now)[found].max() <= seen(before).min(axis=(0, 1)).max()


def _deep_colours(path: Path, grey: np.ndarray) -> None:
    """A PNG of 16 bits a channel (ISO/IEC 15948), which Pillow does not write."""
    rows = np.repeat((grey * 257).astype(">u2")[..., None], 3, -1).reshape(len(grey), -1)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    head = struct.pack(">IIBBBBB", grey.shape[1], grey.shape[0], 16, 2, 0, 0, 0)
    chunk = lambda kind, body: struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b""))


@pytest.mark.parametrize("kind", ["deep colours", "pages", "packed"])
def test_a_picture_that_blanking_would_change_elsewhere_is_set_aside(kind: str, place: Path) -> None:
    grey = written(anatomy(), ink(14), 20, 30, 255)
    image = Image.fromarray(grey.astype(np.uint8))
    match kind:
        case "deep colours":
            _deep_colours(place / "in/a.png", grey)
        case "pages":
            image.save(place / "in/a.tif", save_all=True, append_images=[Image.fromarray(anatomy().astype(np.uint8))])
        case "packed":
            image.save(place / "in/a.tif", compression="jpeg", quality=95)
    assert len(run(place, "keep").files) == 1
    report = run(place, "blank")
    assert report.files == []
    assert "PNG" in report.aside[0].remedy
