"""Asking: what a run learned to answer while it was pretrained, it answers without being adapted.

By the objective `question` in words, its own or another's; by `supervised` with the head that each of its tasks has.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..adaptation.plan import AdaptError, reads_of
from ..cohort import Cohort
from ..harmonise.text import UNKNOWN
from ..models import Model
from ..models.systems.m3fm_ct import M3fmCt
from ..objectives import Finding, Objective, Question, QuestionObjective, Supervised
from ..objectives.supervised import SupervisedObjective
from ..schema import Batch, Modality
from ..tasks import Findings, FindingsTask, LinearTask, Predictions, Survival
from ..tokens.text import as_note
from ..training import Run
from ..training.run import file_hash
from .predict import answered

if TYPE_CHECKING:
    from pyarrow import Table

Say = Callable[[Batch], tuple[Tensor, Tensor]]
"""Of a batch the answers (b …), and (b,) bool of whom anything could be said."""
Taught = Literal["question", "supervised"]
SURE = 20.0
"""The log odds of what every training patient had."""


def ask(
    run: Run | str | Path, task: str, question: str | None = None, *, cohort: Cohort | str | Path | None = None,
    patients: Sequence[str] | None = None, inputs: Sequence[Modality | str] | None = None,
) -> Predictions:  # fmt: skip
    """A pretrained run's answers, as an adapted run's predictions are.

    Args:
        run: whose last stage learned to answer questions, or the task, or its folder.
        task: whose labels are the truth, and which says what may be read.
        question: in words, of a run that reads questions; by default the task's own first one, and of several findings each one's.
        cohort: where it lies now; by default where it lay.
        patients: who; by default the test side.
        inputs: the modalities that may be read; by default the task's.
    Returns:
        one a patient who has something to be read.
    Raises:
        AdaptError: the last stage did not learn to answer, there is no such task, modality or patient, the task is not of whole
            patients or has more answers than a question, or the question is empty, too long, or in words that the run never read.
        ObjectiveError: no task that it learned has this kind of answer.
    """
    run = (run if isinstance(run, Run) else Run.open(run)).backbone
    learned, every = taught(run), known_of(run)
    if not learned:
        raise _taught_nothing(run)
    if task not in every:
        raise AdaptError(
            f"no classification, classes, findings, grade or survival {task!r} in the recipe",
            "one of " + ", ".join(every),
            "correct the name",
        )
    reads = reads_of(run, task, inputs)
    catalogue = cohort if isinstance(cohort, Cohort) else run.cohort(cohort)
    if question is None and learned.get(task) == "supervised":
        say = _by_head(run, task, catalogue)
    else:
        say = _in_words(run, task, question, every[task], reads)
    loader = run.loader(catalogue, tuple(patients) if patients is not None else run.split.test, (task,))
    if patients is not None:
        _there(catalogue, run.recipe.cohort.where, [p for p in patients if p not in loader.by_patient])
    who = [p for p in loader.patients if set(reads) & set(loader.by_patient[p])]
    found = answered(loader.labels[0], loader.each(32, who, reads), say)
    return replace(found, unread=loader.aside(set(who) - set(found.patients)))


def taught(run: Run) -> dict[str, Taught]:
    """The tasks that a run answers without being adapted, and by which objective of its last stage.

    A run that learned to answer questions is asked all the recipe's tasks whose kind of answer it has, those too that it was never asked.
    """
    every = known_of(run)
    asked = [part for part in run.parts if isinstance(part, Question)]
    found: dict[str, Taught] = {name: "question" for part in asked for name in part.tasks}
    for part in run.parts:
        if isinstance(part, Supervised):
            found |= {name: "supervised" for name in part.tasks if name not in found}
    kinds = {one.outcome for part in asked for name in part.tasks for one in every[name].questions}
    for name, finding in every.items():
        if finding.questions and finding.questions[0].outcome in kinds:
            found.setdefault(name, "question")
    return found


def known_of(run: Run) -> dict[str, Finding]:
    """What the labels of the recipe's tasks tell of whole patients; of those tasks alone that pretraining can be taught."""
    return {name: s for name, s in run.recipe.structures().items() if isinstance(s, Finding)}


