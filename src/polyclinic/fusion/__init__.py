"""Tokens of many modalities → tokens and one vector a patient: early, intermediate, late. Imports `tokens` and above.

Every fusion reads the same bag. What a patient lacks is not in the bag, so nothing has to be said about it.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .early import Early
from .fusion import Fusion, FusionFields
from .intermediate import Intermediate
from .late import Late
from .pooling import Tower

FusionSpec = Annotated[Early | Intermediate | Late, Field(discriminator="kind")]

__all__ = ["Early", "Fusion", "FusionFields", "FusionSpec", "Intermediate", "Late", "Tower"]
