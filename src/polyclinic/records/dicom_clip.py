"""DICOM clips as videos: ultrasound, angiography, endoscopy; frame by frame, or coded as one MPEG-2, H.264 or HEVC stream.

Source: DICOM PS3.3 C.7.6.5 and C.7.6.6 (cine, frame times), PS3.5 8.2.5 to 8.2.11 and A.4.5 to A.4.13 (video transfer syntaxes).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..schema import Modality, Payload, Record, Rejected, Scalar
from . import dicom_pixels, video
from .dicom_header import frames, record_of, spacing_of, text
from .source import RecordError
from .video_stream import MOST_FRAMES, Index, container_of, decode, index, opened, picture

_VIDEO = re.compile(r"1\.2\.840\.10008\.1\.2\.4\.10[0-8](\.1)?")
"""MPEG-2 main and high level, H.264 in five profiles, HEVC in two; .1 where the stream may be in several fragments."""


def coded(dataset: Any) -> bool:
    """Whether its frames are one video stream."""
    return bool(_VIDEO.fullmatch(str(dataset.file_meta.get("TransferSyntaxUID", ""))))


def _stream(dataset: Any) -> tuple[bytes, str]:
    """The encapsulated stream and its container.

    Raises:
        RecordError: it is in none that tells the frames' order, or is not there.
    """
    from pydicom.encaps import generate_frames

    try:
        data = next(generate_frames(dataset.get("PixelData") or b"", number_of_frames=1))
    except Exception as error:
        raise RecordError(
            f"a video that was cut short ({type(error).__name__})", "a whole file", "send it again from the PACS"
        ) from error
    container = container_of(data[:4096])
    if container is None:
        raise RecordError(
            "a coded video without a container", "an MPEG or MP4 stream (PS3.5 8.2.5 to 8.2.11)", "send it again from the PACS"
        )  # fmt: skip
    return data, container


def _indexed(dataset: Any, data: bytes, container: str) -> Index:
    """When the stream's frames are shown.

    Raises:
        RecordError: they are of another size than the header says.
    """
    with opened(data, container) as (found, stream):
        size, said = (stream.height, stream.width), (int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0))
        if size != said:
            raise RecordError(
                f"frames of {size[0]} × {size[1]} pixels under a header of {said[0]} × {said[1]}", "one size",
                "send it again from the PACS",
            )  # fmt: skip
        return index(found, stream)


def times(dataset: Any) -> np.ndarray | None:
    """(n,) seconds of the header's frames from the first; None where it does not say.

    FrameTimeVector stands before FrameTime, and both before the rates at which the clip was taken or is to be shown.
    """
    count = frames(dataset)
    if count > MOST_FRAMES:
        raise RecordError(f"an object of {count} frames", f"at most {MOST_FRAMES}", "export it in parts")
    steps = [float(v) for v in _list(dataset.get("FrameTimeVector"))]
    if len(steps) == count > 1 and all(np.isfinite(v) and v >= 0 for v in steps) and sum(steps[1:]) > 0:
        return np.cumsum([0.0, *steps[1:]]) / 1000  # C.7.6.5.1.2: the increments between frames, in ms
    period_ms = float(dataset.get("FrameTime") or 0)
    rates = [1000 / period_ms if period_ms > 0 else 0.0]
    rates += [float(dataset.get(k) or 0) for k in ("CineRate", "RecommendedDisplayFrameRate")]
    rate = next((r for r in rates if 0 < r < 1e5), None)
    return None if rate is None else np.arange(count) / rate


def _list(value: Any) -> Sequence[Any]:
    return () if value is None else value if not isinstance(value, int | float | str) else (value,)


def timing(times_s: np.ndarray) -> dict[str, Scalar]:
    """rate_hz, seconds (the last frame's own length too) and whether the frames are not even."""
    steps = np.diff(times_s)
    rate = len(steps) / float(times_s[-1]) if len(steps) else 1.0
    uneven = len(steps) > 1 and float(np.ptp(steps)) > 1e-3 * float(steps.max())
    return {"rate_hz": rate, "seconds": len(times_s) / rate, "variable_rate": uneven}


def read(dataset: Any, path: Path, root: Path) -> Iterator[Record | Rejected]:
    """One video. All frames are decoded; of a long coded one as many as `video.read` does of a file."""
    taken = times(dataset)
    about: dict[str, Scalar] = {"colour": _coloured(dataset)}
    if coded(dataset):
        data, container = _stream(dataset)
        found = _indexed(dataset, data, container)
        checked = video.checked(found, int(dataset.Rows) * int(dataset.Columns))
        broken = len(checked) - sum(1 for _ in decode(data, container, found, checked))
        lost = max(found.lost, frames(dataset) - len(found.pts))
        video.check_share(len(found.pts), lost, len(checked), broken)
        taken = _of_stream(taken, found)
        about |= {"frames_checked": len(checked), "frames_lost": lost + broken}
    else:
        if taken is None:
            raise RecordError(
                f"{frames(dataset)} frames without places or times", "a plane of each frame, or FrameTime, FrameTimeVector or CineRate",
                "export it as single frames",
            )  # fmt: skip
        for _ in dicom_pixels.each(dataset):  # a truncated file shows itself now
            pass
    whole = record_of(dataset, path, root)
    about |= {"frames": len(taken), **timing(taken)}
    yield replace(whole, modality=Modality.VIDEO, attributes={**whole.attributes, **about})


def _coloured(dataset: Any) -> bool:
    return int(dataset.get("SamplesPerPixel") or 1) > 1 or text(dataset, "PhotometricInterpretation") == "PALETTE COLOR"


def _of_stream(times_s: np.ndarray | None, found: Index) -> np.ndarray:
    """The frames' times: the header's, or the stream's own where the header has none or counts fewer frames."""
    return found.times_s if times_s is None or len(times_s) < len(found.pts) else times_s[: len(found.pts)]


def load(dataset: Any) -> Payload:
    """array (t c y x), c 3 where it has colours; places (t 4) 0, 0, 0 and seconds from the first frame; to_world where it has a scale.

    float32 as meant to be seen; uint8 of a coded stream, which is thinned out as `video.load` does.
    """
    taken = times(dataset)
    if not coded(dataset):
        return payload(dataset, range(frames(dataset)), taken if taken is not None else ())
    data, container = _stream(dataset)
    found = _indexed(dataset, data, container)
    taken = _of_stream(taken, found)
    wanted = video.spread(np.arange(len(found.pts)), video.most_frames(int(dataset.Rows) * int(dataset.Columns)))
    clip, which = [], []
    for pts, frame in decode(data, container, found, found.pts[wanted]):
        clip.append(picture(frame, (False, False, False)))
        which.append(int(np.searchsorted(found.pts, pts)))
    return _shown([p if _coloured(dataset) else p[:1] for p in clip], dataset, taken[which])


def payload(dataset: Any, which: Sequence[int], times_s: Sequence[float] | np.ndarray) -> Payload:
    """Some of the frames, in the order given, as a clip that is not coded is loaded.

    Args:
        which: their numbers from 0.
        times_s: seconds of each.
    """
    seen = (p.astype(np.float32) for p in dicom_pixels.each(dataset, which))
    return _shown([p[None] if p.ndim == 2 else p[..., :3].transpose(2, 0, 1) for p in seen], dataset, times_s)


def _shown(clip: Sequence[np.ndarray], dataset: Any, times_s: Sequence[float] | np.ndarray) -> Payload:
    if not clip or len(times_s) != len(clip):
        raise RecordError("a clip without frames or times", "the clip as ingested", "send it again")
    spacing, places = spacing_of(dataset), np.zeros((len(clip), 4))
    places[:, 3] = times_s
    return Payload(np.stack(clip), np.diag([spacing[1], spacing[0], 1.0, 1.0]) if spacing else None, places=places)