def labels_seen(run: Run, cohort: Cohort, task: str) -> dict[str, Any]:
    """The training patients whose labels of a task the stages saw, and the labels; nobody of a task that none of them asked."""
    shown = [told[task] for stage in run.recipe.stages if task in (told := stage.objective.labelled())]
    if not shown:
        return {}
    loader, reads = run.loader(cohort, run.split.train, (task,)), set(reads_of(run, task, None))
    most = None if None in shown else max(n for n in shown if n is not None)
    known = loader.labelled(task)
    return {p: known[p] for p in loader.subset(task, most, run.recipe.seed) if reads & set(loader.by_patient[p])}


def system_of(run: Run, task: str | None = None) -> M3fmCt:
    """The model that answers questions, with what its last stage learned; of several parts of it the one that names the task.

    Raises:
        AdaptError: the last stage did not learn to answer.
    """
    model, questions = _learned(run, Question, task)
    assert isinstance(questions, QuestionObjective)
    return M3fmCt(model, questions, run.recipe.standards()[Modality.TEXT], run.fingerprint)


def _learned(run: Run, kind: type, task: str | None) -> tuple[Model, Objective]:
    """The model, and what a part of its last stage learned."""
    parts = [part for part in run.parts if isinstance(part, kind)]
    if not parts:
        raise _taught_nothing(run)
    model = run.model()
    return model, run.learned(max(parts, key=lambda part: task in part.tasks), model)  # the first, where none names it


def _taught_nothing(run: Run) -> AdaptError:
    return AdaptError(
        f"the run {run.path}, whose last stage did not learn to answer questions",
        "a last stage whose objective is `question`, or a hybrid with it",
        "pretrain with one, or adapt to the task: `polyclinic adapt`",
    )


def _heard(question: str, system: M3fmCt) -> None:
    """Refuse a question of which nothing would be heard, or its beginning alone."""
    if not question.strip():
        raise AdaptError(
            "a question without words", "a question", "say what is asked, or leave it out for the task's own"
        )
    standard = system.standard
    whole = standard.model_copy(update={"words": standard.words + len(question)})  # no piece is shorter than a letter
    words = as_note(question, whole, system.fingerprint)[1:]
    if standard.tokenizer is None and bool((words == UNKNOWN).all()):
        raise AdaptError(
            f"the question {question!r}, of which the run knows no word", "words of the notes that it learned from",
            "say it otherwise",
        )  # fmt: skip
    if len(words) >= standard.words:
        raise AdaptError(
            f"a question of {len(words)} word pieces",
            f"at most {standard.words - 1}, which the run reads",
            "say it shorter",
        )


def _in_words(run: Run, task: str, question: str | None, finding: Finding, reads: tuple[Modality, ...]) -> Say:
    """The answers to a question, or to the task's own: probabilities, of several findings one each, or log hazards."""
    parts = finding.questions
    if not parts or (question is not None and len(parts) > 1):
        raise AdaptError(
            f"a question of {task!r}, {len(finding.names)} {finding.outcome}", "a task whose answer is yes, no or how soon",
            "leave the question out: each finding is asked its own" if parts else "adapt to it: `polyclinic adapt`",
        )  # fmt: skip
    system, spec = system_of(run, task), run.recipe.tasks[task]
    if question is not None:
        _heard(question, system)
        asked = [question]
    elif isinstance(spec, Findings):
        asked = [sought.asked(name)[0] for name, sought in spec.findings.items()]
    else:
        asked = [*spec.asked()][:1]
    outcome = "survival" if isinstance(spec, Survival) else "class"

    def say(batch: Batch) -> tuple[Tensor, Tensor]:
        each = torch.stack([system.answer(batch, one, outcome, reads) for one in asked], 1)
        output = each if isinstance(spec, Findings) else each.squeeze(1)
        return output if outcome == "survival" else output.sigmoid(), each.isfinite().all(1)

    return say


