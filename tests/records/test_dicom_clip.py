"""Clips whose frames are one coded stream, encapsulated as PS3.5 A.4.5 to A.4.13 have it; each frame tells its number by its brightness."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import UID, generate_uid

from polyclinic import records
from polyclinic.records import video
from polyclinic.schema import Modality, Payload
from reading import only, refused

ENDOSCOPY = "1.2.840.10008.5.1.4.1.1.77.1.1.1"
SYNTAX = "1.2.840.10008.1.2.4."
COUNT = 20


def stream(container: str, codec: str, **options: str) -> bytes:
    """Twenty frames at 25 a second, 40 + 8 n bright, as a file of the container has them."""
    file = io.BytesIO()
    grain = np.random.default_rng(0).integers(-15, 16, (COUNT, 48, 64, 1))
    with av.open(file, "w", format=container) as out:
        coder: Any = out.add_stream(codec, rate=25, options={"g": "8", "bf": "2"} | options)
        coder.height, coder.width, coder.pix_fmt = 48, 64, "yuv420p"
        for number, noise in enumerate(grain):
            pixels = (40 + 8 * number + np.repeat(noise, 3, 2)).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            out.mux(coder.encode(frame))
        out.mux(coder.encode(None))
    return file.getvalue()


def write(path: Path, data: bytes, syntax: str, fragments: int = 1, **attributes: object) -> Path:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(ENDOSCOPY), generate_uid()
    meta.TransferSyntaxUID = UID(SYNTAX + syntax)
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = ENDOSCOPY, meta.MediaStorageSOPInstanceUID
    dataset.PatientID, dataset.Modality, dataset.NumberOfFrames, dataset.FrameTime = "P1", "ES", COUNT, "40"
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel, dataset.PlanarConfiguration = 48, 64, 3, 0
    dataset.PhotometricInterpretation = "YBR_PARTIAL_420"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    dataset.PixelData = encapsulate([data], fragments_per_frame=fragments, has_bot=False)
    dataset["PixelData"].is_undefined_length = True
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


def seconds(payload: Payload) -> np.ndarray:
    assert payload.places is not None
    return payload.places[:, 3]


def numbers(payload: Payload) -> list[int]:
    return np.rint((payload.array[:, :, 8:-8, 8:-8].mean((1, 2, 3)) - 40) / 8).astype(int).tolist()


@pytest.mark.parametrize(
    ("syntax", "container", "codec", "fragments"),
    [
        ("100", "mpegts", "mpeg2video", 1),
        ("100", "mpeg", "mpeg2video", 1),
        ("100", "mpeg2video", "mpeg2video", 1),  # the codec's own byte stream
        ("100.1", "mpegts", "mpeg2video", 5),
        ("101", "mpegts", "mpeg2video", 1),
        ("102", "mp4", "libx264", 1),
        ("103", "mpegts", "libx264", 1),
        ("104.1", "mp4", "libx264", 3),
        ("107", "mpegts", "libx265", 1),
        ("108", "mp4", "libx265", 1),
    ],
)
def test_a_coded_clip_is_a_video(tmp_path: Path, syntax: str, container: str, codec: str, fragments: int) -> None:
    options = {"qmax": "2"} if codec == "mpeg2video" else {}
    data = stream(container, codec, **options)
    path = write(tmp_path / "a.dcm", data, syntax, fragments)
    record, payload = only(path), records.load(only(path), tmp_path)
    assert record.modality is Modality.VIDEO
    assert record.patient == "P1"
    assert record.kind == "ES"
    assert (record.attributes["frames"], record.attributes["frames_lost"], record.attributes["colour"]) == (20, 0, True)
    assert record.attributes["rate_hz"] == pytest.approx(25)
    assert payload.array.shape == (20, 3, 48, 64)
    assert payload.array.dtype == np.uint8
    assert numbers(payload) == list(range(20))
    assert seconds(payload) == pytest.approx(np.arange(20) / 25)


def test_the_headers_times_stand_before_the_streams(tmp_path: Path) -> None:
    data = stream("mp4", "libx264")
    steps = [0.0, *np.random.default_rng(0).integers(10, 90, COUNT - 1).tolist()]
    uneven = write(tmp_path / "a.dcm", data, "102", FrameTimeVector=steps)
    assert seconds(records.load(only(uneven), tmp_path)) == pytest.approx(np.cumsum(steps) / 1000)
    assert only(uneven).attributes["variable_rate"] is True
    none = write(tmp_path / "b.dcm", data, "102", FrameTime=None)
    assert seconds(records.load(only(none), tmp_path)) == pytest.approx(np.arange(COUNT) / 25)


def test_a_clip_without_colours_has_one_channel_and_a_scale_where_it_has_one(tmp_path: Path) -> None:
    grey = {"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "PixelSpacing": [0.5, 0.25]}
    payload = records.load(only(write(tmp_path / "a.dcm", stream("mp4", "libx264"), "102", **grey)), tmp_path)
    assert payload.array.shape == (20, 1, 48, 64)
    assert numbers(payload) == list(range(20))
    assert payload.to_world is not None
    assert np.diag(payload.to_world).tolist() == [0.25, 0.5, 1, 1]


def test_a_long_clip_is_thinned_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.dcm", stream("mp4", "libx264"), "102")
    monkeypatch.setattr(video, "MOST_BYTES", 4 * 3 * 48 * 64)
    payload = records.load(only(path), tmp_path)
    assert numbers(payload) == [2, 7, 12, 17]
    assert seconds(payload) == pytest.approx(np.array([2, 7, 12, 17]) / 25)


def test_frames_that_the_header_counts_and_the_stream_lacks_are_lost(tmp_path: Path) -> None:
    path = write(tmp_path / "a.dcm", stream("mp4", "libx264"), "102", NumberOfFrames=25)
    assert only(path).attributes["frames_lost"] == 5
    assert only(path).attributes["frames"] == 20
    assert len(records.load(only(path), tmp_path).array) == 20
    path = write(tmp_path / "b.dcm", stream("mp4", "libx264"), "102", NumberOfFrames=60)
    assert refused(path) == "a video of which 33% of the frames are there and decode"


def test_a_clip_that_is_none_is_refused(tmp_path: Path) -> None:
    data = stream("mp4", "libx264")
    assert refused(write(tmp_path / "a.dcm", data, "102", Rows=50)).startswith(
        "frames of 48 × 64 pixels under a header of 50"
    )
    assert refused(write(tmp_path / "b.dcm", stream("h264", "libx264"), "102")) == "a coded video without a container"
    assert refused(write(tmp_path / "c.dcm", bytes(100), "102")) == "a coded video without a container"
    assert refused(write(tmp_path / "d.dcm", data[:-200], "102")).startswith("a mov video that does not open")
    endless = write(tmp_path / "f.dcm", data, "102", NumberOfFrames=2**31 - 1)
    assert refused(endless) == "an object of 2147483647 frames"  # not one number is made for each of them
    whole = write(tmp_path / "e.dcm", data, "102").read_bytes()
    (tmp_path / "e.dcm").write_bytes(whole[:-300])
    assert refused(tmp_path / "e.dcm")


def test_frames_of_an_ultrasound_in_jpeg_have_the_colours_that_another_decoder_gives() -> None:
    path = Path(str(get_testdata_file("examples_ybr_color.dcm", download=False)))
    dataset = pydicom.dcmread(path)
    payload = records.load(only(path), path.parent)
    for number, coded in enumerate(generate_frames(dataset.PixelData, number_of_frames=30)):
        expected = np.asarray(Image.open(io.BytesIO(coded)).convert("RGB"), float).transpose(2, 0, 1)
        assert np.abs(payload.array[number] - expected).max() <= 3


def test_frames_in_a_palette_have_its_colours(tmp_path: Path) -> None:
    single = pydicom.dcmread(str(get_testdata_file("examples_palette.dcm", download=False)))
    frame = single.pixel_array
    single.NumberOfFrames, single.FrameTime = 3, "50"
    single.PixelData = np.stack([frame, frame[::-1], frame]).tobytes()
    single.save_as(tmp_path / "a.dcm")
    record = only(tmp_path / "a.dcm")
    assert record.attributes["colour"] is True
    payload = records.load(record, tmp_path)
    assert payload.array.shape == (3, 3, *frame.shape)
    lut = np.stack(
        [np.frombuffer(single[f"{c}PaletteColorLookupTableData"].value, "<u2") for c in ("Red", "Green", "Blue")]
    )
    assert np.array_equal(payload.array[1], lut[:, frame[::-1]])
    assert seconds(payload) == pytest.approx([0, 0.05, 0.1])
