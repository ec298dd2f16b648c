"""The linear probe: a head on the frozen backbone's vectors, fitted to its optimum.

It is fitted to every patient as a whole and as each modality alone shows them: who comes with an X-ray and nothing else is answered
by the same head. Its ridge is chosen within the training labels where there are enough of them, by the same rule and from as many
candidates as the baselines' (`trust.baselines`): a fixed one would make a straw man of either side.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ..harmonise.loader import Loader
from ..models import Model
from ..schema import Modality, Target
from ..tasks import LinearTask

RIDGES = (0.002, 0.02, 0.2, 2.0)
"""On the squared length of the weights, beside a mean loss."""
FEW_RIDGE = 0.2
"""Where there are too few labels to choose: the second strongest."""
FOLDS, FEWEST = 3, 6
"""Cross-validation needs so many patients of the rarest class (or events)."""


View = tuple[Tensor, Target]
"""Vectors (p d) and targets of all patients, as some of their modalities show them."""
Looked = TypeVar("Looked")
ALONE = 0.5
"""The share of the loss that goes to modalities alone, where there are several."""


def features(
    model: Model, head: LinearTask, loader: Loader, patients: Sequence[str], reads: Sequence[Modality]
) -> View:
    """Every patient's vector (p d) and target, from a frozen model; who has nothing that it knows is not labelled.

    Of a task with landmarks all patients at the first, then all at the second, and so on. Who turns out not to be readable is at none.
    """
    return _of_the_same(loader, patients, lambda who: _features(model, head, loader, who, reads))


@torch.no_grad()
def _features(
    model: Model, head: LinearTask, loader: Loader, patients: Sequence[str], reads: Sequence[Modality]
) -> View:
    pooled, values, known = [], [], []
    model.eval()
    for batch in (batch for then in loader.landmarks(head.name) for batch in then.each(64, patients, reads)):
        vectors, present = head.pooled(model, batch)
        target = batch.targets[head.name]
        assert isinstance(target.values, Tensor)
        pooled.append(vectors.float())
        values.append(target.values)
        known.append(target.mask & present)
    return torch.cat(pooled), Target(torch.cat(values), torch.cat(known))


def views(
    model: Model, head: LinearTask, loader: Loader, patients: Sequence[str], reads: Sequence[Modality]
) -> list[View]:
    """All that is read first; then, where that is more than one, each modality alone, which a head that reads them apart has already.

    All are of the same patients.
    """
    each = (tuple(reads), *([(m,) for m in reads] if len(reads) > 1 and not head.apart else []))
    look = lambda who: [_features(model, head, loader, who, seen) for seen in each]
    return _of_the_same(loader, patients, look)


def _of_the_same(loader: Loader, patients: Sequence[str], look: Callable[[list[str]], Looked]) -> Looked:
    """What several looks at patients show; where one of them could not be read in one, all are taken again without."""
    while True:
        who = loader.left(patients)
        seen = look(who)
        if loader.left(who) == who:
            return seen


def labelled_rows(seen: Sequence[View]) -> tuple[Tensor, Tensor]:
    """The vectors (n d) and values (n …) of the labelled, of all views."""
    vectors = torch.cat([pooled[target.mask] for pooled, target in seen])
    return vectors, torch.cat([target.values[target.mask] for _, target in seen if isinstance(target.values, Tensor)])


FLOOR = 0.01
"""Of the penalty that counts directions alike: what it adds to each one's variance, that what hardly moves is not blown up."""


def spread(head: LinearTask, seen: Sequence[View]) -> Tensor:
    """(d d) the covariance of the labelled patients' standardised vectors, as a whole, of mean variance one, and the floor."""
    pooled, target = seen[0]
    vectors = (head.norm(pooled[target.mask].float()) - head.mean) / head.sd
    centred = vectors - vectors.mean(0)
    covariance = centred.T @ centred / max(len(centred), 1)
    scale = covariance.diagonal().mean().clamp(min=1e-12)
    return covariance / scale + FLOOR * torch.eye(len(covariance), device=covariance.device)


