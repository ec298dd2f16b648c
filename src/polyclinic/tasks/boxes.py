"""Boxes of one whole record, which is more than a network sees at once: each is asked about beside all else that its patient has."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..schema import Batch, Modality, Ragged


def boxed(batch: Batch, one: Ragged, modality: Modality, boxes: Tensor) -> Batch:
    """A batch in which each box stands for a patient, with whatever else the record's own patient has.

    Args:
        batch: that the record is of.
        one: the record, whole.
        modality: of it.
        boxes: (w c z y x) of it.
    """
    owner, times = int(one.patient[0]), len(boxes)
    beside = {m: r.only(torch.nonzero(r.patient == owner).flatten().tolist()) for m, r in batch.payloads.items()}
    seen = {m: repeated(r, times) for m, r in (beside | {modality: one}).items() if len(r)}
    seen[modality] = replace(seen[modality], values=boxes)
    return Batch(seen, {}, [""] * times)


def repeated(ragged: Ragged, times: int) -> Ragged:
    """One patient's records, as so many patients'."""
    values = ragged.values
    return replace(
        ragged,
        values=list(values) * times if isinstance(values, list) else values.repeat(times, *[1] * (values.ndim - 1)),
        patient=torch.arange(times, device=ragged.patient.device).repeat_interleave(len(ragged)),
        time_h=ragged.time_h.repeat(times),
        spacing=None if ragged.spacing is None else ragged.spacing.repeat(times, 1),
        patients=times,
        ids=[f"{i}/{n}" for n in range(times) for i in ragged.ids],
        places=None if ragged.places is None else ragged.places * times,
        kinds=None if ragged.kinds is None else ragged.kinds * times,
        dated_h=None if ragged.dated_h is None else ragged.dated_h.repeat(times),
        studies=None if ragged.studies is None else ragged.studies * times,
    )
