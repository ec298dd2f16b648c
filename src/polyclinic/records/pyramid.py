"""An open slide: the same picture at several resolutions, of which any part is read at any scale, never the whole.

A place on a slide is told in pixels of level 0, the finest, from its upper left corner: (0, 0) is that corner, not the first
pixel's centre, so that the same place has the same numbers, times a factor, at every level. Indices of an array, and
`to_world`, count from the first pixel's centre, as everywhere.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import ceil, floor, sqrt
from pathlib import Path

import numpy as np

from ..schema import Payload, Scalar, Step
from .source import RecordError, check_size, split_uri

OVERVIEW_MPP = 8.0
"""µm a pixel of an overview: tissue is found at 8 to 10, and a slide of 25 × 75 mm has 29 million of its pixels."""
LARGEST_OVERVIEW, SMALLEST_OVERVIEW = 4096, 512
"""Pixels of its longest side; a small cut-out keeps some detail."""
MOST_READ = 2**33
"""Pixels that are read of a slide for its overview: one of a single level of more is to be written as a pyramid."""
LARGEST_TILE = 2**26
"""Bytes of one tile; scanners write 256² to 1024² pixels."""
_AT_ONCE, _KEPT = 2**22, 64

Read = Callable[[int, int, int, int], "np.ndarray | None"]
Tiles = Callable[[int, int, int, int], Iterable[tuple[int, int, int]]]


@dataclass(frozen=True, slots=True)
class Level:
    """One resolution.

    Args:
        width, height: in its own pixels.
        read: (left, top, width, height), a rectangle within it → (height width c); None where nothing was scanned.
    """

    width: int
    height: int
    read: Read


@dataclass(frozen=True, slots=True)
class Pyramid:
    """The levels, the finest first, and how they lie.

    Args:
        levels: at least one.
        to_world: 4x4, index (x y z 1) of level 0 → mm; None where the file has no scale.
        channels: 3 for colours, 1 for grey.
        dtype: of the pixels.
        background: what the glass is where nothing was scanned.
        labels: whether it is a mask: its numbers are picked, not averaged.
    """

    levels: tuple[Level, ...]
    to_world: np.ndarray | None
    channels: int = 3
    dtype: np.dtype = field(default_factory=lambda: np.dtype(np.uint8))
    background: int = 255
    labels: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of level 0."""
        return self.levels[0].width, self.levels[0].height

    @property
    def mpp(self) -> float | None:
        """µm a pixel of level 0; None where the file has no scale."""
        return mpp_of(self.to_world)

    def factor(self, level: int) -> tuple[float, float]:
        """Pixels of level 0 a pixel of the level, along x and y."""
        own, (width, height) = self.levels[level], self.size
        return _factor(width, own.width), _factor(height, own.height)

    def level_for(self, step: float) -> int:
        """The coarsest level that is no coarser than `step` pixels of level 0 a pixel."""
        fine = [i for i in range(len(self.levels)) if max(self.factor(i)) <= step * 1.001]
        return max(fine, key=lambda i: max(self.factor(i)), default=0)

    def patch(
        self, x: float, y: float, size: tuple[int, int], step: float | tuple[float, float], level: int | None = None
    ) -> np.ndarray:
        """(h w c) of any part at any scale; averaged where that is coarser than the level it is read from (no aliasing).

        Args:
            x, y: its upper left corner, in pixels of level 0.
            size: its width and height, in its own pixels.
            step: pixels of level 0 a pixel of it, or (along x, along y).
            level: which to read from; by default the coarsest that is no coarser.
        Raises:
            RecordError: more than fits in memory is asked for, or a tile does not decode.
        """
        check_size((size[1], size[0], self.channels), self.dtype.itemsize)
        steps = step if isinstance(step, tuple) else (step, step)
        chosen = self.level_for(min(steps)) if level is None else level
        out = np.full((size[1], size[0], self.channels), self.background, self.dtype)
        factors = self.factor(chosen)
        scale = (steps[0] / factors[0], steps[1] / factors[1])
        # In parts, so that a level of a slide is never in memory as a whole: about one AT_ONCE of its pixels each.
        side = sqrt(_AT_ONCE)
        wide, tall = (max(1, min(n, int(side / s))) for n, s in zip(size, scale, strict=True))
        for top in range(0, size[1], tall):
            for left in range(0, size[0], wide):
                part = out[top : top + tall, left : left + wide]
                corner = ((x + left * steps[0]) / factors[0], (y + top * steps[1]) / factors[1])
                if (seen := self._part(self.levels[chosen], corner, (part.shape[1], part.shape[0]), scale)) is not None:
                    part[...] = seen
        return out

    def _part(
        self, level: Level, corner: tuple[float, float], size: tuple[int, int], scale: tuple[float, float]
    ) -> np.ndarray | None:
        """A rectangle of a level, `scale` of its pixels a pixel; None where nothing was scanned."""
        ends = [
            _span(c, n * s, s, most)
            for c, n, s, most in zip(corner, size, scale, (level.width, level.height), strict=True)
        ]
        (left, right, first, last), (top, bottom, upper, lower) = ends
        if left >= right or top >= bottom:
            return None
        check_size((bottom - top, right - left, self.channels), self.dtype.itemsize)
        pixels = level.read(left, top, right - left, bottom - top)
        if pixels is None:
            return None
        if (first, last, upper, lower) != (left, right, top, bottom):  # beyond the edge there is glass
            inner, pixels = pixels, np.full((lower - upper, last - first, self.channels), self.background, self.dtype)
            pixels[top - upper : bottom - upper, left - first : right - first] = inner
        start = (corner[0] - first, corner[1] - upper)
        whole = all(abs(s - 1) < 1e-9 for s in scale) and all(abs(v - round(v)) < 1e-3 for v in start)
        if whole:
            return pixels[round(start[1]) :, round(start[0]) :][: size[1], : size[0]]
        return _resized(pixels, start, size, scale, self.labels)

    def overview(self) -> tuple[np.ndarray, tuple[float, float]]:
        """The whole in (h w c), and the pixels of level 0 a pixel of it, along x and y.

        That is the level nearest to `OVERVIEW_MPP`, if it has 8 to 10 µm a pixel, else the next finer one averaged to it;
        where the scale is not known, at most `LARGEST_OVERVIEW` pixels a side.

        Raises:
            RecordError: the slide has one huge level, or a tile does not decode.
        """
        longest = max(self.size)
        wanted = min(OVERVIEW_MPP / self.mpp if self.mpp else 1.0, longest / SMALLEST_OVERVIEW)
        wanted = max(wanted, longest / LARGEST_OVERVIEW, 1.0)
        small = [i for i, own in enumerate(self.levels) if max(own.width, own.height) <= LARGEST_OVERVIEW]
        near = next(
            (i for i in small if wanted <= max(self.factor(i)) * 1.001 and max(self.factor(i)) <= 1.26 * wanted), None
        )
        level = self.level_for(wanted) if near is None else near
        own, (width, height) = self.levels[level], self.size
        if own.width * own.height > MOST_READ:
            raise RecordError(
                f"a slide without a level coarser than {own.width} × {own.height} pixels", "a pyramid",
                "write it as a pyramid (vips tiffsave --pyramid --tile)",
            )  # fmt: skip
        if near is not None:
            return self.patch(0, 0, (own.width, own.height), self.factor(level), level), self.factor(level)
        size = (max(1, round(width / wanted)), max(1, round(height / wanted)))
        step = (width / size[0], height / size[1])
        return self.patch(0, 0, size, step, level), step


