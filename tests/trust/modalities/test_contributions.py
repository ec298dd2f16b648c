"""Shapley values against Shapley's own formula, games whose values are known, and the coverage of their intervals."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from itertools import permutations

import numpy as np
import pytest

from polyclinic.schema import Modality
from polyclinic.trust.measures.metrics import mean
from polyclinic.trust.measures.written import figure_of, plain
from polyclinic.trust.modalities.contributions import Contributions, Game, contributions, functionals, left_open
from polyclinic.trust.modalities.design import Chosen, asked, every, pairs

MODALITIES = tuple(Modality)


def shapley(value: Callable[[frozenset[Modality]], float], modalities: Chosen) -> np.ndarray:
    """Shapley 1953: the mean over all orders of what a modality adds to those before it."""
    total = np.zeros(len(modalities))
    orders = list(permutations(modalities))
    for order in orders:
        for place, one in enumerate(order):
            before = frozenset(order[:place])
            total[modalities.index(one)] += value(before | {one}) - value(before)
    return total / len(orders)


@pytest.mark.parametrize("k", [2, 3, 4, 5])
def test_with_all_subsets_it_is_shapleys_formula_whatever_the_game(k: int) -> None:
    chosen = MODALITIES[:k]
    subsets = [(), *every(chosen)]
    values = dict(zip(map(frozenset, subsets), np.random.default_rng(k).normal(size=len(subsets)), strict=True))
    weights, exact = functionals(subsets, chosen)
    assert exact
    found = weights @ np.array([values[frozenset(s)] for s in subsets])
    assert found[:k] == pytest.approx(shapley(values.__getitem__, chosen), abs=1e-9)
    assert found[:k].sum() == pytest.approx(values[frozenset(chosen)] - values[frozenset()])
    for place, (i, j) in enumerate(pairs(k)):  # the interaction is what the pair adds as one player to each of its two
        if k == 2:
            both, none = values[frozenset(chosen)], values[frozenset()]
            assert found[k + place] == pytest.approx(
                both - values[frozenset(chosen[:1])] - values[frozenset(chosen[1:])] + none
            )
        else:
            without = lambda lost: [m for m in chosen if m is not lost]
            one, other = chosen[i], chosen[j]
            # Grabisch & Roubens 1999, axiom of recursivity: I(ij) = φ_i with j there − φ_i with j not there.
            there = shapley(lambda s, o=other: values[s | {o}], tuple(without(other)))
            gone = shapley(values.__getitem__, tuple(without(other)))
            at = without(other).index(one)
            assert found[k + place] == pytest.approx(there[at] - gone[at], abs=1e-9)


@pytest.mark.parametrize("k", [5, 6, 9])
def test_of_a_design_a_game_of_pairs_is_told_exactly(k: int) -> None:
    chosen, random = MODALITIES[:k], np.random.default_rng(k)
    alone, both = random.normal(size=k), random.normal(size=len(pairs(k)))

    def value(s: Chosen) -> float:
        has = [m in s for m in chosen]
        return 0.5 + alone[has].sum() + sum(b for b, (i, j) in zip(both, pairs(k), strict=True) if has[i] and has[j])

    subsets = [(), *asked(chosen)]
    weights, exact = functionals(subsets, chosen)
    assert not exact
    values = np.array([value(s) for s in subsets])
    wanted = alone + np.array([sum(b for b, p in zip(both, pairs(k), strict=True) if m in p) / 2 for m in range(k)])
    assert weights @ values == pytest.approx(np.concatenate([wanted, both]), abs=1e-8)
    assert left_open(values, subsets, chosen, weights) == pytest.approx(np.zeros(k + len(both)), abs=1e-7)


def test_of_a_design_what_is_left_open_covers_the_truth() -> None:
    """Games with interactions of every order, of which the form knows two: the stated deviation is about the error's own."""
    k, chosen = 6, MODALITIES[:6]
    subsets, whole = [(), *asked(chosen)], [(), *every(chosen)]
    few, _ = functionals(subsets, chosen)
    all_, _ = functionals(whole, chosen)
    random, apart, inside = np.random.default_rng(0), [], []
    from polyclinic.trust.modalities.design import presence

    terms = presence(whole, chosen)
    for _ in range(60):
        values = np.zeros(len(whole))
        for s in whole:
            if s:
                has = np.array([m in s for m in chosen])
                values += random.normal() / (4 ** (has.sum() - 1)) * terms[:, has].prod(1)
        mine = values[[whole.index(s) for s in subsets]]
        error = (few @ mine - all_ @ values)[:k]
        stated = left_open(mine, subsets, chosen, few)[:k]
        apart.append(error / stated)
        inside.append(np.abs(error) <= 1.96 * stated)
    assert np.mean(inside) > 0.85
    assert 0.3 < np.std(apart) < 1.6


