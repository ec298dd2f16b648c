"""ROS recordings: motion the same to the bit, at times moved with the person's; words, pictures and names do not come along."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.rosbag1 import Reader as Reader1
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import Reader as Reader2
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as Writer2

from polyclinic import records
from polyclinic.records.deidentify import Options, Report, open_key
from polyclinic.schema import Record

PLANTED = (
    "Zebedee", "Quillon", "MRN55001", "Vandermeer", "Barnaby", "Elsewhere", "Thistlewood", "Ottoline", "Clementine", "S19-88123",
    "1600000000",
)  # fmt: skip
Look = Callable[[Iterable[str]], None]
START, COUNT = 1_600_000_000_000_000_000, 30


def maker() -> Any:
    """The messages of `tests/records/test_rosbag.py`."""
    spec = importlib.util.spec_from_file_location("rosbag_maker", Path(__file__).parents[1] / "test_rosbag.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["rosbag_maker"] = module
    spec.loader.exec_module(module)
    return module


def topics(types: Any) -> dict[str, tuple[str, Callable[[int, int], Any]]]:
    """Topic → type and what makes a message; names of people wherever a message has words."""
    said = lambda ns, frame="psm1_tool_tip": types["std_msgs/Header"](
        *([0] if types.old else []), types.store.types["builtin_interfaces/msg/Time"](ns // 10**9, ns % 10**9), frame
    )
    floats = lambda n: np.array([n / 7, float("nan") if n == 3 else -n, 1e-300 * n])
    return {
        "/PSM1/measured_js": ("sensor_msgs/msg/JointState", lambda n, ns: types["sensor_msgs/JointState"](
            said(ns), ["outer_yaw", "Zebedee_joint", "jaw"], floats(n), np.array([n / 3, 0.1, 0.2]), np.zeros(0))),
        "/Vandermeer/tip": ("geometry_msgs/msg/PoseStamped", lambda n, ns: types["geometry_msgs/PoseStamped"](
            said(ns, "Barnaby"), types.pose(n))),
        "/base": ("nav_msgs/msg/Odometry", lambda n, ns: types["nav_msgs/Odometry"](said(ns), "MRN55001",
            types["geometry_msgs/PoseWithCovariance"](types.pose(n), np.arange(36.0)), types["geometry_msgs/TwistWithCovariance"](
                types["geometry_msgs/Twist"](types.vector(n, 0, 0.1), types.vector(0, 0, -n)), np.zeros(36)))),
        "/force": ("geometry_msgs/msg/Wrench", lambda n, ns: types["geometry_msgs/Wrench"](types.vector(n, 1, 2), types.vector(3, 4, 5))),
        "/count": ("std_msgs/msg/Float64", lambda n, ns: types["std_msgs/Float64"](n / 9)),
        "/camera": ("sensor_msgs/msg/CompressedImage", lambda n, ns: types["sensor_msgs/CompressedImage"](
            said(ns), "jpeg", np.frombuffer(b"Zebedee Quillon", np.uint8))),
        "/log": ("std_msgs/msg/String", lambda n, ns: types["std_msgs/String"]("Dr. Thistlewood at Saint Elsewhere, S19-88123")),
        "/bytes": ("std_msgs/msg/ByteMultiArray", lambda n, ns: types["std_msgs/ByteMultiArray"](types["std_msgs/MultiArrayLayout"](
            [types["std_msgs/MultiArrayDimension"]("Ottoline", 1, 1)], 0), np.frombuffer(b"Clementine", np.uint8))),
    }  # fmt: skip


KEPT = 5


def write(folder: Path, form: str) -> Path:
    """A recording whose topics, frames, joints, callers, definitions and custom data name people."""
    types = maker().Types(form == "bag")
    path = folder / f"MRN55001_Zebedee.{form}"
    if types.old:
        writer: Any = Writer1(path)
    else:
        plugin = StoragePlugin.SQLITE3 if form == "db3" else StoragePlugin.MCAP
        writer = Writer2(folder / "MRN55001_Zebedee", version=9, storage_plugin=plugin)
        writer.set_custom_data("operator", "Barnaby Vandermeer")
        path = folder / "MRN55001_Zebedee" / path.name
    with writer:
        for topic, (kind, make) in topics(types).items():
            more = {"callerid": "/Clementine"} if types.old else {}
            text, digest = types.store.generate_msgdef(kind, ros_version=1 if types.old else 2)
            digests = {"md5sum": digest} if types.old else {"rihs01": types.store.hash_rihs01(kind)}
            connection = writer.add_connection(topic, kind, msgdef=f"# by Ottoline\n{text}", **digests, **more)
            pack = types.store.serialize_ros1 if types.old else types.store.serialize_cdr
            for n in range(COUNT):
                at = START + n * 20_000_000
                writer.write(connection, at + 5_000_000, pack(make(n, at), kind))
    return path


def numbers(path: Path, root: Path) -> dict[str, tuple[bytes, Any]]:
    """Of each topic of motion the samples' bytes and the time."""
    found = [item for item in records.read(path, root) if isinstance(item, Record)]
    return {r.kind: (records.load(r, root).array.tobytes(), r.time) for r in found}


