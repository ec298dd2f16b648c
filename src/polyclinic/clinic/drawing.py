"""Drawing what is shown: a few patients' records that people point at, in memory, and the mask of what they mean.

begin: files ── read and encoded ──┐
draw:  points, box, name ──────────┴── mask on the record, and as pictures
end, or nobody asks for a while ── forgotten
"""

from __future__ import annotations

import secrets
import tempfile
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock, Timer

from ..inference import Segmenter
from ..inference.interactive import Session, learned, write_mask
from ..schema import Modality, PolyclinicError
from ..tasks import Answer, Segmentation
from ..training import Run
from ..training.run import file_hash
from .evidence import of_drawing
from .given import check_numbers, once, understood, whose
from .reply import NOTICE, Begun, Drawn, ModelCard, NotUsed, Shown, Structure, Used
from .views import Pictures, Stack, colour, labels_of, stack_of, view_of

MOST_KEPT = 4
"""Records in memory; the one that was asked longest ago makes room."""
MOST_BYTES = 2 * 2**30
"""Of their samples, all together; a single one may have more."""
KEPT_S = 900
"""So long after the last request a record is forgotten."""


class GoneError(PolyclinicError):
    """A drawing that was forgotten, or never was."""


def gone() -> GoneError:
    """The refusal of a drawing that is not there."""
    return GoneError(
        "a drawing that the service does not have (any more)",
        f"one that was begun, and asked in the last {KEPT_S // 60} minutes, of the {MOST_KEPT} last ones",
        "begin it again",
    )


def draws_on(run: Run) -> Modality | None:
    """The modality on which a run draws what it is shown; None where it does not."""
    part = learned(run)
    if part is None:
        return None
    task = run.backbone.recipe.tasks[part.tasks[0]]
    assert isinstance(task, Segmentation)
    return Modality(task.modality)


@dataclass(frozen=True, slots=True)
class Kept:
    """A record that is drawn on: what the network made of it, its slices, and when it is forgotten."""

    session: Session
    stack: Stack
    forget: Timer

    @property
    def size(self) -> int:
        """Bytes of its samples, as they came and as the network reads them."""
        return self.session.source.array.nbytes + self.session.payload.array.nbytes


