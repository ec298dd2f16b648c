"""A run's curves: Parquet always, TensorBoard on request."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..cohort import CohortError
from ..cohort.catalogue import write_whole
from .checkpoint import RunError

BESIDE = ("gradient/", "pace/")
"""How the names of a step's values begin that are no losses: see `step.Made`."""


def is_loss(name: str) -> bool:
    """Whether a curve is of a loss; the others are of how the modalities learn."""
    return not name.startswith(BESIDE)


def write_metrics(folder: Path, rows: list[dict[str, Any]]) -> None:
    """The training curves as Parquet.

    Raises:
        RunError: the disk is full.
    """
    import pyarrow as pa

    schema = pa.schema([("stage", pa.string()), ("step", pa.int64()), ("name", pa.string()), ("value", pa.float64())])
    try:
        write_whole(folder / "metrics.parquet", pa.Table.from_pylist(rows, schema=schema))
    except CohortError as error:
        raise RunError(
            f"no room on the disk for {folder / 'metrics.parquet'}",
            "space for the curves; the last checkpoint is intact",
            "free some space and run the same command again: it resumes",
        ) from error


class Board:
    """Event files for TensorBoard, in the run's `tensorboard/`.

    Args:
        folder: of the run.
        first: the step that comes next; what an earlier session wrote from there on is struck out.
    Raises:
        RunError: the package is not installed.
    """

    def __init__(self, folder: Path, first: int) -> None:
        if find_spec("tensorboard") is None:
            raise RunError(
                "curves for TensorBoard, which is not installed",
                "the package `tensorboard`",
                "pip install 'polyclinic[tensorboard]', or leave --tensorboard out: metrics.parquet has the same curves",
            )
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=first)

    def add(self, step: int, values: dict[str, float]) -> None:
        """The values of one step."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what waits."""
        self.writer.close()
