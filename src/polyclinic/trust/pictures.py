"""Pixels inside the page: grey thumbnails as PNG in base64, and masks as outlines along their pixels' edges."""

from __future__ import annotations

import base64
import io

import numpy as np

from .svg import tag


def png(picture: np.ndarray, most: int = 320) -> str:
    """A data URI of a grey picture.

    Args:
        picture: (y x) in 0..1.
        most: pixels of its longest side; a larger one is made smaller.
    """
    from PIL import Image

    image = Image.fromarray(np.clip(np.nan_to_num(picture) * 255, 0, 255).astype(np.uint8))
    if max(image.size) > most:
        image.thumbnail((most, most), Image.Resampling.LANCZOS)
    held = io.BytesIO()
    image.save(held, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(held.getvalue()).decode()


def runs(mask: np.ndarray) -> list[tuple[int, int, int]]:
    """The runs of a (y x) bool mask along x: row, first column, length."""
    edges = np.diff(np.pad(mask.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    starts, ends = np.argwhere(edges == 1), np.argwhere(edges == -1)
    return [(int(y), int(x), int(end - x)) for (y, x), (_, end) in zip(starts, ends, strict=True)]


def outline(mask: np.ndarray) -> str:
    """The path along the pixels' edges of a (y x) bool mask; the empty word for an empty one."""
    padded = np.pad(mask.astype(bool), 1)
    across = padded[1:, 1:-1] != padded[:-1, 1:-1]  # edges between rows
    down = padded[1:-1, 1:] != padded[1:-1, :-1]  # edges between columns
    level = [f"M{x} {y}h{n}" for y, x, n in runs(across)]
    upright = [f"M{x} {y}v{n}" for x, y, n in runs(down.T)]
    return "".join(level + upright)


def window(mask: np.ndarray, shape: tuple[int, ...], margin: int = 8) -> tuple[int, int, int, int]:
    """Rows and columns (y0 y1 x0 x1) that hold a mask with a margin; the whole picture for an empty one."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return 0, shape[0], 0, shape[1]
    return (
        max(0, int(rows[0]) - margin), min(shape[0], int(rows[-1]) + 1 + margin),
        max(0, int(columns[0]) - margin), min(shape[1], int(columns[-1]) + 1 + margin),
    )  # fmt: skip


def masked(
    picture: np.ndarray,
    predicted: np.ndarray | None,
    truth: np.ndarray | None,
    classes: int,
    aspect: float,
    alternative: str,
) -> str:
    """A grey slice with the predicted labels filled and the true ones outlined, as SVG.

    Args:
        picture: (y x) in 0..1; predicted, truth: (y x) labels, or None for neither.
        classes: how many labels there are.
        aspect: height of a pixel over its width.
        alternative: what a screen reader says.
    """
    height, width = picture.shape
    body = [
        tag(
            "image",
            href=png(picture, max(picture.shape)),
            width=width,
            height=height,
            preserveAspectRatio="none",
            style="image-rendering:pixelated",
        )
    ]
    for k in range(1, classes + 1):
        colour = f"var(--m{(k - 1) % 4})"
        if predicted is not None and (predicted == k).any():
            filled = "".join(f"M{x} {y}h{n}v1h-{n}z" for y, x, n in runs(predicted == k))
            body.append(tag("path", d=filled, fill=colour, fill_opacity=0.45, shape_rendering="crispEdges"))
            body.append(tag("path", d=outline(predicted == k), stroke=colour, stroke_width=0.3, fill="none"))
        if truth is not None and (truth == k).any():
            dashed = "0.6 0.45" if k % 2 == 0 else None
            body.append(
                tag(
                    "path",
                    d=outline(truth == k),
                    stroke="#fff",
                    stroke_width=0.34,
                    stroke_dasharray=dashed,
                    fill="none",
                )
            )
    inner = tag(
        "svg",
        *body,
        viewBox=f"0 0 {width} {height}",
        width=float(width),
        height=float(height * aspect),
        preserveAspectRatio="none",
    )
    return tag(
        "svg",
        tag("title", alternative),
        inner,
        viewBox=f"0 0 {width} {height * aspect:.2f}",
        role="img",
        aria_label=alternative,
        class_="picture",
    )
