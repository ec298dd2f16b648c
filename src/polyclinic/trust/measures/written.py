"""Figures as they are written down: in words for a person, as JSON for a machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...schema import Figure


def interval(figure: Figure) -> str:
    """A figure in words: `0.71 (0.58–0.84)`; `not defined` where it is NaN."""
    if not np.isfinite(figure.value):
        return "not defined"
    if not np.isfinite([figure.low, figure.high]).all():
        return f"{figure.value:.2f} (no interval)"
    return f"{figure.value:.2f} ({figure.low:.2f}–{figure.high:.2f})".replace("-", "−")


def unsigned(figure: Figure) -> str:
    """`0.712 (0.581 to 0.843)`."""
    return f"{figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})"


def signed(figure: Figure) -> str:
    """`+0.012 (−0.031 to +0.055)`; nothing is neither more nor less."""
    value, low, high = (f"{v:+.3f}" if abs(v) >= 0.0005 else "0.000" for v in (figure.value, figure.low, figure.high))
    return f"{value} ({low} to {high})".replace("-", "−")


def plain(value: Any) -> Any:
    """As JSON knows it: tuples are lists, NaN is null."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def figure_of(data: Mapping[str, Any] | None) -> Any:
    """A figure from its JSON; null is NaN."""
    if data is None:
        return None
    fields: dict[str, Any] = {k: float("nan") if v is None else v for k, v in data.items()}
    return Figure(**fields)
