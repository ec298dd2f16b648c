"""Learned tokens that sit beside each patient's own, in one packed array."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..tokens import Layout


@dataclass(frozen=True, slots=True)
class Beside:
    """The seats of n tokens of w patients and of k learned tokens each; who has no tokens gets no learned ones.

    Args:
        who: (w,) int64, the patients, ascending.
        count: k.
        order: (n + w·k) int64: which row sits there, of the patients' tokens and below them the learned ones.
        back: (n + w·k) int64: where such a row sits.
        layout: of all.
    """

    who: Tensor
    count: int
    order: Tensor
    back: Tensor
    layout: Layout

    @classmethod
    def of(cls, patient: Tensor, count: int) -> Beside:
        """Beside the tokens of ascending patients (n,), `count` learned ones each."""
        who = torch.unique_consecutive(patient)
        both = torch.cat([patient, who.repeat_interleave(count)])
        order = torch.argsort(both, stable=True)
        return cls(who, count, order, torch.argsort(order), Layout.of(both[order]))

    def join(self, values: Tensor, learned: Tensor) -> Tensor:
        """(n d) and (w k d) → (n + w·k d)."""
        return torch.cat([values, learned.flatten(0, 1).to(values.dtype)]).index_select(0, self.order)

    def part(self, both: Tensor) -> tuple[Tensor, Tensor]:
        """(n + w·k d) → (n d) and (w k d)."""
        w, d = len(self.who), both.shape[1]
        values, learned = both.index_select(0, self.back).split([len(both) - w * self.count, w * self.count])
        return values, learned.view(w, self.count, d)
