"""Records → a chosen and split population: the catalogue, labels, splits with a leakage guard, sampling.

Imports `records` and `schema`.
"""

from .catalogue import Cohort, CohortError, EmptyCohortError
from .ingest import ingest
from .labels import Label, LabelError, labels_of, subset
from .leakage import LeakageError, guard
from .sampling import Sampler
from .split import Split, SplitError, SplitSpec, split
from .watch import watch

__all__ = [
    "Cohort", "CohortError", "EmptyCohortError", "Label", "LabelError", "LeakageError", "Sampler", "Split", "SplitError",
    "SplitSpec", "guard", "ingest", "labels_of", "split", "subset", "watch",
]  # fmt: skip
