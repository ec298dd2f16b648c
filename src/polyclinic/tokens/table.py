"""Tables and EHR events: a token an event, of its code, its value and its hour."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..harmonise import Fingerprint, TableStandard
from ..schema import Modality, Ragged, Tokens
from .encoder import Encoder, EncoderFields, rows_of


class Events(EncoderFields):
    """A transformer on events.

    Args:
        exclude: columns that never enter, besides those that a task names: consequences of a label, names of files.
        fewest: patients that must have a code for it to be learned.
        most: events a record.
        ancestors: a diagnosis or a drug that is too rare counts under what it stands under.
    """

    kind: Literal["events"] = "events"
    exclude: tuple[str, ...] = ()
    fewest: int = Field(default=3, ge=1)
    most: int = Field(default=512, ge=1)
    ancestors: bool = False

    def standard(self, exclude: tuple[str, ...] = ()) -> TableStandard:
        """What it wants from the harmoniser; `exclude` are the columns that the recipe's tasks name."""
        left_out = tuple(sorted({*self.exclude, *exclude}))
        return TableStandard(exclude=left_out, fewest=self.fewest, most=self.most, ancestors=self.ancestors)

    def build(self, fingerprint: Fingerprint) -> EventEncoder:
        """The module, freshly initialised, with the fingerprint's codes."""
        return EventEncoder(self, max(1, len(fingerprint.codes)))


class EventEncoder(Encoder):
    """m tables of (e 3) code number, value, hours → a token an event: what it is, plus how much, plus when."""

    answer_kind = "categorical"

    def __init__(self, spec: Events, codes: int) -> None:
        super().__init__(Modality.TABLE, spec)
        self.answer_size = codes
        self.code = nn.Embedding(codes, spec.width)
        self.amount = nn.Embedding(codes, spec.width)
        nn.init.normal_(self.code.weight, std=0.1)
        nn.init.normal_(self.amount.weight, std=0.1)

    def embed(self, ragged: Ragged) -> Tokens:
        """One token an event."""
        record, events = rows_of(ragged.values), torch.cat(list(ragged.values))
        number = events[:, 0].long()
        values = self.code(number) + events[:, 1:2] * self.amount(number)
        hours = ragged.time_h[record] + events[:, 2]
        return self.tokens(ragged, values, record, torch.zeros(len(record), 4, device=record.device), hours)

    def answer(self, ragged: Ragged) -> Tensor:
        """(n,) code numbers."""
        return torch.cat(list(ragged.values))[:, 0].long()