def fit_head(
    head: LinearTask, seen: Sequence[View], seed: int, ridge: float | None = None, directions: bool = False
) -> float:
    """Fit a linear head by L-BFGS with a ridge: the optimum, with no step size to choose.

    Args:
        head: fresh.
        seen: the same patients in the same order, as a whole first.
        seed: of the folds.
        ridge: None chooses it.
        directions: whether the ridge is on the answer's variance instead of on the weights: a direction in which patients differ
            little is then as free as one in which they differ much.
    Returns:
        the ridge.
    """
    labelled = torch.cat([pooled[target.mask] for pooled, target in seen])
    if len(labelled) > 1:
        head.standardise_by(labelled)
    metric = spread(head, seen) if directions else None
    ridge = choose_ridge(head, seen, seed, metric) if ridge is None else ridge
    _fit(head, seen, ridge, metric)
    head.refer_to(head.read(seen[0][0]).detach(), seen[0][1])
    return ridge


def _loss(head: LinearTask, seen: Sequence[View]) -> Tensor:
    """The mean loss of all views; one in which nobody can be told from another does not count."""
    total, shares = seen[0][0].new_zeros(()), 0.0
    for number, (pooled, target) in enumerate(seen):
        share = (1 - ALONE) if number == 0 else ALONE / (len(seen) - 1)
        loss = head.loss(head.read(pooled), target)
        if loss is not None:
            total, shares = total + share * loss, shares + share
    return total / max(shares, 1e-9)


def _fit(head: LinearTask, seen: Sequence[View], ridge: float, metric: Tensor | None = None) -> None:
    """Fit in place; the penalty is the squared length of the weights, or by a metric (d d)."""
    wanted = [p for p in head.parameters() if p.requires_grad]
    search = torch.optim.LBFGS(wanted, lr=1.0, max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        search.zero_grad()
        total = _loss(head, seen) + ridge * _length(head.head.weight, metric)
        total.backward()
        return total

    search.step(closure)  # type: ignore[arg-type]


def _length(weight: Tensor, metric: Tensor | None) -> Tensor:
    """The squared length of weights (k d)."""
    return (weight**2).sum() if metric is None else ((weight @ metric) * weight).sum()


def choose_ridge(head: LinearTask, seen: Sequence[View], seed: int, metric: Tensor | None = None) -> float:
    """The ridge under which the patients left out are told best, by the head's own loss."""
    target = seen[0][1]
    assert isinstance(target.values, Tensor)
    # Of who is asked at several landmarks the first at which there is an answer; all are in one fold.
    there = target.mask.reshape(head.marks, -1)
    who = torch.nonzero(there.any(0)).flatten()
    rows = there.int().argmax(0)[who] * there.shape[1] + who
    parts = dealt(head, target.values[rows], seed)
    if parts is None:
        return FEW_RIDGE
    fold = torch.full((there.shape[1],), -1)
    fold[who] = parts
    fold = fold.repeat(head.marks)

    def error(ridge: float) -> float:
        total = 0.0
        for left_out in range(FOLDS):
            fresh = copy.deepcopy(head)
            _fit(fresh, only(seen, (fold >= 0) & (fold != left_out)), ridge, metric)
            with torch.no_grad():
                total += float(_loss(fresh, only(seen, fold == left_out)))
        return total

    return min(RIDGES, key=error)


def dealt(head: LinearTask, values: Tensor, seed: int) -> Tensor | None:
    """The fold of each labelled patient; None where there are too few for any."""
    label, known = head.spec.label(head.name), values.tolist()
    if label.rarest(known) < FEWEST:
        return None
    return torch.from_numpy(folds_of(np.array(label.groups(known)), seed, FOLDS))


def only(seen: Sequence[View], who: Tensor) -> list[View]:
    """Only the patients for whom who (p,) is True."""
    kept = [(pooled, target.values, target.mask & who) for pooled, target in seen]
    return [(pooled, Target(values, mask)) for pooled, values, mask in kept]


def folds_of(groups: np.ndarray, seed: int, count: int) -> np.ndarray:
    """(p,) the fold of each patient, of so many: each class is dealt evenly, in an order of the seed."""
    random = np.random.default_rng([seed, len(groups)])
    fold = np.zeros(len(groups), dtype=int)
    for group in np.unique(groups):
        members = random.permutation(np.flatnonzero(groups == group))
        fold[members] = np.arange(len(members)) % count
    return fold
