"""A structural causal model as data: nodes in causal order, each a function of its parents and of one uniform number.

Because every node has a noise of its own, which an intervention does not touch, the same noise gives the same person in another
world: abduction, action and prediction (Pearl 2009, Causality, theorem 7.1.7) are `draw(noise)` and `draw(noise, do)`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np

from ..schema import PolyclinicError

Values = dict[str, Any]
"""Node → its value, an array: of a discrete node the number of its level, of any other the quantity itself."""


@dataclass(frozen=True, slots=True)
class Node:
    """One variable and the mechanism that sets it.

    Args:
        name: what it is.
        parents: what it is a function of, each listed before it.
        equation: the mechanism in words and symbols, with u uniform on (0, 1).
        law: of a discrete node, parents' arrays (…) → probabilities (… levels); else (u, parents' arrays) → value (…).
        levels: what the numbers of a discrete node mean; empty for a quantity.
        unit: of a quantity, in UCUM.
        recorded: whether the hospital writes it down somewhere; else it is hidden, and only the truth has it.
    """

    name: str
    parents: tuple[str, ...]
    equation: str
    law: Callable[..., Any]
    levels: tuple[str, ...] = ()
    unit: str = ""
    recorded: bool = False


class Graph:
    """Nodes in causal order.

    Raises:
        PolyclinicError: a name twice, or a parent that does not stand before its child.
    """

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = {node.name: node for node in nodes}
        seen: set[str] = set()
        for node in nodes:
            if node.name in seen or not seen.issuperset(node.parents):
                raise PolyclinicError(
                    f"the node {node.name!r} twice, or before one of {', '.join(node.parents)}",
                    "every node once, after its parents", "put it after them",
                )  # fmt: skip
            seen.add(node.name)

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes.values())

    def __len__(self) -> int:
        return len(self.nodes)

    def draw(self, noise: np.ndarray, do: Mapping[str, float] | None = None) -> Values:
        """People, or what the same people would have been.

        Args:
            noise: (n ...) uniform on (0, 1), a node each; one person's is (n,).
            do: nodes that are set from outside, whatever their parents; a level by its number.
        Raises:
            PolyclinicError: `do` names no node.
        """
        do = do or {}
        for name in do.keys() - self.nodes.keys():
            raise PolyclinicError(f"an intervention on {name!r}", f"one of {', '.join(self.nodes)}", "correct the name")
        values: Values = {}
        for u, node in zip(noise, self, strict=True):
            if node.name in do:
                values[node.name] = np.broadcast_to(np.asarray(do[node.name]), u.shape)
                continue
            parents = [values[p] for p in node.parents]
            if node.levels:
                above = (
                    u[..., None] >= np.cumsum(node.law(*parents), axis=-1)[..., :-1]
                )  # the last sum is 1 up to rounding
                values[node.name] = above.sum(axis=-1)
            else:
                values[node.name] = np.asarray(node.law(u, *parents)) + np.zeros(u.shape)
        return values

    def table(self, known: Mapping[str, float], over: Sequence[str]) -> tuple[Values, np.ndarray]:
        """Every combination of some discrete nodes with what is known, and how probable each is together with that.

        Exact where no parent is left out: nodes that are neither known nor enumerated must not be parents of those that are.

        Args:
            known: nodes and their values. Known quantities without parents (age) only condition.
            over: the unknown discrete nodes, in any order.
        Returns:
            node → (k,) values, () of the known ones; (k,) log P(combination, known discrete nodes | known quantities).
        Raises:
            PolyclinicError: a parent is neither known nor enumerated.
        """
        every = _combinations(tuple(len(self.nodes[name].levels) for name in over))
        values: Values = dict(zip(over, every, strict=True))
        values |= {name: np.asarray(value) for name, value in known.items()}
        rows, log_p = np.arange(every.shape[1]), np.zeros(every.shape[1])
        for name in values:
            node = self.nodes[name]
            if left := [p for p in node.parents if p not in values]:
                raise PolyclinicError(
                    f"{name!r} without {', '.join(left)}", "its parents", "enumerate them, or know them"
                )
            if node.levels:
                law = node.law(*(values[p] for p in node.parents))
                with np.errstate(divide="ignore"):  # what cannot be has the logarithm of 0
                    log_p += np.log(law[values[name]] if law.ndim == 1 else law[rows, values[name]])
        return values, log_p

    def ancestors(self, name: str) -> set[str]:
        """Everything that a node depends on."""
        found: set[str] = set()
        waiting = list(self.nodes[name].parents)
        while waiting:
            one = waiting.pop()
            if one not in found:
                found.add(one)
                waiting += self.nodes[one].parents
        return found

    def adjustment_set(self, treatment: str) -> tuple[str, ...]:
        """The treatment's parents: they block every back-door path from it (Pearl 2009, theorem 3.2.5)."""
        return self.nodes[treatment].parents

    def as_json(self) -> str:
        """The graph for another program: nodes with their parents, levels, unit, equation, and whether they are recorded."""
        keys = ("name", "parents", "levels", "unit", "recorded", "equation")
        return json.dumps(
            {"nodes": [{k: getattr(node, k) for k in keys} for node in self]}, indent=1, ensure_ascii=False
        )

    def as_dot(self) -> str:
        """The graph for Graphviz (and for dowhy); hidden nodes are dashed."""
        style = {True: "", False: " [style=dashed]"}
        lines = [f'  "{node.name}"{style[node.recorded]};' for node in self]
        lines += [f'  "{parent}" -> "{node.name}";' for node in self for parent in node.parents]
        return "digraph phantom {\n" + "\n".join(lines) + "\n}\n"


@lru_cache(maxsize=8)
def _combinations(sizes: tuple[int, ...]) -> np.ndarray:
    """(nodes k) every combination of levels."""
    return np.array(list(product(*map(range, sizes))), dtype=np.int64).reshape(-1, len(sizes)).T.copy()


def yes(log_odds: Any) -> np.ndarray:
    """Probabilities (… 2) of no and yes from the log-odds of yes."""
    p = 1 / (1 + np.exp(-np.asarray(log_odds, dtype=np.float64)))
    both = np.empty((*p.shape, 2))
    both[..., 0], both[..., 1] = 1 - p, p
    return both


def choice(*scores: Any) -> np.ndarray:
    """Probabilities (… k) of k levels from their scores: the softmax."""
    every = np.empty((*np.broadcast_shapes(*map(np.shape, scores)), len(scores)))
    for level, score in enumerate(scores):
        every[..., level] = score
    every = np.exp(every - every.max(axis=-1, keepdims=True))
    return every / every.sum(axis=-1, keepdims=True)


def ordered(log_odds: Any, cuts: Sequence[float]) -> np.ndarray:
    """Probabilities (… k) of k ordered levels: P(level > i) = logistic(log_odds - cut i), the proportional-odds model."""
    above = 1 / (1 + np.exp(np.asarray(cuts) - np.asarray(log_odds, dtype=np.float64)[..., None]))
    every = np.empty((*above.shape[:-1], len(cuts) + 1))
    every[..., 0], every[..., -1] = 1 - above[..., 0], above[..., -1]
    every[..., 1:-1] = above[..., :-1] - above[..., 1:]
    return every
