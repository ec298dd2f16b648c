"""Evidence: what can be said of a run, with n, intervals and the split's hash."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..adaptation import Adapted, open_adapted
from ..adaptation.plan import inputs_of
from ..cohort import Cohort
from ..inference import ask, predict, taught
from ..inference.ask import labels_seen
from ..inference.interactive import learned
from ..schema import Figure, Modality
from ..tasks import (
    Classes,
    ClassificationTask,
    Detection,
    Findings,
    FindingsTask,
    Grade,
    Hazards,
    Keypoints,
    Predictions,
    Report,
    ReportTask,
    Retrieval,
    Segmentation,
)
from ..training import Run
from ..training.run import file_hash
from .card import card
from .evidence import Evidence
from .measures.calibration import calibration, calibrations
from .measures.curves import traced
from .measures.detection import placed_figures
from .measures.figures import figures
from .measures.intervals import DRAWS, EvidenceError
from .measures.prognosis import prognosis
from .measures.prompted import prompted
from .measures.retrieval import query_subsets, retrieval_figures
from .measures.surfaces import Surfaces
from .measures.synthesis import synthesised
from .measures.wording import report_figures, with_earlier
from .modalities.subsets import NONE, each_subset, known_of


def evaluate(
    run: Run | str | Path, cohort: Cohort | str | Path | None = None, *, subsets: bool = True, draws: int = DRAWS
) -> Evidence:
    """Measure a run on its test side, and write `<run>/evidence/evidence.json` and `<run>/card.md`.

    Args:
        run: adapted, or pretrained, or its folder. Of a pretrained one its retrieval tasks are measured, the tasks that its last
            stage taught it (`question`, `supervised`, `promptable`), and what it learned to make (`latent_diffusion`, `translation`).
        cohort: where it lies now; by default where it lay.
        subsets: also measure every subset of the inputs.
        draws: resamples.
    Raises:
        EvidenceError: a pretrained run whose recipe has no retrieval task, and which was taught no other and to make nothing;
            nobody to test on.
        UnreadError: nearly nobody of the test side can be read. Who cannot be is otherwise set aside, and stands in `unread`.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    catalogue = cohort if isinstance(cohort, Cohort) else run.cohort(cohort)
    run.unread.clear()
    found = _adapted(run, catalogue, subsets, draws) if run.adapter else _pretrained(run, catalogue, subsets, draws)
    found = replace(found, unread=tuple(one for one in run.unread.values() if one.patient in set(run.split.test)))
    found.write(run.path / "evidence")
    (run.path / "card.md").write_text(card(run, catalogue, found.every))
    return found


def _adapted(run: Run, cohort: Cohort, all_subsets: bool, draws: int) -> Evidence:
    adapted = open_adapted(run)
    spec = run.recipe.tasks[adapted.name]
    surfaces = Surfaces(spec.classes) if isinstance(spec, Segmentation) else None
    answers = predict(adapted, cohort, look=surfaces and surfaces.look)
    if not len(answers.patients) or not bool(answers.mask.any()):
        raise _nobody(adapted.name)
    gone = {one.patient for one in run.unread.values()}
    who = tuple(p for p in run.split.test if p not in gone)
    whole = lambda seen: set(seen) == set(adapted.inputs)
    again = lambda seen: answers if whole(seen) else predict(adapted, cohort, patients=who, modalities=seen)
    about = adapted.name, run.adapter["method"], adapted.inputs, run.adapter["labels"]
    cuts = adapted.task.thresholds if isinstance(adapted.task, ClassificationTask | FindingsTask) else ()
    found = _measured(run, *about, answers, again if all_subsets else None, draws, cohort, cuts)
    if surfaces is not None:
        found = replace(found, figures=(*found.figures, *surfaces.figures(run.split.hash, draws=draws)))
    if isinstance(adapted.task, ReportTask) and adapted.task.window is not None and adapted.task.window.earlier:
        found = replace(found, figures=(*found.figures, *_of_the_study_alone(adapted, cohort, who, draws)))
    found = replace(found, giveaways=tuple(one["told"] for one in run.adapter.get("giveaways", ())))
    return _from_landmarks(found, adapted, spec, cohort, draws) if isinstance(spec, Hazards) else found


def _of_the_study_alone(adapted: Adapted, cohort: Cohort, who: Sequence[str], draws: int) -> list[Figure]:
    """The figures of the same reports by a decoder that is shown nothing earlier; of all findings, not of each."""
    alone = predict(adapted, cohort, patients=who, earlier=False)
    found = _figures(adapted.run, adapted.name, cohort, adapted.inputs, alone, (), draws, ())
    return [replace(f, name=f"of the study alone, {f.name}") for f in found if not f.name.startswith("f1: ")]


def _from_landmarks(first: Evidence, adapted: Adapted, spec: Hazards, cohort: Cohort, draws: int) -> Evidence:
    """With what is measured at each later landmark of those who are still at risk there."""
    run = adapted.run
    for landmark in spec.landmarks[1:]:
        there, since = predict(adapted, cohort, landmark=landmark), f"from {landmark:g} {spec.unit}"
        about = run.adapter["method"], adapted.inputs, run.adapter["labels"]
        later = _measured(run, adapted.name, *about, there, None, draws, cohort)
        named = [replace(f, name=f"{since}, {f.name}") for f in later.figures]
        first = replace(first, figures=(*first.figures, *named), risks=(*first.risks, *later.risks))
    return first


