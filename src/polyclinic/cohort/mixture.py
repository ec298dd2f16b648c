"""A mixture: batches whose patients come from named parts of a cohort in given shares, as 15 biomedical to 1 clinical to 4 general.

A batch holds nobody twice: a part must have as many patients as its share of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..schema import PolyclinicError, Record
from .catalogue import Cohort, EmptyCohortError
from .sampling import Sampler

GOLDEN = (5**0.5 - 1) / 2
_UNIT = 1 << 40
"""A patient's place on the line that the parts divide: in whole numbers, so that a share that is whole stays so."""


class MixtureError(PolyclinicError):
    """Parts that no batch can be drawn from in their shares."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a mixture.

    Args:
        name: of it.
        share: of a batch, in any unit: 15, 1 and 4 are 75%, 5% and 20%.
        records: that are seen when one of its patients is drawn.
    """

    name: str
    share: float
    records: Sequence[Record]


def parts_of(cohort: Cohort, told: Mapping[str, tuple[str, float]], where: str | None = None) -> list[Part]:
    """The parts that conditions name.

    Args:
        cohort: of which.
        told: name → DuckDB condition on the records, share.
        where: which of the records count at all.
    Raises:
        MixtureError: a part has no record.
    """
    found = []
    for name, (own, share) in told.items():
        try:
            records = cohort.records(f"(\n{own}\n)" + (f" and (\n{where}\n)" if where else ""))
        except EmptyCohortError as error:
            raise MixtureError(
                f"no record in the part {name!r} of a mixture, where {own}",
                "at least one among those of the recipe's cohort",
                "change its condition, or leave the part out",
            ) from error
        found.append(Part(name, share, records))
    return found


def _bounds(parts: Sequence[Part], size: int) -> list[int]:
    """Where the parts begin and end on a line of so many patients."""
    until = np.cumsum([0.0, *(part.share for part in parts)])
    return [round(x * size * _UNIT) for x in (until / until[-1]).tolist()]


def members(parts: Sequence[Part], patients: Collection[str], size: int) -> dict[str, set[str]]:
    """Who of the patients is in which part.

    Args:
        parts: of a mixture.
        patients: that may be drawn.
        size: of a batch, of all ranks.
    Raises:
        MixtureError: a part has none of them, or fewer than its share of a batch, or two parts have one in common.
    """
    part_of: dict[str, str] = {}
    found, bounds = {}, _bounds(parts, size)
    for part, low, high in zip(parts, bounds, bounds[1:], strict=False):
        mine, need = {r.patient for r in part.records if r.patient in patients}, -((low - high) // _UNIT)
        if len(mine) < max(1, need):
            raise MixtureError(
                f"a part {part.name!r} of {len(mine)} training patients in a mixture",
                f"at least {max(1, need)}, its share of a batch of {size}, in which nobody is twice",
                "lower its share or the batch, or widen its condition",
            )
        if twice := mine & part_of.keys():
            raise MixtureError(
                f"{len(twice)} patients both in the part {part_of[min(twice)]!r} and in the part {part.name!r} of a mixture",
                "parts without a patient in common: shares would not be what they say",
                f"add `and patient not in (...)` to the condition of {part.name!r}",
            )
        part_of |= dict.fromkeys(mine, part.name)
        found[part.name] = mine
    return found


class Mixture:
    """Draws batches of patients from parts in their shares; a function of (seed, step, rank) and of nothing else.

    A step gives a part its share of the batch rounded down or up. Which of the two is decided by points at even distances whose
    offset moves by the golden ratio from step to step (systematic sampling along a Kronecker sequence; Kuipers & Niederreiter 1974,
    chapter 2, section 3): of all patients drawn in T steps a part has its share but for O(log T), where independent draws leave
    O(sqrt T).

    Args:
        parts: two of them have no patient in common.
        groups: patient → signature; of a part those count who are here.
        sampler: signatures of a part's patients → who draws among them.
    Raises:
        MixtureError: see `members`.
    """

    def __init__(
        self, parts: Sequence[Part], groups: Mapping[str, str], sampler: Callable[[Mapping[str, str]], Sampler]
    ) -> None:
        whole = sampler(groups)
        self.seed, self.rank, self.world, self.size = whole.seed, whole.rank, whole.world, whole.size
        if whole.harder is not None:
            raise ValueError("a mixture's shares and patients that are hard to tell apart: use one of the two")
        own = members(parts, groups.keys(), self.size)
        self.bounds = _bounds(parts, self.size)
        self.samplers = {name: sampler({p: groups[p] for p in mine}) for name, mine in own.items()}

    def counts(self, step: int) -> dict[str, int]:
        """How many patients of each part all ranks together have in a step."""
        offset = int((np.random.default_rng([self.seed, 3]).random() + step * GOLDEN) % 1 * _UNIT)
        below = [-((offset - bound) // _UNIT) for bound in self.bounds]  # of the points offset, offset + 1 …
        return {name: high - low for name, low, high in zip(self.samplers, below, below[1:], strict=False)}

    def batch(self, step: int) -> list[str]:
        """The patients of one step on this rank: sorted, each at most once, and none drawn on two ranks."""
        random = np.random.default_rng([self.seed, step])
        drawn = [p for name, n in self.counts(step).items() for p in self.samplers[name].draw(random, n)]
        if self.world > 1:
            drawn = [drawn[i] for i in random.permutation(len(drawn))]
        return sorted(drawn[self.rank :: self.world])
