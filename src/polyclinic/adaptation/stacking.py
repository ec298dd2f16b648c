"""Stacking (Wolpert 1992): a head a modality, and how strongly each is heard, by patients whom it did not learn from.

    image ──▶ vector ──▶ its own head ──▶ log odds ──× weight ─┐
    text  ──▶ vector ──▶ its own head ──▶ log odds ──× weight ─┴─(+)──▶ answer

One head on a mean of vectors lets a modality that tells little take off as much as one that tells much gives. Here each is fitted to
whoever has it, under a ridge of its own; one that is not there adds nothing, as evidence for neither side. With few patients a weight is
itself uncertain, and a modality that tells nothing still takes a little off.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..schema import Target
from ..tasks import LinearTask
from .probe import FOLDS, View, dealt, fit_head, only


def fit_stacked(
    head: LinearTask, seen: Sequence[View], seed: int, ridge: float | None = None, directions: bool = False
) -> dict[str, dict[str, float]]:
    """Fit a head that reads modalities apart.

    Args:
        head: fresh, after `read_apart`.
        seen: the patients, of whom the first view is read: it holds each modality by itself.
        seed: of the folds.
        ridge, directions: of each modality's head, as of `fit_head`.
    Returns:
        of each modality that could be learned from, its ridge and its weight, by name.
    """
    pooled, target = seen[0]
    blocks = pooled.unflatten(1, (len(head.apart), head.width + 1))
    heads: dict[int, tuple[LinearTask, float]] = {}
    scores = []
    for number in range(len(head.apart)):
        mine = (blocks[:, number, :-1], Target(target.values, target.mask & (blocks[:, number, -1] > 0)))
        if not _teaches(head, mine):
            continue
        alone = _alone(head)
        heads[number] = alone, fit_head(alone, [mine], seed, ridge, directions)
        scores.append(_left_out(head, mine, seed, *heads[number], directions))
    if not heads:
        return {}
    weights = _weighed(head, scores, target)
    with torch.no_grad():
        rows = head.head.weight.unflatten(1, (len(head.apart), head.width + 1))
        for (number, (alone, _)), weight in zip(heads.items(), weights, strict=True):
            head.mean[number], head.sd[number] = alone.mean, alone.sd
            rows[:, number, :-1] = weight * alone.head.weight
            if alone.head.bias is not None:
                rows[:, number, -1] = weight * alone.head.bias
        head.refer_to(head.read(pooled), target)
    told = zip(heads.items(), weights, strict=True)
    return {head.apart[n].value: {"ridge": r, "weight": round(float(w), 4)} for (n, (_, r)), w in told}


def _alone(head: LinearTask) -> LinearTask:
    """The head of one modality, fresh."""
    alone = copy.deepcopy(head)
    alone.read_apart(())
    return alone


def _teaches(head: LinearTask, view: View) -> bool:
    """Whether those who have a modality can be told apart."""
    values = view[1].values
    assert isinstance(values, Tensor)
    known = values[view[1].mask].tolist()
    return len(known) > 1 and head.spec.label(head.name).lacking(known) is None


def _left_out(
    head: LinearTask, view: View, seed: int, whole: LinearTask, ridge: float, directions: bool
) -> tuple[Tensor, Tensor]:
    """What a modality's head says of each patient when it is fitted without them (p …), and of whom it says something.

    Where they are too few to be dealt into folds, nothing.
    """
    _, target = view
    said = torch.zeros_like(whole.read(view[0]).detach())
    there = torch.zeros_like(target.mask)
    assert isinstance(target.values, Tensor)
    fold = dealt(head, target.values[target.mask], seed)
    if fold is None:
        return said, there
    mine = torch.nonzero(target.mask).flatten()
    for turn in range(FOLDS):
        rest = torch.zeros_like(target.mask)
        rest[mine[fold != turn]] = True
        fresh = _alone(head)
        fit_head(fresh, only([view], rest), seed, ridge, directions)
        asked = mine[fold == turn]
        with torch.no_grad():
            said[asked] = fresh.read(view[0][asked])
        there[asked] = True
    return said, there


def _weighed(head: LinearTask, scores: Sequence[tuple[Tensor, Tensor]], target: Target) -> Tensor:
    """(k,) how strongly each modality is heard, not below 0, by the head's own loss; then the head's offset.

    Patients who have the same modalities share an offset while the weights are found: which ones a patient has often goes with the
    answer, and a modality that merely tells who lacks another must not be heard for it. The head then has one offset for all.
    Beside the loss of n patients stands that of one who holds every weight to be one: of few patients the sum of what the modalities
    say is left as it is, which is right where they err independently.
    """
    there = torch.stack([known for _, known in scores], 1)
    said = torch.stack([score for score, _ in scores])
    alike = torch.unique(there, dim=0, return_inverse=True)[1]
    who = there.any(1) & target.mask
    for group in alike.unique():  # of whom all have one answer, no modality is needed to tell it
        if not _teaches(head, (said[0], Target(target.values, who & (alike == group)))):
            who = who & (alike != group)
    if not bool(who.any()):
        return said.new_ones(len(scores))
    asked = Target(target.values, who)
    root = nn.Parameter(said.new_ones(len(scores)))
    own = nn.Parameter(said.new_zeros(int(alike.max()) + 1, *said.shape[2:]))

    def loss() -> Tensor:
        found = head.loss(torch.tensordot(root.square(), said, 1) + own[alike], asked)
        held = (root.square() - 1).square().sum() / (2 * int(who.sum()))
        return held if found is None else found + held

    _least(loss, [root, own])
    weights, offset = root.detach().square(), head.head.bias
    if offset is not None:
        total = torch.tensordot(weights, said, 1)
        every = Target(target.values, there.any(1) & target.mask)
        again = lambda: head.loss(total + (offset if total.ndim > 1 else offset.squeeze(0)), every)
        _least(lambda: offset.sum() * 0 if (found := again()) is None else found, [offset])
    return weights


def _least(loss: Callable[[], Tensor], free: list[nn.Parameter]) -> None:
    """Fit in place."""
    search = torch.optim.LBFGS(free, lr=1.0, max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        search.zero_grad()
        total = loss()
        total.backward()
        return total

    search.step(closure)  # type: ignore[arg-type]
