"""What people drew on records: masks, boxes and points, as targets on the records' standard grids."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..cohort.labels import Label
from ..schema import Modality, Payload, Record, Target
from . import GridError, image, shapes, volume
from .cache import Cache
from .fingerprint import Fingerprint
from .ragged import Box
from .unread import reading


class Drawings:
    """Each is read once: a mask into the cache, boxes and points into memory.

    Args:
        load: record → source payload.
        standards: of the records that were drawn on.
        fingerprint: of the training patients.
        cache: of the run.
    """

    def __init__(
        self, load: Callable[[Record], Payload], standards: Mapping[Modality, Any], fingerprint: Fingerprint, cache: Cache
    ) -> None:  # fmt: skip
        self.load, self.standards, self.fingerprint, self.cache = load, standards, fingerprint, cache
        self._shaped: dict[tuple[str, str], torch.Tensor] = {}

    def target(
        self, label: Label, answers: Mapping[str, Any], pairs: Sequence[tuple[int, Record, Payload]], boxes: Mapping[str, Box]
    ) -> Target:  # fmt: skip
        """What was drawn on the records of a batch.

        Args:
            label: of a mask, boxes or points.
            answers: record → what was drawn on it.
            pairs: the records, with their harmonised payloads.
            boxes: record → what is seen of a whole volume.
        """
        known = torch.tensor([r.id in answers for _, r, _ in pairs], dtype=torch.bool)
        if label.kind == "mask":
            return Target([self._mask(answers.get(r.id), r, p)[boxes.get(r.id, ...)] for _, r, p in pairs], known)
        on = lambda r, p: self._shapes(label, answers.get(r.id, ()), r, p)
        return Target([_shifted(on(r, p), boxes.get(r.id), label.kind) for _, r, p in pairs], known)

    def places(
        self, label: Label, answer: Record | tuple[Record, ...], record: Record, payload: Payload
    ) -> np.ndarray:  # fmt: skip
        """Where the structures that a task asks for lie on a record (n d) int: all samples of a mask, the middles of boxes, points."""
        if isinstance(answer, Record):
            return np.argwhere(self._mask(answer, record, payload).numpy())
        shapes, d = self._shapes(label, answer, record, payload).numpy(), payload.array.ndim - 1
        middle = (shapes[:, 1 : 1 + d] + shapes[:, 1 + d :]) / 2 if label.kind == "boxes" else shapes
        inside = ((middle >= 0) & (middle < payload.array.shape[1:])).all(1)
        return middle[inside].astype(int)

    def _shapes(self, label: Label, answers: tuple[Record, ...], record: Record, payload: Payload) -> torch.Tensor:
        """The boxes or points that were drawn on a record, on its whole standard grid; none where nobody drew."""
        key = label.task, record.id
        if key not in self._shaped:
            with reading(answers[0] if answers else record):
                drawn, modality = [(one, self.load(one)) for one in answers], label.modality or Modality.VOLUME
                if label.kind == "boxes":
                    found = shapes.boxes(drawn, payload, modality, label.classes, label.least_mm)
                else:
                    found = shapes.points(drawn, payload, modality, label.classes)
            self._shaped[key] = torch.from_numpy(found)
        return self._shaped[key]

    def _mask(self, mask: Record | None, record: Record, payload: Payload) -> torch.Tensor:
        """The mask on its image's standard grid; zeros where there is none (and the target's mask says so)."""
        if mask is None:
            return torch.zeros(payload.array.shape[1:], dtype=torch.int64)
        standard = self.standards[record.modality]
        how = image.harmonise_mask if record.modality is Modality.IMAGE else volume.harmonise_mask

        def make() -> Payload:
            try:
                return Payload(how(self.load(mask), payload, standard).astype(np.int16))
            except GridError as error:
                raise GridError(f"{mask.uri}: {error.found}", error.expected, error.remedy) from error

        with reading(mask):
            told = f"mask of {record.id}{self.fingerprint.decides(record, standard)}"
            kept = self.cache.get(mask.id, standard, told, make)
        return torch.from_numpy(kept.array.astype(np.int64))


def records_of(answer: Record | tuple[Record, ...]) -> tuple[Record, ...]:
    """The records of what was drawn."""
    return answer if isinstance(answer, tuple) else (answer,)


def _shifted(shapes: torch.Tensor, box: Box | None, kind: str) -> torch.Tensor:
    """Boxes or points on what is seen of a whole volume."""
    if box is None:
        return shapes
    start = torch.tensor([s.start for s in box], dtype=shapes.dtype)
    return torch.cat([shapes[:, :1], shapes[:, 1:] - start.repeat(2)], 1) if kind == "boxes" else shapes - start