def _measured(
    run: Run, task: str, method: str, inputs: Sequence[Modality], labels: int, answers: Predictions,
    again: Callable[[tuple[Modality, ...]], Predictions] | None, draws: int, cohort: Cohort,
    thresholds: Sequence[float] = (),
) -> Evidence:  # fmt: skip
    """The figures of a task's answers; of each subset of the inputs too, where they can be given again from just these."""
    spec, split = run.recipe.tasks[task], run.split.hash
    further, risks = prognosis(answers, split, draws=draws)
    classes: Sequence[str] = spec.classes if isinstance(spec, Segmentation) else ()
    classes = spec.names() if isinstance(spec, Classes | Findings | Grade | Hazards) else classes
    known = known_of(run, cohort, task) if again else []
    shown = each_subset(again, inputs, spec, split, known, draws=draws) if again else NONE
    return Evidence(
        run.path.name, task, spec.kind, method, tuple(m.value for m in inputs), labels, split, file_hash(run.weights),
        (*_figures(run, task, cohort, inputs, answers, classes, draws, thresholds), *further),
        calibration(answers, split, draws=draws) if spec.kind == "classification" else None,
        shown.each, risks=risks, contributions=shown.contributions,
        calibrations=calibrations(spec.kind, answers, split, classes, draws=draws),
        curves=traced(spec, answers, draws=draws) if isinstance(spec, Detection | Keypoints) else (),
    )  # fmt: skip


def _figures(
    run: Run, name: str, cohort: Cohort, inputs: Sequence[Modality], answers: Predictions, classes: Sequence[str], draws: int,
    thresholds: Sequence[float],
) -> tuple[Figure, ...]:  # fmt: skip
    spec, split = run.recipe.tasks[name], run.split.hash
    if isinstance(spec, Detection | Keypoints):
        return placed_figures(spec, answers, split, draws=draws)
    if not isinstance(spec, Report):
        more: dict[str, Any] = {"top": spec.top} if isinstance(spec, Classes) else {}
        more |= {"parents": spec.parents()} if isinstance(spec, Findings) else {}
        return figures(spec.kind, answers, split, classes, draws=draws, thresholds=thresholds, **more)
    earlier = with_earlier(cohort, run.recipe.cohort.where, list(inputs))
    return report_figures(answers, split, language=spec.language or "en", earlier=earlier, draws=draws)


def _pretrained(run: Run, cohort: Cohort, all_subsets: bool, draws: int) -> Evidence:
    answered = taught(run)
    found = [
        *_retrieved(run, cohort, all_subsets, draws),
        *(_taught(run, cohort, *one, all_subsets, draws) for one in answered.items()),
        *(prompted(run, cohort, draws=draws) if learned(run) is not None else ()),
        *synthesised(run, cohort, draws=draws),
    ]
    if not found:
        raise EvidenceError(
            f"a pretrained run {run.path.name} whose recipe has no retrieval task, and which was taught no other and to make nothing",
            "a run adapted to a task, a retrieval task, or a last stage with `question`, `supervised`, `promptable`, `latent_diffusion` or "
            "`translation`",
            "adapt it first",
        )
    if not any(figure.n for one in found for figure in one.figures):
        raise _nobody(", ".join(one.task for one in found))
    return replace(found[0], others=tuple(found[1:]))


def _taught(run: Run, cohort: Cohort, task: str, method: str, all_subsets: bool, draws: int) -> Evidence:
    """What pretraining itself taught: the answers of the task's own question, or of the head that it had."""
    reads, labels, answers = inputs_of(run, task), len(labels_seen(run, cohort, task)), ask(run, task, cohort=cohort)
    spec = run.recipe.tasks[task]
    likelier = (
        (0.5,) * len(spec.names()) if isinstance(spec, Findings) else ()
    )  # no threshold was chosen by anybody's labels
    some = lambda seen: ask(run, task, cohort=cohort, patients=answers.patients, inputs=seen)
    again = lambda seen: answers if set(seen) == set(reads) else some(seen)
    return _measured(run, task, method, reads, labels, answers, again if all_subsets else None, draws, cohort, likelier)


def _nobody(task: str) -> EvidenceError:
    return EvidenceError(
        f"no labelled test patient of {task!r}",
        "at least one on the test side",
        "label some, or change the split's seed",
    )


def _retrieved(run: Run, cohort: Cohort, all_subsets: bool, draws: int) -> list[Evidence]:
    """What was measured of the recipe's retrieval tasks, if it has any."""
    asked = {n: s for n, s in run.recipe.tasks.items() if isinstance(s, Retrieval)}
    if not asked:
        return []
    (name, spec), *others = asked.items()
    found = [*retrieval_figures(run, cohort, spec, draws=draws)]
    for other, further in others:  # the first one's figures keep their names
        found += [replace(f, name=f"{other}: {f.name}") for f in retrieval_figures(run, cohort, further, draws=draws)]
    inputs, split, weights = (spec.query.value, spec.answer.value), run.split.hash, file_hash(run.weights)
    shown = query_subsets(run, cohort, spec, draws=draws) if all_subsets else NONE
    about = Evidence(run.path.name, name, "retrieval", "pretrained", inputs, 0, split, weights, tuple(found))
    return [replace(about, subsets=shown.each, contributions=shown.contributions)]
