"""Text burned into an image, found by how it looks: strokes of one intensity with sharp edges, glyphs of one height on one line.

Nothing is read. The strokes are what a morphological top-hat keeps (Serra 1982) of an image and of its negative; each is cut out at half of
its own contrast, and judged glyph by glyph and line by line, as the components of scene text are (Epshtein et al., CVPR 2010; Neumann and
Matas, CVPR 2012), at full, half and quarter size, across and along.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Grey = NDArray[np.uint8]
Floats = NDArray[np.float64]

_ELEMENT = 7
"""Side of the top-hat's square, in pixels of the size that is looked at: wider than a stroke of the tallest glyph there."""
_HEIGHTS = (6, 20)
"""Heights of capital glyphs that are looked for at each size, in its pixels."""
_LEAST_CONTRAST = 18
"""Of 255: fainter strokes than this are no text that was meant to be read."""
_NOISE, _COMMON = 10, 30
"""How often the 30th percentile of the top-hat around it a stroke has to be: of noise it is 0.7 of its deviation, of dense text little."""
_BLURRED = 0.6
"""A component whose contrast outside its edge is more than this part of that within is no rendered stroke."""
_BLOCK, _AREA = 8, 8
"""Contrast is taken by blocks of 8 pixels; noise by areas of 8 blocks."""
_SIZES = (1, 2, 4)
_LEAST_PARTS, _LEAST_GLYPHS = 3, 4
"""Fewer are a side marker (L, R, PA), and chance."""
_MARGIN = (0.25, 0.5)
"""Of a glyph's height, above and below, before and after: for descenders, commas and a thin letter at an end."""
_REACH, _MOST_WORDS = 2.0, 16
"""Of a glyph's height, the widest space between words; and how often a line is made longer by what follows."""
_WEIGHTS = np.array([-2.8, -2.7, -0.9, -10.6, -4.2, -4.0, -2.5, 3.8])
"""Of the glyphs' distance from their line, variation of height, gap (all by the height), edge, variation of
intensity within and between, noise (by the contrast), and the logarithm of their number: a logistic regression on planted lines and on
chains of components in radiographs and CT without text (`benchmarks/results/burned_in.py --fit`)."""
_BIAS = 1.0


@dataclass(frozen=True, slots=True)
class Line:
    """What looks like a line of characters.

    Args:
        top, left, bottom, right: its box in pixels, the last two not in it.
        glyphs: about how many characters.
        score: 0 to 1, how alike to text.
    """

    top: int
    left: int
    bottom: int
    right: int
    glyphs: int
    score: float

    def turned(self) -> Line:
        """The same with rows for columns."""
        return Line(self.left, self.top, self.right, self.bottom, self.glyphs, self.score)

    @property
    def box(self) -> tuple[slice, slice]:
        """For indexing (y x …)."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


def lines_of_text(image: NDArray[Any]) -> list[Line]:
    """Boxes that look like lines of characters, best first; a marker of one or two letters (L, R, PA) is none.

    Args:
        image: (y x) or (y x c), of any depth; not a number counts as the darkest.
    """
    return apart([line for _, line in chains(as_grey(image)) if line.score >= 0.5])


def chains(grey: Grey) -> list[tuple[Glyphs, Line]]:
    """All that could be a line, as its components and as what it is judged to be: bright and dark, at all sizes, across and along."""
    found: list[tuple[Glyphs, Line]] = []
    for dark in (False, True):
        noise = np.zeros((1, 1))
        for size in _SIZES:
            small = _smaller(grey, size)
            if min(small.shape) < 2 * _ELEMENT:
                break
            glyphs, own = _glyphs(255 - small if dark else small, noise, size)
            noise = own if size == 1 else noise
            for turned in (False, True):
                these = glyphs.turned() if turned else glyphs
                for chain in _across(these):
                    line = _judged(chain, these)
                    found.append((chain, _at(line.turned() if turned else line, size, grey.shape)))
    return found


def as_grey(image: NDArray[Any]) -> Grey:
    """(y x) of 0 to 255: but for a thousandth at either end, its whole range; of colours, their brightest channel."""
    values = np.asarray(image)
    if values.ndim == 3:
        values = values[..., :3].max(axis=-1)
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    values = np.nan_to_num(values.astype(np.float32), nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    sample = values[::4, ::4]
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        return np.zeros(values.shape, np.uint8)
    low, high = np.percentile(sample, (0.1, 99.9))
    if low == high:
        low, high = sample.min(), max(values.max(), sample.min())
    scale = 255 / max(high - low, 1e-12)
    return np.clip((np.clip(values, low, high) - low) * scale, 0, 255).astype(np.uint8)


def _smaller(grey: Grey, by: int) -> Grey:
    if by == 1:
        return grey
    rows, columns = (n // by for n in grey.shape)
    sums = np.zeros((rows, columns), np.uint16)
    for i in range(by):
        for j in range(by):
            sums += grey[i : rows * by : by, j : columns * by : by]
    return (sums // by**2).astype(np.uint8)


def _at(line: Line, size: int, shape: tuple[int, ...]) -> Line:
    """In pixels of the whole, a pixel wider all round: anti-aliased edges are fainter than half."""
    return Line(
        max(0, (line.top - 1) * size), max(0, (line.left - 1) * size),
        min(shape[0], (line.bottom + 1) * size), min(shape[1], (line.right + 1) * size), line.glyphs, line.score,
    )  # fmt: skip


def _top_hat(grey: Grey) -> Grey:
    """What is brighter than its surroundings and narrower than the element: the image less its opening."""
    pad = _ELEMENT // 2
    wide = np.pad(grey, 2 * pad, mode="edge")
    return grey - _running(_running(wide, np.minimum), np.maximum)


def _running(values: Grey, best: np.ufunc) -> Grey:
    """Least or greatest over a square of the element's side, which has to be 7 = 4 + 3; smaller by that less one."""
    for axis in (0, 1):
        values = values if axis == 0 else values.T
        two = best(values[:-1], values[1:])
        four = best(two[:-2], two[2:])
        values = best(four[:-3], four[3:])
        values = values if axis == 0 else values.T
    return values


