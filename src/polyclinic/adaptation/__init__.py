"""A run → a run for a task: linear probe, LoRA, full fine-tuning, the same network from scratch; and its answers.

Imports `training` and above.
"""

from ..models.lora import LoraLinear, inject, merge
from .adapt import METHODS, Adapted, adapt, open_adapted
from .answers import answer_cohort
from .ask import ask, taught
from .export import FORMATS, Exported, export
from .index import Hit, Index, SearchError, index
from .predict import embed, predict, predict_files, predict_masks

__all__ = [
    "FORMATS", "METHODS", "Adapted", "Exported", "Hit", "Index", "LoraLinear", "SearchError", "adapt", "answer_cohort", "ask", "embed",
    "export", "index", "inject", "merge", "open_adapted", "predict", "predict_files", "predict_masks",
    "taught",
]  # fmt: skip
