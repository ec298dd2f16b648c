"""Interactive segmentation: a person shows a structure by points, a box or its name, gets its mask, and shows more until it is right.

    files ── encoded once ──┐
    points, box, name ──────┴─ the run's promptable decoder ── mask on the record as it came

Places are counted in the record's own samples, from 0: x to the right and y down of an image; x, y, z along a volume's stored axes,
as viewers of NIfTI show them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..adaptation.plan import AdaptError
from ..harmonise import points_forth, way_back
from ..harmonise.loader import Loader
from ..models import Model
from ..objectives import Prompt, Promptable, PromptableObjective
from ..records import RecordError
from ..records.raster import luminance
from ..schema import Batch, MissingExtraError, Modality, Payload, PolyclinicError, Record, Tokens
from ..tasks import Answer
from ..tokens import select
from ..training import Run
from .ask import lineage
from .predict import one_patient

MOST_BOXES = 4
"""Of a network that reads a box at a time, how many boxes of a record stay encoded."""
Place = Sequence[float]
"""(x y) of an image, (x y z) of a volume."""


class PromptError(PolyclinicError):
    """A prompt from which nothing can be drawn."""


class Segmenter:
    """A run that learned to draw what it is shown.

    Args:
        run: pretrained, whose last stage has `promptable`, or its folder.
    Raises:
        AdaptError: its last stage did not learn it.
    """

    def __init__(self, run: Run | str | Path) -> None:
        self.run = (run if isinstance(run, Run) else Run.open(run)).backbone
        part = learned(self.run)
        if part is None:
            raise AdaptError(
                f"the run {self.run.path}, whose last stage did not learn to draw what it is shown",
                "a last stage with `promptable`", "pretrain one, such as the recipe `sam`, or adapt to a segmentation",
            )  # fmt: skip
        self.model: Model = self.run.model().requires_grad_(False)
        made = self.run.learned(part, self.model)
        assert isinstance(made, PromptableObjective)
        self.objective = made.requires_grad_(False)

    @property
    def modality(self) -> Modality:
        """Of the records that it draws on."""
        return self.objective.modality

    @property
    def names(self) -> dict[str, Tensor]:
        """What it can be asked for by name, and the words that it hears; nothing where it learned no names."""
        if not self.objective.reads:
            return {}
        pairs = [zip(s.names, s.words, strict=True) for s in self.objective.structures.values()]
        return {plain(name): words for pair in pairs for name, words in pair}

    @property
    def reads(self) -> tuple[Modality, ...]:
        """What may lie beside the record: whatever its tasks may read."""
        tasks = [self.run.recipe.tasks[name] for name in self.objective.structures]
        named = [m for task in tasks for m in (task.inputs or tuple(Modality(e) for e in self.run.recipe.encoders))]
        return tuple(dict.fromkeys([self.modality, *named]))

    @cached_property
    def lineage(self) -> dict[str, Any]:
        """Which run draws, with the hashes of its weights and its split."""
        return lineage(self.run)

    def told(self, answer: Answer) -> dict[str, Any]:
        """Where an answer comes from: the run, the record, and what was shown."""
        return {**self.lineage, "record": answer.extra["record"], "shown": answer.extra["shown"]}

    def begin(self, files: Sequence[str | Path]) -> Session:
        """One patient's files, of which one is drawn on.

        Raises:
            RecordError: a file that cannot be used, files of several patients, or not just one record to draw on.
        """
        loader = one_patient(self.run, files, self.reads)
        mine = loader.by_patient["patient"].get(self.modality, [])
        if len(mine) != 1:
            raise RecordError(
                f"{len(mine)} {self.modality}s",
                f"one {self.modality} to draw on",
                "give one patient's files, one to draw on",
            )
        batch = loader.of(["patient"], self.reads, whole=True)
        return Session(self, batch, mine[0], loader)


def learned(run: Run) -> Promptable | None:
    """By what its last stage learned to draw what it is shown; None where it did not."""
    return next((part for part in run.backbone.parts if isinstance(part, Promptable)), None)


class Session:
    """A record that is drawn on. It is encoded once, however often it is asked.

    Args:
        segmenter: that draws.
        batch: the one patient's.
        record: that is drawn on.
        loader: of its patient.
    """

    def __init__(self, segmenter: Segmenter, batch: Batch, record: Record, loader: Loader) -> None:
        self.segmenter, self.record, self._batch, self._loader = segmenter, record, batch, loader
        self._seen: dict[tuple[int, ...], Tokens] = {}
        values = batch.payloads[segmenter.modality].values
        self._values = values if isinstance(values, Tensor) else values[0][None]

    @cached_property
    def source(self) -> Payload:
        """The record as it came."""
        return self._loader.load(self.record)

    @cached_property
    def payload(self) -> Payload:
        """The record on the standard grid."""
        return self._loader.payload(self.record)

    @property
    def axes(self) -> int:
        """How many numbers a place has."""
        return self._values.ndim - 2

    def segment(
        self, points: Sequence[Place] = (), off: Sequence[Place] = (), box: tuple[Place, Place] | None = None, name: str | None = None
    ) -> Answer:  # fmt: skip
        """What is shown, drawn: in `overlay` a mask (y x) or (z y x) of 0 and 1 on the record as it came.

        Args:
            points: on the structure.
            off: beside it.
            box: two corners that hold it.
            name: one of the segmenter's names. Several ways at once are one prompt.
        Raises:
            PromptError: nothing is shown, a place beyond what the network reads, a name that it never learned, or points off a
                structure of which nothing says where it is.
        """
        prompt, around = self._prompt(points, off, box, name)
        chance = self.chance(prompt, around)
        mask = way_back(chance.numpy(), self.payload.history, labels=False) > 0.5
        called = name or "structure"
        voxel = None
        if self.source.to_world is not None and self.segmenter.modality is Modality.VOLUME:
            voxel = abs(float(np.linalg.det(self.source.to_world[:3, :3]))) / 1000
        size = round(float(mask.sum()) * voxel, 3) if voxel else int(mask.sum())
        unit = "mL" if voxel else "voxels" if self.axes == 3 else "pixels"
        words = f"{called}: {size} {unit}" if mask.any() else f"{called}: nothing was drawn"
        image = luminance(self.source.array) if self.segmenter.modality is Modality.IMAGE else self.source.array[0]
        told = {"points": [*points], "off": [*off], "box": box, "name": name}
        extra = {"image": image, "to_world": self.source.to_world, "record": self.record.id, "shown": told}
        key = f"{called}_{unit.lower()}"
        return Answer(words, {key: size}, tuple(self._batch.payloads), mask.astype(np.int64), extra=extra)

    @torch.no_grad()
    def chance(self, prompt: Prompt, around: Tensor | None = None) -> Tensor:
        """Of each sample of the standard grid, (y x) or (z y x), how likely it is meant.

        Args:
            prompt: in samples of that grid.
            around: (k) what a network that reads a box at a time has in the middle of it.
        """
        model, shape = self.segmenter.model, self._values.shape[2:]
        box = model.encoder(self.segmenter.modality).at_once
        if box is None or all(b >= n for b, n in zip(box, shape, strict=True)):
            return self._drawn(prompt, tuple(slice(0, n) for n in shape)).sigmoid()
        assert around is not None
        starts = [min(max(round(float(c) - b / 2), 0), n - b) for c, b, n in zip(around, box, shape, strict=True)]
        where = tuple(slice(a, a + b) for a, b in zip(starts, box, strict=True))
        begin = torch.tensor(starts, dtype=torch.float32)
        points = None if prompt.points is None else prompt.points - begin
        corners = None if prompt.box is None else prompt.box - begin
        whole = torch.zeros(tuple(shape))
        whole[where] = self._drawn(Prompt(points, prompt.on, corners, prompt.words), where).sigmoid()
        return whole

    @torch.no_grad()
    def ready(self) -> None:
        """Read the record now, so that the first answer waits for the decoder alone; a network that reads a box at a time cannot yet."""
        box, shape = self.segmenter.model.encoder(self.segmenter.modality).at_once, self._values.shape[2:]
        _ = self.source, self.payload
        if box is None or all(b >= n for b, n in zip(box, shape, strict=True)):
            self._tokens(tuple(slice(0, n) for n in shape))

    def _drawn(self, prompt: Prompt, where: tuple[slice, ...]) -> Tensor:
        """Logits of a part of the grid."""
        part = self._values[(slice(None), slice(None), *where)]
        return self.segmenter.objective.segment(self.segmenter.model, self._tokens(where), part, [prompt])[0].float()

    def _tokens(self, where: tuple[slice, ...]) -> Tokens:
        """The record's fused tokens, from a part of the grid."""
        modality, model = self.segmenter.modality, self.segmenter.model
        part = self._values[(slice(None), slice(None), *where)]
        key = tuple(s.start for s in where)
        if key not in self._seen:
            ragged = self._batch.payloads[modality]
            shown = replace(ragged, values=part)
            fused = model(Batch({**self._batch.payloads, modality: shown}, {}, self._batch.patients)).tokens
            while len(self._seen) >= MOST_BOXES:
                del self._seen[next(iter(self._seen))]
            self._seen[key] = select(fused, fused.modality == modality.number)
        return self._seen[key]

    def _prompt(
        self, points: Sequence[Place], off: Sequence[Place], box: tuple[Place, Place] | None, name: str | None
    ) -> tuple[Prompt, Tensor | None]:
        """On the standard grid, and the middle of what is shown."""
        names = self.segmenter.names
        if not points and box is None and name is None:
            raise PromptError(
                "nothing that shows the structure" if not off else "points off a structure, and none on it",
                "a point on it, a box around it, or its name", "show it",
            )  # fmt: skip
        if name is not None and plain(name) not in names:
            raise PromptError(
                f"the name {name!r}", ("one of " + ", ".join(names)) if names else "a point or a box: this run learned no names",
                "name one of these, or show it by a point or a box",
            )  # fmt: skip
        reads_a_box = self.segmenter.model.encoder(self.segmenter.modality).at_once is not None
        if reads_a_box and not points and box is None:
            raise PromptError(
                "a name alone, of a record that this network reads a box at a time", "a point on it or a box around it too",
                "show about where it is",
            )  # fmt: skip
        every = [self._forth(p) for p in (*points, *off)]
        on = torch.tensor([True] * len(points) + [False] * len(off))
        corners = None
        if box is not None:
            sides = [sorted(pair) for pair in zip(*box, strict=True)]
            found = torch.stack([self._forth(corner) for corner in product(*sides)])
            corners = torch.stack([found.min(0).values, found.max(0).values])
        shown = [*every[: len(points)], *([corners.mean(0)] if corners is not None else [])]
        return Prompt(
            torch.stack(every) if every else None, on if every else None, corners,
            None if name is None else names[plain(name)],
        ), (torch.stack(shown).mean(0) if shown else None)  # fmt: skip

    def _forth(self, place: Place) -> Tensor:
        """(k) samples of the standard grid, (z y x) or (y x), of a place of the record as it came.

        Raises:
            PromptError: it has not as many numbers as the record has axes, or lies outside of the record or of what is read of it.
        """
        size = self.source.array.shape[:0:-1]
        if len(place) != self.axes:
            raise PromptError(
                f"a place of {len(place)} numbers",
                f"{self.axes}: {'x, y, z' if self.axes == 3 else 'x, y'}",
                "give as many",
            )
        told = ", ".join(f"{v:g}" for v in place)
        if not all(0 <= v <= n - 1 for v, n in zip(place, size, strict=True)):
            raise PromptError(
                f"the place {told}, outside of the record", "x, y … from 0 to " + ", ".join(str(n - 1) for n in size),
                "count samples from 0",
            )  # fmt: skip
        xyz = np.array([[*place, 0.0] if self.axes == 2 else [*place]], dtype=float)
        found = torch.from_numpy(points_forth(xyz, self.payload.history)[0, : self.axes][::-1].copy()).float()
        grid = torch.tensor(self._values.shape[2:], dtype=torch.float32)
        if bool(((found < -0.5) | (found > grid - 0.5)).any()):
            extent = " × ".join(str(int(n)) for n in grid)
            raise PromptError(
                f"the place {told}, beyond what the network reads", f"a place within its {extent} samples about the middle",
                "use a run that reads more of a record (`size`, or `whole: true`)",
            )  # fmt: skip
        return found.clamp(min=0).minimum(grid - 1)


