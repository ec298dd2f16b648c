"""The simulated hospital, whose truth is known: a causal graph draws people, and physics every record of them.

`simulate` writes a hospital and its truth; `person` and `people` draw from the graph `PEOPLE` alone, also under an intervention. Nothing
learned from it is clinical evidence. It imports `schema` only.
"""

from __future__ import annotations

from .hospital import Phantom, PhantomError, simulate
from .patient import MODALITIES
from .people import PEOPLE, people, person

__all__ = ["MODALITIES", "PEOPLE", "Phantom", "PhantomError", "people", "person", "simulate"]
