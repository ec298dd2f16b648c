"""From stage to stage: what a part of an objective has learned (a decoder, a head, a temperature) goes on in the next stage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..models import Model, under
from ..objectives import Objective
from ..objectives.hybrid import places


@torch.no_grad()
def carry(objective: Objective, spec: Any, before: Mapping[str, Tensor], spec_before: Any, model: Model) -> list[str]:
    """Let the parts of a stage's objective begin with what the same parts of the stage before have learned.

    Parts are the same where their kind is, the fields that `ObjectiveFields.alike` names, and the names and shapes of all their tensors;
    of several of a kind the first is the first's. Weights are carried, and no buffers: what is counted over a stage (centres, the clock)
    begins anew, and so does a hybrid's balance.

    Args:
        objective: freshly initialised; changed in place.
        spec: of it.
        before, spec_before: the state dict of the earlier objective, and its specification.
        model: as the stage before left it.
    Returns:
        what the names of the carried parts' tensors begin with.
    """
    state, known = objective.state_dict(), _parts(spec_before)
    learned = {name for name, weight in objective.named_parameters() if weight.requires_grad}
    carried = []
    for which, place in _parts(spec).items():
        own, theirs = under(place, state), under(known[which], before) if which in known else {}
        if own and {n: t.shape for n, t in own.items()} == {n: t.shape for n, t in theirs.items()}:
            for name in (n for n in own if place + n in learned):
                own[name].copy_(theirs[name])
            carried.append(place)
    objective.begun(model)
    return carried


def _parts(spec: Any) -> dict[tuple[Any, ...], str]:
    """What tells each part from the others → what the names of its tensors begin with."""
    found, count = dict[tuple[Any, ...], str](), Counter[tuple[Any, ...]]()
    for part, place in places(spec):
        which = (part.kind, *(getattr(part, field) for field in part.alike))
        count[which] += 1
        found[*which, count[which]] = place
    return found