def _blocks(values: Grey, of: int) -> NDArray[np.uint8]:
    """(y/of x/of of·of); what lacks at the ends is mirrored."""
    rows, columns = (-(-n // of) for n in values.shape)
    whole = np.pad(values, [(0, m * of - n) for m, n in zip((rows, columns), values.shape, strict=True)], "symmetric")
    return whole.reshape(rows, of, columns, of).swapaxes(1, 2).reshape(rows, columns, of * of)


def _cut(hat: Grey, whole: Floats, size: int) -> tuple[Grey, Floats]:
    """The threshold of each pixel, half of the greatest contrast nearby where that stands out of the noise, else 255; the noise, by block.

    Args:
        hat: the top-hat at a size.
        whole: the noise of the whole size, by block; a mean of size² pixels has a part of it, also where too little is left to see it.
        size: how often it was made smaller.
    """
    from scipy import ndimage

    rows, columns = (-(-n // _BLOCK) for n in hat.shape)
    blocks = _blocks(hat, _BLOCK)
    peak = ndimage.maximum_filter(blocks.max(-1), size=3)
    coarse = _blocks(hat[::2, ::2], _BLOCK * _AREA // 2)
    common = ndimage.maximum_filter(np.percentile(coarse[..., ::5], _COMMON, axis=-1), size=3)
    noise = np.kron(common, np.ones((_AREA, _AREA)))[:rows, :columns]
    at = [np.minimum(np.arange(n) * size, m - 1) for n, m in zip((rows, columns), whole.shape, strict=True)]
    noise = np.maximum(noise, whole[np.ix_(*at)] / size)
    floor = np.maximum(_LEAST_CONTRAST, _NOISE * noise)
    level = np.where(peak >= floor, np.maximum(peak // 2, 1), 255).astype(np.uint8)
    return level.repeat(_BLOCK, 0).repeat(_BLOCK, 1)[: hat.shape[0], : hat.shape[1]], noise


@dataclass(frozen=True, slots=True)
class Glyphs:
    """Components that may be characters: boxes (n), area, mean intensity, mean contrast, its variation within,
    how much of it there is just outside, and the noise around."""

    top: Floats
    left: Floats
    bottom: Floats
    right: Floats
    area: Floats
    value: Floats
    contrast: Floats
    spread: Floats
    edge: Floats
    noise: Floats

    def turned(self) -> Glyphs:
        """The same with rows for columns."""
        return Glyphs(
            self.left, self.top, self.right, self.bottom, self.area, self.value, self.contrast, self.spread, self.edge, self.noise,
        )  # fmt: skip

    def __getitem__(self, which: NDArray[Any]) -> Glyphs:
        return Glyphs(*(getattr(self, name)[which] for name in self.__slots__))

    def __len__(self) -> int:
        return len(self.top)


def _glyphs(grey: Grey, whole: Floats, size: int) -> tuple[Glyphs, Floats]:
    """Components at half of their contrast that may be characters, and the noise, by block; see `_cut`."""
    from scipy import ndimage

    hat = _top_hat(grey)
    cut, noise = _cut(hat, whole, size)
    ink = np.pad(hat > cut, 1)
    labelled: Any = ndimage.label(ink, np.ones((3, 3), bool))
    labels: NDArray[np.int32] = labelled[0]
    at = np.flatnonzero(ink)
    label = labels.ravel()[at]
    area = np.bincount(label)
    at = at[((area >= 4) & (area <= 2 * _HEIGHTS[1] ** 2))[label]]
    if not at.size:
        return Glyphs(*(np.zeros(0) for _ in Glyphs.__slots__)), noise
    label = labels.ravel()[at]
    order = np.argsort(label, kind="stable")
    at, label = at[order], label[order]
    first = np.flatnonzero(np.diff(label, prepend=0))
    row, column = np.divmod(at, ink.shape[1])
    number = np.repeat(np.arange(len(first)), np.diff(first, append=len(at)))
    mean = lambda values: np.bincount(number, values) / np.bincount(number)
    row, column = row - 1, column - 1  # of the padding
    value, contrast = grey[row, column].astype(float), hat[row, column].astype(float)
    outside, total = np.zeros(len(first)), np.zeros(len(first))
    wide = np.pad(hat, 1).ravel()
    for step in (-ink.shape[1], -1, 1, ink.shape[1]):
        out = ~ink.ravel()[at + step]
        outside += np.bincount(number[out], wide[(at + step)[out]], len(first))
        total += np.bincount(number[out], minlength=len(first))
    spread = np.sqrt(np.maximum(mean(value**2) - mean(value) ** 2, 0))
    found = Glyphs(
        np.minimum.reduceat(row, first).astype(float), np.minimum.reduceat(column, first).astype(float),
        np.maximum.reduceat(row, first) + 1.0, np.maximum.reduceat(column, first) + 1.0,
        np.bincount(number).astype(float), mean(value), mean(contrast), spread / mean(contrast),
        outside / np.maximum(total, 1) / mean(contrast), noise[row[first] // _BLOCK, column[first] // _BLOCK],
    )  # fmt: skip
    return found, noise


def _across(glyphs: Glyphs) -> list[Glyphs]:
    """Chains along the rows that have as many characters as a line."""
    height, width = glyphs.bottom - glyphs.top, glyphs.right - glyphs.left
    low, high = _HEIGHTS
    glyphs = glyphs[(height >= low) & (height <= high) & (width <= 8 * height) & (glyphs.edge < _BLURRED)]
    if len(glyphs) < _LEAST_PARTS:
        return []
    return [chain for chain in _chains(glyphs) if _count(chain) >= _LEAST_GLYPHS]


def _chains(glyphs: Glyphs) -> list[Glyphs]:
    """Which glyphs follow one another: alike in height and intensity, on one line, with a gap of less than a height."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import KDTree

    middle = (glyphs.top + glyphs.bottom) / 2
    ends = KDTree(np.stack([middle, glyphs.right], 1))
    starts = KDTree(np.stack([middle, glyphs.left], 1))
    pairs = ends.sparse_distance_matrix(starts, 1.5 * _HEIGHTS[1], output_type="ndarray")
    i, j = pairs["i"], pairs["j"]
    height = glyphs.bottom - glyphs.top
    tall, short = np.maximum(height[i], height[j]), np.minimum(height[i], height[j])
    gap = glyphs.left[j] - glyphs.right[i]
    near = 0.17 * tall + 0.6
    level = (np.abs(glyphs.bottom[i] - glyphs.bottom[j]) <= near) | (np.abs(glyphs.top[i] - glyphs.top[j]) <= near)
    strong = np.maximum(glyphs.contrast[i], glyphs.contrast[j])
    alike = np.minimum(np.abs(glyphs.value[i] - glyphs.value[j]), np.abs(glyphs.contrast[i] - glyphs.contrast[j]))
    joined = (
        (i != j) & (tall <= 1.6 * short + 1) & (gap >= -0.2 * tall) & (gap <= 1.2 * tall) & level & (alike <= 0.35 * strong)
        & (glyphs.left[i] < glyphs.left[j])
    )  # fmt: skip
    n = len(glyphs)
    graph = coo_array((np.ones(int(joined.sum()), np.int8), (i[joined], j[joined])), shape=(n, n))
    count, which = connected_components(graph, directed=False)
    order = np.argsort(which, kind="stable")
    sizes = np.bincount(which, minlength=count)
    return [glyphs[m] for m in np.split(order, np.cumsum(sizes)[:-1]) if len(m) >= _LEAST_PARTS]


def features(line: Glyphs) -> Floats:
    """What tells a line of characters from ribs, vessels and noise (8): see `_WEIGHTS`."""
    height = line.bottom - line.top
    tall = np.median(height)
    order = np.argsort(line.left)
    gaps = line.left[order][1:] - line.right[order][:-1]
    off = np.minimum(np.abs(line.bottom - np.median(line.bottom)), np.abs(line.top - np.median(line.top)))
    return np.array([
        np.mean(off) / tall, np.std(height) / tall, np.median(gaps) / tall, np.mean(line.edge),
        np.mean(line.spread), np.std(line.value) / np.mean(line.contrast), np.mean(line.noise) / np.mean(line.contrast), np.log(len(line)),
    ], dtype=np.float64)  # fmt: skip


def _count(line: Glyphs) -> int:
    """About how many characters: those that touch are one component."""
    tall = np.median(line.bottom - line.top)
    return int(np.maximum(1, np.round((line.right - line.left) / (0.75 * tall))).sum())


def _judged(line: Glyphs, among: Glyphs) -> Line:
    """How likely it is text; its box with what else is of the line, and a margin."""
    score = float(1 / (1 + np.exp(-(_WEIGHTS @ features(line) + _BIAS))))
    tall = float(np.median(line.bottom - line.top))
    box = np.array([line.top.min(), line.left.min(), line.bottom.max(), line.right.max()])
    if score >= 0.5:
        box = _grown(box, tall, line, among)
    margin = tall * np.array([-_MARGIN[0], -_MARGIN[1], _MARGIN[0], _MARGIN[1]])
    top, left, bottom, right = (int(v) for v in np.round(box + margin))
    return Line(top, left, bottom, right, _count(line), score)


def _grown(box: Floats, tall: float, line: Glyphs, among: Glyphs) -> Floats:
    """The box with what follows after a space, and commas and accents, of the same intensity."""
    reach = np.array([0.35, _REACH, 0.35, _REACH]) * tall
    like = np.abs(among.value - np.median(line.value)) <= 0.5 * np.median(line.contrast)
    like &= (among.bottom - among.top <= 1.6 * tall) & (among.edge < _BLURRED)
    low, high = line.top.min() - reach[0], line.bottom.max() + reach[0]
    like &= (among.top >= low) & (among.bottom <= high)
    near = among[like]
    for _ in range(_MOST_WORDS):
        mine = (near.right >= box[1] - reach[1]) & (near.left <= box[3] + reach[1])
        if not mine.any():
            break
        new = np.array([near.top[mine].min(), near.left[mine].min(), near.bottom[mine].max(), near.right[mine].max()])
        new = np.concatenate([np.minimum(box[:2], new[:2]), np.maximum(box[2:], new[2:])])
        if (new == box).all():
            break
        box = new
    return box


def apart(lines: Iterable[Line]) -> list[Line]:
    """Boxes that meet as one, the best first: a line is found at several sizes, and in several pieces."""
    merged: list[Line] = []
    for line in sorted(lines, key=lambda one: -one.score):
        while (other := next((m for m in merged if _meet(m, line)), None)) is not None:
            merged.remove(other)
            line = Line(
                min(line.top, other.top), min(line.left, other.left), max(line.bottom, other.bottom), max(line.right, other.right),
                max(line.glyphs, other.glyphs), max(line.score, other.score),
            )  # fmt: skip
        merged.append(line)
    return sorted(merged, key=lambda one: (-one.score, one.top, one.left))


def _meet(a: Line, b: Line) -> bool:
    """Whether the smaller of two boxes is by a third within the other."""
    high = min(a.bottom, b.bottom) - max(a.top, b.top)
    wide = min(a.right, b.right) - max(a.left, b.left)
    if high <= 0 or wide <= 0:
        return False
    return 3 * high * wide >= min((x.bottom - x.top) * (x.right - x.left) for x in (a, b))
