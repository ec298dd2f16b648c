"""The plan of an adaptation: which run, which task, whose labels, what may be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..cohort import Cohort
from ..harmonise.loader import Loader
from ..harmonise.unread import Unread
from ..schema import Modality, PolyclinicError
from ..tasks import PlacedFields
from ..training import Run
from ..training.methods import name_of
from ..training.reading import guess


class AdaptError(PolyclinicError):
    """A task that cannot be adapted to, or asked, as wanted."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is learned of whom.

    Args:
        run: the backbone's.
        task: its name.
        methods: what learns, or is asked.
        reads: the modalities that may be read.
        loader: of the training side, which knows the labels of `chosen` and of nobody else.
        chosen: whose labels may be used, sorted.
        seed: of the batches.
        steps: of the optimiser.
        cohort: of the run, where pretraining is asked again.
        after: the adapted run that this one goes on from.
        unread: whose labels might have been used, but who could not be read at first.
    """

    run: Run
    task: str
    methods: tuple[Any, ...]
    reads: tuple[Modality, ...]
    loader: Loader
    chosen: list[str]
    seed: int
    steps: int
    cohort: Cohort | None = None
    after: Run | None = None
    unread: tuple[Unread, ...] = ()

    @property
    def patients(self) -> list[str]:
        """Whoever of the chosen can still be read."""
        return self.loader.left(self.chosen)

    @property
    def aside(self) -> tuple[Unread, ...]:
        """Who could not be read at first, or no longer while it learned."""
        return self.unread + self.loader.aside(set(self.chosen))

    @property
    def method(self) -> str:
        """What it is called."""
        return name_of(self.methods)

    @property
    def only(self) -> Any:
        """The one method, where it is one; the adapters go together."""
        return self.methods[0] if len(self.methods) == 1 else None


def inputs_of(run: Run, name: str) -> tuple[Modality, ...]:
    """The modalities that a task may read, in their order."""
    allowed = set(run.recipe.tasks[name].inputs or run.recipe.encoders)
    return tuple(m for m in Modality if m in allowed)


def reads_of(run: Run, name: str, inputs: Sequence[Modality | str] | None) -> tuple[Modality, ...]:
    """The modalities that are asked for, in their order.

    Raises:
        AdaptError: there is no such modality, the model does not read it, or what the answers lie on is left out.
    """
    if inputs is None:
        return inputs_of(run, name)
    there = [m.value for m in run.recipe.encoders]
    for wanted in inputs:
        if wanted not in there:
            raise AdaptError(
                f"inputs of {str(wanted)!r}, which the model does not read",
                "among " + ", ".join(there),
                guess(str(wanted), there, "leave it out"),
            )
    spec = run.recipe.tasks[name]
    if not inputs or (isinstance(spec, PlacedFields) and spec.modality not in inputs):
        raise AdaptError(
            f"inputs of {', '.join(inputs) or 'nothing'}",
            f"{spec.modality}, which the answers lie on" if isinstance(spec, PlacedFields) else "at least one modality",
            "add it",
        )
    return tuple(m for m in Modality if m in inputs)


def labelled(
    loader: Loader, task: str, labels: int | Sequence[str] | None, seed: int, reads: Sequence[Modality]
) -> tuple[list[str], tuple[Unread, ...]]:
    """The training patients whose labels may be used: those who have something to read, and can be read; the loader forgets the others'.

    For one who cannot be read nobody stands in: fewer labels are always among more.

    Args:
        labels: how many, None for all; or among whom.
    Returns:
        who, sorted, and who could not be read.
    Raises:
        AdaptError: there is none; they are of one class, of any of several findings; nobody has one of the grades; no event was seen.
        UnreadError: nearly nobody can be read.
    """
    known = {p: v for p, v in loader.labelled(task).items() if set(reads) & set(loader.by_patient[p])}
    label = loader.labels[0]
    if labels is None or isinstance(labels, int):
        chosen = sorted(label.subset(known, labels, seed))
    else:
        chosen = sorted(set(labels) & set(known))
    if not chosen:
        raise AdaptError(
            f"no training patient with a label of {task!r} and one of {', '.join(reads)}",
            "at least two",
            "label some, or read more modalities",
        )
    tried, chosen = chosen, loader.readable(chosen, reads)
    loader.only(task, chosen)
    enough(loader, task, chosen)
    return chosen, loader.aside(set(tried))


def enough(loader: Loader, task: str, patients: Sequence[str]) -> None:
    """Refuse labels from which a task cannot be learned.

    Raises:
        AdaptError: they are of one class, of any of several findings; nobody has one of the grades; no event was seen.
    """
    known = loader.labelled(task)
    if lacking := loader.labels[0].lacking([known[p] for p in patients]):
        raise AdaptError(f"{len(patients)} labelled patients {lacking[0]}", lacking[1], "give more labels")
