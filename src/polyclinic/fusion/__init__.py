"""Tokens of many modalities → tokens and one vector a patient: early, intermediate, late. Imports `tokens` and above.

Every fusion reads the same bag. What a patient lacks is not in the bag, so nothing has to be said about it.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .early import Early, EarlyFusion
from .intermediate import Intermediate, IntermediateFusion
from .late import Late, LateFusion

FusionSpec = Annotated[Early | Intermediate | Late, Field(discriminator="kind")]

__all__ = ["Early", "EarlyFusion", "FusionSpec", "Intermediate", "IntermediateFusion", "Late", "LateFusion"]
