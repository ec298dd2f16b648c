"""ROS 1 and ROS 2 recordings (`rosbags`): `.bag`, `.db3` and `.mcap`, one kinematics record a topic of joints, poses, velocities or forces.

Messages are read by the definitions of the distributions (Noetic, Humble), not by those that a file brings. Pictures in a
bag are not taken: a bag is no container of video; export them as one.

Source: ROS bag format 2.0, MCAP specification, rosbag2's SQLite schema; sensor_msgs, geometry_msgs and nav_msgs.
"""

from __future__ import annotations

import bz2
import struct
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..schema import MissingExtraError, Payload, Record, Rejected
from .kinematics import FEWEST_SAMPLES, Motion, described, motion
from .source import LARGEST_BYTES, RecordError, place_of, quiet, split_uri

_MCAP, _SQLITE, _BAG = b"\x89MCAP0\r\n", b"SQLite format 3\x00", b"#ROSBAG V2.0\n"
_ABOUT = b"rosbag2_bagfile_information"
MOST_CHANNELS = 4096
MOST_CHUNK = 2**26
"""Bytes that a chunk may unpack to; recorders write chunks of about a megabyte."""

_MOVING = {
    f"{room}/msg/{name}"
    for room, names in {
        "sensor_msgs": "JointState Imu",
        "nav_msgs": "Odometry",
        "geometry_msgs": "Pose PoseStamped PoseWithCovariance PoseWithCovarianceStamped Twist TwistStamped TwistWithCovariance "
        "TwistWithCovarianceStamped Accel AccelStamped Wrench WrenchStamped Transform TransformStamped Vector3 Vector3Stamped "
        "Point PointStamped Quaternion QuaternionStamped",
    }.items()
    for name in names.split()
}
PICTURES = {"sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"}


def recognises(path: Path, head: bytes) -> bool:
    """Whether it is a ROS 1 bag, an MCAP or a rosbag2 database, or the description that lies beside these."""
    if path.name == "metadata.yaml":
        return _ABOUT in head
    return head.startswith((_MCAP, _BAG)) or (head.startswith(_SQLITE) and path.suffix.lower() == ".db3")


class _Topic:
    """Messages of one topic as they come."""

    def __init__(self, connection: Any) -> None:
        self.name, self.kind = str(connection.topic), str(connection.msgtype)
        self.columns: dict[str, int] = {}
        self.rows: list[array[float]] = []
        self.stamps, self.logged, self.cells = list[int](), list[int](), 0

    def add(self, logged_ns: int, message: Any) -> None:
        numbers = _joints(message) if self.kind.endswith("/JointState") else dict(_numbers(message, ""))
        row = array("d", [np.nan]) * len(self.columns)
        for name, value in numbers.items():
            place = self.columns.setdefault(name, len(self.columns))
            row.extend([np.nan] * (place + 1 - len(row)))
            row[place] = value
        self.cells += len(row)
        if len(self.columns) > MOST_CHANNELS or 8 * self.cells > LARGEST_BYTES:
            raise RecordError(
                f"a topic of {len(self.columns)} channels and {len(self.rows)} messages", "less", "split the recording"
            )
        header = getattr(message, "header", None)
        self.rows.append(row)
        self.stamps.append(0 if header is None else header.stamp.sec * 10**9 + header.stamp.nanosec)
        self.logged.append(logged_ns)

    def motion(self) -> Motion:
        """By the time at which it was measured where each message says so, else by that at which it was recorded."""
        if len(self.rows) < FEWEST_SAMPLES or not self.columns:
            raise RecordError(f"a topic of {len(self.rows)} messages", f"at least {FEWEST_SAMPLES}", "leave it out")
        times = np.array(self.stamps if min(self.stamps) > 0 else self.logged, np.int64)
        values = np.full((len(self.rows), len(self.columns)), np.nan)
        for into, row in zip(values, self.rows, strict=True):
            into[: len(row)] = row
        order = np.unique(times, return_index=True)[1]  # what has the time of another says nothing of when it was
        since = times[order] - times[order[0]]
        found = motion(values[order].T, since.astype(float), 1e-9, tuple(self.columns))
        first = motion(values[:2].T, times[order[0]] / 1e9 + np.arange(2.0), 1.0, tuple(self.columns)).start
        return Motion(found.values, found.times_s, found.names, first)


