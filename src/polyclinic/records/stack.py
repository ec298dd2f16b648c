"""Slices → a volume, by where they lie in the patient (DICOM PS3.3 C.7.6.2.1.1); their names say nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from .grid import grid_of
from .source import RecordError

MOST = 8192
"""Slices of one volume: their geometry is compared each with each."""
MOST_TILT_DEG = 31
"""Gantries of CT tilt by up to 30°."""
LEAST_RUN = 3
"""Slices that the unbroken runs of a series with gaps have on average: of less, nobody knows what was meant."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Where one slice lies.

    Args:
        path: the file.
        shape: rows and columns.
        spacing: mm between rows and between columns.
        position: (3,) mm, LPS, of the first pixel.
        cosines: (2 3) the directions of a row and of a column.
        frame: its number in the file, from 0.
    """

    path: Path
    shape: tuple[int, int]
    spacing: tuple[float, float]
    position: np.ndarray
    cosines: np.ndarray
    frame: int = 0

    @property
    def along(self) -> float:
        """mm along the normal."""
        (a, b, c), (d, e, f) = self.cosines.tolist()  # a thousand small products: faster than an array's
        x, y, z = self.position.tolist()
        return (b * f - c * e) * x + (c * d - a * f) * y + (a * e - b * d) * z


Aside = list[tuple[Slice, RecordError]]
"""Slices that are left out of a volume, each with the reason."""


def ordered(slices: Sequence[Slice]) -> tuple[list[Slice], Aside]:
    """The slices that make up the volume in the order of the normal, and those that do not, with the reason.

    Raises:
        RecordError: they make up none: several images at each place, a gap, uneven distances, slices askew.
    """
    single, aside = _placed(slices)
    if wide := _gaps(single):
        raise missing(single, wide)
    _check_line(single)
    return single, aside


def runs(slices: Sequence[Slice]) -> tuple[list[list[Slice]], Aside, RecordError | None]:
    """The volumes of a series, in the order of the normal: one, or, where slices are missing, each unbroken run of two or more.

    Returns:
        the runs, the slices of none, with the reason, and where slices are missing.
    Raises:
        RecordError: as `ordered`, but for a gap, where there are three slices or more to a run.
    """
    single, aside = _placed(slices)
    wide = _gaps(single)
    ends = [0, *(number + 1 for number in wide), len(single)]
    parts = [single[a:b] for a, b in pairwise(ends)]
    found = [part for part in parts if len(part) > 1]
    if wide and len(single) < LEAST_RUN * len(parts):
        raise missing(single, wide)
    for part in found:
        _check_line(part)
    lone = RecordError("a slice alone between missing ones", "two or more side by side", "send the whole series again")
    aside += [(part[0], lone) for part in parts if len(part) == 1]
    return found, aside, missing(single, wide) if wide else None


def _gaps(slices: Sequence[Slice]) -> list[int]:
    """After which slices others are missing: twice as far to the next as usual, and not just uneven."""
    distances = np.diff([s.along for s in slices])
    return np.flatnonzero(distances > 1.5 * np.median(distances)).tolist()


def missing(slices: Sequence[Slice], wide: Sequence[int]) -> RecordError:
    """How many slices are missing, and between which.

    Args:
        slices: in the order of the normal.
        wide: after which of them there is a gap.
    """
    usual = float(np.median(np.diff([s.along for s in slices])))
    said = []
    for number in wide[:3]:
        before, after = slices[number], slices[number + 1]
        name = lambda s, one=before.path == after.path: f"frame {s.frame + 1}" if one else s.path.name
        count = max(1, round((after.along - before.along) / usual) - 1)
        said.append(f"{count} between {name(before)} and {name(after)}")
    more = f" and {len(wide) - 3} more gaps" if len(wide) > 3 else ""
    return RecordError(
        f"a series with missing slices: {', '.join(said)}{more}",
        "slices at even distances",
        "send the whole series again",
    )


def _placed(slices: Sequence[Slice]) -> tuple[list[Slice], Aside]:
    """Slices of one geometry, one a place, in the order of the normal, and the rest."""
    if len(slices) > MOST:
        raise RecordError(f"a series of {len(slices)} slices", f"at most {MOST}", "export it in parts")
    aside: Aside = []
    kept: list[Slice] = []
    for one, usual in zip(slices, _usual(slices), strict=True):
        if usual:
            kept.append(one)
            continue
        found = "a slice of another size, spacing or orientation than most of its series"
        aside.append((one, RecordError(found, "one geometry a series", "export it apart")))
    if len(kept) < 2:
        raise RecordError(
            f"a series of {len(slices)} slices, no two of them parallel", "parallel slices", "leave it out"
        )
    kept.sort(key=lambda s: (s.along, s.path.name, s.frame))
    single = [kept[0]]
    for one in kept[1:]:
        if one.along - single[-1].along < 1e-3:
            aside.append(
                (one, RecordError("a slice at the place of another", "one slice a place", "leave one of them out"))
            )
        else:
            single.append(one)
    if 2 * len(single) <= len(kept):
        raise RecordError(
            f"a series with {len(kept) / len(single):.2g} images at each place: phases, echoes or b-values",
            "one image a place", "export each as a series of its own",
        )  # fmt: skip
    return single, aside


def _usual(slices: Sequence[Slice]) -> np.ndarray:
    """(n,) bool: which have the geometry that most have, or, of two that are as frequent, the first's along the normal."""
    geometry = np.array([(*s.shape, *s.spacing, *s.cosines.reshape(-1)) for s in slices])
    alike = np.ones((len(slices), len(slices)), dtype=bool)
    for column in geometry.T:
        alike &= np.abs(column[:, None] - column[None]) < 1e-3
    counts = alike.sum(axis=1)
    first = min(range(len(slices)), key=lambda i: (-counts[i], tuple(geometry[i]), slices[i].along))
    return alike[first]


