"""Videos (`av`): MP4, MOV, Matroska, WebM, AVI, MPEG and WMV; surgical and endoscopic ones, with the time of each frame.

A video has no physical scale, and none is made up here. Its sound is never read, and of its tags only the time at which it
was made: the others (a place, a name, a camera's number) are a patient's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..schema import Modality, Payload, Record, Rejected
from . import kinematics
from .naming import patient_of, telling
from .source import RecordError, content_id, parse_time, place_of
from .video_stream import Index, container_of, decode, index, opened, picture, turn_of

MOST_BYTES = 2**29
"""Of the frames that `load` gives: 86 of full HD, 582 of 640 × 480. A longer video is thinned out evenly."""
CHECKED_PIXELS = 2**30
"""So many are decoded when a video is read: all frames of a short one, of a longer one evenly spread key frames."""
LEAST_SHARE = 0.5
"""Of a video's frames; if fewer are there and decode, it is refused."""


def recognises(path: Path, head: bytes) -> bool:
    """Whether the file starts as one of the containers does."""
    return container_of(head) is not None


def _container(path: Path) -> str:
    with path.open("rb") as file:
        found = container_of(file.read(4096))
    if found is None:
        raise RecordError("a file that is no video any more", "the video as ingested", "ingest it again")
    return found


def read(path: Path, root: Path) -> Iterator[Record | Rejected]:
    """One record a file; `frames_lost` counts those that are missing or do not decode, of those that were tried.

    A video of JIGSAWS is its surgeon's and says its task and trial, as the motion of the same trial does.
    """
    container = _container(path)
    with opened(path, container) as (found, stream):
        frames = index(found, stream)
        about = _about(found, stream, frames)
        made = taken(found, stream)
    tried = checked(frames, about["rows"] * about["columns"])
    turn, broken = (False, False, False), len(tried)
    for _, frame in decode(path, container, frames, tried):
        turn = turn_of(frame) if broken == len(tried) else turn
        broken -= 1
    check_share(len(frames.pts), frames.lost, len(tried), broken)
    place = place_of(path, root)
    first = path.stem.split("_")[0]
    usual = patient_of(place, path.stem) or (first if re.search(r"\d", first) else path.stem)
    patient, said = kinematics.filmed(path.stem) or (usual, {})
    if turn[0]:
        turned = {"rows": about["columns"], "columns": about["rows"], "pixel_aspect": 1 / about["pixel_aspect"]}
        about |= turned
    yield Record(
        id=content_id(path),
        patient=patient,
        time=made,
        modality=Modality.VIDEO,
        kind=_kind(place),
        uri=place,
        attributes=about | {
            "rotation_deg": _degrees(turn), "frames_checked": len(tried), "frames_lost": frames.lost + broken,
            "stem": path.stem, "anonymous": True, **said,
        },
    )  # fmt: skip


def check_share(count: int, lost: int, tried: int, broken: int) -> None:
    """Refuse a video of which too little is left.

    Args:
        count: frames that are there.
        lost: that are not.
        tried, broken: of those that are there, how many were to be decoded, and did not.
    """
    share = (1 - broken / tried) * count / (count + lost)
    if share < LEAST_SHARE:
        raise RecordError(
            f"a video of which {share:.0%} of the frames are there and decode", f"at least {LEAST_SHARE:.0%}", "copy it again"
        )  # fmt: skip


def _kind(place: str) -> str:
    """`video endoscopy`: what the folders say, nearest first; one with a digit names a case."""
    folder = next((f for f in reversed(telling(place)) if not re.search(r"\d", f)), "")
    return f"video {' '.join(re.findall('[a-z]+', folder.lower()))}".strip()


def _degrees(turn: tuple[bool, bool, bool]) -> int:
    """Clockwise, from the pixels as they are coded; a mirrored picture counts as turned as far as its rows are."""
    transposed, up, left = turn
    return (90 if left else 270) if transposed else 180 if up and left else 0


def _about(container: Any, stream: Any, frames: Index) -> dict[str, Any]:
    """rows, columns, frames, rate_hz, seconds (the last frame's own length too), variable_rate …"""
    times = frames.times_s
    steps = np.diff(times)
    usual = float(np.median(steps)) if len(steps) else float(1 / (stream.average_rate or stream.guessed_rate or 25))
    seconds = float(times[-1]) + usual
    aspect = stream.sample_aspect_ratio
    return {
        "rows": int(stream.height), "columns": int(stream.width), "frames": len(times), "rate_hz": len(times) / seconds,
        "seconds": seconds, "codec": stream.codec_context.name,
        # within a tick of the clock and a millisecond: Matroska and AVI round each time
        "variable_rate": bool(len(steps)) and float(np.abs(steps - usual).max()) > max(2e-3, 1.5 * float(frames.base)),
        "colour": not str(stream.format.name).startswith("gray") if stream.format else True,
        "pixel_aspect": float(aspect) if aspect else 1.0, "video_streams": len(container.streams.video),
        "start_s": max(0.0, float(frames.pts[0] * frames.base) - (container.start_time or 0) / 1e6),
    }  # fmt: skip


