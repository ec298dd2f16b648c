"""Answers without training: the nearest mean, the nearest patients, the nearest sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models import Model
from ..schema import Batch, Modality, Ragged
from ..tasks import ClassesTask, Classification, ClassificationTask
from ..tokens.text import as_note
from ..training import Run
from ..training.methods import Knn, ZeroShot
from .plan import AdaptError
from .probe import View

NEIGHBOURS = (1, 3, 5, 9, 15, 25)
"""Among which k is chosen."""
FEWEST = 2
"""So many of each class are needed to say how sure a distance makes one: what is left of a class is its mean."""
LEAST = 1e-3
"""Of the steepness where the patients left out are not told at all: they are still ranked."""
YES = ("{}.", "There is {}.", "Findings consistent with {}.", "The image shows {}.")
NO = ("No {}.", "There is no {}.", "No evidence of {}.", "The image shows no {}.")
"""Sentences of a finding's words, where the recipe and the method have none."""


def fit_prototypes(head: ClassificationTask, seen: Sequence[View]) -> None:
    """Make a head say which class's mean is nearer: a linear one, whose weight is the difference of the means.

    How steep its logit is along that line is told by the patients themselves, each judged by the means of all others: two normal
    distributions of equal spread. With one patient of a class the means stand at -2 and 2.

    Args:
        head: fresh.
        seen: of the same patients, as `probe.views` gives them.
    """
    rows, classes = _rows(seen)
    normed = head.norm(rows)
    head.mean, head.sd = normed.mean(0), torch.ones_like(head.sd)
    x, yes = normed - head.mean, classes > 0
    means = torch.stack([x[~yes].mean(0), x[yes].mean(0)])
    across = means[1] - means[0]
    steep = 4 / across.square().sum().clamp(min=1e-12)
    counts = torch.stack([(~yes).sum(), yes.sum()])
    if int(counts.min()) > FEWEST:
        told = _left_out(x, yes.long(), means, counts)
        spread = torch.cat([told[~yes] - told[~yes].mean(), told[yes] - told[yes].mean()]).var()
        steep = ((told[yes].mean() - told[~yes].mean()) / spread.clamp(min=1e-12)).clamp(min=LEAST * steep)
    with torch.no_grad():
        head.head.weight.copy_(steep * across)
        head.head.bias.fill_(-float(steep * across @ means.mean(0)))


def fit_class_prototypes(head: ClassesTask, seen: Sequence[View]) -> None:
    """Make a head say which of several classes' means is nearest: of vectors x and means m its outputs are steep · (x · m − |m|² / 2).

    How steep is the likeliest for the patients themselves, each judged with the mean of their own class made of the others, all classes
    counting alike: normal distributions of one spread. Of a class with one patient nothing is asked; a class that none has stays at 0.

    Args:
        head: fresh.
        seen: of the same patients, as `probe.views` gives them.
    """
    rows, classes = _rows(seen)
    normed, classes = head.norm(rows), classes.long()
    head.mean, head.sd = normed.mean(0), torch.ones_like(head.sd)
    x, count = normed - head.mean, torch.bincount(classes, minlength=head.k)
    means = torch.zeros(head.k, x.shape[1]).to(x).index_add_(0, classes, x) / count.clamp(min=1)[:, None]
    there = torch.nonzero(count).flatten()
    apart = torch.pdist(means[there]).square().mean().clamp(min=1e-12)
    steep = 4 / apart
    mine = count[classes] > 1
    if bool(mine.any()):
        own, n = means[classes], count[classes][:, None]
        own = torch.where(mine[:, None], (own * n - x) / (n - 1).clamp(min=1), own)
        score = x @ means.T - means.square().sum(1) / 2
        score[torch.arange(len(x)), classes] = (x * own).sum(1) - own.square().sum(1) / 2
        weight = (mine / count[classes])[:, None]
        tried = steep * torch.logspace(-3, 2, 201).to(x)
        place = torch.searchsorted(there, classes)
        told = torch.stack([torch.log_softmax(s * score[:, there], 1).gather(1, place[:, None]) for s in tried])
        steep = tried[(weight * told).sum((1, 2)).argmax()]
    with torch.no_grad():
        head.head.weight.copy_(steep * means)
        head.head.bias.copy_(-steep * means.square().sum(1) / 2)


def _left_out(x: Tensor, classes: Tensor, means: Tensor, counts: Tensor) -> Tensor:
    """(n,) where each stands on the line between the means of all others: x · across - its middle."""
    own, n = means[classes], counts[classes][:, None]
    own = (own * n - x) / (n - 1)
    other = means[1 - classes]
    across = torch.where(classes[:, None] > 0, own - other, other - own)
    return (across * (x - (own + other) / 2)).sum(1)


def _rows(seen: Sequence[View]) -> tuple[Tensor, Tensor]:
    """(n d) and (n,) of the labelled, of all views."""
    vectors = torch.cat([pooled[target.mask] for pooled, target in seen])
    classes = torch.cat([target.values[target.mask] for _, target in seen if isinstance(target.values, Tensor)])
    return vectors, classes


