"""Tokens → an answer a clinician knows: one file a task, with its head, loss, metrics and clinical form.

Imports `models` and above.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .baseline import Baseline
from .classes import Classes, ClassesTask
from .classification import Classification, ClassificationTask
from .detection import Detection, DetectionTask
from .findings import Findings, FindingsTask
from .grade import Grade, GradeTask
from .hazards import Hazards, HazardsTask
from .incidence import Incidence
from .keypoints import Keypoints, KeypointsTask
from .report import Claim, Report, ReportTask
from .retrieval import Retrieval, ranks
from .segmentation import Segmentation, SegmentationTask
from .survival import Survival, SurvivalTask
from .task import Answer, AskedFields, LinearTask, PlacedFields, Predictions, Task, TaskError, TaskFields, Thing

TaskSpec = Annotated[
    Classification
    | Classes
    | Findings
    | Grade
    | Hazards
    | Segmentation
    | Detection
    | Keypoints
    | Survival
    | Retrieval
    | Report,
    Field(discriminator="kind"),
]

__all__ = [
    "Answer", "AskedFields", "Baseline", "Claim", "Classes", "ClassesTask", "Classification", "ClassificationTask", "Detection",
    "DetectionTask", "Findings", "FindingsTask", "Grade", "GradeTask", "Hazards", "HazardsTask", "Incidence", "Keypoints",
    "KeypointsTask", "LinearTask", "PlacedFields", "Predictions", "Report", "ReportTask", "Retrieval", "Segmentation",
    "SegmentationTask", "Survival", "SurvivalTask", "Task", "TaskError", "TaskFields", "TaskSpec", "Thing", "ranks",
]  # fmt: skip