def taken(container: Any, stream: Any) -> datetime | None:
    """When the file was made, by its own clock; what was never set is the epoch of one clock or another."""
    said = container.metadata.get("creation_time") or stream.metadata.get("creation_time") or ""
    moment = parse_time(said.replace("Z", ""))
    return moment if moment and moment.year > 1980 else None


def checked(frames: Index, pixels: int) -> np.ndarray:
    """The presentation times of the frames to decode when a video is read."""
    most = max(1, CHECKED_PIXELS // pixels)
    if len(frames.pts) <= most:
        return frames.pts
    return spread(np.intersect1d(frames.keys, frames.pts), most) if len(frames.keys) > 1 else frames.pts[:most]


def spread(values: np.ndarray, most: int) -> np.ndarray:
    """At most so many, evenly spread, each in the middle of its share."""
    if len(values) <= most:
        return values
    return values[((np.arange(most) + 0.5) * len(values) / most).astype(int)]


def most_frames(pixels: int) -> int:
    """How many frames of so many pixels are loaded at once."""
    return max(1, MOST_BYTES // (3 * pixels))


@lru_cache(maxsize=64)
def _index(path: Path, changed: int) -> tuple[str, Index, int]:
    """The container, the index and the pixels of a frame; kept, because one video is asked for many times."""
    container = _container(path)
    with opened(path, container) as (found, stream):
        return container, index(found, stream), int(stream.height) * int(stream.width)


def _pictures(path: Path, wanted: np.ndarray) -> Iterator[tuple[float, np.ndarray]]:
    """Seconds from the first frame, and the picture; a frame that changes its size on the way is left out."""
    container, frames, _ = _index(path, path.stat().st_mtime_ns)
    turn, shape = None, None
    for pts, frame in decode(path, container, frames, wanted):
        turn = turn or turn_of(frame)
        pixels = picture(frame, turn)
        shape = shape or pixels.shape
        if pixels.shape == shape:
            yield float((pts - frames.pts[0]) * frames.base), pixels


def load(record: Record) -> Payload:
    """array (t c y x) uint8 as seen, c 3 (R G B) or 1; places (t 4) 0, 0, 0 and seconds from the first frame; no to_world.

    At most `MOST_BYTES`: of a longer video frames that are evenly spread. `frames` gives them all, one after the other.
    """
    path = Path(record.uri)
    _, every, pixels = _index(path, path.stat().st_mtime_ns)
    wanted = spread(every.pts, most_frames(pixels))
    found = list(_pictures(path, wanted))
    if not found:
        raise RecordError("a video of which no frame decodes", "the video as ingested", "copy it again")
    places = np.zeros((len(found), 4))
    places[:, 3] = [time for time, _ in found]
    return Payload(np.stack([pixels for _, pixels in found]), places=places)


def frames(
    record: Record, start_s: float = 0.0, stop_s: float | None = None, rate_hz: float | None = None
) -> Iterator[tuple[float, np.ndarray]]:
    """A video's frames as a stream: one is held at a time, however long it is.

    Args:
        record: with an absolute path as its uri.
        start_s, stop_s: from the first frame; up to the end if None.
        rate_hz: the frame that is seen at start_s, start_s + 1 / rate_hz and so on, each once; every frame if None.
    Yields:
        seconds from the first frame, ascending, and (c y x) uint8.
    """
    path = Path(record.uri)
    _, every, _ = _index(path, path.stat().st_mtime_ns)
    times = every.times_s
    stop = np.inf if stop_s is None else stop_s
    if rate_hz is None:
        wanted = every.pts[(times >= start_s - 1e-9) & (times < stop - 1e-9)]
    else:
        ticks = np.arange(start_s, min(stop, times[-1] + 1e-9), 1 / rate_hz)
        shown = np.searchsorted(times, ticks + 1e-6, "right") - 1  # the last that has begun
        wanted = every.pts[np.unique(shown[shown >= 0])]
    yield from _pictures(path, wanted)
