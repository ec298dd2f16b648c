"""Slides: tissue is found on the overview, and tiles of it are read from the source at one magnification.

A payload of a slide is its overview; its one step names the source and the way to its pixels (`records.pyramid.overview_of`).
Tiles are read from there, one after the other, so that a slide is never in memory. The harmonised payload has no such name:
its history is the grid of the tiles, by which a pixel of a tile, or a score of each, travels back to the slide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import ceil
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ..records.slide import opened, silent
from ..schema import Payload, Record, Step
from . import stain
from .fingerprint import Fingerprint
from .geometry import GridError

NOMINAL_MPP = {"slide": 0.5, "": 0.5}
"""µm a pixel of level 0 of a slide without a scale, by a word of its kind: what a scanner of 20-fold magnification gives."""
_PALEST, _FULLEST = 0.05, 0.2
"""Saturation that is glass in any light, and that is tissue in any stain: Otsu's threshold stays between them, because a
picture of glass only, or of tissue only, has no two classes to tell apart."""
_DARK = 20.0
"""Out of 255: the frame of the scanner and its seams, whose colour is noise."""
_CLOSED_MM = 0.03
"""Gaps in tissue up to twice this wide are tissue: lumina and fat."""
_LEARNED_OF = 200_000
"""Pixels that a slide's stains are estimated from, evenly over its tiles."""


class SlideStandard(BaseModel):
    """At most `most` tiles of `size` × `size` pixels at `mpp` µm a pixel, in which at least `tissue` of the area is tissue.

    Where more tiles have tissue, they are spread evenly: the tiles are put in Z-order (Morton 1966), by which neighbours on
    the slide are near each other, and each `n / most`-th is taken. The same slide gives the same tiles. Where none has enough,
    the one with the most tissue is taken; a slide without any has no tiles.

    `stain` takes each slide's colours to a fixed reference, which is this module's and not the training slides':
    `stain.REFERENCE_STAINS` and `REFERENCE_MOST` for "macenko", `REFERENCE_LAB` for "reinhard". Both are for H&E.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["slide"] = "slide"
    mpp: float = Field(default=0.5, gt=0)
    size: int = Field(default=224, ge=8)
    most: int = Field(default=64, ge=1)
    tissue: float = Field(default=0.5, ge=0, le=1)
    smallest_mm2: float = Field(default=0.05, ge=0)
    stain: Literal["none", "macenko", "reinhard"] = "none"


def nominal_mpp(record: Record) -> float:
    """µm a pixel that a slide without a scale is taken to have: 10 over its objective's magnification, or by its kind."""
    power = record.attributes.get("magnification")
    if isinstance(power, int | float) and power > 0:
        return 10.0 / power
    return next(mpp for word, mpp in NOMINAL_MPP.items() if word in record.kind.lower())


def tissue_of(overview: np.ndarray, mm: float, smallest_mm2: float = 0.05) -> np.ndarray:
    """(y x) bool: where the slide has tissue.

    Of a coloured picture by its saturation, of a grey one (fluorescence) by its brightness: Otsu's threshold (1979), gaps
    closed, specks left out. Specks are smaller than `smallest_mm2`, but never than a hundredth of a small picture.

    Args:
        overview: (3 y x) 0..255, or (1 y x).
        mm: a pixel of it.
        smallest_mm2: the least area that is no speck.
    """
    from scipy.ndimage import distance_transform_edt, label, uniform_filter

    if len(overview) == 3:
        high, low = overview.max(axis=0), overview.min(axis=0)
        value = np.where(high < _DARK, 0.0, (high - low) / np.maximum(high, 1.0))
        value = uniform_filter(value, 3)
        mask = value > np.clip(otsu(value), _PALEST, _FULLEST)
    else:
        value = uniform_filter(overview[0].astype(np.float64), 3)
        mask = value > otsu(value)
    radius = max(1, round(_CLOSED_MM / mm))
    around = radius + 1  # room for what grows over the edge
    padded = np.pad(mask, around)
    near = np.asarray(distance_transform_edt(~padded)) <= radius if mask.any() else padded
    mask = (np.asarray(distance_transform_edt(near)) > radius)[around:-around, around:-around]
    pieces: Any = label(mask, structure=np.ones((3, 3)))
    pieces = pieces[0]
    areas = np.bincount(pieces.reshape(-1))
    large = areas * mm**2 >= min(smallest_mm2, 0.01 * mask.size * mm**2)
    large[0] = False
    return large[pieces]


def otsu(values: np.ndarray) -> float:
    """The threshold by which two classes differ most from each other, in 256 steps; the largest value where all are one."""
    low, high = float(values.min()), float(values.max())
    if high <= low:
        return high
    counts, edges = np.histogram(values, 256, (low, high))
    centres = (edges[1:] + edges[:-1]) / 2
    below, above = np.cumsum(counts)[:-1], np.cumsum(counts[::-1])[::-1][1:]
    total = np.cumsum(counts * centres)
    first = total[:-1] / np.maximum(below, 1)
    second = (total[-1] - total[:-1]) / np.maximum(above, 1)
    apart = below * above * (first - second) ** 2
    return float(edges[1:-1][apart >= apart.max() * (1 - 1e-9)].mean())  # between heaps that leave a gap, its middle


