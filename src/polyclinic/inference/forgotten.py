"""What a changed backbone lost of what it could: pretraining's losses, and earlier tasks asked with their own heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..adaptation.adapted import Adapted, open_adapted
from ..adaptation.forgetting import Pretraining
from ..adaptation.plan import AdaptError
from ..cohort import Cohort
from ..training import Run
from ..training.methods import Knn, Probe, Prototype
from ..training.repeatable import repeatable
from .predict import predict

FROZEN = frozenset(m.model_fields["kind"].default for m in (Probe, Prototype, Knn))


@dataclass(frozen=True, slots=True)
class Forgotten:
    """One thing that could be asked before.

    Args:
        what: a term of pretraining's loss, or the task of an earlier head.
        metric: "loss", or the task's.
        before, after: on the side kept for testing. A loss that rose, or a metric that fell, was forgotten.
        n: patients that they rest on.
    """

    what: str
    metric: str
    before: float
    after: float
    n: int


def forgotten(
    run: Run | str | Path, earlier: Sequence[Run | str | Path] = (), cohort: Cohort | str | Path | None = None
) -> list[Forgotten]:
    """What an adapted run's model lost of what its backbone could: pretraining's losses, and earlier tasks by their own heads.

    Args:
        run: adapted.
        earlier: runs that were adapted from the same backbone and left it as it was (probe, prototype, knn; after no other run): their
            heads are asked again, on the changed vectors.
        cohort: where it lies now.
    Raises:
        AdaptError: an earlier run of another backbone, or one that changed it.
    """
    adapted = open_adapted(run)
    here, backbone = adapted.run, adapted.run.backbone
    catalogue = cohort if isinstance(cohort, Cohort) else backbone.cohort(cohort)
    pretraining, before = Pretraining(backbone, catalogue, train=False), backbone.model()
    with repeatable():
        first = pretraining.losses(before)
        then = pretraining.losses(adapted.model.requires_grad_(True))
    adapted.model.requires_grad_(False)
    n = len(pretraining.loader.patients)
    found = [Forgotten(name, "loss", first[name], then[name], n) for name in first]
    for one in earlier:
        old = open_adapted(one)
        kind = old.run.adapter["methods"][0]["kind"]
        rests = kind in FROZEN and "after" not in old.run.adapter
        if old.run.adapter["backbone"] != here.adapter["backbone"] or not rests:
            raise AdaptError(
                f"{old.run.path}, adapted by {old.run.adapter['method']} from the backbone {old.run.adapter['backbone']}",
                f"one of {', '.join(sorted(FROZEN))} on {here.adapter['backbone']}",
                "name runs whose heads rest on the backbone as it was",
            )
        changed = Adapted(old.run, old.name, adapted.model, old.task, old.inputs)
        answers = [predict(who, catalogue).labelled() for who in (old, changed)]
        scores = [old.task.score(a) for a in answers]
        found += [Forgotten(old.name, m, scores[0][m], scores[1][m], len(answers[0].patients)) for m in scores[0]]
    return found
