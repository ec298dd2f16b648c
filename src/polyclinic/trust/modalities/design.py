"""Which subsets of modalities are asked: all of a few; of many so many that what each modality, and each pair, adds can be told.

A game of k modalities has 2^k − 1 subsets. Where that is too many, those are asked from which a value

    v(S) = v(∅) + Σ a_m [m ∈ S] + Σ a_mn [m, n ∈ S]

is determined, and some more, by which it is seen how far that form is from the truth: each modality alone, each left out, all together,
and of the rest the ones that make the determinant of the information largest (a D-optimal design, Fedorov 1972, by exchange).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from ...schema import Modality

Chosen = tuple[Modality, ...]
MOST = 16
"""Subsets up to which all are asked."""


def every(modalities: Chosen) -> list[Chosen]:
    """All non-empty subsets, the smallest first."""
    return [chosen for size in range(1, len(modalities) + 1) for chosen in combinations(modalities, size)]


def asked(modalities: Chosen, most: int = MOST, seed: int = 0) -> list[Chosen]:
    """The subsets that are asked, the smallest first: all where these are few, else a design.

    Args:
        modalities: k, all that is read.
        most: subsets up to which all are asked.
        seed: of ties between subsets that tell as much.
    """
    whole, k = every(modalities), len(modalities)
    if len(whole) <= most:
        return whole
    always = [n for n, chosen in enumerate(whole) if len(chosen) in (1, k - 1, k)]
    free = [n for n, chosen in enumerate(whole) if 1 < len(chosen) < k - 1]
    rows = columns(presence(whole, modalities))
    # As many as there are terms, and one more a modality: a form that fits perfectly would hide how wrong it is.
    wanted = min(len(free), rows.shape[1] + k - len(always))
    random = np.random.default_rng([seed, k])
    picked = _exchanged(rows, always, _greedy(rows, always, free, wanted, random), free)
    return [whole[n] for n in sorted([*always, *picked])]


def presence(subsets: Sequence[Chosen], modalities: Chosen) -> np.ndarray:
    """(s k) 1 where a subset has a modality."""
    return np.array([[m in chosen for m in modalities] for chosen in subsets], dtype=float).reshape(-1, len(modalities))


def pairs(k: int) -> list[tuple[int, int]]:
    """The pairs of k modalities, in the order of `columns`."""
    return list(combinations(range(k), 2))


def columns(present: np.ndarray) -> np.ndarray:
    """(s k) → (s k+p): which modalities, and which of the p pairs, a subset has."""
    both = [present[:, i] * present[:, j] for i, j in pairs(present.shape[1])]
    return np.column_stack([present, *both])


def _greedy(
    rows: np.ndarray, always: list[int], free: list[int], wanted: int, random: np.random.Generator
) -> list[int]:
    """One after the other the subset of which least is known: that adds most to the determinant."""
    inverse = np.linalg.inv(rows[always].T @ rows[always] + 1e-3 * np.eye(rows.shape[1]))
    picked: list[int] = []
    for _ in range(wanted):
        left = [n for n in random.permutation(free).tolist() if n not in picked]
        best = left[int(np.argmax(np.round(_unknown(rows[left], inverse), 9)))]
        picked.append(best)
        step = inverse @ rows[best]
        inverse -= np.outer(step, step) / (1 + rows[best] @ step)
    return picked


def _unknown(rows: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    """(n,) how uncertain each row's value is: x' M⁻¹ x."""
    return np.einsum("nc,cd,nd->n", rows, inverse, rows)


def _exchanged(rows: np.ndarray, always: list[int], picked: list[int], free: list[int]) -> list[int]:
    """Swap a picked subset for one that is not, as long as the determinant grows."""
    info = lambda chosen: rows[chosen].T @ rows[chosen] + 1e-3 * np.eye(rows.shape[1])
    chosen = list(picked)
    for _ in range(4):
        changed = False
        for place in range(len(chosen)):
            others = [n for n in free if n not in chosen]
            if not others:
                return chosen
            inverse = np.linalg.inv(info([*always, *chosen[:place], *chosen[place + 1 :]]))
            gain, own = _unknown(rows[others], inverse), _unknown(rows[chosen[place]][None], inverse)[0]
            if gain.max() > own + 1e-9:
                chosen[place], changed = others[int(gain.argmax())], True
        if not changed:
            break
    return chosen
