"""The desk: one patient's files → an answer in clinical form, with what is known of such answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Protocol, TypeVar

from .. import records
from ..adaptation import Adapted, AdaptError, Shelf, open_adapted
from ..harmonise import VolumeStandard, harmonise
from ..inference import predict_files
from ..records import RecordError
from ..schema import Modality, Payload, Record
from ..tasks import Answer, Claim, HazardsTask, PlacedFields
from ..training import Run
from ..training.run import file_hash
from .drawing import Drawings, draws_on
from .evidence import about, headline, measured
from .given import Given, check_numbers, once, understood, whose
from .reply import NOTICE, ModelCard, NotUsed, Region, Reply, Sentence, Structure, Used, View
from .views import Pictures, colour, overlay_of, stack_of, unread, view_of


class Carded(Protocol):
    """What says which run it is."""

    card: ModelCard


One = TypeVar("One", bound=Carded)


class Desk:
    """An adapted run, opened once, that answers about one patient at a time.

    Args:
        run: adapted, or its folder.
        lock: held while it answers; desks that share one answer one after the other.
        landmark: of a task with landmarks, at which one it answers; by default the first.
    Raises:
        RunError, AdaptError: there is no adapted run.
        TaskError: its task has no such landmark.
    """

    def __init__(
        self, run: Run | Adapted | str | Path, lock: Lock | None = None, landmark: float | None = None
    ) -> None:
        self.adapted = (run if isinstance(run, Adapted) else open_adapted(run)).at(landmark)
        self._lock = lock or Lock()  # torch's threads are shared: two answers at once would both be slower
        here = self.adapted.run
        self.card = ModelCard(
            run=here.path.resolve().name,
            task=self.adapted.name,
            kind=here.recipe.tasks[self.adapted.name].kind,
            method=here.adapter["method"],
            labels=here.adapter["labels"],
            inputs=[m.value for m in self.adapted.inputs],
            draws=draws_on(here),
            backbone=file_hash(here.weights),
            adapter=file_hash(here.path / "adapter.safetensors"),
            split=here.split.hash,
        )
        self.drawings = Drawings(here, self._lock) if self.card.draws else None
        self.measured, self.why_none = measured(here.path, self.card)
        task = self.adapted.task
        if self.measured is not None and isinstance(task, HazardsTask) and task.landmark > 0:
            self.measured = self.measured.since(f"from {task.spec.landmarks[task.landmark]:g} {task.spec.unit}")

    @property
    def described(self) -> str:
        """The run's card as Markdown: the one that `evaluate` wrote of these weights, else that nothing is known."""
        if self.measured is not None:
            return (self.adapted.run.path / "card.md").read_text(encoding="utf-8")
        c = self.card
        return (
            f"# {c.run}\n\nAnswers the task `{c.task}` ({c.kind}) by {c.method} from {c.labels} labelled patients, "
            f"reading {', '.join(c.inputs)}.\n\n## It has not been examined\n\n{self.why_none}\n\n{NOTICE}\n"
        )

    def answer(
        self, files: Sequence[str | Path], names: Sequence[str] | None = None, pictures: Pictures = "png"
    ) -> Reply:
        """The answer about one patient, given as one or several files.

        Args:
            files: any subset of the modalities that the run reads.
            names: what to call them in the answer; by default as the files are called.
            pictures: how the slices of its views are told.
        Raises:
            RecordError: a file that cannot be used, files of several patients, or nothing that this run reads.
        """
        paths = [Path(f).resolve() for f in files]
        called = dict(zip(paths, names or [p.name for p in paths], strict=True))
        given, again = understood(called)
        shown = self._loaded(given)
        with self._lock:
            found = predict_files(self.adapted, [p for p in called if p not in again])
        if not all(math.isfinite(v) for v in found.values.values() if isinstance(v, float)):
            raise RecordError(
                "files whose answer is not a number", "samples and cells that are numbers", "check the files"
            )
        read, left = [], []
        for item in given:
            (read if item.record.modality in found.used and not self._says_nothing(item) else left).append(item)
        views, overlay = self._pictures(found, shown, pictures)
        words, evidence = about(found, self.measured, self.why_none)
        return Reply(
            task=self.adapted.name,
            headline=headline(found, evidence),
            values=dict(found.values),
            used=[m.value for m in found.used],
            read=once(Used(file=g.name, modality=g.record.modality.value, kind=g.record.kind) for g in read),
            not_used=once(NotUsed(file=g.name, why=self._why_not(g.record)) for g in left)
            + [NotUsed(file=called[p], why=f"the same as {other}") for p, other in again.items()],
            whose=whose(given),
            structures=self._structures(found),
            sentences=self._sentences(found, shown),
            notes=list(found.extra.get("notes", ())),
            uncertainty=words,
            evidence=evidence,
            views=views,
            overlay=overlay,
            model=self.card,
        )

    def _loaded(self, given: Sequence[Given]) -> list[tuple[Given, Payload]]:
        """The pictures among what the run reads.

        Raises:
            RecordError: voxels that are not numbers; two where the run draws a mask on one.
        """
        shown = []
        for item in given:
            if item.record.modality not in (Modality.IMAGE, Modality.VOLUME) or not self._reads(item.record):
                continue
            payload = records.load(item.record, item.path.parent)
            check_numbers(item.name, payload.array)
            shown.append((item, payload))
        if isinstance(self.adapted.task.spec, PlacedFields):
            drawn_on = Modality(self.adapted.task.spec.modality)
            several = [item.name for item, _ in shown if item.record.modality is drawn_on]
            if len(several) > 1:
                raise RecordError(
                    f"{len(several)} {drawn_on}s ({', '.join(several)})",
                    f"one {drawn_on} to draw on",
                    "give one at a time",
                )
        return shown

    def _reads(self, record: Record) -> bool:
        return record.modality in self.adapted.inputs

    def _says_nothing(self, item: Given) -> bool:
        """Whether it is a table of which the model knows no column."""
        if item.record.modality is not Modality.TABLE:
            return False
        run, payload = self.adapted.run, records.load(item.record, item.path.parent)
        standard = run.recipe.standards()[Modality.TABLE]
        return harmonise(payload, item.record, standard, run.fingerprint).array.size == 0

    def _why_not(self, record: Record) -> str:
        return (
            "nothing in it is known to the model"
            if self._reads(record)
            else f"this model does not read {record.modality}"
        )

    def _structures(self, found: Answer) -> list[Structure]:
        if found.overlay is None:
            return []
        made = []
        sizes = found.extra.get("structures", found.values)  # of boxes and points, how many
        for number, (name, size) in enumerate(sizes.items(), start=1):
            word, _, unit = name.rpartition("_")
            made.append(
                Structure(
                    number=number,
                    name=word.replace("_", " "),
                    colour=colour(number),
                    size=float(size),
                    unit="mL" if unit == "ml" else unit,
                )
            )
        return made

    def _sentences(self, found: Answer, shown: Sequence[tuple[Given, Payload]]) -> list[Sentence]:
        """Of a report: each with the part of the one picture, or of the volume, that it rests on."""
        pictures = [payload for item, payload in shown if item.record.modality is Modality.IMAGE]
        shape = pictures[0].array.shape[-2:] if len(pictures) == 1 else None
        return [
            Sentence(
                text=claim.text, findings=dict(claim.findings), part=claim.part, region=_region(claim, shape),
                slices=claim.slices, against=list(claim.against),
            )
            for claim in found.extra.get("claims", ())
        ]  # fmt: skip

    def _pictures(
        self, found: Answer, shown: Sequence[tuple[Given, Payload]], pictures: Pictures
    ) -> tuple[list[View], str | None]:
        """The views, the mask on the one that it is about."""
        views: list[View] = []
        overlay: str | None = None
        for item, payload in shown:
            mine = found.overlay if item.record.id == found.extra.get("record") else None
            stack = stack_of(item.record, payload, mine)
            views.append(view_of(stack, item.record, item.name, self._caution(item.record, payload), pictures))
            if mine is not None:
                overlay = overlay_of(stack)
        return views, overlay

    def _caution(self, record: Record, payload: Payload) -> str:
        """What of the picture the model did not look at."""
        run = self.adapted.run
        standard = run.recipe.standards()[record.modality]
        if not isinstance(standard, VolumeStandard) or standard.size is None:
            return ""
        return unread(payload, standard.spacing_mm or run.fingerprint.spacing_mm, standard.size)