def _check_line(slices: Sequence[Slice]) -> None:
    step_mm = step(slices)
    if (lean := tilt_deg(slices)) > MOST_TILT_DEG:
        raise RecordError(
            f"slices that lie askew: {lean:.0f}° off their normal",
            f"a gantry tilted by at most {MOST_TILT_DEG}°", "straighten it before export",
        )  # fmt: skip
    expected = slices[0].position + np.arange(len(slices))[:, None] * step_mm
    astray = np.linalg.norm(np.stack([s.position for s in slices]) - expected, axis=1).max()
    if astray > max(0.1 * np.linalg.norm(step_mm), 0.02):
        raise RecordError(
            f"slices up to {astray:.2g} mm off an even stack",
            "slices at even distances",
            "resample the series before export",
        )


def tilt_deg(slices: Sequence[Slice]) -> float:
    """Degrees between the way from slice to slice and the slices' normal: a gantry's tilt, or 0 within one degree."""
    step_mm, normal = step(slices), np.cross(*slices[0].cosines)
    lean = float(np.rad2deg(np.arccos(np.clip(step_mm @ normal / np.linalg.norm(step_mm), -1, 1))))
    return lean if lean > 1 else 0.0


def step(slices: Sequence[Slice]) -> np.ndarray:
    """(3,) mm from one slice to the next."""
    return (slices[-1].position - slices[0].position) / (len(slices) - 1)


def plane(spacing: tuple[float, float], position: np.ndarray, cosines: np.ndarray) -> np.ndarray:
    """4x4 (x y z 1) → mm of one plane, equation C.7.6.2.1-1; z goes 1 mm along the normal."""
    matrix = np.eye(4)
    matrix[:3, 0] = cosines[0] * spacing[1]
    matrix[:3, 1] = cosines[1] * spacing[0]
    matrix[:3, 2] = np.cross(*cosines)
    matrix[:3, 3] = position
    return matrix


def to_world(slices: Sequence[Slice]) -> np.ndarray:
    """4x4 (x y z 1) → mm in LPS of the volume; sheared where the gantry was tilted: no voxel is moved or made up."""
    matrix = plane(slices[0].spacing, slices[0].position, slices[0].cosines)
    matrix[:3, 2] = step(slices)
    return matrix


def grid(slices: Sequence[Slice]) -> str:
    """Where the volume's voxels lie, as the attribute `grid` has it."""
    rows, columns = slices[0].shape
    return grid_of((columns, rows, len(slices)), to_world(slices))
