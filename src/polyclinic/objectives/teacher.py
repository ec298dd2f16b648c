"""What self-distillation needs: a head that answers with prototypes, a momentum teacher, and how far answers are from its."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .objective import Backbone


class PrototypeHead(nn.Module):
    """Three layers, a unit vector, and its cosine to each of k prototypes (Caron et al. 2021, appendix C)."""

    def __init__(self, width: int, hidden: int, prototypes: int) -> None:
        super().__init__()
        sizes = (width, hidden, hidden, hidden // 4)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.prototypes = nn.Parameter(torch.randn(prototypes, hidden // 4))
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, still: bool = False) -> Tensor:
        """(n d) → (n k) float32, within -1 to 1; `still` prototypes are taught nothing."""
        first, second, last = self.layers
        x = last(F.gelu(second(F.gelu(first(x)))))
        with torch.autocast(
            x.device.type, enabled=False
        ):  # the teacher's temperature would multiply bfloat16's error by 25
            return (
                F.normalize(x.float(), dim=1)
                @ F.normalize(self.prototypes.detach() if still else self.prototypes, dim=1).T
            )


class Teacher(nn.Module):
    """The student's running mean; it takes no gradient."""

    def __init__(self, model: Backbone, heads: nn.ModuleDict) -> None:
        super().__init__()
        self.model: Any = copy.deepcopy(model)
        self.heads = copy.deepcopy(heads)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """It stays as it is used."""
        return super().train(False)

    @torch.no_grad()
    def follow(self, model: Any, heads: nn.ModuleDict, momentum: float) -> None:
        """Go a step of 1 - momentum towards the student."""
        mine = [*self.model.parameters(), *self.heads.parameters()]
        theirs = [p.detach() for p in (*model.parameters(), *heads.parameters())]
        for own, other in zip(mine, theirs, strict=True):
            own.lerp_(other, 1 - momentum)


def view_loss(answers: Tensor, wanted: Tensor, record: Tensor) -> tuple[Tensor, Tensor]:
    """The cross-entropy of every pair of a teacher's view and another view of the same record (Caron et al. 2021, equation 3).

    Args:
        answers: (v k) the student's log-probabilities.
        wanted: (g k) the teacher's probabilities, of the first g views.
        record: (v,) whose view each is.
    Returns:
        () their sum, () how many they are.
    """
    crossed = -(wanted @ answers.T)
    pairs = (record[: len(wanted), None] == record) & ~torch.eye(*crossed.shape, dtype=torch.bool, device=record.device)
    return torch.where(pairs, crossed, 0.0).sum(), pairs.sum()


def token_loss(answers: Tensor, wanted: Tensor, view: Tensor) -> tuple[Tensor, Tensor]:
    """Of each view the mean over masked tokens of the cross-entropy (Zhou et al. 2022, section 3.1).

    Args:
        answers: (n k) the student's log-probabilities of the masked tokens.
        wanted: (n k) the teacher's probabilities of the same.
        view: (n,) whose each is, ascending.
    Returns:
        () their sum, () how many they are.
    """
    _, row, count = torch.unique_consecutive(view, return_inverse=True, return_counts=True)
    return (-(wanted * answers).sum(1) / count[row]).sum(), torch.ones_like(count).sum()
