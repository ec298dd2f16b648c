"""A run → evidence: discrimination, calibration, subsets, the comparison with scratch and baselines, the card, the report.

Imports `inference` and above. Every figure carries n, a 95% interval by bootstrap over patients and the split's hash.
"""

from .card import card
from .comparisons.cells import Cell, cells_of
from .comparisons.compare import compare
from .comparisons.comparison import Comparison, Row, Verdict, verdict
from .comparisons.continual import continual
from .comparisons.continual_figures import Continual
from .comparisons.factorial import Factorial, factorial, judged
from .comparisons.label_curve import LabelCurve, label_curve
from .evaluate import evaluate
from .evidence import Evidence
from .measures.calibration import Calibration, calibration
from .measures.figures import difference, figure, figures
from .measures.intervals import EvidenceError, bootstrap
from .measures.prognosis import Reliability, prognosis
from .measures.retrieval import RetrievalExample, retrieval_examples, retrieval_figures
from .measures.synthesis import Pair, pairs, synthesised
from .modalities.acquisition import Acquired, Gain, Suggestion, acquisition, next_modality
from .modalities.contributions import Contribution, Contributions, Together
from .modalities.subsets import Subset, Subsets, subsets
from .pages.embeddings import EmbeddingMap, embedding_map
from .pages.inputs import Curve, ReportInputs, curves_of
from .pages.overlays import Overlay, overlays
from .pages.report import gather, write_report

__all__ = [
    "Acquired", "Calibration", "Cell", "Comparison", "Continual", "Contribution", "Contributions", "Curve", "EmbeddingMap",
    "Evidence", "EvidenceError", "Factorial", "Gain", "LabelCurve", "Overlay", "Pair", "Reliability", "ReportInputs",
    "RetrievalExample", "Row", "Subset", "Subsets", "Suggestion", "Together", "Verdict", "acquisition", "bootstrap", "calibration",
    "card", "cells_of", "compare", "continual", "curves_of", "difference", "embedding_map", "evaluate", "factorial", "figure",
    "figures", "gather", "judged", "label_curve", "next_modality", "overlays", "pairs", "prognosis", "retrieval_examples",
    "retrieval_figures", "subsets", "synthesised", "verdict", "write_report",
]  # fmt: skip
