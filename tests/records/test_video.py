"""Videos that are encoded here, each frame telling its number by its brightness; the containers' own tables are patched."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from polyclinic import records
from polyclinic.records import video
from polyclinic.schema import Modality, Payload, Record
from reading import load, only, refused

LEVELS = 4
"""Grey levels from frame to frame."""
CODECS = {
    "a.mp4": "libx264", "b.mov": "mpeg4", "c.mkv": "libx264", "d.webm": "libvpx", "e.avi": "mpeg4", "f.mpg": "mpeg2video",
    "g.ts": "libx264", "h.wmv": "wmv2", "i.mkv": "libx265", "j.avi": "mjpeg",
}  # fmt: skip


def encode(
    path: Path,
    codec: str = "libx264",
    pictures: Sequence[np.ndarray] | int = 50,
    times_ms: Sequence[int] | None = None,
    sound: bool = False,
    pix_fmt: str = "yuv420p",
    tags: dict[str, str] | None = None,
    **options: str,
) -> Path:
    """Writes frames of 64 × 48 at 25 a second, or at the times given; (y x 3) or (y x) uint8."""
    if isinstance(pictures, int):
        grain = np.random.default_rng(0).integers(-15, 16, (pictures, 48, 64, 1))  # or frames are smaller than any are
        levels = (20 + LEVELS * i for i in range(pictures))
        pictures = [(level + np.repeat(g, 3, 2)).astype(np.uint8) for level, g in zip(levels, grain, strict=True)]
    options = {"qmax": "2"} | options if codec in ("mpeg4", "mpeg2video", "wmv2") else options
    muxing = {"movflags": flags} if (flags := options.pop("movflags", "")) else {}
    with av.open(str(path), "w", options=muxing) as container:
        container.metadata.update(tags or {})
        stream: Any = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.bit_rate = 1_000_000
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else pix_fmt
        base = Fraction(1, 25) if times_ms is None else Fraction(1, 1000)
        stream.codec_context.time_base = base
        if sound:
            audio: Any = container.add_stream("aac", rate=8000, layout="mono")
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
            silence.sample_rate, silence.pts = 8000, 0
            container.mux([*audio.encode(silence), *audio.encode(None)])
        for number, pixels in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24" if pixels.ndim == 3 else "gray")
            frame.pts, frame.time_base = (number if times_ms is None else times_ms[number]), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def seconds(payload: Payload) -> np.ndarray:
    assert payload.places is not None
    assert payload.places.shape == (len(payload.array), 4)
    assert not payload.places[:, :3].any()
    return payload.places[:, 3]


def numbers(array: np.ndarray) -> list[int]:
    """Which frames they are, by how bright they are in their middle."""
    return np.rint((array[:, :, 8:-8, 8:-8].mean((1, 2, 3)) - 20) / LEVELS).astype(int).tolist()


@pytest.mark.parametrize("name", CODECS)
def test_every_container_gives_every_frame_at_its_time(tmp_path: Path, name: str) -> None:
    path = encode(tmp_path / name, CODECS[name], g="8", bf="2" if name == "f.mpg" else "0")
    record, payload = only(path), load(path)
    assert record.modality is Modality.VIDEO
    assert payload.array.shape == (50, 3, 48, 64)
    assert payload.array.dtype == np.uint8
    assert payload.to_world is None
    assert numbers(payload.array) == list(range(50))
    assert np.abs(seconds(payload) - np.arange(50) / 25).max() < 1e-3
    about = record.attributes
    assert (about["rows"], about["columns"], about["frames"], about["frames_lost"]) == (48, 64, 50, 0)
    assert about["rate_hz"] == pytest.approx(25, rel=1e-3)
    assert about["seconds"] == pytest.approx(2, abs=2e-3)
    assert about["variable_rate"] is False
    assert about["colour"] is True


@pytest.mark.parametrize("name", ["a.mp4", "b.mkv", "c.mov"])
def test_frames_at_uneven_times_keep_them(tmp_path: Path, name: str) -> None:
    times = [0, 40, 80, 95, 300, 340, 1340, 1380, 2000]
    path = encode(tmp_path / name, pictures=len(times), times_ms=times)
    assert seconds(load(path)) == pytest.approx(np.array(times) / 1000, abs=1e-6)
    assert numbers(load(path).array) == list(range(9))
    assert only(path).attributes["variable_rate"] is True


def test_time_counts_from_the_first_picture_and_the_files_own_clock_is_kept(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", times_ms=[500 + 40 * i for i in range(50)], sound=True)
    assert seconds(load(path)) == pytest.approx(np.arange(50) / 25)
    assert only(path).attributes["start_s"] == pytest.approx(
        0.5, abs=0.15
    )  # an encoder of sound starts before its sound
    transport = encode(tmp_path / "b.ts")
    assert seconds(load(transport))[0] == 0


def test_what_an_edit_list_cuts_away_is_not_shown(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", g="10", bf="0")
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 12
    duration, start = struct.unpack(">Ll", data[at : at + 8])
    tick = 12800 // 25  # the muxer's time base of 25 a second
    data[at : at + 8] = struct.pack(">Ll", duration - 13 * 40, start + 13 * tick)
    path.write_bytes(data)
    payload = load(path)
    assert numbers(payload.array) == list(range(13, 50))
    assert seconds(payload) == pytest.approx(np.arange(37) / 25)
    assert only(path).attributes["frames"] == 37
    assert only(path).attributes["frames_lost"] == 0


QUADRANTS = np.zeros((48, 64, 3), np.uint8)
QUADRANTS[:24, :32], QUADRANTS[:24, 32:], QUADRANTS[24:, :32] = (250, 0, 0), (0, 250, 0), (0, 0, 250)


@pytest.mark.parametrize(
    ("matrix", "degrees", "expected"),
    [
        ((0, 1, -1, 0), 90, np.rot90(QUADRANTS, -1)),  # as a phone that is held upright writes it
        ((-1, 0, 0, -1), 180, np.rot90(QUADRANTS, 2)),
        ((0, -1, 1, 0), 270, np.rot90(QUADRANTS, 1)),
        ((-1, 0, 0, 1), 0, QUADRANTS[:, ::-1]),  # a front camera's mirror
        ((0.7, 0.7, -0.7, 0.7), 0, QUADRANTS),
    ],
)
def test_a_turned_video_is_seen_upright(
    tmp_path: Path, matrix: tuple[float, ...], degrees: int, expected: np.ndarray
) -> None:
    path = encode(tmp_path / "a.mp4", pictures=[QUADRANTS] * 5)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    for place, value in zip((0, 4, 12, 16), matrix, strict=True):
        data[at + place : at + place + 4] = struct.pack(">l", round(value * 65536))
    path.write_bytes(data)
    record, payload = only(path), load(path)
    assert record.attributes["rotation_deg"] == degrees
    assert (record.attributes["rows"], record.attributes["columns"]) == expected.shape[:2] == payload.array.shape[2:]
    inner = np.s_[..., 6:18, 6:18]  # of each quadrant: chroma runs over its edge
    assert np.abs(payload.array[0][inner].astype(int) - expected.transpose(2, 0, 1)[inner]).max() < 25


def test_pictures_without_colours_have_one_channel_and_lossless_ones_their_bytes(tmp_path: Path) -> None:
    drawn = np.random.default_rng(0).integers(0, 256, (12, 48, 64), np.uint8)
    path = encode(tmp_path / "a.mkv", "ffv1", list(drawn), pix_fmt="gray")
    assert np.array_equal(load(path).array[:, 0], drawn)
    assert only(path).attributes["colour"] is False


def test_a_long_video_is_thinned_out_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = encode(tmp_path / "a.mp4", g="7")
    whole = load(path)
    monkeypatch.setattr(video, "MOST_BYTES", 5 * 64 * 48 * 3 + 1)
    payload = load(path)
    assert numbers(payload.array) == [5, 15, 25, 35, 45]
    assert seconds(payload) == pytest.approx(np.array([5, 15, 25, 35, 45]) / 25)
    assert np.array_equal(payload.array, whole.array[5::10])  # not what the decoder has before its key frame
    monkeypatch.setattr(video, "CHECKED_PIXELS", 3 * 64 * 48)
    assert only(path).attributes["frames_checked"] == 3
    assert only(path).attributes["frames_lost"] == 0


@pytest.mark.parametrize("name", ["a.mp4", "c.mkv", "e.avi", "f.mpg", "g.ts"])
def test_frames_come_as_a_stream(tmp_path: Path, name: str) -> None:
    path = encode(tmp_path / name, CODECS[name], g="8", bf="2")
    record, whole = replace(only(path), uri=str(path)), load(path)
    every = list(video.frames(record))
    assert np.array_equal(np.stack([p for _, p in every]), whole.array)
    assert [t for t, _ in every] == pytest.approx(seconds(whole))
    part = list(video.frames(record, start_s=0.79, stop_s=1.2, rate_hz=5))  # seen at 0.79, 0.99, 1.19
    assert numbers(np.stack([p for _, p in part])) == [19, 24, 29]
    assert [t for t, _ in part] == pytest.approx([0.76, 0.96, 1.16], abs=2e-3)
    assert len(list(video.frames(record, rate_hz=1000))) == 50  # a frame is not given twice
    assert not list(video.frames(record, start_s=2.5))
    assert next(video.frames(record))[0] == 0


def broken(path: Path, first: int, last: int) -> Path:
    """A video whose packets from one frame to another are noise."""
    random, data = np.random.default_rng(0), bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    for position, size in packets[first:last]:
        assert position is not None
        data[position + 5 : position + size] = random.integers(0, 256, size - 5, np.uint8).tobytes()
    path.write_bytes(data)
    return path


def test_of_a_broken_video_what_decodes_is_taken_up_to_the_next_key_frame(tmp_path: Path) -> None:
    pictures = [
        np.random.default_rng(i).integers(0, 256, (6, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1) for i in range(50)
    ]
    path = encode(tmp_path / "a.mp4", pictures=pictures, g="10", bf="0", sc_threshold="0")
    whole = load(path)
    broken(path, 23, 25)
    payload = load(path)
    left = [*range(23), *range(30, 50)]
    assert seconds(payload) == pytest.approx(np.array(left) / 25)
    assert np.array_equal(payload.array, whole.array[left])  # none of them painted over
    assert only(path).attributes["frames_lost"] == 7
    assert only(path).attributes["frames"] == 50


def test_a_video_of_which_less_than_half_decodes_is_refused(tmp_path: Path) -> None:
    pictures = [np.random.default_rng(i).integers(0, 256, (48, 64, 3), np.uint8) for i in range(40)]
    path = broken(encode(tmp_path / "a.mp4", pictures=pictures, g="10", bf="0", sc_threshold="0"), 3, 40)
    assert refused(path) == "a video of which 7% of the frames are there and decode"


@pytest.mark.parametrize(
    ("name", "movflags"), [("a.mp4", "faststart"), ("b.mkv", ""), ("c.avi", ""), ("d.mp4", "frag_keyframe")]
)
def test_a_video_that_was_cut_short_says_how_much_is_lost(tmp_path: Path, name: str, movflags: str) -> None:
    pictures = [np.random.default_rng(i).integers(0, 256, (48, 64, 3), np.uint8) for i in range(50)]
    path = encode(tmp_path / name, "mpeg4", pictures, g="5", movflags=movflags)
    data = path.read_bytes()
    path.write_bytes(data[: int(0.7 * len(data))])
    record = only(path)
    count, lost = record.attributes["frames"], record.attributes["frames_lost"]
    assert isinstance(count, int)
    assert isinstance(lost, int)
    assert 30 <= count <= 36
    if movflags != "frag_keyframe":  # a fragmented file does not say how long it was to be
        assert abs(count + lost - 50) <= 2
    assert len(load(path).array) == pytest.approx(count, abs=1)
    path.write_bytes(data[: int(0.3 * len(data))])
    if movflags != "frag_keyframe":
        assert "of the frames are there and decode" in refused(path)


def test_a_video_whose_index_is_gone_is_refused(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4")
    path.write_bytes(path.read_bytes()[:-500])
    assert refused(path).startswith("a mov video that does not open")


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        audio: Any = container.add_stream("aac", rate=8000, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
        silence.sample_rate = 8000
        container.mux([*audio.encode(silence), *audio.encode(None)])
    assert refused(path) == "a video file without pictures"


def test_of_the_tags_only_the_time_is_taken(tmp_path: Path) -> None:
    tags = {
        "creation_time": "2021-03-04T05:06:07.000000Z",
        "location": "+48.1-016.3/",
        "title": "Jane Doe",
        "comment": "7e1",
    }
    (tmp_path / "endoscopy/patient07").mkdir(parents=True)
    path = encode(tmp_path / "endoscopy/patient07/a.mp4", tags=tags)
    (record,) = records.read(path, tmp_path)
    assert isinstance(record, Record)
    assert str(record.time) == "2021-03-04 05:06:07"
    assert (record.patient, record.kind) == ("patient07", "video endoscopy")
    assert not any(word in repr(record) for word in ("48.1", "Jane", "7e1"))


def test_a_video_of_jigsaws_is_with_the_motion_of_its_trial(tmp_path: Path) -> None:
    (tmp_path / "Knot_Tying/kinematics").mkdir(parents=True)
    (tmp_path / "Knot_Tying/video").mkdir()
    motion = tmp_path / "Knot_Tying/kinematics/Knot_Tying_D004.txt"
    np.savetxt(motion, np.random.default_rng(0).normal(size=(100, 76)), fmt="%.6f", delimiter="     ")
    moved = only(motion, tmp_path)
    seen = [only(encode(tmp_path / f"Knot_Tying/video/Knot_Tying_D004_capture{n}.avi"), tmp_path) for n in (1, 2)]
    for number, record in enumerate(seen, start=1):
        assert record.patient == moved.patient == "surgeon D"
        assert [record.attributes[k] for k in ("task", "trial", "capture")] == ["knot tying", 4, number]
        assert (record.attributes["task"], record.attributes["trial"]) == (
            moved.attributes["task"],
            moved.attributes["trial"],
        )
    assert seen[0].attributes["stem"] != seen[1].attributes["stem"]
    cut = only(encode(tmp_path / "Suturing_B001.mp4"), tmp_path)
    assert (cut.patient, cut.attributes["trial"]) == ("surgeon B", 1)
    # The same form elsewhere is a patient's number.
    other = only(encode(tmp_path / "GI_P001.mp4"), tmp_path)
    assert (other.patient, "trial" in other.attributes) == ("GI_P001", False)


def test_a_name_with_a_colon_is_a_name(tmp_path: Path) -> None:
    assert len(load(encode(tmp_path / "pipe:0.mkv")).array) == 50


@pytest.mark.parametrize(
    "content",
    [
        b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile /etc/hostname\n",
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        b"The free text of a note that begins with a word which is a box's name",
    ],
)
def test_a_playlist_a_photograph_or_a_text_is_no_video(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    assert refused(path).startswith("a file of unknown format")


def swapped(data: bytearray, name: bytes, content: bytes) -> None:
    """A box of an MP4 with other content, its parents as long as they are then."""
    at = data.index(name) - 4
    length, new = struct.unpack_from(">L", data, at)[0], struct.pack(">L", len(content) + 8) + name + content
    for parent in (b"stbl", b"minf", b"mdia", b"trak", b"moov"):
        there = data.rindex(parent, 0, at) - 4
        struct.pack_into(">L", data, there, struct.unpack_from(">L", data, there)[0] + len(new) - length)
    data[at : at + length] = new


def billions_of_samples(path: Path) -> None:
    """Eighty million samples of one byte, in chunks that all lie on the same twenty thousand."""
    data = bytearray(encode(path, pictures=5).read_bytes())
    chunks, each = 4000, 20_000
    swapped(data, b"stsz", struct.pack(">LLL", 0, 1, chunks * each))
    swapped(data, b"stsc", struct.pack(">LLLLL", 0, 1, 1, each, 1))
    swapped(data, b"stco", struct.pack(">LL", 0, chunks) + struct.pack(">L", 48) * chunks)
    swapped(data, b"stts", struct.pack(">LLLL", 0, 1, chunks * each, 1))
    path.write_bytes(data + bytes(40_000))


def billions_in_a_run(path: Path) -> None:
    data = bytearray(encode(path, pictures=5, movflags="frag_keyframe+empty_moov").read_bytes())
    at = data.index(b"trun") + 4
    data[at : at + 8] = struct.pack(">LL", 0, 200_000_000)
    path.write_bytes(data)


def gigabytes_a_frame(path: Path) -> None:
    data = bytearray(encode(path, "rawvideo", 2).read_bytes())
    at = data.index(b"strf") + 12
    data[at : at + 8] = struct.pack("<ll", 60_000, 60_000)
    path.write_bytes(data)


def nested_boxes(path: Path) -> None:
    inner = b""
    for _ in range(5000):
        inner = struct.pack(">L", len(inner) + 8) + b"moov" + inner
    path.write_bytes(b"\0\0\0\x10ftypisom\0\0\0\0" + inner)


READ = """
import json, resource, sys
from pathlib import Path
from polyclinic import records
import av
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([item.found for item in records.read(Path(sys.argv[1]))]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize(
    ("name", "make", "reason"),
    [
        ("a.mp4", billions_of_samples, "an MP4 that counts more samples"),
        ("b.mp4", billions_in_a_run, "an MP4 that counts more samples"),
        ("c.avi", gigabytes_a_frame, "a video whose codec or size is not known"),
        ("d.mp4", nested_boxes, "a file that its reader could not take"),
    ],
)
def test_a_hostile_video_gets_its_reason_in_bounded_memory(tmp_path: Path, name: str, make: Any, reason: str) -> None:
    make(tmp_path / name)
    done = subprocess.run(
        [sys.executable, "-c", READ, str(tmp_path / name)], capture_output=True, text=True, timeout=120, check=True
    )
    told, kib = done.stdout.splitlines()
    assert json.loads(told)[0].startswith(reason)
    assert int(kib) < 200 << 10
    assert not done.stderr
