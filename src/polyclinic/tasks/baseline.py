"""Absolute risk: the training patients' baseline hazard, which makes of a log hazard a chance of the event by a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

GRID = 256
"""Times at which a baseline is kept; exact between them where there are no more different event times."""
CUSTOMARY = {
    "days": (7, 30, 90, 180, 365, 730, 1825), "weeks": (4, 12, 26, 52, 104, 260), "months": (1, 3, 6, 12, 24, 36, 60, 120),
    "years": (1, 2, 3, 5, 10, 20),
}  # fmt: skip
"""The times of which risks are usually told, by the unit."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """How the hazard of the training patients accumulates; what is kept of it beside a head.

    Args:
        times: (g,) ascending, the last one the longest follow-up; none where nobody was seen to have the event.
        hazard: (g,) the cumulative hazard up to and with each, of a patient whose log hazard is `centre`.
        survival: (g,) Kaplan–Meier's estimate of all training patients together.
        centre: a log hazard, the training patients' median.
        horizons: (h,) of which a risk is told.
        unit: of all times.
    """

    times: np.ndarray
    hazard: np.ndarray
    survival: np.ndarray
    centre: float
    horizons: np.ndarray
    unit: str

    @property
    def until(self) -> float:
        """How long the training patients were followed; 0 where no risk is known."""
        return float(self.times[-1]) if len(self.times) else 0.0

    def risk(self, log_hazard: np.ndarray, times: np.ndarray) -> np.ndarray:
        """(p,) log hazards, (t,) times → (p t) the chance of the event by each time; NaN beyond the training follow-up.

        Source: 1 − exp(−H₀(t) exp(η)), Breslow 1972.
        """
        each = np.exp(np.clip(np.asarray(log_hazard, float) - self.centre, -700, 700))
        hazard = self._at(self.hazard, times, before=0.0)
        return -np.expm1(-hazard[None] * each[:, None])

    def null(self, times: np.ndarray) -> np.ndarray:
        """(t,) the chance of the event of one of whom nothing is known (Kaplan–Meier's); NaN beyond the training follow-up."""
        return 1 - self._at(self.survival, times, before=1.0)

    def _at(self, values: np.ndarray, times: np.ndarray, before: float) -> np.ndarray:
        times = np.asarray(times, float)
        place = np.searchsorted(self.times, times, side="right")
        return np.where(times <= self.until, np.r_[before, values][place], np.nan)


def breslow(log_hazard: np.ndarray, time: np.ndarray, event: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cumulative baseline hazard of Cox's model.

    Args:
        log_hazard, time: (n,).
        event: (n,) 1 where it was seen.
    Returns:
        (u,) the different event times, ascending, and (u,) the cumulative hazard up to and with each: at each grows by the events
        there over the hazards of those who are still at risk.
    Source:
        Breslow 1972, in the discussion of Cox 1972.
    """
    order = np.argsort(time, kind="stable")
    when, seen, each = time[order], event[order] > 0, np.exp(np.clip(log_hazard[order].astype(float), -700, 700))
    at = np.unique(when[seen])
    events = np.searchsorted(when[seen], at, side="right") - np.searchsorted(when[seen], at, side="left")
    at_risk = np.cumsum(each[::-1])[::-1][np.searchsorted(when, at, side="left")]
    return at, np.cumsum(events / at_risk)


def kaplan_meier(time: np.ndarray, event: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(u,) the different event times, ascending, and (u,) the share still without the event after each (Kaplan & Meier 1958)."""
    when, seen = np.sort(time), np.sort(time[event > 0])
    at = np.unique(seen)
    events = np.searchsorted(seen, at, side="right") - np.searchsorted(seen, at, side="left")
    return at, np.cumprod(1 - events / (len(when) - np.searchsorted(when, at, side="left")))


def customary(time: np.ndarray, event: np.ndarray, unit: str) -> tuple[float, float]:
    """The horizons where nobody says: near the times by which a third and two thirds of the seen events came.

    Args:
        time, event: (n,) of the training patients, at least one event.
        unit: `days`, `weeks`, `months` or `years` have customary times; of another two digits are kept.
    """
    until, found = float(time.max()), []
    for at in np.quantile(time[event > 0], [1 / 3, 2 / 3]):
        usual = [t for t in CUSTOMARY.get(unit.lower(), ()) if t <= until]
        near = min(usual, key=lambda t: abs(np.log(t / max(at, 1e-9))), default=float(f"{at:.2g}"))
        found.append(float(min(near, until)))
    return found[0], found[1]


def fit_baseline(
    log_hazard: np.ndarray, time: np.ndarray, event: np.ndarray, horizons: tuple[float, ...], centre: float, unit: str
) -> Baseline:
    """The baseline of some patients on `GRID` quantiles of their event times, at the horizons, and at the end of their follow-up.

    Args:
        log_hazard, time, event: (n,) with at least one event.
        horizons: in the time's unit; none chooses two of `customary`.
        centre: the log hazard whose cumulative hazard is kept.
        unit: of the times.
    """
    at, hazard = breslow(log_hazard - centre, time, event)
    survival = kaplan_meier(time, event)[1]
    chosen = np.array(horizons or customary(time, event, unit))
    until = float(time.max())
    grid = np.quantile(time[event > 0], np.linspace(0, 1, GRID), method="inverted_cdf")
    # Where the times differ no more than the grid has places, each has one.
    grid = np.r_[at, np.full(GRID - len(at), at[-1])] if len(at) <= GRID else grid
    grid = np.sort(np.r_[grid, np.minimum(chosen, until), until])
    place = np.searchsorted(at, grid, side="right")
    return Baseline(grid, np.r_[0.0, hazard][place], np.r_[1.0, survival][place], centre, chosen, unit)