def _region(claim: Claim, shape: Sequence[int] | None) -> Region | None:
    """Where a part of a picture (y x) lies on it; None where that is not known, or it is of a volume."""
    if claim.place is None or shape is None or len(claim.place.low) != 2:
        return None
    (x0, y0), (x1, y1) = claim.place.low, claim.place.high
    return Region(left=x0 / shape[1], top=y0 / shape[0], right=x1 / shape[1], bottom=y1 / shape[0])


def desks(runs: Sequence[Run | Adapted | str | Path]) -> dict[str, Desk]:
    """A desk of each run, by the name of its folder; several have one backbone in memory and answer one at a time.

    Args:
        runs: adapted, or their folders.
    Raises:
        RunError, AdaptError: one is not adapted, two are called alike, or they are of several backbones.
    """
    if len(runs) == 1:
        made = [Desk(runs[0])]
    else:
        opened = [run if isinstance(run, Run | Adapted) else Run.open(run) for run in runs]
        shelf, lock = Shelf(first.run if isinstance(first := opened[0], Adapted) else first), Lock()
        made = [Desk(run if isinstance(run, Adapted) else shelf.open(run), lock) for run in opened]
    return by_name(made)


def by_name(made: Sequence[One]) -> dict[str, One]:
    """What is served, by the name of its run.

    Raises:
        AdaptError: two are called alike.
    """
    found = {one.card.run: one for one in made}
    if len(found) < len(made):
        names = [one.card.run for one in made]
        twice = next(name for name in names if names.count(name) > 1)
        raise AdaptError(
            f"two runs called {twice!r}", "a name each, by which they are asked", "rename one of the folders"
        )
    return found