def mpp_of(to_world: np.ndarray | None) -> float | None:
    """µm a pixel of a plane, the mean of both directions; None without a scale."""
    return None if to_world is None else float(np.linalg.norm(to_world[:3, :2], axis=0).mean() * 1000)


def placed(corner: tuple[float, float], step: tuple[float, float]) -> np.ndarray:
    """4x4: index (x y z 1) of a patch → index of level 0, both from their first pixels' centres."""
    matrix = np.diag([step[0], step[1], 1.0, 1.0])
    matrix[:2, 3] = [corner[0] + step[0] / 2 - 0.5, corner[1] + step[1] / 2 - 0.5]
    return matrix


def attributes_of(slide: Pyramid) -> dict[str, Scalar]:
    """What is known of any slide, as scalars: `mpp` is µm a pixel of level 0, None where the file does not say."""
    mm = (None, None) if slide.to_world is None else np.linalg.norm(slide.to_world[:3, :2], axis=0).tolist()
    return {
        "width": slide.size[0],
        "height": slide.size[1],
        "levels": len(slide.levels),
        "downsamples": " ".join(f"{slide.factor(i)[0]:.6g}" for i in range(len(slide.levels))),
        "mpp": None if slide.mpp is None else round(slide.mpp, 6),
        "spacing_y_mm": mm[1],
        "spacing_x_mm": mm[0],
        "colour": slide.channels == 3,
        "magnification": None,
        "vendor": None,
        "stain": None,
        "associated": None,
    }


