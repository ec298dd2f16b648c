"""The desk: one patient's files → an answer in clinical form, with what is known of such answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

from .. import records
from ..adaptation import Adapted, open_adapted, predict_files
from ..records import RecordError
from ..schema import Modality, Record, Rejected
from ..tasks import Answer
from ..training import Run
from ..training.run import file_hash
from ..trust import Evidence as Measured
from .reply import Evidence, ModelCard, NotUsed, Reply, Structure, View
from .views import colour, overlay_of, view_of

_NAMED_BY_FILE = {Modality.TABLE, Modality.OMICS}


class Desk:
    """An adapted run, opened once, that answers about one patient at a time.

    Args:
        run: adapted, or its folder.
    Raises:
        RunError, AdaptError: there is no adapted run.
    """

    def __init__(self, run: Run | Adapted | str | Path) -> None:
        self.adapted = run if isinstance(run, Adapted) else open_adapted(run)
        self._lock = Lock()  # torch's threads are shared: two answers at once would both be slower
        here = self.adapted.run
        self.card = ModelCard(
            run=here.path.name,
            task=self.adapted.name,
            kind=here.recipe.tasks[self.adapted.name].kind,
            method=here.adapter["method"],
            labels=here.adapter["labels"],
            inputs=[m.value for m in self.adapted.inputs],
            backbone=file_hash(here.weights),
            adapter=file_hash(here.path / "adapter.safetensors"),
            split=here.split.hash,
        )
        self.measured, self.why_none = self._evidence()

    def _evidence(self) -> tuple[Measured | None, str]:
        place = self.adapted.run.path
        if not (place / "evidence/evidence.json").exists():
            return None, f"Nothing is known of how often such answers are right: run `polyclinic evaluate {place}`."
        found = Measured.open(place)
        if found.split != self.card.split or found.weights != self.card.backbone:
            return (
                None,
                f"The evidence beside this run was measured on other weights: run `polyclinic evaluate {place}`.",
            )
        return found, ""

    def answer(self, files: Sequence[str | Path]) -> Reply:
        """The answer about one patient, given as one or several files.

        Raises:
            RecordError: a file that cannot be used, files of several patients, or nothing that this run reads.
        """
        paths = [Path(f).resolve() for f in files]
        given = understood(paths)
        with self._lock:
            found = predict_files(self.adapted, paths)
        views, overlay = self._pictures(found, [(p, r) for p, r in given if r.modality in found.used])
        known = self._known(found)
        return Reply(
            task=self.adapted.name,
            headline=found.headline,
            values=dict(found.values),
            used=[m.value for m in found.used],
            not_used=[NotUsed(file=p.name, why=self._why_not(r)) for p, r in given if r.modality not in found.used],
            structures=self._structures(found),
            uncertainty=known.note,
            evidence=known,
            views=views,
            overlay=overlay,
            model=self.card,
        )

    def _why_not(self, record: Record) -> str:
        known = record.modality in self.adapted.inputs
        return "nothing in it is known to the model" if known else f"this model does not read {record.modality}"

    def _structures(self, found: Answer) -> list[Structure]:
        if found.overlay is None:
            return []
        made = []
        for number, (name, size) in enumerate(found.values.items(), start=1):
            word, _, unit = name.rpartition("_")
            made.append(
                Structure(
                    number=number,
                    name=word,
                    colour=colour(number),
                    size=float(size),
                    unit="mL" if unit == "ml" else unit,
                )
            )
        return made

    def _pictures(self, found: Answer, read: Sequence[tuple[Path, Record]]) -> tuple[list[View], str | None]:
        """The views, the mask on the one that it is about."""
        views: list[View] = []
        overlay: str | None = None
        for path, record in read:
            if record.modality not in (Modality.IMAGE, Modality.VOLUME):
                continue
            payload = records.load(record, path.parent)
            mine = found.overlay if record.id == found.extra.get("record") else None
            view = view_of(record, payload, mine)
            if view is not None:
                views.append(view)
            if mine is not None:
                overlay = overlay_of(record, payload, mine)
        return views, overlay

    def _known(self, found: Answer) -> Evidence:
        """What happened to test patients with such an answer."""
        if self.measured is None:
            return Evidence(note=self.why_none)
        score, curve = found.values.get("score"), self.measured.calibration
        if isinstance(score, float) and curve is not None and curve.bins:
            near = min(curve.bins, key=lambda b: abs(b.predicted - score))
            came = round(near.observed * near.n)
            return Evidence(
                note=f"Of {near.n} patients the model never saw with scores nearest to this (mean {near.predicted:.2f}), the finding "
                f"was present in {came} ({near.observed:.0%}; 95% interval {near.low:.0%} to {near.high:.0%}). "
                "The score itself is not a probability to act on.",
                predicted=near.predicted,
                observed=near.observed,
                low=near.low,
                high=near.high,
                n=near.n,
            )
        first = self.measured.figures[0]
        if not all(map(math.isfinite, (first.value, first.low, first.high))):
            return Evidence(
                note=f"On {first.n} patients the model never saw nothing could be measured: {first.note}.", n=first.n
            )
        return Evidence(
            note=f"On {first.n} patients the model never saw: {first.name.replace('_', ' ')} {first.value:.2f} "
            f"(95% interval {first.low:.2f} to {first.high:.2f}).",
            low=first.low,
            high=first.high,
            n=first.n,
        )


def understood(paths: Sequence[Path]) -> list[tuple[Path, Record]]:
    """What each file is.

    Raises:
        RecordError: one cannot be read (with its reason), or they name more than one patient.
    """
    if not paths:
        raise RecordError("no file", "at least one", "give one")
    given: list[tuple[Path, Record]] = []
    named: set[str] = set()
    for path in paths:
        if not path.is_file():
            raise RecordError(f"no file {path.name}", "a file", "check the path")
    for path, item in records.read_patient(paths):
        if isinstance(item, Rejected):
            raise RecordError(f"{path.name}: {item.found}", item.expected, item.remedy)
        given.append((path, item))
        # Only what the file itself says counts: a name made from a file's name says nothing about who it is of.
        if item.modality in _NAMED_BY_FILE or "photometric" in item.attributes:
            named.add(item.patient)
    if len(named) > 1:
        raise RecordError(
            f"files (or rows) of {len(named)} patients", "one patient", "give one patient's files at a time"
        )
    return given
