"""A run → a run for a task: what learns is a head, an adapter, or the whole network, or nothing does; and its answers.

Imports `training` and above.
"""

from .adapt import METHODS, adapt
from .adapted import Adapted, Shelf, open_adapted
from .answers import answer_cohort
from .ask import ask, taught
from .export import FORMATS, Exported, export
from .forgetting import forgotten
from .index import Hit, Index, SearchError, index
from .plan import AdaptError
from .predict import embed, predict, predict_files, predict_masks

__all__ = [
    "FORMATS", "METHODS", "AdaptError", "Adapted", "Exported", "Hit", "Index", "SearchError", "Shelf", "adapt", "answer_cohort", "ask",
    "embed", "export", "forgotten", "index", "open_adapted", "predict", "predict_files", "predict_masks", "taught",
]  # fmt: skip
