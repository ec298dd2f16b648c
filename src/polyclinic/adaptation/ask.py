"""Asking: a run that was pretrained with the objective `question` answers in words what it is asked, without being adapted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from ..cohort import Cohort
from ..models.systems.m3fm_ct import M3fmCt
from ..objectives import Question
from ..schema import Modality
from ..tasks import AskedFields, Predictions, Survival
from ..training import Run
from ..training.recipe import parts
from .adapt import AdaptError, reads_of


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
    survival = isinstance(spec, Survival)
    who = [p for p in loader.patients if set(reads) & set(loader.by_patient[p])]
    outputs, known, targets = (
        [torch.zeros(0)],
        [torch.zeros(0, dtype=torch.bool)],
        [torch.zeros((0, 2) if survival else 0)],
    )
    has: list[tuple[Modality, ...]] = []
    for batch in loader.each(32, who, reads):
        said = system.answer(batch, question or spec.asked()[0], "survival" if survival else "class", reads)
        outputs.append(said if survival else said.sigmoid())
        target = batch.targets[task]
        assert isinstance(target.values, torch.Tensor)
        targets.append(target.values)
        known.append(target.mask & said.isfinite())
        owners = {m: set(ragged.patient.tolist()) for m, ragged in batch.payloads.items()}
        has += [tuple(m for m in owners if n in owners[m]) for n in range(len(batch.patients))]
    whole = lambda tensors: np.asarray(torch.cat(tensors))
    return Predictions(task, tuple(who), whole(outputs), whole(targets), whole(known), tuple(has))


def system_of(run: Run) -> M3fmCt:
    """The model that answers, with what its last stage learned.

    Raises:
        AdaptError: the last stage did not learn to answer.
    """
    objective = run.recipe.stages[-1].objective
    for number, part in enumerate(parts(objective)):
        if isinstance(part, Question):
            model = run.model()
            answers = part.build(model, run.recipe.structures(run.fingerprint))
            start = "" if part is objective else f"parts.{number}_question."
            state: dict[str, Any] = load_file(run.weights.with_name("objective.safetensors"))
            answers.load_state_dict({k.removeprefix(start): v for k, v in state.items() if k.startswith(start)})
            return M3fmCt(model, answers.eval(), run.recipe.standards()[Modality.TEXT], run.fingerprint)
    raise AdaptError(
        f"the run {run.path}, whose last stage did not learn to answer questions",
        "a last stage whose objective is `question`, or a hybrid with it",
        "pretrain with one, or adapt to the task: `polyclinic adapt`",
    )