def _by_head(run: Run, task: str, cohort: Cohort) -> Say:
    """The answers of the head that a task had in pretraining.

    Of a classification each patient weighed the same, and a survival's hazards are told as they are. The other losses weigh classes
    alike, or shift by them: how common each was among the patients that were shown is given back, as an adapted run's head gives it.
    """
    model, heads = _learned(run, Supervised, task)
    assert isinstance(heads, SupervisedObjective)
    head, shift = run.recipe.tasks[task].build(task, model), torch.zeros(())
    assert isinstance(head, LinearTask)
    if heads.asked[task].outcome in ("classes", "findings", "grade"):
        head.to_prevalence(list(labels_seen(run, cohort, task).values()))
        if isinstance(head, FindingsTask):  # of a finding that all had, or nobody, the share is no odds
            shift = head.head.bias.detach().nan_to_num(0.0, SURE, -SURE)

    @torch.no_grad()
    def say(batch: Batch) -> tuple[Tensor, Tensor]:
        fused = model(batch)
        return head.answer(heads.told(task, fused.pooled) + shift), fused.present

    return say


def _there(cohort: Cohort, where: str | None, missing: Sequence[str]) -> None:
    """Refuse a patient of whom the run's cohort has no record; one who has only what the run does not read is left out."""
    if not missing:
        return
    known = {record.patient for record in cohort.records(where)}
    for patient in missing:
        if patient not in known:
            close = difflib.get_close_matches(patient, known, n=1, cutoff=0.5)
            raise AdaptError(
                f"no record of a patient {patient!r} among those that the run may read",
                f"one of {len(known)} patients of {cohort.path}",
                f"did you mean {close[0]!r}?" if close else "see `polyclinic cohort query CATALOGUE 'from patients'`",
            )


def lineage(run: Run) -> dict[str, Any]:
    """Which run answers: its name and recipe, and the hashes of its weights, of what its last stage learned besides, and of its split."""
    here = run.backbone
    return {
        "run": here.path.resolve().name, "recipe": here.recipe.name, "backbone": file_hash(here.weights),
        "objective": file_hash(here.objective_weights), "split": here.split.hash, "version": version("polyclinic"),
    }  # fmt: skip


def as_table(run: Run, found: Predictions, question: str | None = None) -> Table:
    """Answers as a table: a row a patient, with the side of the split, what was answered, what is known, and the records that were read.

    `output` is a probability, beside `truth`, or a log hazard, beside `time` and `event`: null where nobody knows; of several classes,
    grades or findings a list, whose `names` the schema's metadata have, and of findings so is `truth`. `side` is "train" of patients
    whose labels the run may have seen, "test", or "new". The metadata say who answered, and what.
    """
    import pyarrow as pa

    side = dict.fromkeys(run.split.train, "train") | dict.fromkeys(run.split.test, "test")
    finding, several = known_of(run)[found.task], found.outputs.ndim > 1
    known = lambda values: pa.array(values.tolist(), mask=~found.mask, type=pa.float64())
    lists = lambda values: pa.array(
        [[None if np.isnan(v) else float(v) for v in row] for row in values], pa.list_(pa.float64())
    )
    sides = [side.get(p, "new") for p in found.patients]
    columns: dict[str, Any] = {"patient": pa.array(found.patients, pa.string()), "side": pa.array(sides, pa.string())}
    columns["output"] = lists(found.outputs) if several else pa.array(found.outputs.astype(float))
    if finding.outcome == "findings":
        columns["truth"] = lists(np.where(found.mask[:, None], found.targets, np.nan))
    elif isinstance(run.recipe.tasks[found.task], Survival):
        columns |= {"time": known(found.targets[:, 0]), "event": known(found.targets[:, 1])}
    else:
        columns["truth"] = known(found.targets)
    texts = pa.list_(pa.string())
    columns["modalities"] = pa.array([[m.value for m in has] for has in found.modalities], texts)
    columns["records"] = pa.array([list(ids) for ids in found.records], texts)
    told = {"task": found.task, **({"question": question} if question else {}), **lineage(run)}
    told |= {"names": ", ".join(finding.names)} if several else {}
    return pa.table(columns).replace_schema_metadata({k: str(v) for k, v in told.items()})
