"""What cannot be cleaned soundly is set aside with its reason, whatever it is called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from polyclinic.records.deidentify import Report


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.bag", b"#ROSBAG V2.0\nZebedee", "a ROS recording that does not open"),
        ("a.mcap", b"\x89MCAP0\r\nZebedee", "a ROS recording that does not open"),
        ("metadata.yaml", b"rosbag2_bagfile_information:\n  note: Zebedee\n", "the description of a ROS recording"),
        ("a.xml", b"<annotation><filename>Zebedee.png</filename></annotation>", "a coordinate that is no number"),
        ("a.pdf", b"%PDF-1.4 Zebedee", "a file of a kind that is not known"),
    ],
)
def test_it_is_not_copied(place: Path, clean: Callable[..., Report], name: str, data: bytes, reason: str) -> None:
    (place / "in" / name).write_bytes(data)
    report = clean(aside=True)
    assert report.files == []
    assert report.aside[0].found.startswith(reason)
    assert all(b"Zebedee" not in p.read_bytes() for p in (place / "out").rglob("*") if p.is_file())