class Drawings:
    """A run that draws what it is shown, and the records that it draws on.

    Args:
        run: whose last stage learned it, or one that was adapted from it.
        lock: held while it draws; who shares one, answers one after the other.
    """

    def __init__(self, run: Run, lock: Lock | None = None) -> None:
        self.run = run.backbone
        self._lock = lock or Lock()
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._shelf = Lock()
        modality, part, recipe = draws_on(run), learned(run), self.run.recipe
        assert modality is not None
        assert part is not None
        self.ways = list(part.prompts)
        read = [m for t in part.tasks for m in (recipe.tasks[t].inputs or recipe.encoders)]
        self.card = ModelCard(
            run=self.run.path.resolve().name,
            task=", ".join(part.tasks),
            kind="segmentation",
            method="promptable",
            labels=0,
            inputs=list(dict.fromkeys([modality.value, *map(str, read)])),
            answers=False,
            draws=modality.value,
            backbone=file_hash(self.run.weights),
            adapter=file_hash(self.run.objective_weights),
            split=self.run.split.hash,
        )

    @cached_property
    def segmenter(self) -> Segmenter:
        """Opened when first asked for: beside an answering run most people never draw."""
        return Segmenter(self.run)

    @property
    def described(self) -> str:
        """The run's card as Markdown: the one that `evaluate` wrote of these weights, else that nothing is known."""
        words, evidence = of_drawing(self.run.path, self.card)
        if evidence is not None:
            return (self.run.path / "card.md").read_text(encoding="utf-8")
        return (
            f"# {self.card.run}\n\nDraws on a record the structure that it is shown; learned from {self.card.task}.\n\n"
            f"## It has not been examined\n\n{words}\n\n{NOTICE}\n"
        )

    def begin(
        self, files: Sequence[str | Path], names: Sequence[str] | None = None, pictures: Pictures = "png"
    ) -> Begun:
        """One patient's files, of which one is drawn on, read and kept.

        Args:
            files: with just one record of the modality on which it draws.
            names: what to call them; by default as the files are called.
            pictures: how the record's slices are told.
        Raises:
            RecordError: a file that cannot be used, files of several patients, or not just one record to draw on.
        """
        paths = [Path(f).resolve() for f in files]
        called = dict(zip(paths, names or [p.name for p in paths], strict=True))
        given, again = understood(called)
        with self._lock:
            session = self.segmenter.begin([p for p in called if p not in again])
            (item,) = [g for g in given if g.record.id == session.record.id]
            check_numbers(item.name, session.source.array)
            session.ready()
        stack = stack_of(session.record, session.source)
        reads = self.segmenter.reads
        read = [g for g in given if g.record.modality in reads]
        words, evidence = of_drawing(self.run.path, self.card)
        return Begun(
            drawing=self._keep(session, stack),
            view=view_of(stack, session.record, item.name, pictures=pictures),
            axes=stack.axes[: session.axes],
            ways=[*self.ways],
            names=list(self.segmenter.names),
            read=once(Used(file=g.name, modality=g.record.modality.value, kind=g.record.kind) for g in read),
            not_used=once(
                NotUsed(file=g.name, why=f"this model does not read {g.record.modality}")
                for g in given
                if g not in read
            )
            + [NotUsed(file=called[p], why=f"the same as {other}") for p, other in again.items()],
            whose=whose(given),
            kept_s=KEPT_S,
            uncertainty=words,
            evidence=evidence,
            model=self.card,
        )

    def draw(self, shown: Shown) -> Drawn:
        """The mask of what is shown.

        Raises:
            GoneError: the record was forgotten.
            PromptError: see `Session.segment`.
        """
        begun = time.monotonic()
        kept = self._found(shown.drawing)
        answer = self._answer(kept, shown)
        assert answer.overlay is not None
        drawn = kept.stack.with_mask(answer.overlay)
        ((key, size),) = answer.values.items()
        unit = key.rpartition("_")[2]
        scale = kept.stack.pixel_mm if self.segmenter.modality is Modality.IMAGE else None
        return Drawn(
            headline=answer.headline,
            structure=Structure(
                number=1, name=shown.name or "structure", colour=colour(1), size=float(size),
                unit="mL" if unit == "ml" else unit,
            ),
            area_cm2=None if scale is None else round(float(answer.overlay.sum()) * scale[0] * scale[1] / 100, 3),
            masks=labels_of(drawn),
            fullest=int(abs(drawn.chosen - drawn.fullest).argmin()),
            seconds=round(time.monotonic() - begun, 3),
            model=self.card,
        )  # fmt: skip

    def file(self, shown: Shown) -> tuple[bytes, str]:
        """The mask of what is shown as a file that says itself where it comes from, and the file's ending.

        Raises:
            GoneError, PromptError: as `draw`.
            MissingExtraError: nibabel is not installed.
        """
        answer = self._answer(self._found(shown.drawing), shown)
        assert answer.overlay is not None
        ending = ".png" if answer.overlay.ndim == 2 else ".nii.gz"
        with tempfile.TemporaryDirectory(prefix="polyclinic-") as folder:
            place = Path(folder, f"mask{ending}")
            write_mask(answer, place, {**self.segmenter.told(answer), "notice": NOTICE})
            return place.read_bytes(), ending

    def has(self, drawing: str) -> bool:
        """Whether a record is still there."""
        with self._shelf:
            return drawing in self._kept

    def end(self, drawing: str) -> bool:
        """Forget a record; whether it was there."""
        with self._shelf:
            kept = self._kept.pop(drawing, None)
        if kept is not None:
            kept.forget.cancel()
        return kept is not None

    def _answer(self, kept: Kept, shown: Shown) -> Answer:
        with self._lock:
            return kept.session.segment(shown.points, shown.off, shown.box, shown.name)

    def _keep(self, session: Session, stack: Stack) -> str:
        """Keep a record, the last of a few."""
        name = secrets.token_urlsafe(24)
        with self._shelf:
            self._kept[name] = Kept(session, stack, self._clock(name))
            while len(self._kept) > MOST_KEPT or (
                len(self._kept) > 1 and sum(kept.size for kept in self._kept.values()) > MOST_BYTES
            ):
                _, oldest = self._kept.popitem(last=False)
                oldest.forget.cancel()
        return name

    def _found(self, drawing: str) -> Kept:
        """A record that is there, as the last one that was asked; it is forgotten later for it."""
        with self._shelf:
            kept = self._kept.pop(drawing, None)
            if kept is None:
                raise gone()
            kept.forget.cancel()
            self._kept[drawing] = kept = Kept(kept.session, kept.stack, self._clock(drawing))
            return kept

    def _clock(self, drawing: str) -> Timer:
        clock = Timer(KEPT_S, self.end, [drawing])
        clock.daemon = True
        clock.start()
        return clock
