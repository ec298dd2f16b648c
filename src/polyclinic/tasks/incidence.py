"""Cumulative incidence: in how many of all each of several events has come by a time; the first that comes ends the others' chance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .baseline import GRID


@dataclass(frozen=True, slots=True)
class Incidence:
    """What risks by any time are read by: the intervals of a head's answers, and how the training patients fared.

    Args:
        ends: (j,) ascending, of the intervals; the last one is the longest follow-up. None where no head was fitted.
        causes: (k) names of the events.
        times: (g,) ascending.
        shares: (k g) Aalen–Johansen's share of all training patients to whom each event has come by each of `times`.
        horizons: (h,) by which a risk is told.
        unit: of all times.
        landmark: from which all times count; None where from the beginning alone.
    """

    ends: np.ndarray
    causes: tuple[str, ...]
    times: np.ndarray
    shares: np.ndarray
    horizons: np.ndarray
    unit: str
    landmark: float | None = None

    @property
    def until(self) -> float:
        """How long the training patients were followed; 0 where no risk is known."""
        return float(self.ends[-1]) if len(self.ends) else 0.0

    def risk(self, outputs: np.ndarray, times: np.ndarray) -> np.ndarray:
        """The chance of each event by each time; NaN beyond the training follow-up.

        Args:
            outputs: (p k j) by the end of each interval; within one it grows evenly (Kvamme & Borgan 2021, section 4: constant density).
            times: (t,)
        Returns:
            (p k t)
        """
        times, outputs = np.asarray(times, float), np.asarray(outputs, float)
        if not len(self.ends):
            return np.full((*outputs.shape[:2], len(times)), np.nan)
        edges, values = np.r_[0.0, self.ends], np.concatenate([np.zeros_like(outputs[..., :1]), outputs], -1)
        place = np.clip(np.searchsorted(self.ends, times, side="left"), 0, len(self.ends) - 1)
        share = np.clip((times - edges[place]) / (edges[place + 1] - edges[place]), 0, 1)
        told = values[..., place] * (1 - share) + values[..., place + 1] * share
        return np.where(times <= self.until, told, np.nan)

    def null(self, times: np.ndarray) -> np.ndarray:
        """(t,) → (k t) the chance of each event of one of whom nothing is known (Aalen–Johansen's); NaN beyond the training follow-up."""
        place = np.searchsorted(self.times, np.asarray(times, float), side="right")
        shares = np.concatenate([np.zeros((len(self.causes), 1)), self.shares], 1)
        return np.where(np.asarray(times) <= self.until, shares[:, place], np.nan)


def aalen_johansen(time: np.ndarray, event: np.ndarray, causes: int) -> tuple[np.ndarray, np.ndarray]:
    """In how many each event has come, as if nobody were censored.

    Args:
        time: (n,).
        event: (n,) 0 where none was seen, else its number.
        causes: k.
    Returns:
        (u,) the different times of events, ascending, and (k u) the shares up to and with each.
    Source:
        Aalen & Johansen 1978.
    """
    at, ordered = np.unique(time[event > 0]), np.sort(time)
    came = np.stack(
        [np.bincount(np.searchsorted(at, time[event == k]), minlength=len(at)) for k in range(1, causes + 1)]
    )
    hazard = came / (len(ordered) - np.searchsorted(ordered, at, side="left"))
    before = np.cumprod(np.r_[1.0, 1 - hazard.sum(0)])[:-1]
    return at, np.cumsum(before * hazard, axis=1)


def on_grid(time: np.ndarray, event: np.ndarray, causes: int) -> tuple[np.ndarray, np.ndarray]:
    """`aalen_johansen` at `GRID` quantiles of the event times, the last event's among them: (g,) and (k g)."""
    at, shares = aalen_johansen(time, event, causes)
    if not len(at):
        return np.zeros(GRID), np.zeros((causes, GRID))
    many = np.quantile(time[event > 0], np.linspace(0, 1, GRID), method="inverted_cdf")
    grid = np.r_[at, np.full(GRID - len(at), at[-1])] if len(at) <= GRID else many
    return grid, shares[:, np.searchsorted(at, grid, side="right") - 1]


def ends_of(time: np.ndarray, event: np.ndarray, intervals: int) -> np.ndarray:
    """The ends of intervals that have about as many events each; the last one is the longest follow-up.

    Where events came at fewer different times, the longest intervals are halved.

    Args:
        time: (n,) at least one above 0.
        event: (n,) 0 where none was seen.
        intervals: j, how many.
    Returns:
        (j,) ascending.
    Source:
        quantiles, as Kvamme & Borgan 2021, section 3.1, choose them; there of Kaplan–Meier's curve.
    """
    until, seen = float(time.max()), time[event > 0]
    inner = np.quantile(seen, np.arange(1, intervals) / intervals, method="inverted_cdf") if len(seen) else np.zeros(0)
    edges = np.unique(np.r_[0.0, inner[(inner > 0) & (inner < until)], until])
    while len(edges) <= intervals:
        longest = int(np.diff(edges).argmax())
        edges = np.insert(edges, longest + 1, (edges[longest] + edges[longest + 1]) / 2)
    return edges[1:]
