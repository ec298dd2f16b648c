"""Videos: the pictures' packets into a new container of the same kind, without decoding them; everything else stays behind.

Sound (a voice is a person's), subtitles, attachments, chapters and tags go, so do the messages within a stream that no decoder
needs (SEI, user data, comments). When the file was made is moved with the person's dates; how the picture is turned stays. What
is burned into the pictures is not looked at: a person has to.

Source: ISO/IEC 14496-12; ITU-T H.264 and H.265 Annex D (SEI); ISO/IEC 13818-2 6.2.2.2.2 (user data).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import video as reader
from ..naming import patient_of
from ..source import RecordError
from ..video_stream import container_of, opened
from . import pictures
from .cleaning import Cleaning
from .keyed import moved_time
from .known import Known

_FILTERS = {
    "h264": "filter_units=remove_types=6",
    "hevc": "filter_units=remove_types=39|40",
    "av1": "filter_units=remove_types=5",
}
"""SEI, and AV1's metadata."""
_SEI = frozenset({39, 40})
_PLAIN = frozenset(
    {
        "h264",
        "hevc",
        "av1",
        "mpeg4",
        "mpeg1video",
        "mpeg2video",
        "mjpeg",
        "vp8",
        "vp9",
        "ffv1",
        "wmv1",
        "wmv2",
        "rawvideo",
    }
)
_USER_DATA = re.compile(rb"\x00\x00\x01\xb2.*?(?=\x00\x00\x01|\Z)", re.DOTALL)
_MUXERS = {"mov": "mp4", "matroska": "matroska", "avi": "avi", "mpegts": "mpegts", "mpeg": "vob", "asf": "asf"}


def survey(path: Path, place: str, known: Known) -> str:
    """Whose it is, by its name."""
    first = path.stem.split("_")[0]
    return patient_of(place, path.stem) or (first if re.search(r"\d", first) else path.stem)


def deidentify(path: Path, to: Path, cleaning: Cleaning) -> None:
    """Write the pictures alone.

    Raises:
        RecordError: a container or a codec of which this cannot say what else is in it.
    """
    with path.open("rb") as file:
        container = container_of(file.read(4096)) or ""
    muxer = "mov" if to.suffix.lower() == ".mov" else "webm" if to.suffix.lower() == ".webm" else _MUXERS.get(container)
    if muxer is None:
        raise RecordError(
            "a video without a container", "MP4, Matroska, AVI or the like", "put it into one, without decoding it"
        )
    with opened(path, container) as (found, stream):
        if stream.codec_context.name not in _PLAIN and stream.codec_context.codec.canonical_name not in _PLAIN:
            raise RecordError(
                "a codec of which it is not known what it hides", "H.264, H.265, MPEG, VP9, MJPEG", "encode it again"
            )
        others = len(found.streams) - 1
        _copy(found, stream, to, muxer, reader.taken(found, stream), cleaning)
    if others:
        cleaning.did(f"{others} streams (sound, subtitles, data)", "X")
    cleaning.did("tags, chapters, attachments", "X")
    cleaning.ask("pictures", "a video says nothing of itself: text may be burned in, and faces may be seen")


def _copy(found: Any, stream: Any, to: Path, muxer: str, taken: Any, cleaning: Cleaning) -> None:
    import av
    from av.error import FFmpegError

    try:
        with av.open(str(to), "w", format=muxer, options={"fflags": "+bitexact"}) as new:
            out = new.add_stream_from_template(stream)
            out.metadata.clear()
            name, extra = stream.codec_context.codec.canonical_name, bytes(out.codec_context.extradata or b"")
            if extra and name == "mpeg4":
                out.codec_context.extradata = _without_user_data(extra)
            elif extra and name == "hevc":
                out.codec_context.extradata = _configuration(extra)
            if taken is not None and cleaning.options.dates == "shift":
                new.metadata["creation_time"] = moved_time(taken, cleaning.days).isoformat() + "Z"
            for packet in _packets(found, stream):
                packet.stream = out
                new.mux(packet)
    except FFmpegError as error:
        raise RecordError(
            f"a video that could not be written anew ({type(error).__name__})", "a whole file", "convert it"
        ) from error


def _packets(found: Any, stream: Any) -> Any:
    """The coded pictures, without what a decoder does not need."""
    from av.bitstream import BitStreamFilterContext

    name = stream.codec_context.codec.canonical_name
    clean, extra = _CLEAN.get(name), bytes(stream.codec_context.extradata or b"")
    if (
        name == "hevc" and extra[:1] == b"\x01"
    ):  # units with their lengths, which the filter would write with start codes
        size = (extra[21] & 3) + 1
        name, clean = "", lambda data: _without_messages(data, size)
    chosen = BitStreamFilterContext(_FILTERS[name], stream) if name in _FILTERS else None
    for packet in found.demux(stream):
        if packet.size == 0 and chosen is None:
            continue  # the demultiplexer's last, which only says that it is
        for part in chosen.filter(packet if packet.size else None) if chosen else [packet]:
            yield _rewritten(part, clean(bytes(part))) if clean else part


def _rewritten(packet: Any, data: bytes) -> Any:
    import av

    new = av.Packet(data)
    new.pts, new.dts, new.duration, new.time_base = packet.pts, packet.dts, packet.duration, packet.time_base
    new.is_keyframe = packet.is_keyframe
    return new


def _without_messages(data: bytes, size: int) -> bytes:
    """H.265 units, each behind its length, without SEI (types 39 and 40 of 7.4.2.2)."""
    out, at = [], 0
    while at + size < len(data):
        stop = at + size + int.from_bytes(data[at : at + size], "big")
        if (data[at + size] >> 1) & 63 not in _SEI:
            out.append(data[at:stop])
        at = stop
    return b"".join(out)


def _configuration(extra: bytes) -> bytes:
    """H.265's configuration record without its arrays of SEI (ISO/IEC 14496-15, 8.3.3.1.2)."""
    if extra[:1] != b"\x01" or len(extra) < 23:
        return extra
    kept, at = [], 23
    for _ in range(extra[22]):
        start, at = at, at + 3
        for _ in range(int.from_bytes(extra[start + 1 : start + 3], "big")):
            at += 2 + int.from_bytes(extra[at : at + 2], "big")
        if extra[start] & 63 not in _SEI:
            kept.append(extra[start:at])
    return extra[:22] + bytes([len(kept)]) + b"".join(kept)


def _without_user_data(data: bytes) -> bytes:
    return _USER_DATA.sub(b"", data)


_CLEAN: dict[str, Callable[[bytes], bytes]] = {
    "mpeg4": _without_user_data, "mpeg1video": _without_user_data, "mpeg2video": _without_user_data,
    "mjpeg": lambda data: pictures.jpeg(data + b"\xff\xd9")[0],  # a camera may leave the end out
}  # fmt: skip
