"""ROS 1 and ROS 2 recordings: topics of numbers into a new recording of the same kind; times moved, names of frames and joints cleaned.

Which topics stay their types say: those whose every field is a number, a time, or the name of a frame or a joint. Topics of pictures,
words and bytes, and of types that are none of the distribution's, are left out, each with its reason. Definitions, callers,
qualities of service and descriptions do not come along.

Source: ROS bag format 2.0, MCAP specification, rosbag2's SQLite schema and metadata (version 9).
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...schema import Record
from .. import rosbag as reader
from ..source import RecordError, quiet
from .cleaning import Cleaning
from .known import Known
from .words import words

DAY_NS = 86_400 * 10**9
_NAMES = {"frame_id", "child_frame_id", "name", "source_frame_id", "reference_frame_id"}
"""Fields of words that stay, cleaned: frames, and joints."""
_NUMBERS = {"bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64"}
_BYTES = {"int8", "uint8", "byte", "char"}
_TIME = "builtin_interfaces/msg/Time"
_ROBOT = frozenset(
    re.split(
        " ",
        "psm mtm ecm suj mtml mtmr dvrk joint joints state states jaw tool tip tf base link frame camera imu odom "
        "pose twist wrench force torque cmd command position velocity effort acceleration cartesian measured setpoint "
        "current desired local global gripper robot world map laser sensor yaw pitch roll outer inner insertion main "
        "instrument tcp ee effector controller feedback pedal clutch linear angular speed body head stereo optical "
        "endoscope haptic master slave target goal cp cv cf jp jv jf js spatial wheel flange panda ur ur3 ur5 ur10 "
        "kuka iiwa lbr raven davinci end moveit servo move stamped",
    )
)
"""Words of topics, frames and joints, besides those that may stand in a file's name."""


def survey(path: Path, place: str, known: Known) -> str | None:
    """Whose it is, by its folders or name; a recording that is none its reader refuses."""
    items = reader.read(path, path.parents[place.count("/")])
    return next((item.patient for item in items if isinstance(item, Record)), None)


@quiet("rosbags")
def deidentify(path: Path, to: Path, cleaning: Cleaning) -> None:
    """Write the recording anew.

    Raises:
        RecordError: none of its topics is of numbers, or a message is broken.
    """
    from rosbags.rosbag1 import Reader as Reader1
    from rosbags.typesys import Stores, get_typestore

    with reader.opened(path) as (bag, message_of):
        old = isinstance(bag, Reader1)
        store = get_typestore(Stores.ROS1_NOETIC if old else Stores.ROS2_HUMBLE)
        kept = _kept(bag, store, cleaning)
        by = _by(bag.start_time, cleaning)
        pack = store.serialize_ros1 if old else store.serialize_cdr
        with _writing(to, old) as writer:
            into = {}
            for c in kept:
                name = "/".join(_name(part, cleaning) for part in c.topic.split("/"))
                into[c.id] = writer.add_connection(name, c.msgtype, typestore=store)
            for connection, logged, data in bag.messages(kept):
                message = message_of(data, connection.msgtype)
                _clean(message, by, cleaning)
                writer.write(into[connection.id], logged + by, pack(message, connection.msgtype))
    cleaning.did("times", "C: moved")


def _kept(bag: Any, store: Any, cleaning: Cleaning) -> list[Any]:
    """The topics of numbers; of the others it is noted why they do not come along."""
    kept = []
    for number, connection in enumerate(bag.connections, 1):
        if reason := _left_out(connection.msgtype, store):
            cleaning.did(f"topic {number}", f"X: {reason}")
        else:
            kept.append(connection)
    if not kept:
        raise RecordError("a ROS recording without a topic of numbers", "joints, poses, forces", "leave it out")
    return kept


@contextmanager
def _writing(to: Path, old: bool) -> Iterator[Any]:
    """What writes such a recording; one of ROS 2 is written as a folder, of which the recording is taken."""
    from rosbags.rosbag1 import Writer as Writer1
    from rosbags.rosbag2 import StoragePlugin
    from rosbags.rosbag2 import Writer as Writer2

    if old:
        to.unlink(missing_ok=True)
        with Writer1(to) as writer:
            yield writer
        return
    plugin = StoragePlugin.SQLITE3 if to.suffix.lower() == ".db3" else StoragePlugin.MCAP
    above = to.with_name(to.name + ".folder")
    shutil.rmtree(above, ignore_errors=True)
    with Writer2(above / to.stem, version=9, storage_plugin=plugin) as writer:
        yield writer
    next(p for p in (above / to.stem).iterdir() if p.suffix != ".yaml").replace(to)
    shutil.rmtree(above)


def _by(start_ns: int, cleaning: Cleaning) -> int:
    """How far times move, in ns: with the person's days, or to the second day of the clock where dates are not to stay."""
    return cleaning.days * DAY_NS if cleaning.options.dates == "shift" else DAY_NS - start_ns


def _left_out(kind: str, store: Any) -> str | None:
    """Why a topic of that type does not come along; None where it does."""
    if kind in reader.PICTURES:
        return "a topic of pictures, which may show anybody: export it as a video"
    if kind not in store.fielddefs:
        return "a type that is none of the distribution's"
    wrong = next((what for name, what in _leaves(kind, store) if what not in _NUMBERS and name not in _NAMES), None)
    return f"a topic of {'words' if 'str' in wrong else 'bytes'}" if wrong else None


def _leaves(kind: str, store: Any) -> Iterator[tuple[str, str]]:
    """(name, type) of each field that has no further ones; of a list of bytes, which may hold anything, `bytes`."""
    for name, (node, what) in store.fielddefs[kind][1]:
        many = isinstance(what[0], tuple)
        (node, what), _ = what if many else ((node, what), 0)
        if isinstance(what, str):
            yield from _leaves(what, store)
        else:
            yield name, "bytes" if many and what[0] in _BYTES else what[0]


def _clean(message: Any, by: int, cleaning: Cleaning) -> None:
    """Times and names of a message, in place; a time that is no date (of a robot that counts from its start) stays."""
    for field in message.__dataclass_fields__:
        value = getattr(message, field)
        if getattr(value, "__msgtype__", "") == _TIME:
            stamp = value.sec * 10**9 + value.nanosec
            if stamp >= 5 * 10**17:
                value.sec, value.nanosec = divmod(stamp + by, 10**9)
        elif isinstance(value, str):
            setattr(message, field, _name(value, cleaning))
        elif isinstance(value, list):
            for item in value:
                if hasattr(item, "__dataclass_fields__"):
                    _clean(item, by, cleaning)
            if value and isinstance(value[0], str):
                setattr(message, field, [_name(item, cleaning) for item in value])
        elif hasattr(value, "__dataclass_fields__"):
            _clean(value, by, cleaning)


def _name(name: str, cleaning: Cleaning) -> str:
    """A frame's, a joint's or a topic's name: its words of robots stay, each other is a pseudonym."""

    def word(found: re.Match[str]) -> str:
        plain = found[0].casefold()
        stem = re.sub(r"\d{1,3}$", "", plain)
        known = plain in cleaning.known.ids or plain in cleaning.known.patients or stem in cleaning.known.parts
        harmless = (plain.isdecimal() and len(plain) <= 3) or len(stem) == 1 or stem in _ROBOT or stem in words("plain")
        return found[0] if harmless and not known else cleaning.key.pseudonym(found[0])

    return re.sub(r"[^\W_]+", word, name)
