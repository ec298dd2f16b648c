"""Adapters: a few weights that learn beside a frozen model. A new one is one file with its specification and its addition, and one
line in the union below."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .addition import (
    AdapterError,
    AdapterFields,
    Addition,
    additions,
    fold,
    go_on,
    learned,
    put,
    replace,
    restore,
    settle,
    sharing,
)
from .bitfit import Bitfit
from .bottleneck import Bottleneck
from .low_rank import Dora, Lora, merged
from .prefix import Prefix
from .prompt import Prompt

AdapterSpec = Annotated[Lora | Dora | Bottleneck | Prompt | Prefix | Bitfit, Field(discriminator="kind")]

__all__ = [
    "AdapterError", "AdapterFields", "AdapterSpec", "Addition", "Bitfit", "Bottleneck", "Dora", "Lora", "Prefix", "Prompt", "additions",
    "fold", "go_on", "learned", "merged", "put", "replace", "restore", "settle", "sharing",
]  # fmt: skip