def overview_of(slide: Pyramid, source: str) -> Payload:
    """The payload of an open slide."""
    pixels, step = slide.overview()
    to_source = placed((0.0, 0.0), step)
    place, fragment = split_uri(source)
    history = Step(
        "overview",
        (slide.size[1], slide.size[0]),
        None if slide.to_world is None else tuple(tuple(map(float, row)) for row in slide.to_world),
        {
            "to_source": to_source.tolist(),
            "source": str(Path(place).absolute()) + (f"#{fragment}" if fragment else ""),
        },
    )
    array = np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32)
    return Payload(array, None if slide.to_world is None else slide.to_world @ to_source, (history,))


def _factor(full: int, own: int) -> float:
    """How often `own` goes into `full`: the whole number that was meant, where a level's size was rounded."""
    ratio = full / own
    meant = max(1, round(ratio))
    return float(meant) if own in (full // meant, -(-full // meant)) else ratio


def _span(start: float, length: float, scale: float, most: int) -> tuple[int, int, int, int]:
    """What is read of a level along one axis, with the margin that averaging needs, and what lies around it."""
    margin = ceil(max(1.0, scale)) + 1
    first, last = floor(start + 1e-6), ceil(start + length - 1e-6)
    left, right = max(0, first - margin), min(most, last + margin)
    return left, right, min(left, first), max(right, last)


def _resized(
    pixels: np.ndarray, start: tuple[float, float], size: tuple[int, int], scale: tuple[float, float], nearest: bool
) -> np.ndarray:
    """(h w c) by a triangle as wide as the new pixel, `start` being the new corner on the old pixels."""
    from PIL import Image

    how = Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR
    end = [min(a + n * s, most) for a, n, s, most in zip(start, size, scale, pixels.shape[1::-1], strict=True)]
    box = (max(start[0], 0.0), max(start[1], 0.0), end[0], end[1])
    if pixels.dtype == np.uint8 and pixels.shape[2] == 3:
        return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize(size, how, box))
    planes = [
        Image.fromarray(np.ascontiguousarray(p, np.float32)).resize(size, how, box) for p in np.moveaxis(pixels, 2, 0)
    ]
    values = np.stack([np.asarray(p) for p in planes], axis=2)
    return (values if pixels.dtype.kind == "f" else np.rint(values)).astype(pixels.dtype)


def grid(width: int, height: int, tile: tuple[int, int]) -> Tiles:
    """Which tiles touch a rectangle (left, top, right, bottom), of those that lie in rows: number, left, top."""
    across = -(-width // tile[0])

    def touching(left: int, top: int, right: int, bottom: int) -> Iterable[tuple[int, int, int]]:
        for row in range(top // tile[1], -(-min(bottom, height) // tile[1])):
            for column in range(left // tile[0], -(-min(right, width) // tile[0])):
                yield row * across + column, column * tile[0], row * tile[1]

    return touching


def scattered(numbers: np.ndarray, corners: np.ndarray, tile: tuple[int, int]) -> Tiles:
    """The same of tiles that lie anywhere.

    Args:
        numbers: (n,) of the tiles.
        corners: (n 2) left and top of each.
        tile: width and height.
    """

    def touching(left: int, top: int, right: int, bottom: int) -> Iterable[tuple[int, int, int]]:
        low, high = (corners + tile > [left, top]).all(axis=1), (corners < [right, bottom]).all(axis=1)
        for place in np.flatnonzero(low & high):
            yield int(numbers[place]), int(corners[place, 0]), int(corners[place, 1])

    return touching


def of_tiles(
    width: int, height: int, touching: Tiles, decode: Callable[[int], np.ndarray | None], empty: np.ndarray
) -> Level:
    """A level of tiles, each decoded when it is asked for; the last few are kept, because neighbours share them.

    Args:
        width, height: of the level.
        touching: as `grid` or `scattered` gives it.
        decode: number → (h w c); None where that tile is not in the file.
        empty: (c,) what is where no tile is, of the pixels' dtype.
    """
    kept: OrderedDict[int, np.ndarray | None] = OrderedDict()

    def tile(number: int) -> np.ndarray | None:
        if number not in kept:
            kept[number] = decode(number)
            if len(kept) > _KEPT:
                kept.popitem(last=False)
        kept.move_to_end(number)
        return kept[number]

    def read(left: int, top: int, wide: int, tall: int) -> np.ndarray | None:
        out: np.ndarray | None = None
        for number, x, y in touching(left, top, left + wide, top + tall):
            if (pixels := tile(number)) is None:
                continue
            if out is None:
                out = np.empty((tall, wide, len(empty)), empty.dtype)
                out[...] = empty
            rows = slice(max(y, top), min(y + pixels.shape[0], top + tall))
            columns = slice(max(x, left), min(x + pixels.shape[1], left + wide))
            inner = pixels[rows.start - y : rows.stop - y, columns.start - x : columns.stop - x]
            out[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = inner
        return out

    return Level(width, height, read)
