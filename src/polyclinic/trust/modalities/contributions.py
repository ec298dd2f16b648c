"""What each modality adds, what two of them do together, and what is lost without one: Shapley values of the task's metric.

The game: v(S) is the metric over the same test patients, each shown only what they have of S; a patient of whom nothing is left is
answered as one about whom nothing is known. v(∅) is therefore what guessing gives, v of all modalities the run's own figure, and the
Shapley values share out the difference between the two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import comb, factorial
from typing import Any

import numpy as np

from ...schema import Figure, Modality
from ..measures.intervals import DRAWS, FEW, bootstrap, percentile, resamples
from .design import Chosen, columns, pairs, presence

Value = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""What a metric makes of the answers of some rows: rows (n,) of the game's patients, weights (r n) → (r,)."""


@dataclass(frozen=True, slots=True)
class Contribution:
    """What one modality is worth.

    Args:
        modality: which.
        patients: of the game's, how many have it.
        shapley: its Shapley value, over all the game's patients as they come.
        lost: the metric with all there is, minus without this one: over those who have it and something else, paired.
    """

    modality: str
    patients: int
    shapley: Figure
    lost: Figure


@dataclass(frozen=True, slots=True)
class Together:
    """What two modalities add together beyond what each adds alone: above zero they complete, below they repeat each other.

    Args:
        modalities: the two.
        patients: of the game's, how many have both.
        figure: the Shapley interaction index (Grabisch & Roubens 1999).
    """

    modalities: tuple[str, str]
    patients: int
    figure: Figure


@dataclass(frozen=True, slots=True)
class Contributions:
    """The game, and what came of it.

    Args:
        metric: the task's.
        n: patients.
        nothing: the metric where nothing is known of anybody; whole: with all that is read.
        asked: subsets that were asked, of `of`.
        each: a modality each.
        both: two modalities each.
    """

    metric: str
    n: int
    nothing: float
    whole: float
    asked: int
    of: int
    each: tuple[Contribution, ...]
    both: tuple[Together, ...]

    @property
    def exact(self) -> bool:
        """Whether all subsets were asked."""
        return self.asked == self.of

    @classmethod
    def read(cls, data: Mapping[str, Any], figure: Callable[[Any], Figure]) -> Contributions:
        """From JSON; `figure` reads a figure."""
        made = {k: float("nan") if data[k] is None else data[k] for k in ("nothing", "whole")}
        each = tuple(
            Contribution(**{**c, "shapley": figure(c["shapley"]), "lost": figure(c["lost"])}) for c in data["each"]
        )
        both = tuple(Together(tuple(t["modalities"]), t["patients"], figure(t["figure"])) for t in data["both"])
        return cls(**{**data, **made, "each": each, "both": both})


@dataclass(frozen=True, slots=True)
class Game:
    """The answers about the same patients, with each subset.

    Args:
        metric: its name.
        modalities: k, all that is read.
        values: subset → its metric; `()` is where nothing is known.
        has: of each patient the modalities that were read.
        strata: (n,) what each resample keeps the share of.
    """

    metric: str
    modalities: Chosen
    values: Mapping[Chosen, Value]
    has: Sequence[Chosen]
    strata: np.ndarray


def contributions(game: Game, split: str, *, draws: int = DRAWS, seed: int = 0) -> Contributions | None:
    """What each modality adds; None where the metric is not defined of these patients.

    Args:
        game: with all subsets, or those of `design.asked`.
        split: the split's hash.
        draws: resamples of the patients.
        seed: of them.
    """
    n, k, subsets = len(game.strata), len(game.modalities), list(game.values)
    rows = np.arange(n)
    value = lambda w: np.stack([game.values[s](rows, w) for s in subsets], axis=1)
    if not n or not np.isfinite(at := value(np.ones((1, n)))).all():
        return None
    drawn = np.concatenate([value(w) for w in resamples(game.strata, draws, seed)])
    drawn = drawn[np.isfinite(drawn).all(1)]
    weights, exact = functionals(subsets, game.modalities)
    open_ = np.zeros(len(weights)) if exact else left_open(at[0], subsets, game.modalities, weights)
    noise = np.random.default_rng([seed, n, k]).standard_normal((len(drawn), len(weights))) * open_
    found, spread = weights @ at[0], drawn @ weights.T + noise
    note = "95% interval, percentile bootstrap over patients"
    note += "" if exact else f" and over the subsets that were not asked ({len(subsets) - 1} of {2**k - 1} were)"
    few, what = rarest(game.strata)
    note += f"; too narrow at {few} {what}" if few < FEW else ""
    figure = lambda name, place: _figure(name, float(found[place]), spread[:, place], n, split, note)
    have = [{m for m in game.modalities if m in has} for has in game.has]
    each = tuple(
        Contribution(
            m.value, sum(m in mine for mine in have), figure("shapley", place),
            _lost(game, m, have, split, draws, seed),
        )
        for place, m in enumerate(game.modalities)
    )  # fmt: skip
    both = tuple(
        Together(
            (game.modalities[i].value, game.modalities[j].value),
            sum({game.modalities[i], game.modalities[j]} <= mine for mine in have),
            figure("interaction", k + place),
        )
        for place, (i, j) in enumerate(pairs(k))
    )
    whole, nothing = float(at[0][subsets.index(game.modalities)]), float(at[0][subsets.index(())])
    return Contributions(game.metric, n, nothing, whole, len(subsets) - 1, 2**k - 1, each, both)


