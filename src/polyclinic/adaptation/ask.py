"""Asking: a run that was pretrained with the objective `question` answers in words what it is asked, without being adapted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from ..cohort import Cohort
from ..models.systems.m3fm_ct import M3fmCt
from ..objectives import Question, QuestionObjective
from ..objectives.hybrid import places
from ..schema import Batch, Modality
from ..tasks import AskedFields, Predictions, Survival
from ..training import Run
from .plan import AdaptError, reads_of
from .predict import answered


def ask(
    run: Run | str | Path, task: str, question: str | None = None, *, cohort: Cohort | str | Path | None = None,
    patients: Sequence[str] | None = None, inputs: Sequence[Modality | str] | None = None,
) -> Predictions:  # fmt: skip
    """A pretrained run's answers to a question, as an adapted run's predictions are.

    Args:
        run: whose last stage learned to answer questions, or its folder.
        task: whose labels are the truth, and which says what may be read.
        question: in words; by default the task's own first one.
        cohort: where it lies now; by default where it lay.
        patients: who; by default the test side.
        inputs: the modalities that may be read; by default the task's.
    Returns:
        one a patient who has something to be read.
    Raises:
        AdaptError: the last stage did not learn to answer, there is no such task or modality, or the task is of masks.
        ObjectiveError: no task that it learned has this kind of answer.
    """
    run = (run if isinstance(run, Run) else Run.open(run)).backbone
    system = system_of(run)
    spec = run.recipe.tasks.get(task)
    if not isinstance(spec, AskedFields):
        there = [name for name, t in run.recipe.tasks.items() if isinstance(t, AskedFields)]
        raise AdaptError(
            f"no classification or survival {task!r} in the recipe", "one of " + ", ".join(there), "correct the name"
        )
    reads = reads_of(run, task, inputs)
    catalogue = cohort if isinstance(cohort, Cohort) else run.cohort(cohort)
    loader = run.loader(catalogue, tuple(patients) if patients is not None else run.split.test, (task,))
    survival, said = isinstance(spec, Survival), question or spec.asked()[0]
    who = [p for p in loader.patients if set(reads) & set(loader.by_patient[p])]

    def say(batch: Batch) -> tuple[Tensor, Tensor]:
        output = system.answer(batch, said, "survival" if survival else "class", reads)
        return output, output.isfinite()

    return answered(task, loader.each(32, who, reads), who, survival, say)


def system_of(run: Run) -> M3fmCt:
    """The model that answers, with what its last stage learned.

    Raises:
        AdaptError: the last stage did not learn to answer.
    """
    for part, place in places(run.recipe.stages[-1].objective):
        if isinstance(part, Question):
            model = run.model()
            questions = run.objective(model).get_submodule(place.rstrip("."))
            assert isinstance(questions, QuestionObjective)
            return M3fmCt(model, questions, run.recipe.standards()[Modality.TEXT], run.fingerprint)
    raise AdaptError(
        f"the run {run.path}, whose last stage did not learn to answer questions",
        "a last stage whose objective is `question`, or a hybrid with it",
        "pretrain with one, or adapt to the task: `polyclinic adapt`",
    )
