"""The nearest training patients: what is known of them votes, in the place where other heads are linear."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..tasks import ClassesTask, FindingsTask, GradeTask, LinearTask
from ..tasks.classes import RAREST
from ..training.methods import Knn
from .probe import View, labelled_rows

NEIGHBOURS = (1, 3, 5, 9, 15, 25)
"""Among which k is chosen."""


class Votes(nn.Module):
    """Vectors (b d) about the training patients' mean → outputs (b o), by the nearest training patients (Wu et al. 2018).

    Each weighs exp(cosine / temperature). Together they count as k patients, and how common each answer is as one more: nobody is ever
    sure. Who is not known to have an answer or not has no vote on it, and the next nearest has.

    Args:
        width: d.
        temperature: of the weights.
        apart: whether an answer may be unknown of whom another is known: each is then voted on by neighbours of its own.
        one_of: whether the answers are classes of which everyone has one; else each is a yes or no.
    """

    sized: ClassVar[tuple[str, ...]] = ("vectors", "answers", "common")
    vectors: Tensor
    answers: Tensor
    common: Tensor
    k: Tensor

    def __init__(self, width: int, temperature: float, apart: bool, one_of: bool) -> None:
        super().__init__()
        self.temperature, self.apart, self.one_of = temperature, apart, one_of
        self.register_buffer("vectors", torch.zeros(0, width))
        self.register_buffer("answers", torch.zeros(0, 1))
        self.register_buffer("common", torch.zeros(1))
        self.register_buffer("k", torch.ones((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """(b d) → (b o): logits; of classes how much likelier each is than among all, as logarithms."""
        shares = self.shares(F.normalize(x, dim=1) @ self.vectors.T, int(self.k))
        if not self.one_of:
            return shares.logit()
        return shares.clamp(min=RAREST).log() - self.common.clamp(min=RAREST).log()

    def shares(self, alike: Tensor, k: int) -> Tensor:
        """Of cosines (b n), −∞ of whom may not vote, the share of the votes for each answer (b o)."""
        if not self.apart:
            return self._counted(alike, slice(None), k)
        return torch.cat([self._counted(alike, slice(n, n + 1), k) for n in range(self.answers.shape[1])], 1)

    def _counted(self, alike: Tensor, part: slice, k: int) -> Tensor:
        """The shares of answers that are known of the same patients."""
        answers, common = self.answers[:, part], self.common[part]
        alike = alike.masked_fill(answers[:, 0].isnan(), -torch.inf)
        near, who = alike.topk(min(k, alike.shape[1]), dim=1)
        weight, count = torch.softmax(near / self.temperature, 1), near.isfinite().sum(1, keepdim=True)
        votes = (weight[..., None] * answers.nan_to_num()[who]).sum(1)
        return (count * votes + common) / (count + 1)

    def lost(self, alike: Tensor, k: int) -> float:
        """The mean log loss of what the votes say of those who vote; of several answers the mean over them."""
        shares, known = self.shares(alike, k), self.answers.isfinite()
        if self.one_of:
            return -float(shares[self.answers > 0].log().mean())
        each = F.binary_cross_entropy(shares, self.answers.nan_to_num(), reduction="none")
        return float(((each * known).sum(0) / known.sum(0)).mean())


def voting(head: LinearTask, width: int, temperature: float) -> LinearTask:
    """The same head, in which neighbours vote once `fit_votes` told them apart."""
    one_of = isinstance(head, ClassesTask)
    head.register_module("head", Votes(width, temperature, isinstance(head, FindingsTask), one_of))
    return head


def fit_votes(head: LinearTask, spec: Knn, seen: Sequence[View]) -> int:
    """Remember the patients; k is chosen by what the others say of each.

    Args:
        head: of `voting`.
        spec: the method.
        seen: of the same patients, as `probe.views` gives them.
    Returns:
        k.
    """
    votes = head.head
    assert isinstance(votes, Votes)
    rows, values = labelled_rows(seen)
    normed = head.norm(rows)
    head.mean = normed.mean(0)
    votes.vectors = F.normalize(normed - head.mean, dim=1)
    votes.answers = _answers(head, values)
    votes.common = votes.answers.nanmean(0)
    who = torch.cat([torch.nonzero(target.mask).flatten() for _, target in seen])
    alike = votes.vectors @ votes.vectors.T
    alike[who[:, None] == who] = -torch.inf  # the same patient, however little of them is shown
    others = len(torch.unique(who)) - 1
    k = spec.k or min((k for k in NEIGHBOURS if k <= max(1, others)), key=lambda k: votes.lost(alike, k))
    votes.k = torch.tensor(k)
    return k


def _answers(head: LinearTask, values: Tensor) -> Tensor:
    """(n o) float: of classes which one it is, of grades whether it is this one or a higher one, else yes or no; NaN where unknown."""
    if isinstance(head, ClassesTask):
        return F.one_hot(values.long(), head.k).float()
    if isinstance(head, GradeTask):
        return (values[:, None] >= torch.arange(1, head.k)).float()
    return values.reshape(len(values), -1)