def segment(
    run: Segmenter | Run | str | Path, files: Sequence[str | Path], *, points: Sequence[Place] = (), off: Sequence[Place] = (),
    box: tuple[Place, Place] | None = None, name: str | None = None,
) -> Answer:  # fmt: skip
    """One structure of one patient's record, drawn from what shows it; see `Session.segment`.

    Args:
        run: pretrained with `promptable`; a `Segmenter` is not opened again.
        files: one patient's.
        points, off, box, name: as there.
    Raises:
        AdaptError, RecordError, PromptError: see `Segmenter` and `Session.segment`.
    """
    segmenter = run if isinstance(run, Segmenter) else Segmenter(run)
    return segmenter.begin(files).segment(points, off, box, name)


def write_mask(answer: Answer, path: Path, told: Mapping[str, Any] | None = None) -> None:
    """What was drawn as a file: of an image a PNG of 0 and 255, of a volume NIfTI of 0 and 1 that lies where the volume lies.

    Args:
        answer: of `segment`.
        path: ending with .png, or with .nii or .nii.gz.
        told: who drew it from what (`Segmenter.told`), kept in the file itself as JSON: as PNG's text `lineage`, or as a comment in
            NIfTI's header (an extension of code 6).
    Raises:
        PromptError: another ending than the record's kind has.
        MissingExtraError: nibabel is not installed.
    """
    mask = answer.overlay
    assert mask is not None
    endings = (".png",) if mask.ndim == 2 else (".nii", ".nii.gz")
    if not path.name.lower().endswith(endings):
        raise PromptError(f"a mask called {path.name}", f"a name with {' or '.join(endings)}", "call it so")
    path.parent.mkdir(parents=True, exist_ok=True)
    if mask.ndim == 2:
        from PIL import Image, PngImagePlugin

        words = PngImagePlugin.PngInfo()
        if told is not None:
            words.add_itxt("lineage", json.dumps(told))
        Image.fromarray((255 * mask).astype(np.uint8)).save(path, pnginfo=words)
        return
    try:
        import nibabel
    except ImportError as error:
        raise MissingExtraError("nibabel", "volumes") from error
    to_world = answer.extra["to_world"]
    affine = (
        np.eye(4) if to_world is None else np.diag([-1.0, -1.0, 1.0, 1.0]) @ to_world
    )  # NIfTI's x and y run the other way
    file: Any = nibabel.Nifti1Image(mask.transpose(2, 1, 0).astype(np.uint8), affine)  # pyright: ignore[reportPrivateImportUsage]
    if told is not None:
        file.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", json.dumps(told).encode()))  # type: ignore[attr-defined]
    nibabel.save(file, path)  # pyright: ignore[reportPrivateImportUsage]


def plain(name: str) -> str:
    """A structure's name as people write it."""
    return name.replace("_", " ").strip().lower()
