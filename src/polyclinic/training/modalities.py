"""Modalities that learn at unlike paces: how fast each does, slower steps for those ahead, and records that are left out now and then.

In joint training the modality that answers soonest takes the loss with it, and the encoders of the others stay poor (Wang et al. 2020;
Wu et al. 2022, "Characterizing and overcoming the greedy nature of learning in multi-modal deep neural networks"). Two remedies stand
here; a third, one pace for several objectives, is `objectives/balance.py`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from ..models import Model
from ..schema import Batch, Modality
from .ranks import Ranks, local

Name = TypeVar("Name", bound=Hashable)
SPAN = 20.0
"""Steps of a modality over which its speed is averaged."""


def own_weights(model: Model) -> dict[Modality, list[nn.Parameter]]:
    """The trained weights that only one modality's records go through: its encoder, bridge, name and projection."""
    found: dict[Modality, list[nn.Parameter]] = {}
    for m in model.modalities:
        modules = [model.encoders[m.value], model.bridge[m.value], model.project[m.value]]
        every = [p for module in modules for p in module.parameters()] + [model.name[m.value]]
        if trained := [p for p in every if p.requires_grad]:
            found[m] = trained
    return found


def norms(groups: Mapping[Name, Sequence[Tensor]], ranks: Ranks) -> dict[Name, float]:
    """The norm of each group of tensors, all ranks' shards together; every rank has the same."""
    there = {name: tensors for name, tensors in groups.items() if tensors}
    if not there:
        return {}
    sharded = any(local(t) is not t for tensors in there.values() for t in tensors)
    # Those without a dimension are whole on every rank: of them one rank speaks.
    speaks = lambda t: not sharded or ranks.first or local(t) is not t
    each = [get_total_norm([local(t) for t in tensors if speaks(t)]) for tensors in there.values()]
    squares = torch.stack(each).double().square()
    if sharded:
        dist.all_reduce(squares)
    return dict(zip(there, squares.sqrt().tolist(), strict=True))


class Pace(nn.Module):
    """By how much each modality's steps are shortened, so that none runs ahead of the others.

    A modality's speed in a step is log(‖g‖² / ‖θ‖²) of its own weights, of which the conditional learning speed (Wu et al. 2022,
    section 3) is made; here its running mean over the steps in which the modality has a gradient. One that is faster than the
    others' mean by ρ > 0 takes steps of 1 - tanh(strength · ρ) of the learning rate; the others' are whole. That is the rule of OGM
    (Peng et al. 2022, equation 10), with three changes. Its score is the chance that one modality alone gives the right class, which
    no objective of pretraining has; the speed exists for all of them. It multiplies the gradient, which AdamW would undo by dividing
    by the gradient's size; this multiplies the step. And ρ is a difference of logarithms, so that equal speeds leave the steps as
    they are. The paper's noise (GE) makes up for noise that a smaller gradient loses in SGD, and is left out.

    Args:
        modalities: with weights of their own.
        strength: OGM's alpha.
    """

    speed: Tensor
    steps: Tensor

    def __init__(self, modalities: Sequence[Modality], strength: float) -> None:
        super().__init__()
        self.modalities, self.strength = list(modalities), strength
        self.register_buffer("speed", torch.zeros(len(self.modalities), dtype=torch.float64))
        self.register_buffer("steps", torch.zeros(len(self.modalities), dtype=torch.float64))

    @torch.no_grad()
    def note(self, gradients: Mapping[Modality, float], weights: Mapping[Modality, float]) -> None:
        """Take a step's norms in; a modality that nobody had, or whose gradient is 0, keeps its speed."""
        for row, m in enumerate(self.modalities):
            if gradients.get(m, 0) > 0 and weights[m] > 0:
                self.steps[row] += 1
                now = 2 * math.log(gradients[m] / weights[m])
                self.speed[row] += (now - self.speed[row]) / self.steps[row].clamp(max=SPAN)

    def factors(self) -> dict[Modality, float]:
        """Of the learning rate, of each modality; 1 of one that has not been seen, or that is alone."""
        known = {m: float(self.speed[row]) for row, m in enumerate(self.modalities) if self.steps[row] > 0}
        found = dict.fromkeys(self.modalities, 1.0)
        for m, speed in known.items():
            others = [other for name, other in known.items() if name is not m]
            if others:
                found[m] = 1 - math.tanh(self.strength * max(0.0, speed - sum(others) / len(others)))
        return found


def thinned(
    batch: Batch, shares: float | Mapping[Modality, float], draws: torch.Generator, keep: frozenset[Modality] = frozenset()
) -> Batch:  # fmt: skip
    """A batch in which each patient lacks each modality in a share of cases, but never all that they have (Neverova et al. 2016, ModDrop).

    Who is left with nothing keeps one modality, each as likely as another.

    Args:
        batch: b patients.
        shares: in which a patient's records of a modality are left out; of each modality, those that are not named stay.
        draws: of who lacks what.
        keep: modalities that stay: their masks are asked for.
    Returns:
        the same patients; the targets as they were.
    """
    every = list(Modality)  # of which each has its own draw, whichever others there are
    has = torch.zeros(len(batch.patients), len(every), dtype=torch.bool)
    for m, ragged in batch.payloads.items():
        has[ragged.patient.cpu(), every.index(m)] = True
    chance = [0.0 if m in keep else shares.get(m, 0.0) if isinstance(shares, Mapping) else shares for m in every]
    drawn = torch.rand(2, *has.shape, generator=draws)
    stays = has & (drawn[0] >= torch.tensor(chance))
    bare = has.any(1) & ~stays.any(1)
    last = torch.where(has, drawn[1], -1.0).argmax(1)
    stays[bare, last[bare]] = True
    payloads = {}
    for m, ragged in batch.payloads.items():
        rows = torch.nonzero(stays[ragged.patient.cpu(), every.index(m)]).flatten().tolist()
        if rows:
            payloads[m] = ragged if len(rows) == len(ragged) else ragged.only(rows)
    return Batch(payloads, batch.targets, batch.patients)