def _game(outputs: dict[Chosen, np.ndarray], has: list[Chosen], chosen: Chosen) -> Game:
    n = len(has)
    of = lambda v: lambda rows, w: mean(v[rows], v[rows], w)
    return Game("dice", chosen, {s: of(v) for s, v in outputs.items()}, has, np.zeros(n, dtype=int))


def test_figures_carry_n_interval_and_split_and_share_out_the_whole() -> None:
    chosen, random, n = MODALITIES[:3], np.random.default_rng(1), 60
    adds = dict(zip(chosen, (0.3, 0.1, 0.0), strict=True))
    has = [chosen if i % 2 else chosen[:2] for i in range(n)]
    noise = random.normal(0, 0.05, n)
    outputs = {
        s: np.array([0.1 + sum(adds[m] for m in s if m in mine) for mine in has]) + noise for s in [(), *every(chosen)]
    }
    found = contributions(_game(outputs, has, chosen), "split", draws=400)
    assert found is not None
    assert found.exact
    assert [c.patients for c in found.each] == [60, 60, 30]
    assert sum(c.shapley.value for c in found.each) == pytest.approx(found.whole - found.nothing)
    for each, wanted in zip(found.each, adds.values(), strict=True):
        assert each.shapley.value == pytest.approx(wanted, abs=1e-9)
        assert each.lost.value == pytest.approx(wanted, abs=1e-9)
        assert (each.shapley.split, each.shapley.n) == ("split", 60)
        assert each.shapley.note
    assert [t.patients for t in found.both] == [60, 30, 30]
    assert all(t.figure.value == pytest.approx(0, abs=1e-9) for t in found.both)


def test_the_intervals_cover_the_truth() -> None:
    """Patients' answers are drawn anew: 95% intervals hold the true mean contribution in about 95 of 100."""
    chosen, inside = MODALITIES[:2], []
    for trial in range(80):
        random = np.random.default_rng(trial)
        gain = random.normal(0.2, 0.3, (40, 2))
        outputs = {s: sum((gain[:, chosen.index(m)] for m in s), np.zeros(40)) for s in [(), *every(chosen)]}
        found = contributions(_game(outputs, [chosen] * 40, chosen), "s", draws=200, seed=trial)
        assert found is not None
        inside += [c.shapley.low <= 0.2 <= c.shapley.high for c in found.each]
    assert 0.88 <= np.mean(inside) <= 0.99


def test_it_is_written_and_read_back() -> None:
    chosen = MODALITIES[:2]
    outputs = {s: np.linspace(0, 1, 12) * len(s) for s in [(), *every(chosen)]}
    found = contributions(_game(outputs, [chosen] * 12, chosen), "s", draws=50)
    assert found is not None
    again = Contributions.read(json.loads(json.dumps(plain(asdict(found)))), figure_of)
    assert plain(asdict(again)) == plain(asdict(found))
    assert isinstance(again.both[0].modalities, tuple)


def test_nothing_is_said_where_the_metric_is_not_defined() -> None:
    chosen = MODALITIES[:2]
    outputs = {s: np.zeros(0) for s in [(), *every(chosen)]}
    assert contributions(_game(outputs, [], chosen), "s") is None


def test_few_of_one_answer_are_told() -> None:
    chosen = MODALITIES[:2]
    outputs = {s: np.linspace(0, 1, 12) * len(s) for s in [(), *every(chosen)]}
    game = _game(outputs, [chosen] * 12, chosen)
    strata = np.array([0] * 9 + [1] * 3)
    few = contributions(Game("auroc", chosen, game.values, game.has, strata), "s", draws=50)
    assert few is not None
    assert "too narrow at 3 patients of the rarest answer" in few.each[0].shapley.note
    assert "too narrow at 3 patients of the rarest answer" in few.each[0].lost.note
    many = contributions(game, "s", draws=50)
    assert many is not None
    assert "too narrow" not in many.each[0].shapley.note
