"""Tokens of many modalities → tokens and one vector a patient: early, intermediate, late. Imports `tokens` and above.

Every fusion reads the same bag. What a patient lacks is not in the bag, so nothing has to be said about it.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .early import Early, EarlyFusion
from .fusion import Fusion, FusionFields
from .intermediate import Intermediate, IntermediateFusion
from .late import Late, LateFusion
from .pooling import Tower

FusionSpec = Annotated[Early | Intermediate | Late, Field(discriminator="kind")]

__all__ = [
    "Early", "EarlyFusion", "Fusion", "FusionFields", "FusionSpec", "Intermediate", "IntermediateFusion", "Late", "LateFusion", "Tower",
]  # fmt: skip
