"""Encoders, fusion and heads, assembled: two-tower and unified; import and export of weights. Imports `fusion` and above."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ..fusion import Tower
from .model import Model, ModelFields, build_model
from .two_tower import TwoTower
from .unified import Unified
from .weights import WeightsError, load_weights, save_weights, under

ModelSpec = Annotated[TwoTower | Unified, Field(discriminator="kind")]

__all__ = [
    "Model",
    "ModelFields",
    "ModelSpec",
    "Tower",
    "TwoTower",
    "Unified",
    "WeightsError",
    "build_model",
    "load_weights",
    "save_weights",
    "under",
]
