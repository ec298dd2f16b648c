"""Which patients train together: balanced over patterns of modalities and over sites, the rare more often, the alike together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

Harder = Callable[[Sequence[str], int], Sequence[str]]
"""(patients drawn, how many are wanted) → patients that are hard to tell from them, the hardest first; `alike` makes one."""


class Sampler:
    """Draws batches of patients; a batch is a function of (seed, step, rank) and of nothing else, so a run resumes at any step.

    Args:
        groups: patient → signature, such as "image+table".
        batch: patients a batch, on each rank.
        seed: of the draws.
        temperature: 1 draws patients evenly, 0 draws signatures evenly; between them, signatures by size ** temperature.
        sites: patient → site; None where sites do not matter.
        site_temperature: the same of the sites within a signature.
        weights: patient → how much more often than one of weight 1 within the same signature and site, such as `rarity` gives.
        harder: proposes who joins the batch.
        hard: the share of the batch that it proposes.
        rank, world: of so many processes that train together, which: the ranks of a step draw different patients.
    """

    def __init__(
        self,
        groups: Mapping[str, str],
        batch: int,
        seed: int,
        temperature: float = 0.5,
        *,
        sites: Mapping[str, str] | None = None,
        site_temperature: float = 1.0,
        weights: Mapping[str, float] | None = None,
        harder: Harder | None = None,
        hard: float = 0.25,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.seed, self.size = seed, min(batch * world, len(groups))
        self.harder, self.hard, self.rank, self.world = harder, hard, rank, world
        self.known = frozenset(groups)
        self.members: dict[tuple[str, str], list[str]] = {}
        for patient in sorted(groups):
            site = (sites or {}).get(patient, "") if site_temperature != 1 else ""
            self.members.setdefault((groups[patient], site), []).append(patient)
        self.names = sorted(self.members)
        size = np.array([len(self.members[n]) for n in self.names], dtype=float)
        whole = Counter[str]()
        tempered = Counter[str]()
        for (signature, _), n in zip(self.names, size, strict=True):
            whole[signature] += n
            tempered[signature] += n**site_temperature
        within = np.array([n**site_temperature / tempered[s] for (s, _), n in zip(self.names, size, strict=True)])
        weight = np.array([whole[s] for s, _ in self.names], dtype=float) ** temperature * within
        self.share = weight / weight.sum()
        self.odds = None if weights is None else {n: self._odds(weights, n) for n in self.names}

    def _odds(self, weights: Mapping[str, float], name: tuple[str, str]) -> np.ndarray:
        mine = np.array([weights.get(p, 1.0) for p in self.members[name]], dtype=float)
        return mine / mine.sum()

    def batch(self, step: int) -> list[str]:
        """The patients of one step on this rank: sorted, each at most once, and none drawn on two ranks."""
        random = np.random.default_rng([self.seed, step])
        drawn = self.draw(random, self.size)
        if self.world > 1:
            drawn = [drawn[i] for i in random.permutation(len(drawn))]
        mine = drawn[self.rank :: self.world]
        return sorted(mine if self.harder is None else self._joined(mine, set(drawn) - set(mine), random))

    def draw(self, random: np.random.Generator, size: int) -> list[str]:
        """So many different patients, no more than there are, of all ranks together."""
        wanted = np.minimum(random.multinomial(size, self.share), [len(self.members[n]) for n in self.names])
        while wanted.sum() < size:  # what a small group cannot give, the others do
            room = np.array([len(self.members[n]) for n in self.names]) - wanted
            wanted[random.choice(len(self.names), p=room / room.sum())] += 1
        return [
            self.members[name][i]
            for name, count in zip(self.names, wanted, strict=True)
            for i in random.choice(
                len(self.members[name]),
                size=int(count),
                replace=False,
                p=None if self.odds is None else self.odds[name],
            ).tolist()
        ]

    def _joined(self, drawn: list[str], elsewhere: set[str], random: np.random.Generator) -> list[str]:
        """The batch with its last patients replaced by those that are hard to tell from the others."""
        assert self.harder is not None
        drawn = [drawn[i] for i in random.permutation(len(drawn))]
        count = min(int(self.hard * len(drawn)), len(drawn) - 1)
        kept = drawn[: len(drawn) - count]
        free = lambda p: p in self.known and p not in elsewhere and p not in kept
        proposed = [p for p in dict.fromkeys(self.harder(kept, count)) if free(p)][:count]
        rest = [p for p in drawn if p not in kept and p not in proposed]
        return (kept + proposed + rest)[: len(drawn)]


def rarity(labels: Mapping[str, object], power: float = 0.5) -> dict[str, float]:
    """Patient → (how often the most frequent label is, over how often the patient's is) ** power; the unlabelled weigh 1.

    Args:
        labels: patient → a word, a class; a patient of several has the rarest.
        power: 0 weighs all alike, 1 draws labels evenly.
    """
    count = Counter(labels.values())
    most = max(count.values(), default=1)
    return {patient: (most / count[label]) ** power for patient, label in labels.items()}


def alike(vectors: Mapping[str, np.ndarray]) -> Harder:
    """Proposes the patients whose vectors lie closest to any of those drawn, by the cosine.

    Args:
        vectors: patient → (d,), of an earlier stage's model, say; the batch is a function of them too.
    """
    names = sorted(vectors)
    table = np.stack([vectors[n] for n in names]).astype(np.float32)
    table /= np.linalg.norm(table, axis=1, keepdims=True) + 1e-12
    place = {name: n for n, name in enumerate(names)}

    def propose(drawn: Sequence[str], count: int) -> list[str]:
        known = [place[p] for p in drawn if p in place]
        if not known:
            return []
        near = (table @ table[known].T).max(axis=1)
        near[known] = -np.inf
        return [names[i] for i in np.argsort(-near, kind="stable")[:count]]

    return propose
