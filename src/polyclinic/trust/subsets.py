"""Every subset of modalities: what an adapted run is worth to a patient who has only some of what it reads."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from ..adaptation import Adapted, open_adapted, predict
from ..cohort import Cohort
from ..schema import Figure, Modality
from ..tasks import Predictions, ReportTask
from ..training import Run
from .discrimination import DRAWS, PRIMARY, figure, usable
from .wording import report_figures


@dataclass(frozen=True, slots=True)
class Subset:
    """The figure of one subset.

    Args:
        modalities: all that could be seen of a patient.
        figure: over the labelled test patients who have at least one of them.
        complete: how many of those have all of them.
    """

    modalities: tuple[str, ...]
    figure: Figure
    complete: int


def every(modalities: tuple[Modality, ...]) -> list[tuple[Modality, ...]]:
    """All non-empty subsets, the smallest first; of more than five modalities each alone, each left out, and all."""
    sizes = range(1, len(modalities) + 1) if len(modalities) <= 5 else (1, len(modalities) - 1, len(modalities))
    return [chosen for size in sizes for chosen in combinations(modalities, size)]


def subsets(run: Adapted | Run | str | Path, cohort: Cohort | None = None, *, draws: int = DRAWS) -> tuple[Subset, ...]:
    """The task's metric on the test side with each subset of the run's inputs.

    Args:
        run: adapted.
        cohort: where it lies now.
        draws: resamples.
    """
    adapted = run if isinstance(run, Adapted) else open_adapted(run)
    kind = adapted.run.recipe.tasks[adapted.name].kind
    reads = tuple(m for m in Modality if m in adapted.inputs)
    found = []
    for chosen in every(reads):
        answers, split = predict(adapted, cohort, modalities=chosen), adapted.run.split.hash
        if isinstance(adapted.task, ReportTask):
            known = answers.labelled()
            value, *_ = report_figures(known, split, language=adapted.task.language, draws=draws)
        else:
            known = usable(answers)
            value = figure(PRIMARY[kind], known, split, draws=draws)
        found.append(Subset(tuple(m.value for m in chosen), value, _complete(known, chosen)))
    return tuple(found)


def _complete(known: Predictions, chosen: tuple[Modality, ...]) -> int:
    return sum(set(chosen) <= set(has) for has in known.modalities)
