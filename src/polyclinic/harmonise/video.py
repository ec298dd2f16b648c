"""Videos: a clip of `seconds` at `rate_hz`, letterboxed to a square, standardised; its frames keep their true times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ..records.raster import luminance
from ..schema import Payload, Record, Step
from . import geometry
from .fingerprint import Fingerprint
from .image import nominal_side_mm

EARLY_S = 1e-3
"""A frame that begins so little after the moment asked for is the one that is seen then: containers round their times."""


class VideoStandard(BaseModel):
    """A clip of square frames, float32 about zero mean and unit variance over the clip.

    Args:
        rate_hz: frames a second. A video of fewer is not filled up: it has those that it has.
        seconds: the clip's length; a shorter video is all of it.
        size: pixels of a side.
        start_s: where the clip begins; None takes it from the middle of the video.
        colour: three channels (R G B), those of a grey video alike; else one of luminance.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["video"] = "video"
    rate_hz: float = Field(default=4.0, gt=0, le=240)
    seconds: float = Field(default=4.0, gt=0)
    size: int = Field(default=112, ge=8)
    start_s: float | None = Field(default=None, ge=0)
    colour: bool = True

    @property
    def most(self) -> int:
        """Frames of a clip that is as long as it may be."""
        return max(1, round(self.seconds * self.rate_hz))


def chosen(times_s: np.ndarray, standard: VideoStandard) -> np.ndarray:
    """(t,) which of the source's frames make up the clip, ascending, each once.

    The frame that is seen at each tick of the rate; of a video that comes thinned out to less than the rate (a long one)
    as many frames as a clip has, evenly spread over all of it.

    Args:
        times_s: (n,) seconds, ascending.
        standard: the clip.
    """
    most, last = standard.most, float(times_s[-1])
    step = float(np.median(np.diff(times_s))) if len(times_s) > 1 else 0.0
    if standard.start_s is None and step * standard.rate_hz > 1.5 and last > standard.seconds:
        return np.unique(((np.arange(most) + 0.5) * len(times_s) / most).astype(int))
    start = max(0.0, (last + step - standard.seconds) / 2) if standard.start_s is None else standard.start_s
    ticks = start + np.arange(most) / standard.rate_hz
    ticks = ticks[ticks < last + max(step, EARLY_S)]
    if not len(ticks):  # it ends before the clip begins
        return np.array([len(times_s) - 1])
    return np.unique(np.maximum(np.searchsorted(times_s, ticks + EARLY_S, "right") - 1, 0))


def _channels(frame: np.ndarray, colour: bool) -> np.ndarray:
    """(c y x) float32, c 3 or 1."""
    frame = geometry.finite(frame.astype(np.float32))
    if colour:
        return frame if len(frame) == 3 else np.repeat(frame[:1], 3, axis=0)
    return luminance(frame)[None] if len(frame) == 3 else frame[:1]


def harmonise(payload: Payload, record: Record, standard: VideoStandard, fingerprint: Fingerprint) -> Payload:
    """(t c size size) float32, t at most `standard.most`; places (t 4) the frames' times in the source.

    Robust range (1st to 99th percentile of the clip), then zero mean and unit variance: over all frames and channels at
    once, so that a frame that grows dark stays dark and a colour stays a colour. to_world is mm, nominal where the source has
    none.
    """
    assert payload.places is not None
    times = payload.places[:, 3]
    which = chosen(times, standard)
    rows, columns = payload.array.shape[2:]
    # A pixel of some recorders is wider than it is high (the sample aspect ratio of ISO 13818-2 and 14496-10).
    aspect = float(record.attributes.get("pixel_aspect") or 1.0)
    mm = nominal_side_mm(record) / max(rows, columns * aspect)
    to_world = np.diag([mm * aspect, mm, 1.0, 1.0]) if payload.to_world is None else payload.to_world
    own = geometry.spacing_of(to_world)
    side = max(rows * own[1], columns * own[0]) / standard.size
    size = (1, standard.size, standard.size)
    to_source = geometry.plan((1, rows, columns), to_world, (own[2], side, side), size, reorient=False)
    onto = lambda frame: geometry.resample(frame[:, None], to_source, size)[:, 0]
    clip = np.stack([onto(_channels(payload.array[number], standard.colour)) for number in which])
    inside = onto(np.ones((1, rows, columns), np.float32))[0] > 0.5
    low, high = np.percentile(clip[:, :, inside], [1, 99]).tolist()
    clip = np.clip((clip - low) / max(high - low, 1e-6), 0, 1)
    seen = clip[:, :, inside]
    clip = (clip - float(seen.mean())) / max(float(seen.std()), 1e-3)
    clip[:, :, ~inside] = clip[:, :, inside].min()
    rows_of = None if payload.to_world is None else tuple(tuple(map(float, row)) for row in payload.to_world)
    history = (
        Step("letterbox", (rows, columns), rows_of, {"to_source": to_source.tolist()}),
        Step("frames", (len(times),), None, {"frames": which.tolist(), "times_s": times[which].tolist()}),
    )
    return Payload(clip, to_world @ to_source, history, payload.to_world is None, places=payload.places[which])


def points_back(points: np.ndarray, history: Sequence[Step]) -> np.ndarray:
    """Places (n 3), x y and frame of the standard clip, as x, y and frame of the source.

    Args:
        points: the frame is a whole number of the clip.
        history: of the harmonised payload.
    """
    letterbox, frames = history
    which = np.asarray(frames.parameters["frames"])
    flat = np.column_stack([points[:, :2], np.zeros(len(points))])
    return np.column_stack([geometry.points_back(flat, [letterbox])[:, :2], which[np.rint(points[:, 2]).astype(int)]])


def points_forth(points: np.ndarray, history: Sequence[Step]) -> np.ndarray:
    """Places (n 3), x y and frame of the source, as x, y and frame of the standard clip; NaN where it has not that frame."""
    letterbox, frames = history
    which = np.asarray(frames.parameters["frames"])
    flat = np.column_stack([points[:, :2], np.zeros(len(points))])
    place = np.clip(np.searchsorted(which, points[:, 2]), 0, len(which) - 1)
    number = np.where(which[place] == points[:, 2], place.astype(float), np.nan)
    return np.column_stack([geometry.points_forth(flat, [letterbox])[:, :2], number])


def frame_at(time_s: float, history: Sequence[Step]) -> int:
    """The frame of the standard clip that is seen at a moment of the source; the first for a moment before it."""
    times = np.asarray(history[-1].parameters["times_s"])
    return max(0, int(np.searchsorted(times, time_s + EARLY_S, "right")) - 1)
