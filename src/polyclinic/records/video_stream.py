"""The frames of a coded video (`av`, which is FFmpeg): when each is shown, and decoding of those that are wanted.

A container is told by its first bytes and opened with that format's demultiplexer and no other, so a playlist that names
other files is never followed. Sound, subtitles and tags are not read. Decoding runs in one thread: the same bytes give the
same frames, and an error belongs to the packet at hand.

Source: ISO/IEC 14496-12 (boxes, edit lists, track matrix), RFC 9559 (Matroska), ISO/IEC 13818-1 (MPEG program and transport
streams).
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..schema import MissingExtraError
from .source import RecordError, check_size

MOST_PIXELS = 2**27
"""Of one frame; 16K film has as many."""
MOST_FRAMES = 2**23
"""Of one video: 38 hours at 60 a second."""

_BOXES = (b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_STILL = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis", b"crx ", b"jp2 ", b"jpx ")
_STARTS = {
    b"\x1aE\xdf\xa3": "matroska",
    b"\x00\x00\x01\xba": "mpeg",
    b"\x00\x00\x01\xb3": "mpegvideo",
    bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"): "asf",
}
_NESTING = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf")
_MOST_BOXES = 2**20
_SEEKS = ("mov", "matroska", "avi")
"""What has an index of its key frames; the rest is decoded from its start."""


def container_of(head: bytes) -> str | None:
    """FFmpeg's name of the container that the first bytes tell of; None where they tell of none."""
    if head[4:8] == b"ftyp":
        return None if head[8:12] in _STILL else "mov"
    if head[4:8] in _BOXES and head[:1] == b"\x00":
        return "mov"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    if any(head[at::size][:3] == b"GGG" for at, size in ((0, 188), (4, 192))):  # sync bytes, ISO 13818-1 2.4.3.2
        return "mpegts"
    return next((name for start, name in _STARTS.items() if head.startswith(start)), None)


@dataclass(frozen=True, slots=True)
class Index:
    """When the frames of a video are shown.

    Args:
        pts: (n,) int64 ascending, the presentation times of the frames that are shown, in `base`.
        keys: (k,) int64 ascending, those of the key frames, shown or not.
        seeks: (k,) int64, the times by which the container finds them.
        base: seconds of one tick.
        lost: frames of which the container tells the time, and that are not there.
    """

    pts: np.ndarray
    keys: np.ndarray
    seeks: np.ndarray
    base: Fraction
    lost: int

    @property
    def times_s(self) -> np.ndarray:
        """(n,) float64 seconds from the first frame shown."""
        return (self.pts - self.pts[0]) * float(self.base)


def _boxes(file: BinaryIO, start: int, stop: int) -> Iterator[tuple[bytes, bytes]]:
    """The boxes of an MP4 that say how many samples there are, and those that hold them: kind, and 16 bytes of content."""
    while start + 8 <= stop:
        file.seek(start)
        head = file.read(32)
        size, kind, header = int.from_bytes(head[:4], "big"), head[4:8], 8
        if size == 1:
            size, header = int.from_bytes(head[8:16], "big"), 16
        end = stop if size == 0 else min(stop, start + size)
        if end < start + header:
            return  # FFmpeg says what it makes of it
        yield kind, head[header : header + 16]
        if kind in _NESTING:
            yield from _boxes(file, start + header, end)
        start = end


def _check_boxes(file: BinaryIO) -> None:
    """Refuse an MP4 that counts more samples than it could hold: FFmpeg makes an entry of each before it reads one.

    A table of one size for all (14496-12 8.7.3.2), or a fragment's run (8.8.8), counts billions in twenty bytes.
    """
    size, in_runs = file.seek(0, io.SEEK_END), 0
    for number, (kind, content) in enumerate(_boxes(file, 0, size)):
        first, second = int.from_bytes(content[4:8], "big"), int.from_bytes(content[8:12], "big")
        in_runs += first if kind == b"trun" else 0
        overfull = (kind == b"stsz" and first * second > size) or in_runs > 2 * MOST_FRAMES  # sound has runs too
        if overfull or kind == b"cmov" or number > _MOST_BOXES:
            raise RecordError(
                "an MP4 that counts more samples than it has bytes, or hides how many", "a plain, whole file", "check where it comes from"
            )  # fmt: skip
    file.seek(0)


