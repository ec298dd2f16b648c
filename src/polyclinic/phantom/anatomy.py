"""A person's chest in mm: organs as ellipsoids and elliptic cylinders, painted one over the other, with lesions in the lungs.

Coordinates are DICOM's (PS3.3 C.7.6.2.1.1): x to the patient's left, y to the back, z to the head; 0 is the middle of the chest.
Both the CT and the radiograph are made from this one volume of Hounsfield units, whose edges carry partial volume.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from .people import LOBES

FIELD_MM = 400.0
"""The side of the cube that is imaged."""
MASK = {"lung": 1, "heart": 2, "nodule": 3, "consolidation": 4, "effusion": 5}
"""The numbers in a mask; a later one lies over an earlier one."""
SLICES = 16
"""Of the painting grid, worked on at once."""
Box = tuple[slice, slice, slice]
"""Voxels, (z y x)."""
_INF = float("inf")
_AIR, NODULE_HU, _CONSOLIDATION_HU, _FLUID_HU = -1000.0, 30.0, 10.0, 8.0


@dataclass(frozen=True, slots=True)
class Grid:
    """Voxels of a box around 0.

    Args:
        shape: (z y x).
        spacing_mm: (z y x).
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]

    def axis(self, number: int) -> np.ndarray:
        """(n,) mm of the voxels' centres along axis 0 (z), 1 (y) or 2 (x)."""
        n = self.shape[number]
        return ((np.arange(n) - (n - 1) / 2) * self.spacing_mm[number]).astype(np.float32)

    def box(self, centre: tuple[float, ...], half: tuple[float, ...]) -> Box:
        """The voxels that a box of half-widths (z y x) mm may touch."""
        found = []
        for n, step, middle, reach in zip(self.shape, self.spacing_mm, centre, half, strict=True):
            low, high = ((side - (-(n - 1) / 2 * step)) / step for side in (middle - reach, middle + reach))
            found.append(
                slice(
                    int(max(0, np.floor(low) if reach < _INF else 0)),
                    int(min(n, np.ceil(high) + 1 if reach < _INF else n)),
                )
            )
        return found[0], found[1], found[2]


@dataclass(frozen=True, slots=True)
class Solid:
    """An ellipsoid, or, with an infinite half-axis, an elliptic cylinder.

    Args:
        name: what it is.
        centre: (z y x) mm.
        half: half-axes (z y x) mm.
        hu: Hounsfield units within.
    """

    name: str
    centre: tuple[float, float, float]
    half: tuple[float, float, float]
    hu: float


def grid_of(size: int) -> Grid:
    """The painting grid of a CT of size³: twice as fine along x and z, so that the radiograph has 2·size by 2·size pixels."""
    step = FIELD_MM / size
    return Grid((2 * size, size, 2 * size), (step / 2, step, step / 2))


def coverage(grid: Grid, solid: Solid, samples: int = 1) -> tuple[Box, np.ndarray]:
    """How much of each voxel a solid fills, to first order at its surface.

    With ρ² = Σ((r - c)/a)², the surface is at ρ = 1, and a voxel lies (ρ - 1)/Σ|∂ρ/∂r| s of its own extent s outside it.

    Args:
        grid: the voxels.
        solid: what is to fill them.
        samples: points a side of each voxel instead, for what is no larger than a voxel; 1 for the surface's distance.
    Returns:
        the box of voxels, and (z y x) float32 from 0 to 1 of it.
    """
    reach = tuple(h + s for h, s in zip(solid.half, grid.spacing_mm, strict=True))
    where = grid.box(solid.centre, reach)
    if samples > 1:
        return where, _counted(grid, solid, where, samples)
    square, slope = np.float32(0), np.float32(1e-6)
    for number in range(3):
        if solid.half[number] == _INF:
            continue  # of a cylinder one plane, which is every plane
        shape = [1, 1, 1]
        shape[number] = -1
        off = (grid.axis(number)[where[number]] - solid.centre[number]) / np.float32(solid.half[number])
        square = square + (off * off).reshape(shape)
        slope = slope + np.abs(off * np.float32(grid.spacing_mm[number] / solid.half[number])).reshape(shape)
    rho = np.sqrt(square)
    filled = rho - 1  # in place from here: the pages of new arrays cost more than the sums
    filled *= rho
    filled /= slope
    np.subtract(np.float32(0.5), filled, out=filled)
    np.copyto(filled, 1, where=rho < 0.3)  # at the centre nothing has a slope
    np.clip(filled, 0, 1, out=filled)
    return where, np.broadcast_to(filled, tuple(w.stop - w.start for w in where))