class Neighbours(ClassificationTask):
    """The classes of the nearest training patients, weighed by exp(cosine / temperature); the output is logits (b,).

    Their votes count as k patients, and how common the finding is as one more: nobody is ever sure.

    Args:
        name, spec, width: of the task.
        temperature: of the weights.
    """

    sized: ClassVar[tuple[str, ...]] = ("vectors", "classes")
    vectors: Tensor
    classes: Tensor
    k: Tensor

    def __init__(self, name: str, spec: Any, width: int, temperature: float) -> None:
        super().__init__(name, spec, width)
        self.temperature = temperature
        self.register_buffer("vectors", torch.zeros(0, width))
        self.register_buffer("classes", torch.zeros(0))
        self.register_buffer("k", torch.ones((), dtype=torch.int64))

    def unit(self, pooled: Tensor) -> Tensor:
        """(b d) of length one about the training patients' mean."""
        return F.normalize(self.norm(pooled.float()) - self.mean, dim=1)

    def read(self, pooled: Tensor) -> Tensor:
        """(b d) → (b,)."""
        return self._vote(self.unit(pooled) @ self.vectors.T, int(self.k))

    def _vote(self, alike: Tensor, k: int) -> Tensor:
        """Cosines (b n) → logits (b,)."""
        near, who = alike.topk(min(k, alike.shape[1]), dim=1)
        said = k * (torch.softmax(near / self.temperature, 1) * self.classes[who]).sum(1)
        common = self.classes.mean()
        return torch.log((said + common) / (k - said + 1 - common))

    def fit(self, spec: Knn, seen: Sequence[View]) -> int:
        """Remember the patients; k is chosen by what the others say of each.

        Returns:
            k.
        """
        rows, self.classes = _rows(seen)
        self.mean = self.norm(rows).mean(0)
        self.vectors = self.unit(rows)
        who = torch.cat([torch.nonzero(target.mask).flatten() for _, target in seen])
        alike = self.vectors @ self.vectors.T
        alike[who[:, None] == who] = -2.0  # the same patient, however little of them is shown

        def lost(k: int) -> float:
            return float(F.binary_cross_entropy_with_logits(self._vote(alike, k), self.classes))

        others = len(torch.unique(who)) - 1
        k = spec.k or min((k for k in NEIGHBOURS if k <= max(1, others)), key=lost)
        self.k = torch.tensor(k)
        return k


class Sentences(ClassificationTask):
    """How much nearer a patient's vectors are to the sentences that say yes than to those that say no; the output is logits (b,).

    Args:
        name, spec, width: of the task.
        embedding: e of the space that records and sentences share.
        temperature: a difference of cosines over it is the logit.
    """

    across: Tensor

    def __init__(self, name: str, spec: Any, width: int, embedding: int, temperature: float) -> None:
        super().__init__(name, spec, width)
        self.temperature = temperature
        self.register_buffer("across", torch.zeros(embedding))

    def said(self, model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits (b,), the mean over a patient's modalities; and (b,) bool, who has any."""
        total = torch.zeros(len(batch.patients), device=self.across.device)
        count = torch.zeros_like(total)
        for tower in model.towers(model.encode(batch)).values():
            total = total.index_add(0, tower.patient, tower.vectors @ self.across)
            count = count.index_add(0, tower.patient, torch.ones_like(tower.patient, dtype=total.dtype))
        return total / count.clamp(min=1) / self.temperature, count > 0

    def output(self, model: Model, batch: Batch) -> Tensor:
        """(b,)"""
        return self.said(model, batch)[0]


def sentences(spec: ZeroShot, task: Classification) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What says yes and what says no."""
    finding = task.finding()
    return spec.yes or tuple(t.format(finding) for t in YES), spec.no or tuple(t.format(finding) for t in NO)


@torch.no_grad()
def between(run: Run, model: Model, yes: Sequence[str], no: Sequence[str]) -> Tensor:
    """(e) from the mean of the sentences that say no to the mean of those that say yes, each of length one before.

    The product with a vector is the mean of its cosines with those that say yes less the mean of those with the others.

    Raises:
        AdaptError: the model reads no text.
    """
    standard = run.recipe.standards().get(Modality.TEXT)
    if standard is None:
        raise AdaptError(
            "zero_shot on a model that reads no text",
            "an encoder of text in the recipe",
            "adapt by prototype, knn or probe, from labels",
        )
    words = [as_note(said, standard, run.fingerprint) for said in (*yes, *no)]
    count = len(words)
    ragged = Ragged(words, torch.arange(count), torch.zeros(count), None, count, [str(n) for n in range(count)])
    tokens = model.bridged(Modality.TEXT, model.encoder(Modality.TEXT)(ragged))
    vectors = model.towers({Modality.TEXT: tokens})[Modality.TEXT].vectors.float()
    return vectors[: len(yes)].mean(0) - vectors[len(yes) :].mean(0)