@contextmanager
def opened(source: Path | bytes, container: str) -> Iterator[tuple[Any, Any]]:
    """The container and its first stream of pictures.

    Args:
        source: the file, or what a DICOM object encapsulates.
        container: as `container_of` has it.
    Raises:
        RecordError: it does not open, has no pictures, or promises larger ones than any camera takes.
    """
    try:
        import av
    except ImportError as error:
        raise MissingExtraError("av", "video") from error
    options = {"max_pixels": str(MOST_PIXELS), "protocol_whitelist": "file"}
    if container == "mov":
        with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
            _check_boxes(file)
    place: Any = io.BytesIO(source) if isinstance(source, bytes) else f"file:{source}"  # or a colon names a protocol
    try:
        found = av.open(place, format=container, options=options, metadata_errors="replace")
    except Exception as error:
        raise RecordError(
            f"a {container} video that does not open ({type(error).__name__})", "a whole file", "copy it again, or convert it"
        ) from error  # fmt: skip
    with found:
        pictures = [s for s in found.streams.video if "attached_pic" not in str(s.disposition)]
        if not pictures:
            raise RecordError("a video file without pictures", "a stream of video", "leave it out")
        stream = pictures[0]
        coder = stream.codec_context
        if coder is None or not stream.width or not stream.height:
            raise RecordError(
                "a video whose codec or size is not known", "a codec that FFmpeg decodes", "convert it to H.264"
            )
        check_size((stream.height, stream.width, 3), 1)
        if stream.height * stream.width > MOST_PIXELS:
            raise RecordError(
                f"frames of {stream.height} × {stream.width}", f"at most {MOST_PIXELS} pixels", "scale it down"
            )
        coder.thread_count = 1
        # A frame with an error is told and left, not painted over with what stood in the one before.
        coder.options = {"max_pixels": str(MOST_PIXELS), "err_detect": "explode"}
        yield found, stream


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    """The stream's packets in decoding order; the end of what can be read is the end."""
    from av.error import FFmpegError

    try:
        for packet in container.demux(stream):
            if packet.size:
                yield packet
    except (FFmpegError, IndexError):  # av's own, where a damaged table numbers its streams anew
        return


def _pts(packet: Any) -> int | None:
    return packet.dts if packet.pts is None else packet.pts


def index(container: Any, stream: Any) -> Index:
    """When each frame is shown, by the packets and without decoding; what an edit list cuts away is not shown.

    Raises:
        RecordError: there are no frames, too many, or their times are not known.
    """
    shown, keys, last = list[int](), list[tuple[int, int]](), 0
    for count, packet in enumerate(_packets(container, stream)):
        pts = _pts(packet)
        if count >= MOST_FRAMES:
            raise RecordError(f"a video of over {MOST_FRAMES} frames", "fewer", "cut it into parts")
        if pts is None:
            raise RecordError(
                "a video whose frames have no times", "a time of each frame", "put it into MP4 or Matroska"
            )
        last = max(last, pts + (packet.duration or 0))
        if packet.is_keyframe:
            keys.append((pts, pts if packet.dts is None or "matroska" in container.format.name else packet.dts))
        if not packet.is_discard:
            shown.append(pts)
    if not shown or not keys:
        raise RecordError("a video without a frame that can be shown", "at least one", "copy it again")
    pts = np.unique(np.array(shown, np.int64))
    found = np.array(sorted(keys), np.int64)
    there_s = float((last - pts[0]) * stream.time_base)
    return Index(pts, found[:, 0], found[:, 1], Fraction(stream.time_base), _lost(container, stream, len(pts), there_s))


