"""Evidence: what can be said of a run, with n, intervals and the split's hash."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..adaptation import open_adapted, predict
from ..cohort import Cohort
from ..schema import Figure, Modality
from ..tasks import Predictions, Report, Retrieval, Segmentation
from ..training import Run
from ..training.run import file_hash
from .calibration import calibration
from .card import card
from .discrimination import DRAWS, EvidenceError, figures
from .evidence import Evidence
from .retrieval import retrieval_figures
from .subsets import subsets as every_subset
from .wording import report_figures, with_earlier


def evaluate(
    run: Run | str | Path, cohort: Cohort | str | Path | None = None, *, subsets: bool = True, draws: int = DRAWS
) -> Evidence:
    """Measure a run on its test side, and write `<run>/evidence/evidence.json` and `<run>/card.md`.

    Args:
        run: adapted, or pretrained (then its retrieval tasks are measured), or its folder.
        cohort: where it lies now; by default where it lay.
        subsets: also measure every subset of the inputs.
        draws: resamples.
    Raises:
        EvidenceError: a pretrained run whose recipe has no retrieval task; nobody to test on.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    catalogue = cohort if isinstance(cohort, Cohort) else run.cohort(cohort)
    found = _adapted(run, catalogue, subsets, draws) if run.adapter else _pretrained(run, catalogue, draws)
    found.write(run.path / "evidence")
    (run.path / "card.md").write_text(card(run, catalogue, [found]))
    return found


def _adapted(run: Run, cohort: Cohort, all_subsets: bool, draws: int) -> Evidence:
    adapted = open_adapted(run)
    spec, split = run.recipe.tasks[adapted.name], run.split.hash
    answers = predict(adapted, cohort)
    if not len(answers.patients) or not bool(answers.mask.any()):
        raise EvidenceError(
            f"no labelled test patient of {adapted.name!r}",
            "at least one on the test side",
            "label some, or change the split's seed",
        )
    classes: Sequence[str] = spec.classes if isinstance(spec, Segmentation) else ()
    return Evidence(
        run.path.name, adapted.name, spec.kind, run.adapter["method"], tuple(m.value for m in adapted.inputs), run.adapter["labels"], split,
        file_hash(run.weights), _figures(run, adapted.name, cohort, answers, classes, draws),
        calibration(answers, split, draws=draws) if spec.kind == "classification" else None,
        every_subset(adapted, cohort, draws=draws) if all_subsets and len(adapted.inputs) > 1 else (),
    )  # fmt: skip


def _figures(
    run: Run, name: str, cohort: Cohort, answers: Predictions, classes: Sequence[str], draws: int
) -> tuple[Figure, ...]:
    spec, split = run.recipe.tasks[name], run.split.hash
    if not isinstance(spec, Report):
        return figures(spec.kind, answers, split, classes, draws=draws)
    earlier = with_earlier(cohort, run.recipe.cohort.where, [Modality(m) for m in run.adapter["inputs"]])
    return report_figures(answers, split, language=spec.language or "en", earlier=earlier, draws=draws)


def _pretrained(run: Run, cohort: Cohort, draws: int) -> Evidence:
    asked = {n: s for n, s in run.recipe.tasks.items() if isinstance(s, Retrieval)}
    if not asked:
        raise EvidenceError(
            f"a pretrained run {run.path.name} whose recipe has no retrieval task",
            "a run adapted to a task, or a retrieval task",
            "adapt it first",
        )
    (name, spec), *others = asked.items()
    found = [*retrieval_figures(run, cohort, spec, draws=draws)]
    for other, further in others:  # the first one's figures keep their names
        found += [replace(f, name=f"{other}: {f.name}") for f in retrieval_figures(run, cohort, further, draws=draws)]
    inputs, split, weights = (spec.query.value, spec.answer.value), run.split.hash, file_hash(run.weights)
    return Evidence(run.path.name, name, "retrieval", "pretrained", inputs, 0, split, weights, tuple(found))