def _joints(message: Any) -> dict[str, float]:
    """`joint position`, `joint velocity`, `joint effort`, of those that the message has."""
    found = {}
    for kind in ("position", "velocity", "effort"):
        values = getattr(message, kind)
        names = message.name if len(message.name) == len(values) else [str(i) for i in range(len(values))]
        found |= {f"{name} {kind}": float(v) for name, v in zip(names, values, strict=True)}
    return found


def _numbers(message: Any, prefix: str) -> Iterator[tuple[str, float]]:
    """`pose position x` and its value, of every number but the header's and the covariances."""
    for field in message.__dataclass_fields__:
        value = getattr(message, field)
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{field}", float(value)
        elif field != "header" and hasattr(value, "__dataclass_fields__"):
            yield from _numbers(value, f"{prefix}{field} ")


@contextmanager
def opened(path: Path) -> Iterator[tuple[Any, Callable[[bytes, str], Any]]]:
    """The recording and what makes a message of its bytes.

    Raises:
        RecordError: it does not open, or its chunks unpack to more than any recorder's.
    """
    try:
        from rosbags.rosbag1 import Reader as Reader1
        from rosbags.rosbag2 import Reader as Reader2
        from rosbags.typesys import Stores, get_typestore
    except ImportError as error:
        raise MissingExtraError("rosbags", "robotics") from error
    with path.open("rb") as file:
        start = file.read(len(_BAG))
    try:
        chunks = _check_mcap(path) if start.startswith(_MCAP) else set()
        old = start == _BAG
        reader = Reader1(path) if old else Reader2(path)
        reader.open()
        if any(
            chunk.chunk_start_offset not in chunks for chunk in getattr(getattr(reader, "storage", None), "chunks", ())
        ):
            raise RecordError("a recording whose index points between its chunks", "a finished recording", "reindex it")
    except RecordError:
        raise
    except Exception as error:
        raise RecordError(
            f"a ROS recording that does not open ({type(error).__name__})", "a finished recording", "reindex it, or copy it again"
        ) from error  # fmt: skip
    try:
        if isinstance(reader, Reader1):
            _check_bag(path, reader)
        store = get_typestore(Stores.ROS1_NOETIC if old else Stores.ROS2_HUMBLE)
        yield reader, store.deserialize_ros1 if old else store.deserialize_cdr
    except RecordError:
        raise
    except Exception as error:
        raise RecordError(
            f"a damaged ROS recording ({type(error).__name__})", "a finished recording", "reindex it, or copy it again"
        ) from error
    finally:
        reader.close()


def _check_mcap(path: Path) -> set[int]:
    """Where the chunks are; refuses those that unpack beyond bound: the reader would unpack each in one piece.

    Records are an opcode, a length of eight bytes and the content; 0x06 is a chunk (MCAP specification).
    """
    from rosbags.rosbag2.storage_mcap import zstd

    size, chunks = path.stat().st_size, set[int]()
    with path.open("rb") as file:
        place = len(_MCAP)
        while place + 9 <= size:
            file.seek(place)
            kind, length = struct.unpack("<BQ", file.read(9))
            if kind == 0x06:
                content = file.read(min(length, size - place - 9))
                told = struct.unpack_from("<Q", content, 16)[0]
                named = struct.unpack_from("<L", content, 28)[0]
                if content[32 : 32 + named] == b"zstd":
                    told = max(told, _unpacked(zstd.ZstdDecompressor, content[40 + named :]))
                _small(told)
                chunks.add(place)
            place += 9 + length
    return chunks


