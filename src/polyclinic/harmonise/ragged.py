"""Harmonised records of one modality → a `Ragged`: what a batch hands to an encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from ..schema import Modality, Payload, Ragged, Record

Box = tuple[slice, ...]
"""(z y x) of a whole volume."""


def ragged_of(
    modality: Modality, pairs: Sequence[tuple[int, Record, Payload]], patients: int, hours: Callable[[Record], float],
    boxes: Mapping[str, Box],
) -> Ragged:  # fmt: skip
    """The records of a batch.

    Args:
        modality: of them all.
        pairs: which of the batch's patients each is of, ascending; the record; as it is harmonised.
        patients: of the batch.
        hours: of a record from its patient's index time; NaN without a date.
        boxes: record → the part of it that is seen, by its id; of others all.
    """
    seen = [p.array[(slice(None), *boxes[r.id])] if r.id in boxes else p.array for _, r, p in pairs]
    arrays = [torch.from_numpy(np.ascontiguousarray(array)) for array in seen]
    same = modality not in (Modality.TEXT, Modality.TABLE) and len({a.shape for a in arrays}) == 1
    dated = torch.tensor([hours(r) for _, r, _ in pairs], dtype=torch.float64)
    return Ragged(
        values=torch.stack(arrays) if same else arrays,
        patient=torch.tensor([n for n, _, _ in pairs]),
        time_h=dated.nan_to_num().float(),
        spacing=spacings([p for _, _, p in pairs], _AXES.get(modality, 0)),
        patients=patients,
        ids=[r.id for _, r, _ in pairs],
        places=_places([p for _, _, p in pairs]),
        kinds=[r.kind for _, r, _ in pairs],
        dated_h=dated,
        studies=[str(study) if (study := r.attributes.get("study")) else None for _, r, _ in pairs],
    )


_AXES = {
    Modality.IMAGE: 2, Modality.VOLUME: 3, Modality.SLIDE: 2, Modality.VIDEO: 2, Modality.SIGNAL: 1, Modality.KINEMATICS: 1,
}  # fmt: skip
"""How many of a payload's axes, the last ones, `to_world` scales: which of a slide's tiles or a video's frames is in `places`."""


def spacings(payloads: Sequence[Payload], axes: int) -> torch.Tensor | None:
    """(m k) in axis order; NaN where the scale is nominal; None for what has no grid."""
    if not axes or any(p.to_world is None for p in payloads):
        return None
    rows = []
    for payload in payloads:
        assert payload.to_world is not None
        own = np.linalg.norm(payload.to_world[:3, :3], axis=0)[:axes][::-1]
        rows.append(np.full(axes, np.nan) if payload.nominal else own)
    return torch.tensor(np.array(rows), dtype=torch.float32)


def _places(payloads: Sequence[Payload]) -> list[torch.Tensor] | None:
    """(n 4) of each record; None where they lie on grids."""
    found = [p.places for p in payloads if p.places is not None]
    if len(found) < len(payloads):
        return None
    return [torch.tensor(places, dtype=torch.float32) for places in found]
