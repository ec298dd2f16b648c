"""Every subset of modalities: what a run is worth to a patient who has only some of what it reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from ..adaptation import Adapted, open_adapted
from ..cohort import Cohort
from ..inference import predict
from ..schema import Figure, Modality
from ..tasks import Detection, Keypoints, Predictions, Report
from ..training import Run
from .detection import primary
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
    spec, split = adapted.run.recipe.tasks[adapted.name], adapted.run.split.hash
    answer = lambda seen: predict(adapted, cohort, modalities=seen)
    return each_subset(answer, adapted.inputs, spec, split, draws=draws)


def each_subset(
    answer: Callable[[tuple[Modality, ...]], Predictions], inputs: Sequence[Modality], spec: Any, split: str, *,
    draws: int = DRAWS,
) -> tuple[Subset, ...]:  # fmt: skip
    """The metric of whoever answers, with each subset of what they read.

    Args:
        answer: of the test side, from just these modalities.
        inputs: what is read.
        spec: of the task.
        split: the split's hash.
        draws: resamples.
    """
    found = []
    for chosen in every(tuple(m for m in Modality if m in inputs)):
        answers = answer(chosen)
        if isinstance(spec, Report):
            known = answers.labelled()
            value, *_ = report_figures(known, split, language=spec.language or "en", draws=draws)
        elif isinstance(spec, Detection | Keypoints):
            known = answers.labelled()
            value = primary(spec, known, split, draws=draws)
        else:
            known = usable(answers)
            value = figure(PRIMARY[spec.kind], known, split, draws=draws)
        found.append(Subset(tuple(m.value for m in chosen), value, _complete(known, chosen)))
    return tuple(found)


def _complete(known: Predictions, chosen: tuple[Modality, ...]) -> int:
    return sum(set(chosen) <= set(has) for has in known.modalities)
