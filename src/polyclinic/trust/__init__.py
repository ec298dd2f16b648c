"""A run → evidence: discrimination, calibration, subsets, the comparison with scratch and baselines, the card, the report.

Imports `inference` and above. Every figure carries n, a 95% interval by bootstrap over patients and the split's hash.
"""

from .acquisition import Acquired, Gain, Suggestion, acquisition, next_modality
from .calibration import Calibration, calibration
from .card import card
from .comparison import Cell, Comparison, Row, Verdict, cells_of, compare, verdict
from .continual import continual
from .continual_figures import Continual
from .contributions import Contribution, Contributions, Together
from .discrimination import EvidenceError, bootstrap, difference, figure, figures
from .embeddings import EmbeddingMap, embedding_map
from .evaluate import evaluate
from .evidence import Evidence
from .factorial import Factorial, factorial, judged
from .inputs import Curve, ReportInputs, curves_of
from .label_curve import LabelCurve, label_curve
from .overlays import Overlay, overlays
from .prognosis import Reliability, prognosis
from .report import gather, write_report
from .retrieval import RetrievalExample, retrieval_examples, retrieval_figures
from .subsets import Subset, Subsets, subsets
from .synthesis import Pair, pairs, synthesised

__all__ = [
    "Acquired", "Calibration", "Cell", "Comparison", "Continual", "Contribution", "Contributions", "Curve", "EmbeddingMap",
    "Evidence", "EvidenceError", "Factorial", "Gain", "LabelCurve", "Overlay", "Pair", "Reliability", "ReportInputs",
    "RetrievalExample", "Row", "Subset", "Subsets", "Suggestion", "Together", "Verdict", "acquisition", "bootstrap", "calibration",
    "card", "cells_of", "compare", "continual", "curves_of", "difference", "embedding_map", "evaluate", "factorial", "figure",
    "figures", "gather", "judged", "label_curve", "next_modality", "overlays", "pairs", "prognosis", "retrieval_examples",
    "retrieval_figures", "subsets", "synthesised", "verdict", "write_report",
]  # fmt: skip