def harmonise(payload: Payload, record: Record, standard: SlideStandard, fingerprint: Fingerprint) -> Payload:
    """(n 3 size size) uint8 tiles, row by row; `places` (n 4) the mm of their centres, z and s being 0.

    `to_world` takes an index (x y z 1) of any tile to mm about its centre. Each is averaged from the next finer level.

    Raises:
        GridError: the payload does not say where its pixels lie.
        RecordError: the source is gone, or a tile does not decode.
    """
    if not payload.history or "source" not in payload.history[0].parameters:
        if payload.array.ndim == 2:
            raise GridError(
                "features of a slide's tiles, where the encoder reads pixels", "an encoder of features (`kind: titan`)",
                "use it, or choose slides of pixels: `cohort.where: kind <> 'SLIDE features'`",
            )  # fmt: skip
        raise GridError("a slide without its source", "a payload as `records.load` gives it", "load the record")
    whole = payload.history[0]
    nominal = whole.to_world is None
    to_world = (
        np.diag([nominal_mpp(record) / 1000] * 2 + [1.0, 1.0]) if whole.to_world is None else np.array(whole.to_world)
    )
    mm = np.linalg.norm(to_world[:3, :2], axis=0)
    to_source: Any = np.array(whole.parameters["to_source"], float)
    mask = tissue_of(payload.array, float(mm.mean() * to_source[0, 0]), standard.smallest_mm2)
    step = standard.mpp / 1000 / float(mm.mean())
    columns, rows, across, down = _chosen(mask, to_source, whole.shape, step, standard)
    corners = np.stack([columns, rows], axis=1) * standard.size * step
    tiles = _read(str(whole.parameters["source"]), payload.array, corners, step, standard.size)
    tiles = _recoloured(tiles, standard, light_of(payload.array, mask))
    centres = np.concatenate(
        [corners + standard.size * step / 2 - 0.5, np.zeros((len(corners), 1)), np.ones((len(corners), 1))], 1
    )
    places = np.zeros((len(corners), 4), np.float32)
    places[:, :2] = (centres @ to_world.T)[:, :2]
    tile = np.diag([step, step, 1.0, 1.0])
    tile[:2, 3] = -step * (standard.size - 1) / 2
    about = to_world.copy()
    about[:3, 3] = 0.0
    history = (
        replace(whole, parameters={"to_source": to_source.tolist()}),
        Step(
            "tiles",
            tuple(payload.array.shape[1:]),
            None if payload.to_world is None else tuple(tuple(map(float, row)) for row in payload.to_world),
            {
                "columns": columns.tolist(),
                "rows": rows.tolist(),
                "grid": [across, down],
                "size": standard.size,
                "step": step,
            },
        ),
    )
    return Payload(tiles, about @ tile, history, nominal, places=places)


def _chosen(
    mask: np.ndarray, to_source: Any, shape: Sequence[int], step: float, standard: SlideStandard
) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Column and row of each tile of the grid that is taken, and how many of both the grid has."""
    span = standard.size * step
    across, down = (max(1, ceil(n / span - 1e-6)) for n in (shape[1], shape[0]))
    share = _shares(mask, span / to_source[0, 0], span / to_source[1, 1], across, down)
    enough = share >= max(standard.tissue, 1e-9)
    if not enough.any() and share.max() > 0:
        enough = np.arange(share.size).reshape(share.shape) == share.argmax()
    rows, columns = np.nonzero(enough)
    if len(rows) > standard.most:
        taken = spread(columns, rows, standard.most)
        rows, columns = rows[taken], columns[taken]
    return columns, rows, across, down


def _shares(mask: np.ndarray, wide: float, tall: float, across: int, down: int) -> np.ndarray:
    """(down across): how much of each tile of a grid is tissue; the tiles are `wide` × `tall` pixels of the mask."""
    total = mask.astype(np.float64)
    for axis, length, count in ((0, tall, down), (1, wide, across)):
        running = np.insert(np.cumsum(total, axis=axis), 0, 0.0, axis=axis)
        ends = np.minimum(np.arange(count + 1) * length, running.shape[axis] - 1)
        below = np.minimum(ends.astype(int), running.shape[axis] - 2)
        part = np.expand_dims(ends - below, 1 - axis)
        at = np.take(running, below, axis) * (1 - part) + np.take(running, below + 1, axis) * part
        total = np.diff(at, axis=axis)
    return total / (wide * tall)


def spread(columns: np.ndarray, rows: np.ndarray, most: int) -> np.ndarray:
    """(most,) which of more tiles are taken, ascending: each n / most-th in Z-order."""
    order = np.argsort(_z_order(columns, rows), kind="stable")
    return np.sort(order[((np.arange(most) + 0.5) * len(rows) / most).astype(int)])


def _z_order(columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The bits of column and row in turn."""
    code = np.zeros(len(rows), np.int64)
    for bit in range(24):
        code |= ((columns >> bit) & 1) << (2 * bit) | ((rows >> bit) & 1) << (2 * bit + 1)
    return code


