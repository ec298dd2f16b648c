"""Which patients train together: balanced over the patterns of modalities."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


class Sampler:
    """Draws batches of patients; a batch is a function of (seed, step) and of nothing else.

    Args:
        groups: patient → signature, such as "image+table".
        batch: patients a batch.
        seed: of the draws.
        temperature: 1 draws patients evenly, 0 draws signatures evenly; between them, signatures by size ** temperature.
    """

    def __init__(self, groups: Mapping[str, str], batch: int, seed: int, temperature: float = 0.5) -> None:
        self.seed, self.size = seed, min(batch, len(groups))
        self.members: dict[str, list[str]] = {}
        for patient in sorted(groups):
            self.members.setdefault(groups[patient], []).append(patient)
        self.names = sorted(self.members)
        weight = np.array([len(self.members[n]) for n in self.names], dtype=float) ** temperature
        self.share = weight / weight.sum()

    def batch(self, step: int) -> list[str]:
        """The patients of one step: sorted, each at most once."""
        random = np.random.default_rng([self.seed, step])
        wanted = np.minimum(random.multinomial(self.size, self.share), [len(self.members[n]) for n in self.names])
        while wanted.sum() < self.size:  # what a small group cannot give, the others do
            room = np.array([len(self.members[n]) for n in self.names]) - wanted
            wanted[random.choice(len(self.names), p=room / room.sum())] += 1
        drawn = [
            self.members[name][i]
            for name, count in zip(self.names, wanted, strict=True)
            for i in random.choice(len(self.members[name]), size=int(count), replace=False).tolist()
        ]
        return sorted(drawn)
