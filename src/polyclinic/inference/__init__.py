"""A run → its answers: of files, of a cohort of any length, to questions in words, by likeness, and in other programs' formats.

Imports `adaptation` and above.
"""

from .answers import answer_cohort
from .ask import ask, taught
from .export import FORMATS, Exported, export
from .forgotten import forgotten
from .index import Hit, Index, SearchError, index
from .interactive import PromptError, Segmenter, segment
from .predict import embed, predict, predict_files, predict_masks
from .synthesise import synthesise

__all__ = [
    "FORMATS", "Exported", "Hit", "Index", "PromptError", "SearchError", "Segmenter", "answer_cohort", "ask", "embed", "export",
    "forgotten", "index", "predict", "predict_files", "predict_masks", "segment", "synthesise", "taught",
]  # fmt: skip
