"""The summary: every number that the report shows, with n, interval and the split's hash, in one JSON file."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from ..schema import Figure
from ..training.run import write_json
from .comparison import interval


@dataclass
class Summary:
    """The ledger that a report's numbers go through: what is not in it cannot be shown.

    Args:
        split: the split's hash.
    """

    split: str
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)
    counts: dict[str, dict[str, Any]] = field(default_factory=dict)

    def figure(self, key: str, figure: Figure, signed: bool = False) -> str:
        """Enter a figure; its words, such as `0.71 (0.58–0.84)`."""
        words = interval(figure)
        if signed and math.isfinite(figure.value) and figure.value > 0:
            words = "+" + words
        finite = lambda v: v if math.isfinite(v) else None
        self.figures[key] = {
            "name": figure.name, "value": finite(figure.value), "low": finite(figure.low), "high": finite(figure.high), "n": figure.n,
            "split": figure.split, "note": figure.note, "text": words,
        }  # fmt: skip
        return words

    def count(self, key: str, value: float | int | None, words: str | None = None, what: str = "count") -> str:
        """Enter a number that has no interval: a count, a share of a cohort, a loss, one patient's value.

        Args:
            key: where it stands in the summary.
            value: the number.
            words: how the report writes it.
            what: what kind of number it is, so that nobody takes it for an estimate.
        """
        said = words if words is not None else "–" if value is None else f"{value:,}".replace(",", "\u202f")
        self.counts[key] = {
            "value": value if value is None or math.isfinite(value) else None,
            "text": said,
            "what": what,
        }
        return said

    def html(self, key: str) -> str:
        """A number that was entered, as an element that names its place in the summary."""
        entry = self.figures.get(key) or self.counts[key]
        value = "" if entry["value"] is None else entry["value"]
        return f'<data value="{value}" data-key="{escape(key, quote=True)}">{escape(entry["text"])}</data>'

    def shown(self, key: str, value: float | int | None, words: str | None = None, what: str = "count") -> str:
        """`count`, as `html`."""
        self.count(key, value, words, what)
        return self.html(key)

    def write(self, path: Path, **more: Any) -> Path:
        """Write `summary.json`."""
        write_json(path, {"split": self.split, **more, "figures": self.figures, "counts": self.counts})
        return path
