"""A run → a run for a task: what learns is a head, an adapter, or the whole network, or nothing does.

Imports `training` and above.
"""

from .adapt import METHODS, adapt
from .adapted import Adapted, Shelf, open_adapted
from .plan import AdaptError

__all__ = ["METHODS", "AdaptError", "Adapted", "Shelf", "adapt", "open_adapted"]
