"""Outcomes: what may be known of a whole patient, and how wrong an answer to it is.

The tasks and the objectives that teach them share these losses. What is unknown of a patient takes part in none of them; where nothing
is known there is no loss.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .objective import Finding

NARROWEST = 1e-6
"""Between two thresholds, below which a grade's probability is that of a gap so wide: its logarithm stays finite."""


def finding_loss(finding: Finding, output: Tensor, values: Tensor) -> Tensor | None:
    """How wrong answers about some patients are.

    Of a "class" each patient weighs the same; the other outcomes have the loss of their tasks.

    Args:
        finding: what is asked.
        output: (b,) logits of a class, or log hazards; (b k) of classes and findings; (b k-1) of grades.
        values: (b,) 0 or 1, a class or a grade; (b k) findings, NaN where unknown; (b 2) time and event.
    """
    match finding.outcome:
        case "class":
            return F.binary_cross_entropy_with_logits(output, values) if len(values) else None
        case "survival":
            return cox_loss(output, *values.unbind(1))
        case "classes":
            return classes_loss(output, values, finding.balance)
        case "grade":
            return grade_loss(output, values)
        case "findings":
            return tree_loss(output, values, finding.parents) if finding.parents else yes_no_loss(output, values)


def cox_loss(log_hazard: Tensor, time: Tensor, event: Tensor) -> Tensor | None:
    """The negative log partial likelihood an event, with Breslow's treatment of ties (Cox 1972).

    Args:
        log_hazard: (b,).
        time: (b,) until the event or the last sight.
        event: (b,) 1 where it was seen.
    Returns:
        (), or None where no event has anybody else at risk.
    """
    at_risk = time[None, :] >= time[:, None]  # row i: who is at risk when i's time comes
    seen = (event > 0) & (at_risk.sum(1) > 1)
    if not bool(seen.any()):
        return None
    risk = torch.where(at_risk, log_hazard[None, :], float("-inf")).logsumexp(1)
    return (risk - log_hazard)[seen].mean()


def yes_no_loss(logits: Tensor, values: Tensor) -> Tensor | None:
    """The mean over several findings of each one's cross-entropy over those of whom it is known, both classes with equal weight.

    Args:
        logits: (b k).
        values: (b k) 1, 0 or, where a finding is unknown, NaN.
    """
    known = values.isfinite()
    if not bool(known.any()):
        return None
    yes, no = known & (values > 0), known & (values <= 0)
    weight = yes / yes.sum(0).clamp(min=1) + no / no.sum(0).clamp(min=1)
    each = F.binary_cross_entropy_with_logits(logits, yes.to(logits.dtype), reduction="none")
    there = known.any(0)
    return ((weight * each).sum(0)[there] / weight.sum(0)[there]).mean()


def tree_loss(logits: Tensor, values: Tensor, parents: Sequence[int]) -> Tensor | None:
    """The negative log likelihood of what is known, a finding and a patient on average, of findings that are kinds of others.

    A finding is asked of those who have what it is a kind of; what is unknown of a patient is summed over, from the leaves to the
    roots. That is right where what is told of whom has nothing to do with what is not told.

    Args:
        logits: (b k) of each finding among those who have what it is a kind of.
        values: (b k) 1, 0 or, where a finding is unknown, NaN.
        parents: (k) the place of what each is a kind of, or −1.
    """
    known = values.isfinite()
    there = known.any(1)
    if not bool(there.any()):
        return None
    yes, no = known & (values > 0), known & (values <= 0)
    has, lacks = F.logsigmoid(logits), F.logsigmoid(-logits)
    depth = lambda n: 0 if parents[n] < 0 else 1 + depth(parents[n])
    total, below = torch.zeros_like(logits[:, 0]), dict[int, Tensor]()
    for number in sorted(range(len(parents)), key=depth, reverse=True):
        one = has[:, number] + below.get(number, 0.0)
        zero = lacks[:, number]
        told = torch.where(yes[:, number], one, torch.where(no[:, number], zero, torch.logaddexp(one, zero)))
        parent = parents[number]
        if parent < 0:
            total = total + told
        else:
            below[parent] = below.get(parent, 0.0) + told
    return -total[there].mean() / len(parents)


def classes_loss(scores: Tensor, values: Tensor, balance: float) -> Tensor | None:
    """Cross-entropy, weighed and shifted by how many of each class there are; of classes nobody has it asks nothing.

    Args:
        scores: (b k), how well each class explains a patient, up to a number that all share.
        values: (b,) classes from 0.
        balance: how much the rare classes are made to count: 0 each patient as much, 1 each class as much.
    Source: Ren et al. 2020, "Balanced Meta-Softmax", equation 4, for balance 0.
    """
    if not len(values):
        return None
    truth = values.long()
    count = torch.bincount(truth, minlength=scores.shape[1]).to(scores.dtype)
    shift = torch.where(count > 0, (1 - balance) * count.clamp(min=1).log(), -torch.inf)
    each = F.cross_entropy(scores + shift, truth, reduction="none")
    weight = count[truth] ** -balance
    return (weight * each).sum() / weight.sum()


def grade_loss(cumulative: Tensor, values: Tensor) -> Tensor | None:
    """The negative log likelihood, all grades that are there with equal weight.

    Args:
        cumulative: (b k-1) logits of "this grade or a higher one", of the second grade first.
        values: (b,) grades from 0.
    """
    if not len(values):
        return None
    truth, k = values.long(), cumulative.shape[1] + 1
    each = -log_probabilities(cumulative).gather(1, truth[:, None]).squeeze(1)
    weight = 1 / torch.bincount(truth, minlength=k).to(each.dtype)[truth]
    return (weight * each).sum() / weight.sum()


def log_probabilities(cumulative: Tensor) -> Tensor:
    """Of k grades, the logarithm of each one's probability (b k).

    Args:
        cumulative: (b k-1) logits of "this grade or a higher one", of the second grade first; not ascending.
    """
    lower, upper = cumulative[:, :-1], cumulative[:, 1:]
    # σ(a) − σ(b) = σ(a) σ(−b) (1 − e^(b−a)): no difference of numbers that are almost alike.
    gap = (lower - upper).clamp(min=NARROWEST)
    between = F.logsigmoid(lower) + F.logsigmoid(-upper) + torch.log(-torch.expm1(-gap))
    return torch.cat([F.logsigmoid(-cumulative[:, :1]), between, F.logsigmoid(cumulative[:, -1:])], 1)


def even_steps(k: int) -> Tensor:
    """(k-1) what `ascending` makes the thresholds of, between k grades that are as common: what a head says before it learned."""
    even = torch.logit(torch.arange(1, k) / k)
    return torch.cat([even[:1], torch.log(torch.expm1(even.diff()))])


def ascending(steps: Tensor) -> Tensor:
    """(k-1) any numbers → (k-1) thresholds, each above the one before it."""
    return torch.cat([steps[:1], steps[:1] + F.softplus(steps[1:]).cumsum(0)])
