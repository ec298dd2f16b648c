"""Who shows files and answers nothing: views as a desk makes them, for tests of what a person sees of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from polyclinic import records
from polyclinic.clinic.given import understood
from polyclinic.clinic.reply import ModelCard, Reply, Structure
from polyclinic.clinic.views import Pictures, colour, stack_of, view_of


class Showing:
    """Shows the pictures among the files.

    Args:
        masks: of a file's name, labels on its record's own grid.
    """

    def __init__(self, masks: Mapping[str, np.ndarray] | None = None) -> None:
        self.masks = masks or {}
        self.card = ModelCard(
            run="showing", task="showing", kind="segmentation", method="none", labels=0, inputs=["image", "volume"],
            backbone="0" * 32, adapter="0" * 32, split="0" * 32,
        )  # fmt: skip

    @property
    def described(self) -> str:
        return "# Nothing is answered\n"

    def answer(
        self, files: Sequence[str | Path], names: Sequence[str] | None = None, pictures: Pictures = "png"
    ) -> Reply:
        paths = [Path(f).resolve() for f in files]
        given, _ = understood(dict(zip(paths, names or [p.name for p in paths], strict=True)))
        views, labels = [], 0
        for item in given:
            mask = self.masks.get(item.name)
            labels = max(labels, 0 if mask is None else int(mask.max()))
            stack = stack_of(item.record, records.load(item.record, item.path.parent), mask)
            views.append(view_of(stack, item.record, item.name, pictures=pictures))
        return Reply(
            task="showing", headline="What the files show", values={}, used=[], read=[], not_used=[], whose="",
            structures=[Structure(number=n, name=f"structure {n}", colour=colour(n), size=1, unit="mL") for n in range(1, labels + 1)],
            sentences=[], notes=[], overlay=None, uncertainty="Nothing is answered.", evidence=None, views=views, model=self.card,
        )  # fmt: skip
