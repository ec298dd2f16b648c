"""Recordings that rosbags' own writers write."""

from __future__ import annotations

import bz2
import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin
from rosbags.rosbag2 import Writer as Writer2
from rosbags.rosbag2.storage_mcap import zstd
from rosbags.typesys import Stores, get_typestore

from polyclinic import records
from polyclinic.records import rosbag
from polyclinic.schema import Events, Modality, Record, Rejected

START = 1_600_000_000_000_000_000
COUNT = 40
FORMATS = ("bag", "bag bz2", "bag lz4", "db3", "mcap", "mcap zstd")


class Types:
    """The distribution's messages."""

    def __init__(self, old: bool) -> None:
        self.old, self.store = old, get_typestore(Stores.ROS1_NOETIC if old else Stores.ROS2_HUMBLE)

    def __getitem__(self, name: str) -> Any:
        return self.store.types[name.replace("/", "/msg/")]

    def header(self, ns: int) -> Any:
        stamp = self.store.types["builtin_interfaces/msg/Time"](ns // 10**9, ns % 10**9)
        return self["std_msgs/Header"](*([0] if self.old else []), stamp, "base")

    def vector(self, *values: float) -> Any:
        return self["geometry_msgs/Vector3"](*values)

    def pose(self, number: int) -> Any:
        quaternion = self["geometry_msgs/Quaternion"](0.0, 0.0, np.sin(number / 9), np.cos(number / 9))
        return self["geometry_msgs/Pose"](self["geometry_msgs/Point"](number * 1.0, number * 2.0, 3.0), quaternion)


def messages(types: Types) -> dict[str, tuple[str, Callable[[int, int], Any]]]:
    """Topic → type and what makes the message of a number and a stamp."""
    covariance = np.zeros(36)
    posed = lambda n: types["geometry_msgs/PoseWithCovariance"](types.pose(n), covariance)
    twisted = lambda n: types["geometry_msgs/TwistWithCovariance"](twist(n), covariance)
    twist = lambda n: types["geometry_msgs/Twist"](types.vector(n, 0, 0), types.vector(0, 0, -n))
    return {
        "/joints": ("sensor_msgs/msg/JointState", lambda n, ns: types["sensor_msgs/JointState"](
            types.header(ns), ["a", "b"], np.array([n, -n], float), np.array([n / 2, 0.0]), np.zeros(0))),
        "/tip": ("geometry_msgs/msg/PoseStamped", lambda n, ns: types["geometry_msgs/PoseStamped"](types.header(ns), types.pose(n))),
        "/speed": ("geometry_msgs/msg/Twist", lambda n, ns: twist(n)),
        "/force": ("geometry_msgs/msg/WrenchStamped", lambda n, ns: types["geometry_msgs/WrenchStamped"](
            types.header(ns), types["geometry_msgs/Wrench"](types.vector(n, 1, 2), types.vector(3, 4, 5)))),
        "/base": ("nav_msgs/msg/Odometry", lambda n, ns: types["nav_msgs/Odometry"](types.header(ns), "base", posed(n), twisted(n))),
        "/camera": ("sensor_msgs/msg/CompressedImage", lambda n, ns: types["sensor_msgs/CompressedImage"](
            types.header(ns), "jpeg", np.zeros(9, np.uint8))),
        "/log": ("std_msgs/msg/String", lambda n, ns: types["std_msgs/String"]("moved")),
    }  # fmt: skip


def write(folder: Path, form: str, topics: tuple[str, ...] = (), jitter: float = 0.0) -> Path:
    """Forty messages a topic, measured every 20 ms and recorded 5 ms later."""
    types = Types(form.startswith("bag"))
    random = np.random.default_rng(0)
    if types.old:
        path = folder / "case7.bag"
        writer: Any = Writer1(path)
        if form != "bag":
            writer.set_compression(Writer1.CompressionFormat[form.split()[1].upper()])
    else:
        plugin = StoragePlugin.SQLITE3 if form == "db3" else StoragePlugin.MCAP
        writer = Writer2(folder / "case7", version=9, storage_plugin=plugin)
        if form == "mcap zstd":
            writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        path = folder / f"case7/case7.{form.split()[0]}"
    with writer:
        for topic, (kind, make) in messages(types).items():
            if topics and topic not in topics:
                continue
            connection = writer.add_connection(topic, kind, typestore=types.store)
            for n in range(COUNT):
                measured = START + round((n + (random.uniform(0, jitter) if n else 0)) * 20_000_000)
                message = make(n, measured)
                data = (
                    types.store.serialize_ros1(message, kind) if types.old else types.store.serialize_cdr(message, kind)
                )
                writer.write(connection, measured + 5_000_000, data)
    return path


def read(path: Path) -> list[Record | Rejected]:
    return [item for item in records.read(path) if not isinstance(item, Events)]


@pytest.mark.parametrize("form", FORMATS)
def test_each_topic_of_motion_is_a_record(tmp_path: Path, form: str) -> None:
    path = write(tmp_path, form)
    found = read(path)
    taken = {r.kind: r for r in found if isinstance(r, Record)}
    assert sorted(taken) == [
        "kinematics JointState", "kinematics Odometry", "kinematics PoseStamped", "kinematics Twist", "kinematics WrenchStamped"
    ]  # fmt: skip
    assert [(r.found, r.remedy) for r in found if isinstance(r, Rejected)] == [
        ("a topic of pictures (/camera)", "export it as a video"), ("a topic of std_msgs/msg/String (/log)", "leave it out")
    ]  # fmt: skip
    joints = taken["kinematics JointState"]
    assert joints.modality is Modality.KINEMATICS
    assert joints.patient == "case7"
    assert str(joints.time) == "2020-09-13 12:26:40"
    assert joints.uri == f"{path.name}#topic=/joints"
    assert joints.attributes["rate_hz"] == pytest.approx(50)
    payload = records.load(joints, path.parent)
    assert payload.names == ("a position", "b position", "a velocity", "b velocity")
    assert payload.array.tolist() == [[float(n) for n in range(COUNT)], [-float(n) for n in range(COUNT)],
                                      [n / 2 for n in range(COUNT)], [0.0] * COUNT]  # fmt: skip
    assert payload.to_world is not None
    assert payload.to_world[0, 0] == pytest.approx(0.02)
    tip = records.load(taken["kinematics PoseStamped"], path.parent)
    assert tip.names == tuple(
        f"pose {part} {axis}" for part, axes in (("position", "xyz"), ("orientation", "xyzw")) for axis in axes
    )
    assert np.allclose(tip.array[5], np.sin(np.arange(COUNT) / 9))
    base = records.load(taken["kinematics Odometry"], path.parent)
    assert len(base.names) == 13  # without the covariances
    assert base.array[base.names.index("twist twist angular z")].tolist() == [-float(n) for n in range(COUNT)]
    force = records.load(taken["kinematics WrenchStamped"], path.parent)
    assert force.array[:, 7].tolist() == [7, 1, 2, 3, 4, 5]
    assert records.load(taken["kinematics Twist"], path.parent).array[0].tolist() == [float(n) for n in range(COUNT)]


def test_the_time_is_that_of_the_measurement(tmp_path: Path) -> None:
    path = write(tmp_path, "mcap", ("/joints", "/speed"), jitter=0.8)
    joints, speed = (records.load(r, path.parent) for r in read(path) if isinstance(r, Record))
    random = np.random.default_rng(0)
    expected = np.array([[n + (random.uniform(0, 0.8) if n else 0) for n in range(COUNT)] for _ in range(2)]) * 0.02
    for payload, times in zip((joints, speed), expected, strict=True):
        assert payload.to_world is None
        assert payload.places is not None
        assert payload.places[:, 3] == pytest.approx(times, abs=1e-8)


def test_the_description_beside_a_recording_is_no_record(tmp_path: Path) -> None:
    write(tmp_path, "db3", ("/joints",))
    assert read(tmp_path / "case7/metadata.yaml") == []


@pytest.mark.parametrize("form", FORMATS)
def test_a_recording_that_was_cut_short_is_refused(tmp_path: Path, form: str) -> None:
    path = write(tmp_path, form, ("/joints",))
    data = path.read_bytes()
    for share in (0.1, 0.5, 0.95):
        path.write_bytes(data[: int(share * len(data))])
        for item in read(path):
            assert isinstance(item, Rejected) or form == "db3"  # whole pages of a database may still be whole


def test_messages_that_are_packed_one_by_one_are_refused(tmp_path: Path) -> None:
    types = Types(False)
    kind, make = messages(types)["/joints"]
    with Writer2(tmp_path / "a", version=9) as writer:
        connection = writer.add_connection("/joints", kind, typestore=types.store)
        for n in range(4):
            data = types.store.serialize_cdr(make(n, START), kind)
            writer.write(connection, START + n, zstd.compress(bytes(data)))
    (item,) = read(tmp_path / "a/a.db3")
    assert isinstance(item, Rejected)
    assert item.found.startswith("a message that is no sensor_msgs/msg/JointState")


def test_channels_that_come_later_are_unknown_before(tmp_path: Path) -> None:
    types = Types(True)
    kind = "sensor_msgs/msg/JointState"
    with Writer1(tmp_path / "a.bag") as writer:
        connection = writer.add_connection("/joints", kind, typestore=types.store)
        for n, names in enumerate((["a"], ["b", "a"], ["a"])):
            message = types["sensor_msgs/JointState"](
                types.header(START + n * 10**7), names, np.arange(1.0, len(names) + 1), np.zeros(0), np.zeros(0)
            )
            writer.write(connection, START + n * 10**7, types.store.serialize_ros1(message, kind))
    (record,) = read(tmp_path / "a.bag")
    assert isinstance(record, Record)
    payload = records.load(record, tmp_path)
    assert payload.names == ("a position", "b position")
    assert np.array_equal(payload.array, [[1, 2, 1], [np.nan, 1, np.nan]], equal_nan=True)


def mcap_bomb(path: Path) -> None:
    """A chunk of a few kilobytes that unpacks to 128 MiB, in a recording without an index."""
    packed = zstd.compress(bytes(1 << 25)) * 4  # frames one after the other
    name = b"zstd"
    chunk = (
        struct.pack("<QQQL", 0, 1, 1 << 20, 0)
        + struct.pack("<L", len(name))
        + name
        + struct.pack("<Q", len(packed))
        + packed
    )
    text = lambda value: struct.pack("<L", len(value)) + value
    record = lambda kind, content: struct.pack("<BQ", kind, len(content)) + content
    magic = b"\x89MCAP0\r\n"
    path.write_bytes(magic + record(1, text(b"ros2") + text(b"")) + record(6, chunk) + record(2, bytes(20)) + magic)


def bz2_bomb(path: Path) -> None:
    bag = write(path.parent / "in", "bag bz2", ("/joints",))
    data = bag.read_bytes()
    at = data.index(b"BZh")
    length = struct.unpack("<L", data[at - 4 : at])[0]
    bomb = bz2.compress(bytes(1 << 25)) * 4
    assert len(bomb) <= length, "make the recording longer"
    path.write_bytes(data[:at] + bomb + bytes(length - len(bomb)) + data[at + length :])


READ = """
import json, resource, sys
from pathlib import Path
from polyclinic import records
import rosbags.rosbag1, rosbags.rosbag2
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([item.found for item in records.read(Path(sys.argv[1]))]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize(("name", "make"), [("a.mcap", mcap_bomb), ("b.bag", bz2_bomb)])
def test_a_bomb_is_refused_in_bounded_memory(tmp_path: Path, name: str, make: Callable[[Path], None]) -> None:
    (tmp_path / "in").mkdir()
    make(tmp_path / name)
    done = subprocess.run(
        [sys.executable, "-c", READ, str(tmp_path / name)], capture_output=True, text=True, timeout=120, check=True
    )
    told, kib = done.stdout.splitlines()
    assert json.loads(told) == [f"a chunk that unpacks to more than {rosbag.MOST_CHUNK >> 20} MiB"]
    assert int(kib) < (2 * rosbag.MOST_CHUNK + (100 << 20)) >> 10
