"""EDF+ recordings with gaps, for the tests: pyedflib writes none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def with_gaps(path: Path, starts: Sequence[float]) -> None:
    """Make an EDF+C or BDF+C recording of one-second data records one whose records begin when it is said."""
    data = bytearray(path.read_bytes())
    data[196:197] = b"D"
    count, width = int(data[252:256]), 3 if data[0] == 0xFF else 2
    sizes = [int(data[256 + 216 * count + 8 * i :][:8]) * width for i in range(count)]
    labels = [bytes(data[256 + 16 * i :][:16]).decode().strip() for i in range(count)]
    (notes,) = (i for i, label in enumerate(labels) if label in ("EDF Annotations", "BDF Annotations"))
    for number, start in enumerate(starts):
        at = 256 * (count + 1) + number * sum(sizes) + sum(sizes[:notes])
        stamp, _, rest = bytes(data[at : at + sizes[notes]]).partition(b"\x14\x14\x00")
        assert stamp == f"+{number}".encode()
        data[at : at + sizes[notes]] = (f"+{start:g}".encode() + b"\x14\x14\x00" + rest)[: sizes[notes]].ljust(
            sizes[notes], b"\0"
        )
    path.write_bytes(data)