def _counted(grid: Grid, solid: Solid, where: Box, samples: int) -> np.ndarray:
    inner = (np.arange(samples) + 0.5) / samples - 0.5
    square: Any = 0.0
    for number in range(3):
        shape = [1] * 6
        shape[2 * number], shape[2 * number + 1] = -1, samples
        at = grid.axis(number)[where[number]][:, None] + inner * grid.spacing_mm[number]
        square = square + (((at - solid.centre[number]) / solid.half[number]) ** 2).reshape(shape)
    return (square <= 1).mean(axis=(1, 3, 5), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Body:
    """What a person's chest is made of, beneath any lesion.

    Args:
        hu: (z y x) float32.
        lung: (z y x) float32, how much of each voxel is lung.
        heart: the heart.
        lungs: right and left.
    """

    hu: np.ndarray
    lung: np.ndarray
    heart: Solid
    lungs: tuple[Solid, Solid]


@dataclass(frozen=True, slots=True)
class Lesions:
    """What disease put there: how much of each voxel (z y x), None where there is none.

    Args:
        solid: the nodule that is, or would be, there.
        nodule: its (box, coverage).
        consolidation: of pneumonia.
        effusion: of fluid.
    """

    solid: Solid
    nodule: tuple[Box, np.ndarray]
    consolidation: np.ndarray | None
    effusion: np.ndarray | None


def solids(person: Mapping[str, Any], rng: np.random.Generator) -> Iterator[Solid]:
    """The organs in the order of painting; sizes follow height, weight, sex, heart failure and emphysema, and vary by 3%."""
    tall, wide = person["height_cm"] / 170, 1 + 0.018 * (person["bmi"] - 26)
    vary = 1 + 0.03 * rng.standard_normal(4)
    w, d = min(168 * wide * vary[0], 194.0), min(118 * wide * vary[1], 170.0)
    if person["sex"] == 0:
        for side in (-1, 1):
            yield Solid("breast", (-15 * tall, -d + 4, side * 72), (48 * wide, 34 * wide, 52 * wide), -70)
    yield Solid("skin and fat", (0, 0, 0), (_INF, d, w), -95)
    yield Solid("muscle", (0, 2, 0), (_INF, min(d - 12, 106), min(w - 14, 152)), 50)
    for side in (-1, 1):
        yield Solid("shoulder", (190, 15, side * 130), (52, 60, 75), 50)
        yield Solid("scapula", (95 * tall, 86, side * 92), (58, 5, 36), 420)
    puffed = 1.1 if person["emphysema"] else 1.0
    air = -915.0 if person["emphysema"] else -850.0
    length = 122 * tall * vary[2]
    yield Solid("right lung", (18 * tall, 0, -73), (length * puffed, 86, 61), air)
    yield Solid("left lung", (18 * tall, 0, 75), (length * puffed, 86, 57), air)
    yield Solid("mediastinum", (0, 12, 0), (_INF, 62, 27), 35)
    yield Solid("aortic arch", (62 * tall, 8, 14), (17, 38, 30), 48)
    for side in (-1, 1):
        yield Solid("hilum", (14 * tall, 8, side * 38), (24, 17, 15), 25)
    low = -18 if person["emphysema"] else 0
    yield Solid("liver", (-138 * tall + low, 2, -64), (88 * tall, 92, 66), 60)
    yield Solid("spleen and stomach", (-148 * tall + low, 8, 68), (84 * tall, 86, 62), 48)
    yield Solid("gas", (-112 * tall + low, -22, 66), (12, 24, 26), -900)
    big = (1.24 if person["heart_failure"] else 1.0) * vary[3]
    yield Solid("heart", (-42 * tall, -22, 24), (54 * big, 46 * big, 56 * big), 45)
    yield Solid("descending aorta", (0, 44, 22), (_INF, 12, 12), 48)
    yield Solid("trachea", (132 * tall, 18, 0), (96, 9, 8), _AIR)
    for side in (-1, 1):
        yield Solid("bronchus", (32 * tall, 14, side * 20), (6, 6, 22), _AIR)
        yield Solid("clavicle", (128 * tall, -62, side * 74), (6, 6, 62), 520)
        yield Solid("kidney", (-172 * tall, 56, side * 62), (50, 22, 28), 34)
    yield Solid("sternum", (40 * tall, -96, 0), (75, 6, 16), 300)
    yield Solid("spine", (0, 76, 0), (_INF, 17, 18), 380)
    yield Solid("canal", (0, 96, 0), (_INF, 8, 9), 20)
    yield Solid("processes", (0, 110, 0), (_INF, 10, 5), 300)


def body(person: Mapping[str, Any], grid: Grid, rng: np.random.Generator) -> Body:
    """Paint a person's organs.

    Args:
        person: the graph's values.
        grid: of `grid_of`.
        rng: of the patient's anatomy.
    """
    hu, lung = np.full(grid.shape, _AIR, np.float32), np.zeros(grid.shape, np.float32)
    named = {}
    breathing: Box | None = None  # outside it there is no lung, and nothing to do for it
    for solid in solids(person, rng):
        where, filled = coverage(grid, solid)
        _paint(hu[where], solid.hu, filled)
        if "lung" in solid.name:
            breathing = _around(breathing, where) if breathing else where
        if breathing and (both := _common(where, breathing)):
            lung[both] *= (
                1 - filled[tuple(slice(b.start - w.start, b.stop - w.start) for b, w in zip(both, where, strict=True))]
            )
        if "lung" in solid.name:
            lung[where] += filled
        named[solid.name] = solid
    where, filled = _ribs(grid, person["height_cm"] / 170)
    hu[where] += filled * (1 - lung[where]) * (700 - hu[where])
    discs = np.clip(np.abs(grid.axis(0) % 30 - 15) - 10, 0, 1)[:, None, None]  # 30 mm from disc to disc
    where, filled = coverage(grid, named["spine"])
    hu[where] -= filled * discs[where[0]] * 260
    assert breathing is not None
    texture = _texture(grid, _moved(grid, rng), breathing)
    centre = np.abs(grid.axis(2))[None, None, breathing[2]]
    hu[breathing] += lung[breathing] * (
        18 * texture + 260 * np.exp(-np.maximum(centre - 30, 0) / 32) * np.maximum(texture - 0.9, 0)
    )  # vessels, thick at the hilum
    return Body(hu, lung, named["heart"], (named["right lung"], named["left lung"]))


def _paint(there: np.ndarray, hu: float, filled: np.ndarray) -> None:
    """Fill as much of each voxel with something, some slices at a time: those stay in the processor's cache from sum to sum."""
    for start in range(0, len(there), SLICES):
        part = there[start : start + SLICES]
        change = np.float32(hu) - part
        change *= filled[start : start + SLICES]
        part += change


def _ribs(grid: Grid, tall: float) -> tuple[Box, np.ndarray]:
    """Bands of an ellipsoidal shell around the lungs, which slope down to the front."""
    half = (155 * tall, 101.0, 143.0)
    where = grid.box((18 * tall, 2, 0), tuple(h + 10 for h in half))
    z, y, x = (grid.axis(i)[where[i]].reshape([-1 if j == i else 1 for j in range(3)]) for i in range(3))
    from_shell = (np.sqrt(((z - 18 * tall) / half[0]) ** 2 + ((y - 2) / half[1]) ** 2 + (x / half[2]) ** 2) - 1) * 115
    along = np.abs((z - 0.55 * y) % 27 - 13.5)
    return where, np.clip(0.5 + (5 - np.abs(from_shell)) / 4, 0, 1) * np.clip(0.5 + (5 - along) / 3, 0, 1)


def _around(one: Box, other: Box) -> Box:
    """The box around two."""
    z, y, x = (slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(one, other, strict=True))
    return z, y, x


def _common(one: Box, other: Box) -> Box | None:
    """Where two boxes meet; None where they do not."""
    z, y, x = (slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(one, other, strict=True))
    return None if any(s.start >= s.stop for s in (z, y, x)) else (z, y, x)


def _moved(grid: Grid, rng: np.random.Generator) -> tuple[int, ...]:
    """How far the field of textures is moved along each axis."""
    return tuple(int(rng.integers(0, n)) for n in grid.shape)


def _texture(grid: Grid, moved: tuple[int, ...], where: Box) -> np.ndarray:
    """A box of a smooth standard normal field, moved; the field itself is the same for everybody and made once a process."""
    field = _field(grid.shape)
    for axis, (n, by, part) in enumerate(zip(grid.shape, moved, where, strict=True)):
        field = field.take((np.arange(part.start, part.stop) - by) % n, axis=axis)
    return field


@lru_cache(maxsize=2)
def _field(shape: tuple[int, int, int]) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    field = gaussian_filter(
        np.random.default_rng(20260102).standard_normal(shape, np.float32), (1.6, 0.8, 1.6), mode="wrap"
    )
    return field / field.std()


def place(chest: Body, lobe: int, rng: np.random.Generator) -> tuple[float, float, float]:
    """(z y x) mm within a lobe."""
    lung = chest.lungs[LOBES[lobe].startswith("left")]
    up, back = {"upper": (0.5, 0.05), "middle": (-0.1, -0.4), "lower": (-0.25, 0.4)}[LOBES[lobe].split()[1]]
    off = np.array([up, back, 0.0]) + rng.uniform(-0.1, 0.1, 3)
    out = 0.25 if lung.centre[2] > 0 else -0.25  # away from the heart
    z, y, x = (c + h * o for c, h, o in zip(lung.centre, lung.half, off + np.array([0, 0, out]), strict=True))
    return z, y, x


def lesions(person: Mapping[str, Any], chest: Body, grid: Grid, rng: np.random.Generator) -> Lesions:
    """What disease adds to a chest; a nodule's place and size are drawn whether it is there or not."""
    nodule = Solid("nodule", place(chest, person["nodule_lobe"], rng), (person["nodule_mm"] / 2,) * 3, NODULE_HU)
    centre, consolidation, effusion = place(chest, person["lobe"], rng), None, None
    moved = _moved(grid, rng)
    if person["pneumonia"]:
        solid = Solid("consolidation", centre, (person["extent_mm"],) * 3, _CONSOLIDATION_HU)
        where = grid.box(centre, tuple(1.4 * h for h in solid.half))
        axes = [(grid.axis(i)[where[i]] - centre[i]).reshape([-1 if j == i else 1 for j in range(3)]) for i in range(3)]
        far = np.sqrt(axes[0] ** 2 + axes[1] ** 2 + axes[2] ** 2) / person["extent_mm"]
        consolidation = np.zeros(grid.shape, np.float32)
        consolidation[where] = (
            np.clip(2.2 * (1.05 - far) + 0.35 * _texture(grid, moved, where), 0, 0.95) * chest.lung[where]
        )
    if person["effusion"]:
        side = LOBES[person["lobe"]].startswith("left") if person["pneumonia"] else False
        lung = chest.lungs[side]
        x = (grid.axis(2) - lung.centre[2]) / lung.half[2]
        z = (
            grid.axis(0)[:, None, None] - (lung.centre[0] - 0.42 * lung.half[0]) - 25 * np.abs(x) ** 2
        )  # the meniscus climbs the wall
        beside = (grid.axis(2) > 0) == side
        fluid = np.clip(0.5 - z / 4, 0, 1) * beside
        effusion = fluid.astype(np.float32) * chest.lung
    return Lesions(nodule, coverage(grid, nodule, samples=4), consolidation, effusion)


def earlier(person: Mapping[str, Any], grid: Grid, found: Lesions, months: float) -> Lesions:
    """The lesions some months before admission: no pneumonia, no fluid, a nodule whose volume doubles in `doubling_days`."""
    diameter = person["nodule_mm"] * 2 ** (-months * 30.44 / (3 * person["doubling_days"]))
    small = replace(found.solid, half=(diameter / 2,) * 3)
    return Lesions(small, coverage(grid, small, samples=4), None, None)


def painted(chest: Body, found: Lesions, nodule: bool) -> np.ndarray:
    """(z y x) float32 HU of a chest with its lesions."""
    hu = chest.hu.copy()
    for filled, target in ((found.effusion, _FLUID_HU), (found.consolidation, _CONSOLIDATION_HU)):
        if filled is not None:
            hu += filled * (np.float32(target) - hu)
    if nodule:
        where, filled = found.nodule
        hu[where] += filled * (np.float32(NODULE_HU) - hu[where])
    return hu


def mask(chest: Body, found: Lesions, grid: Grid, nodule: bool) -> np.ndarray:
    """(z y x) uint8 of `MASK` on the CT's grid: what fills half a voxel or more; a nodule, a quarter, or it would have none."""
    labels = np.zeros((grid.shape[1],) * 3, np.uint8)
    where, filled = coverage(grid, chest.heart)
    heart = np.zeros(grid.shape, np.float32)
    heart[where] = filled * (1 - chest.lung[where])
    small = np.zeros(grid.shape, np.float32)
    if nodule:
        small[found.nodule[0]] = found.nodule[1]
    for name, part, least in (
        ("lung", chest.lung, 0.5), ("heart", heart, 0.5), ("effusion", found.effusion, 0.5), ("consolidation", found.consolidation, 0.4),
        ("nodule", small, 0.25),
    ):  # fmt: skip
        if part is not None:
            labels[coarse(part) >= least] = MASK[name]
    return labels


def coarse(fine: np.ndarray) -> np.ndarray:
    """(n n n) the mean of the painting grid's voxels in each of the CT's."""
    z, y, x = fine.shape
    return fine.reshape(z // 2, 2, y, x // 2, 2).mean(axis=(1, 4))