def _check_bag(path: Path, reader: Any) -> None:
    """As `_check_mcap`. LZ4 cannot pack more than 255 bytes into one, so only bz2 is unpacked to see."""
    with path.open("rb") as file:
        for chunk in reader.chunks.values():
            file.seek(chunk.datapos)
            packed = file.read(chunk.datasize)
            if packed.startswith(b"BZh"):
                _small(_unpacked(bz2.BZ2Decompressor, packed))


def _unpacked(new: Callable[[], Any], packed: bytes) -> int:
    """Bytes that a run of compressed streams unpacks to, or more than `MOST_CHUNK`; what is broken counts as far as it goes."""
    size = 0
    while packed and size <= MOST_CHUNK:
        decoder = new()
        size += len(decoder.decompress(packed, MOST_CHUNK + 1 - size))
        packed = decoder.unused_data if decoder.eof else b""
    return size


def _small(size: int) -> None:
    if size > MOST_CHUNK:
        raise RecordError(
            f"a chunk that unpacks to more than {MOST_CHUNK >> 20} MiB", "less", "check where it comes from"
        )


@quiet("rosbags")
def _topics(path: Path, only: str | None = None) -> tuple[dict[str, _Topic], dict[str, RecordError]]:
    """The topics of motion with their messages, and of the others and the broken ones the reason."""
    topics, wrong = dict[str, _Topic](), dict[str, RecordError]()
    with opened(path) as (reader, message_of):
        moving = []
        for connection in reader.connections:
            if only not in (None, connection.topic):
                continue
            if connection.msgtype in _MOVING:
                moving.append(connection)
                topics.setdefault(connection.topic, _Topic(connection))
            else:
                wrong[connection.topic] = _unread(connection.msgtype)
        for connection, logged, data in reader.messages(moving) if moving else ():
            topic = topics.get(connection.topic)
            if topic is None:
                continue
            try:
                topic.add(logged, message_of(data, connection.msgtype))
            except RecordError as error:
                wrong[connection.topic] = error
            except Exception as error:
                wrong[connection.topic] = RecordError(
                    f"a message that is no {topic.kind} ({type(error).__name__})", "the distribution's own messages",
                    "decompress the recording, or export it with standard messages",
                )  # fmt: skip
            if connection.topic in wrong:
                del topics[connection.topic]
    return topics, wrong


def _unread(kind: str) -> RecordError:
    if kind in PICTURES:
        return RecordError("a topic of pictures", "joints, poses, velocities or forces", "export it as a video")
    return RecordError(f"a topic of {kind}", "joints, poses, velocities or forces", "leave it out")


def read(path: Path, root: Path) -> Iterator[Record | Rejected]:
    """One record a topic of motion, in the order of their names; the others are set aside with their reason."""
    if path.name == "metadata.yaml":  # it repeats what the recording beside it says
        return
    topics, wrong = _topics(path)
    if not topics and not wrong:
        raise RecordError("a ROS recording without a topic", "topics of motion", "leave it out")
    place = place_of(path, root)
    for name in sorted({*topics, *wrong}):
        try:
            if name in wrong:
                raise wrong[name]
            topic = topics[name]
            yield described(path, root, topic.motion(), f"kinematics {topic.kind.rsplit('/', 1)[1]}", name)
        except RecordError as error:
            yield Rejected(place, f"{error.found} ({name})", error.expected, error.remedy)


def load(record: Record) -> Payload:
    """As `kinematics.Motion.payload`; names are `joint position` or `pose position x`."""
    place, fragment = split_uri(record.uri)
    name = fragment.removeprefix("topic=")
    topics, wrong = _topics(Path(place), name)
    if name not in topics:
        raise wrong.get(name) or RecordError(
            "a recording without the topic", "the recording as ingested", "ingest it again"
        )
    return topics[name].motion().payload()
