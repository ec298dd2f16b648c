"""Records → a chosen and split population: the catalogue, labels, splits with a leakage guard, sampling.

Imports `records` and `schema`.
"""

from .catalogue import Cohort, CohortError, EmptyCohortError
from .definitions import Definition, define, definition, definitions
from .ingest import ingest
from .labels import Label, LabelError, labels_of, subset
from .leakage import LeakageError, guard
from .sampling import Sampler
from .split import Split, SplitError, SplitSpec, split
from .watch import watch

__all__ = [
    "Cohort", "CohortError", "Definition", "EmptyCohortError", "Label", "LabelError", "LeakageError", "Sampler", "Split", "SplitError",
    "SplitSpec", "define", "definition", "definitions", "guard", "ingest", "labels_of", "split", "subset", "watch",
]  # fmt: skip
