"""Tokens → an answer a clinician knows: one file a task, with its head, loss, metrics and clinical form.

Imports `models` and above.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .classification import Classification, ClassificationTask
from .retrieval import Retrieval, retrieval_metrics
from .segmentation import Segmentation, SegmentationTask
from .survival import Survival, SurvivalTask, cox_loss
from .task import Answer, Predictions, Task, TaskError

TaskSpec = Annotated[Classification | Segmentation | Survival | Retrieval, Field(discriminator="kind")]

__all__ = [
    "Answer", "Classification", "ClassificationTask", "Predictions", "Retrieval", "Segmentation", "SegmentationTask", "Survival",
    "SurvivalTask", "Task", "TaskError", "TaskSpec", "cox_loss", "retrieval_metrics",
]  # fmt: skip