def _lost(container: Any, stream: Any, count: int, there_s: float) -> int:
    """Frames of which the container tells the time and has nothing: the file was cut short."""
    promised_s = 0.0
    if stream.frames and "avi" in container.format.name:  # its duration is what FFmpeg finds
        promised_s = float(stream.frames * stream.time_base)
    elif stream.duration:
        promised_s = float(stream.duration * stream.time_base)
    elif container.duration and len(container.streams) == 1:
        promised_s = (container.duration - (container.start_time or 0)) / 1e6
    lost = round(count * (promised_s / there_s - 1)) if there_s > 0 else 0
    return lost if lost > 2 else 0  # the last frame's own length is a guess


def decode(
    source: Path | bytes, container: str, index: Index, wanted: Sequence[int] | np.ndarray
) -> Iterator[tuple[int, Any]]:
    """The wanted frames that decode, one after the other: the presentation time and FFmpeg's frame.

    What follows a broken packet up to the next key frame was predicted from it and is left out too.

    Args:
        source, container: as `opened` takes them.
        index: of the stream.
        wanted: presentation times, ascending.
    """
    with opened(source, container) as (found, stream):
        for seek, frames in _ranges(found, index, np.asarray(wanted, np.int64)):
            if seek is not None:
                found.seek(seek, stream=stream, backward=True)
                stream.codec_context.flush_buffers()
            yield from _straight(found, stream, frames)


def _ranges(container: Any, index: Index, wanted: np.ndarray) -> Iterator[tuple[int | None, set[int]]]:
    """Where to seek to (None: read on) and which frames to take from there: a run of groups of pictures in which some are."""
    if not any(name in container.format.name for name in _SEEKS):
        yield None, set(wanted.tolist())
        return
    group = np.maximum(np.searchsorted(index.keys, wanted, "right") - 1, 0)
    for run in np.split(np.arange(len(wanted)), np.flatnonzero(np.diff(group) > 1) + 1):
        if len(run):
            first = int(group[run[0]])
            yield (int(index.seeks[first]) if first else None), set(wanted[run].tolist())


def _straight(container: Any, stream: Any, left: set[int]) -> Iterator[tuple[int, Any]]:
    """The frames of one run; it ends with the last of them."""
    from av.error import FFmpegError

    spoilt, spoiling = set[int | None](), False
    for packet in chain(_packets(container, stream), [None]):
        spoiling = spoiling and not (packet and packet.is_keyframe)
        try:
            came = stream.codec_context.decode(packet)
        except (FFmpegError, ValueError):
            came = []
            spoilt.add(packet and _pts(packet))
            spoiling = spoiling or (packet is not None and not packet.is_disposable)
        if spoiling and packet:
            spoilt.add(_pts(packet))
        for frame in came:
            if frame.pts in left and frame.pts not in spoilt and not frame.is_corrupt:
                left.discard(frame.pts)
                yield frame.pts, frame
        if not left:
            return


def turn_of(frame: Any) -> tuple[bool, bool, bool]:
    """How a frame is turned to be seen (14496-12 8.3.2.3, the track's matrix): transposed, then rows and columns reversed.

    A matrix that turns by no right angle is left: the pixels stay as they are coded.
    """
    matrix = next((bytes(s) for s in frame.side_data if "DISPLAYMATRIX" in str(s.type)), b"")
    if len(matrix) < 36:
        return False, False, False
    a, b, _, c, d = (v / 65536 for v in np.frombuffer(matrix, np.int32)[:5].tolist())
    if b == c == 0 and a and d:
        return False, d < 0, a < 0
    if a == d == 0 and b and c:
        return True, b < 0, c < 0
    return False, False, False


def picture(frame: Any, turn: tuple[bool, bool, bool]) -> np.ndarray:
    """(c y x) uint8 of a frame as it is meant to be seen: c 3 (R G B), or 1 where it was coded without colours."""
    grey = frame.format.name.startswith("gray")
    pixels = frame.to_ndarray(format="gray" if grey else "rgb24")
    pixels = pixels[None] if grey else pixels.transpose(2, 0, 1)
    transposed, up, left = turn
    pixels = pixels.transpose(0, 2, 1) if transposed else pixels
    return np.ascontiguousarray(pixels[:, :: -1 if up else 1, :: -1 if left else 1])
