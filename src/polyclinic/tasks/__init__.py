"""Tokens → an answer a clinician knows: one file a task, with its head, loss, metrics and clinical form.

Imports `models` and above.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .baseline import Baseline
from .classification import Classification, ClassificationTask
from .findings import Findings, FindingsTask
from .grade import Grade, GradeTask
from .hazards import Hazards, HazardsTask
from .incidence import Incidence
from .report import Claim, Report, ReportTask
from .retrieval import Retrieval, ranks
from .segmentation import Segmentation, SegmentationTask
from .survival import Survival, SurvivalTask
from .task import Answer, AskedFields, LinearTask, Predictions, Task, TaskError, TaskFields

TaskSpec = Annotated[
    Classification | Findings | Grade | Hazards | Segmentation | Survival | Retrieval | Report,
    Field(discriminator="kind"),
]

__all__ = [
    "Answer", "AskedFields", "Baseline", "Claim", "Classification", "ClassificationTask", "Findings", "FindingsTask", "Grade", "GradeTask",
    "Hazards", "HazardsTask", "Incidence", "LinearTask", "Predictions", "Report", "ReportTask", "Retrieval", "Segmentation",
    "SegmentationTask", "Survival", "SurvivalTask", "Task", "TaskError", "TaskFields", "TaskSpec", "ranks",
]  # fmt: skip
