"""The nearest mean: who is nearest to the mean of a class's patients is of that class (Snell et al. 2017). The head is linear."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..tasks import ClassesTask, LinearTask
from .probe import View, labelled_rows


def fit_prototypes(head: LinearTask, seen: Sequence[View]) -> None:
    """Make a head say whose mean is nearest: among several classes, or of each finding the nearer of with and without it.

    Args:
        head: fresh, of a classification, classes or findings.
        seen: of the same patients, as `probe.views` gives them.
    """
    rows, values = labelled_rows(seen)
    normed = head.norm(rows)
    head.mean, head.sd = normed.mean(0), torch.ones_like(head.sd)
    x = normed - head.mean
    if isinstance(head, ClassesTask):
        weight, bias = nearest(x, values.long(), head.k)
    else:
        values = values.reshape(len(values), -1)
        known = values.isfinite()
        each = [nearest(x[known[:, n]], values[known[:, n], n].long(), 2) for n in range(values.shape[1])]
        weight, bias = (torch.stack([part[1] - part[0] for part in parts]) for parts in zip(*each, strict=True))
    with torch.no_grad():
        head.head.weight.copy_(weight)
        head.head.bias.copy_(bias)


def nearest(x: Tensor, classes: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Of vectors x and classes' means m, steep · m and −steep · |m|² / 2: the class of which their answer to a vector is most is nearest.

    How steep is the likeliest for the patients themselves, each judged with the mean of their own class made of the others, all classes
    counting alike: normal distributions of one spread. Of a class with one patient nothing is asked; a class that none has stays at 0.
    Where no class has two, the means of two classes stand at -2 and 2.

    Args:
        x: (n d).
        classes: (n,) from 0.
        k: how many there are.
    Returns:
        (k d), (k,)
    """
    count = torch.bincount(classes, minlength=k)
    means = torch.zeros(k, x.shape[1]).to(x).index_add_(0, classes, x) / count.clamp(min=1)[:, None]
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
    return steep * means, -steep * means.square().sum(1) / 2