@silent
def _read(source: str, overview: np.ndarray, corners: np.ndarray, step: float, size: int) -> np.ndarray:
    """(n 3 size size) uint8; deeper pixels by the range of the overview, grey ones three times."""
    tiles = np.empty((len(corners), 3, size, size), np.uint8)
    low, high = np.percentile(overview, [0.1, 99.9])
    if not len(corners):
        return tiles
    with opened(source) as slide:
        for number, (x, y) in enumerate(corners.tolist()):
            pixels = slide.patch(x, y, (size, size), step)
            if pixels.dtype != np.uint8:
                scaled = (pixels.astype(np.float64) - low) / max(float(high - low), 1e-9)
                pixels = np.rint(np.clip(scaled, 0, 1) * 255).astype(np.uint8)
            tiles[number] = pixels.transpose(2, 0, 1)
    return tiles


def light_of(overview: np.ndarray, tissue: np.ndarray) -> np.ndarray:
    """(3,) the colour of the glass: the median of what is neither tissue nor the scanner's frame; the reference's without any."""
    glass = overview[:, ~tissue & (overview.max(axis=0) > 128)]
    return np.median(glass, axis=1) if glass.shape[1] >= 0.01 * tissue.size else stain.REFERENCE_LIGHT


def _recoloured(tiles: np.ndarray, standard: SlideStandard, light: np.ndarray) -> np.ndarray:
    """The tiles in the reference's colours, learned of all of them at once."""
    if standard.stain == "none" or not len(tiles) or len(light) != 3:
        return tiles
    pixels = tiles.transpose(0, 2, 3, 1).reshape(-1, 3)
    learn = stain.macenko if standard.stain == "macenko" else stain.reinhard
    recolour = learn(pixels[:: max(1, len(pixels) // _LEARNED_OF)], light)
    return np.stack([recolour(tile.transpose(1, 2, 0)).transpose(2, 0, 1) for tile in tiles])


def _grid(history: Sequence[Step]) -> tuple[np.ndarray, np.ndarray, float, float]:
    """(n 2) column and row of each tile; (down across) its number or -1; its size in pixels; pixels of level 0 a pixel."""
    told: Any = history[-1].parameters
    places = np.array([told["columns"], told["rows"]], np.int64).T.reshape(-1, 2)
    numbers: np.ndarray = np.full(tuple(map(int, reversed(told["grid"]))), -1)
    numbers[places[:, 1], places[:, 0]] = np.arange(len(places))
    return places, numbers, float(told["size"]), float(told["step"])


def points_back(points: np.ndarray, history: Sequence[Step]) -> np.ndarray:
    """Places in tiles as places on the slide.

    Args:
        points: (n 3) index x and y in a tile, and which tile.
        history: of the tiles' payload.
    Returns:
        (n 2) index x y of level 0.
    """
    places, _, size, step = _grid(history)
    return (places[points[:, 2].astype(int)] * size + points[:, :2] + 0.5) * step - 0.5


def points_forth(points: np.ndarray, history: Sequence[Step]) -> np.ndarray:
    """Places on the slide, (n 2) index x y of level 0, as (n 3) index x and y in a tile, and which tile; NaN where none lies."""
    _, numbers, size, step = _grid(history)
    scaled = (points + 0.5) / step
    cell = np.floor(scaled / size).astype(int)
    inside: Any = ((cell >= 0) & (cell < numbers.shape[::-1])).all(axis=1)
    tile = np.where(inside, numbers[tuple((cell * inside[:, None]).T[::-1])], -1)
    found = np.concatenate([scaled - 0.5 - cell * size, tile[:, None]], axis=1)
    return np.where((tile >= 0)[:, None], found, np.nan)


def heat_map(scores: np.ndarray, history: Sequence[Step]) -> np.ndarray:
    """(y x) float32 on the overview's grid: each pixel has the score of the tile that it lies in, NaN where none does.

    Args:
        scores: (n,) one a tile.
        history: of the tiles' payload.
    """
    rows, columns = history[-1].shape
    to_source: Any = np.array(history[0].parameters["to_source"], float)
    _, numbers, size, step = _grid(history)
    along = ((rows, 1, numbers.shape[0]), (columns, 0, numbers.shape[1]))
    centres = [to_source[axis, axis] * np.arange(count) + to_source[axis, 3] for count, axis, _ in along]
    cells = [
        np.clip(((at + 0.5) / step / size).astype(int), 0, most - 1)
        for at, (_, _, most) in zip(centres, along, strict=True)
    ]
    tile = numbers[np.ix_(*cells)]
    return np.where(tile >= 0, np.append(scores, np.nan)[tile], np.nan).astype(np.float32)
