"""The summary: every number that the report shows, with n, interval and the split's hash, in one JSON file."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np

from ...schema import Figure
from ..measures.written import interval

THIN = "\u202f"
"""A narrow space that does not break, between thousands."""


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
        """Enter a figure; its words, such as `0.71 (0.58–0.84)`.

        Args:
            key: where it stands in the summary.
            figure: with n, interval and split.
            signed: it is a difference, so that its sign is written.
        """
        entry = {
            "name": figure.name, "value": _finite(figure.value), "low": _finite(figure.low), "high": _finite(figure.high),
            "n": figure.n, "split": figure.split, "note": figure.note, "text": in_words(figure, signed),
        }  # fmt: skip
        self._enter(self.figures, key, entry)
        return entry["text"]

    def count(self, key: str, value: float | int | None, words: str | None = None, what: str = "count") -> str:
        """Enter a number that has no interval: a count, a share of a cohort, a loss, one patient's value.

        Args:
            key: where it stands in the summary.
            value: the number; None and NaN are shown as a dash.
            words: how the report writes it.
            what: what kind of number it is, so that nobody takes it for an estimate.
        """
        known = _finite(value)
        said = words if words is not None else grouped(known)
        self._enter(self.counts, key, {"value": known, "text": said, "what": what})
        return said

    def _enter(self, table: dict[str, dict[str, Any]], key: str, entry: dict[str, Any]) -> None:
        before = self.figures.get(key) or self.counts.get(key)
        if before is not None and before != entry:
            raise ValueError(f"two numbers are called {key!r} in the summary")
        table[key] = entry

    def html(self, key: str) -> str:
        """A number that was entered, as an element that names its place in the summary."""
        entry = self.figures.get(key) or self.counts[key]
        return _data(key, entry["value"], entry["text"])

    def n(self, key: str) -> str:
        """How many patients a figure rests on, as an element that names the figure's place in the summary."""
        n = self.figures[key]["n"]
        return _data(key, n, grouped(n))

    def note(self, key: str) -> str:
        """How a figure's interval was made, or why there is none, as an element that names the figure's place."""
        words = self.figures[key]["note"].removeprefix("95% interval, ")
        return f'<span data-key="{escape(key, quote=True)}">{escape(words)}</span>'

    def shown(self, key: str, value: float | int | None, words: str | None = None, what: str = "count") -> str:
        """`count`, as `html`."""
        self.count(key, value, words, what)
        return self.html(key)

    def measured(self, key: str, figure: Figure, signed: bool = False) -> str:
        """`figure`, as `html`."""
        self.figure(key, figure, signed)
        return self.html(key)

    def said(self, key: str, words: str) -> str:
        """A sentence of the evidence that has numbers in it, entered and shown as it stands."""
        self._enter(self.counts, key, {"value": None, "text": words, "what": "words"})
        return f'<span data-key="{escape(key, quote=True)}">{escape(words)}</span>'

    def json(self, **more: Any) -> str:
        """What `summary.json` holds."""
        content = {"split": self.split, **more, "figures": self.figures, "counts": self.counts}
        return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def in_words(figure: Figure, signed: bool = False) -> str:
    """A figure as the report writes it; where a sign may stand, an interval is `−0.02 to +0.22`, not `−0.02–0.22`."""
    if not math.isfinite(figure.value) or not (signed or figure.value < 0 or figure.low < 0):
        return interval(figure)
    value, low, high = (with_sign(v, signed) for v in (figure.value, figure.low, figure.high))
    known = math.isfinite(figure.low) and math.isfinite(figure.high)
    return f"{value} ({low} to {high})" if known else f"{value} (no interval)"


def with_sign(value: float, plus: bool = True) -> str:
    """Two digits with a true minus, and with a plus where wanted; zero has no sign."""
    words = f"{value:+.2f}" if plus else f"{value:.2f}"
    return "0.00" if words.lstrip("+-") == "0.00" else words.replace("-", "−")


def grouped(value: float | int | None) -> str:
    """A number for people: thousands apart, two digits of what is not whole, a dash for none."""
    if value is None:
        return "–"
    return (f"{value:,}" if isinstance(value, int) else f"{value:,.2f}").replace(",", THIN).replace("-", "−")


def _finite(value: Any) -> float | int | None:
    """The number as Python has it; None for none and for what is not finite."""
    plain = value.item() if isinstance(value, np.generic) else value
    return plain if plain is not None and math.isfinite(plain) else None


def _data(key: str, value: float | int | None, words: str) -> str:
    number = "" if value is None else value
    return f'<data value="{number}" data-key="{escape(key, quote=True)}">{escape(words)}</data>'