def _figure(name: str, value: float, drawn: np.ndarray, n: int, split: str, note: str) -> Figure:
    if n < 2 or len(drawn) < 2:
        return Figure(name, value, float("nan"), float("nan"), n, split, "no interval: one patient")
    if np.ptp(drawn) < 1e-12:
        note = "no interval: every resample of these few patients is the same"
        return Figure(name, value, float("nan"), float("nan"), n, split, note)
    interval = percentile(value, drawn)
    return Figure(name, value, interval.low, interval.high, n, split, note)


def _lost(game: Game, one: Modality, have: Sequence[set[Modality]], split: str, draws: int, seed: int) -> Figure:
    """All there is, minus without one of it, of those who have it and something else."""
    others = tuple(m for m in game.modalities if m is not one)
    rows = np.flatnonzero([one in mine and len(mine) > 1 for mine in have])
    of = lambda w: game.values[game.modalities](rows, w) - game.values[others](rows, w)
    strata, name = game.strata[rows], f"{game.metric}_lost"
    return bootstrap(
        of,
        strata,
        name=name,
        split=split,
        draws=draws,
        seed=seed,
        method="percentile",
        bounded=False,
        rarer=rarest(strata),
    )


def rarest(strata: np.ndarray) -> tuple[int, str]:
    """How many patients an interval rests on, and what they are: those of the rarest class, grade or outcome, if any."""
    counts = np.unique(strata, return_counts=True)[1]
    return (int(counts.min()), "patients of the rarest answer") if len(counts) > 1 else (len(strata), "patients")


def functionals(subsets: Sequence[Chosen], modalities: Chosen) -> tuple[np.ndarray, bool]:
    """(k+p s): the Shapley values of k modalities and the interactions of p pairs, as weights of the values of subsets; whether exactly.

    Shapley values are those of the form of first and second order that is nearest to the values by Shapley's kernel and agrees with
    v(∅) and v of all: with all subsets that is Shapley's own formula, since what the form leaves over is orthogonal to every single
    modality (Lundberg & Lee 2017, theorem 2; Pelegrina et al. 2023 for the second order). An interaction is Grabisch & Roubens's
    index where all subsets are asked, else the form's own term, which is the index where the form is right.
    """
    k = len(modalities)
    form = _form(subsets, modalities)
    exact = len(subsets) == 2**k
    shapley = form[:k].copy()
    for place, (i, j) in enumerate(pairs(k)):
        shapley[i] += form[k + place] / 2
        shapley[j] += form[k + place] / 2
    return np.concatenate([shapley, _indices(subsets, modalities) if exact else form[k:]]), exact


def _form(subsets: Sequence[Chosen], modalities: Chosen) -> np.ndarray:
    """(k+p s): the terms of the nearest form of second order, as weights of the values of subsets, () and all among them."""
    k, present = len(modalities), presence(subsets, modalities)
    terms, size = columns(present), present.sum(1).astype(int)
    between = np.flatnonzero((size > 0) & (size < k))
    nothing, whole = int(np.flatnonzero(size == 0)[0]), int(np.flatnonzero(size == k)[0])
    often = np.bincount(size, minlength=k + 1)
    # Each size counts in all as it does among all subsets, however many of it were asked.
    kernel = np.array([(k - 1) / (s * (k - s) * often[s]) for s in size[between]])
    inner, total = terms[between], terms.shape[1]
    system = np.block(
        [[inner.T @ (inner * kernel[:, None]), terms[whole][:, None]], [terms[whole][None], np.zeros((1, 1))]]
    )
    right = np.zeros((total + 1, len(subsets)))
    right[:total, between] = inner.T * kernel
    right[:total, nothing] = -right[:total, between].sum(1)
    right[total, whole], right[total, nothing] = 1.0, -1.0
    return (np.linalg.pinv(system, rcond=1e-12) @ right)[:total]


def _indices(subsets: Sequence[Chosen], modalities: Chosen) -> np.ndarray:
    """(p s) the Shapley interaction index of each pair, from all subsets."""
    k, at = len(modalities), {frozenset(s): n for n, s in enumerate(subsets)}
    found = np.zeros((comb(k, 2), len(subsets)))
    for place, (i, j) in enumerate(pairs(k)):
        one, other = modalities[i], modalities[j]
        for rest in (s for s in at if one not in s and other not in s):
            weight = factorial(len(rest)) * factorial(k - len(rest) - 2) / factorial(k - 1)
            for more, sign in (((one, other), 1), ((one,), -1), ((other,), -1), ((), 1)):
                found[place, at[rest | set(more)]] += sign * weight
    return found


def left_open(values: np.ndarray, subsets: Sequence[Chosen], modalities: Chosen, weights: np.ndarray) -> np.ndarray:
    """(k+p,) the standard deviation that the subsets leave that were not asked: as far as the asked ones are from the form.

    Args:
        values: (s,) of the subsets.
        weights: (k+p s) of `functionals`.
    """
    present = presence(subsets, modalities)
    nothing = int(np.flatnonzero(present.sum(1) == 0)[0])
    inner = np.flatnonzero((present.sum(1) > 0) & (present.sum(1) < len(modalities)))
    terms = _form(subsets, modalities) @ values
    left = (values - values[nothing] - columns(present) @ terms)[inner]
    free = len(inner) - (columns(present).shape[1] - 1)  # one is held by v of all
    spread = np.sqrt((left**2).sum() / free) if free > 0 else np.inf
    return spread * np.sqrt((weights[:, inner] ** 2).sum(1))