@pytest.mark.parametrize("form", ["bag", "db3", "mcap"])
def test_motion_stays_and_nobody_is_named(
    place: Path, clean: Callable[..., Report], none_left: Look, form: str
) -> None:
    path = write(place / "in", form)
    report = clean(aside=form != "bag")
    none_left(PLANTED)
    (after,) = (place / "out").rglob(f"*.{form}")
    old, new, key = numbers(path, place / "in"), numbers(after, place / "out"), open_key(place / "key")
    assert len(old) == KEPT - 1
    assert {kind: data for kind, (data, _) in old.items()} == {kind: data for kind, (data, _) in new.items()}
    first = next(item for item in records.read(path, place / "in") if isinstance(item, Record))
    for kind, (_, time) in old.items():
        assert new[kind][1] == time + timedelta(days=key.days(first.patient))
    (joints,) = [
        r for r in records.read(after, place / "out") if isinstance(r, Record) and r.kind.endswith("JointState")
    ]
    assert joints.uri.endswith("#topic=/PSM1/measured_js")
    assert joints.patient == key.pseudonym(first.patient)
    names = records.load(joints, place / "out").names or ()
    assert names[:3] == ("outer_yaw position", f"{key.pseudonym('Zebedee')}_joint position", "jaw position")
    reasons = sorted(a.action for a in report.actions if a.action.startswith("X: a topic"))
    assert [r.split(",")[0] for r in reasons] == [
        "X: a topic of bytes",
        "X: a topic of pictures",
        "X: a topic of words",
    ] or form
    assert [a.found for a in report.aside] == ["the description of a ROS recording"] * (form != "bag")


@pytest.mark.parametrize("form", ["bag", "db3", "mcap"])
def test_every_message_of_numbers_is_the_same_to_the_bit(place: Path, clean: Callable[..., Report], form: str) -> None:
    """Also of topics that no reader of ours takes, and covariances."""
    path = write(place / "in", form)
    clean(aside=True)
    (after,) = (place / "out").rglob(f"*.{form}")
    types = maker().Types(form == "bag")
    unpack = types.store.deserialize_ros1 if types.old else types.store.deserialize_cdr
    found = []
    for one in (path, after):
        with (Reader1 if types.old else Reader2)(one) as bag:
            kept = [c for c in bag.connections if c.msgtype in ("std_msgs/msg/Float64", "nav_msgs/msg/Odometry")]
            messages = [unpack(data, c.msgtype) for c, _, data in bag.messages(kept)]
            found.append([m.data if hasattr(m, "data") else m.pose.covariance.tobytes() for m in messages])
            found[-1].append({c.msgtype: c.msgcount for c in kept})
    assert found[0] == found[1]
    assert len(found[0]) == 2 * COUNT + 1


def test_no_date_is_left_where_that_is_asked(place: Path, clean: Callable[..., Report]) -> None:
    write(place / "in", "bag")
    clean(Options(dates="remove"))
    (after,) = (place / "out").rglob("*.bag")
    assert {time for _, time in numbers(after, place / "out").values()} == {None}


def test_a_recording_of_words_alone_is_set_aside(place: Path, clean: Callable[..., Report]) -> None:
    types = maker().Types(True)
    with Writer1(place / "in/a.bag") as writer:
        connection = writer.add_connection("/log", "std_msgs/msg/String", typestore=types.store)
        writer.write(
            connection, START, types.store.serialize_ros1(types["std_msgs/String"]("Zebedee"), "std_msgs/msg/String")
        )
    report = clean(aside=True)
    assert [a.found for a in report.aside] == ["a ROS recording without a topic of numbers"]
    assert not list((place / "out").glob("*.bag"))
