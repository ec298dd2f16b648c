"""What is compared: a cell is a task, what may be read of a patient, and how many labels are learned from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...schema import Modality
from ...tasks import PlacedFields, Survival
from ...training import Run

FEW_LABELS: dict[str, tuple[int | None, ...]] = {
    "classification": (None, 8), "classes": (None, 24), "findings": (None, 24), "grade": (None, 24), "segmentation": (12, 4),
    "detection": (None, 12), "keypoints": (None, 12), "survival": (None, 24), "hazards": (None, 24),
}  # fmt: skip
"""How many labels a task of each kind is compared at; None for all."""


@dataclass(frozen=True, slots=True)
class Cell:
    """What the arms are compared on: a task, what may be read, how many labels (None: all), whether words are struck."""

    task: str
    inputs: tuple[Modality, ...]
    labels: int | None
    struck: bool = False

    @property
    def words(self) -> str:
        """For a person."""
        count = "all labels" if self.labels is None else f"{self.labels} labels"
        return f"{'+'.join(self.inputs)}, {count}" + (", disease words struck" if self.struck else "")

    @property
    def folder(self) -> str:
        """Where its runs lie."""
        struck = ["struck"] if self.struck else []
        return "-".join((self.task, "+".join(self.inputs), str(self.labels), *struck))


def cells_of(
    run: Run, tasks: Sequence[str] | None = None, counts: Mapping[str, Sequence[int | None]] | None = None
) -> list[Cell]:
    """The cells of a recipe: for each task the most labels first, X-ray alone beside everything, notes without disease words.

    In case the time is short, what takes long comes late among its like.

    Args:
        run: pretrained.
        tasks: which; by default all that can be compared.
        counts: task → numbers of labels, None for all; by default few and all, by kind.
    """
    ranked: list[tuple[int, Cell]] = []
    for name, spec in run.recipe.tasks.items():
        if spec.kind not in FEW_LABELS or (tasks is not None and name not in tasks):
            continue
        reads = tuple(m for m in Modality if m in (spec.inputs or tuple(run.recipe.encoders)))
        for place, count in enumerate((counts or {}).get(name, FEW_LABELS[spec.kind])):
            rank = place * (1 if isinstance(spec, Survival) else 10)
            ranked.append((rank + (2 if isinstance(spec, PlacedFields) else 0), Cell(name, reads, count)))
            if spec.kind == "classification" and len(reads) > 1 and Modality.IMAGE in reads:
                ranked.append((rank + 1, Cell(name, (Modality.IMAGE,), count)))
                if Modality.TEXT in reads and place == 0:
                    ranked.append((rank + 3, Cell(name, reads, count, struck=True)))
            elif spec.kind == "survival" and {Modality.TABLE, Modality.OMICS} <= set(reads) and place == 0:
                ranked.append((rank + 1, Cell(name, (Modality.TABLE,), count)))
    return [cell for _, cell in sorted(ranked, key=lambda pair: pair[0])]
