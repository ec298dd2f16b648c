"""The linear probe: a head on the frozen backbone's vectors, fitted to its optimum.

Its ridge is chosen within the training labels where there are enough of them, by the same rule and from as many candidates as
the baselines' (`trust.baselines`): a fixed one would make a straw man of either side.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..harmonise.loader import Loader
from ..models import Model
from ..schema import Modality, Target
from ..tasks import ClassificationTask, SurvivalTask, Task
from ..tasks.task import LinearTask

RIDGES = (0.002, 0.02, 0.2, 2.0)
"""On the squared length of the weights, beside a mean loss."""
FEW_RIDGE = 0.2
"""Where there are too few labels to choose: the second strongest."""
FOLDS, FEWEST = 3, 6
"""Cross-validation needs so many patients of the rarer class (or events)."""


@torch.no_grad()
def features(
    model: Model, head: Task, loader: Loader, patients: Sequence[str], reads: Sequence[Modality]
) -> tuple[Tensor, Target]:
    """Every patient's vector (p d) and target, from a frozen model; who has nothing that it knows is not labelled."""
    pooled, values, known = [], [], []
    model.eval()
    for batch in loader.each(64, patients, reads):
        fused = model(batch)
        target = batch.targets[head.name]
        assert isinstance(target.values, Tensor)
        pooled.append(fused.pooled.float())
        values.append(target.values)
        known.append(target.mask & fused.present)
    return torch.cat(pooled), Target(torch.cat(values), torch.cat(known))


def fit_head(head: LinearTask, pooled: Tensor, target: Target, seed: int) -> float:
    """Fit a linear head to features (p d) by L-BFGS with a ridge: the optimum, with no step size to choose.

    Returns:
        the ridge.
    """
    ridge = choose_ridge(head, pooled, target, seed)
    _fit(head, pooled, target, ridge)
    if isinstance(head, SurvivalTask):
        head.refer_to(head.read(pooled).detach())
    return ridge


def _fit(head: LinearTask, pooled: Tensor, target: Target, ridge: float) -> None:
    wanted = [p for p in head.parameters() if p.requires_grad]
    search = torch.optim.LBFGS(wanted, lr=1.0, max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        search.zero_grad()
        loss = head.loss(head.read(pooled), target)
        total = (loss if loss is not None else pooled.new_zeros(())) + ridge * (head.head.weight**2).sum()
        total.backward()
        return total

    search.step(closure)  # type: ignore[arg-type]


def choose_ridge(head: LinearTask, pooled: Tensor, target: Target, seed: int) -> float:
    """The ridge under which the patients left out are told best, by the head's own loss."""
    assert isinstance(target.values, Tensor)
    rows = torch.nonzero(target.mask).flatten()
    groups = target.values[rows, 1] if isinstance(head, SurvivalTask) else target.values[rows]
    counts = torch.stack([(groups == k).sum() for k in (0, 1)])
    rarest = int(counts[1] if isinstance(head, SurvivalTask) else counts.min())
    if rarest < FEWEST:
        return FEW_RIDGE
    fold = _folds(groups.numpy(), seed)

    def error(ridge: float) -> float:
        losses = []
        for left_out in range(FOLDS):
            there, here = rows[torch.from_numpy(fold == left_out)], rows[torch.from_numpy(fold != left_out)]
            fresh = copy.deepcopy(head)
            _fit(fresh, pooled[here], Target(target.values[here], target.mask[here]), ridge)
            with torch.no_grad():
                loss = fresh.loss(fresh.read(pooled[there]), Target(target.values[there], target.mask[there]))
            losses.append(0.0 if loss is None else float(loss))
        return sum(losses)

    return min(RIDGES, key=error)


def _folds(groups: np.ndarray, seed: int) -> np.ndarray:
    """(p,) the fold of each patient: each class is dealt evenly, in an order of the seed."""
    random = np.random.default_rng([seed, len(groups)])
    fold = np.zeros(len(groups), dtype=int)
    for group in np.unique(groups):
        members = random.permutation(np.flatnonzero(groups == group))
        fold[members] = np.arange(len(members)) % FOLDS
    return fold


@torch.no_grad()
def to_prevalence(head: Task, classes: Sequence[int]) -> None:
    """Give a classification back how common the finding is among the training patients.

    Its loss weighs both classes alike, so that the rare one is learned; its answers would be probabilities among as many with
    as without the finding. The log odds of the training patients, added to the offset, put that right (King & Zeng 2001, section 4.1).
    """
    if isinstance(head, ClassificationTask):
        positives = sum(classes)
        head.head.bias.add_(math.log(positives / (len(classes) - positives)))
