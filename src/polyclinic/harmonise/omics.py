"""Omics: the genes of the training patients in one order, standardised; what was not measured is NaN."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from ..schema import Payload, Record
from .fingerprint import Fingerprint


class OmicsStandard(BaseModel):
    """Each gene about zero mean and unit variance over the training patients, within ±5."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["omics"] = "omics"


def harmonise(payload: Payload, record: Record, standard: OmicsStandard, fingerprint: Fingerprint) -> Payload:
    """(g,) float32 in the fingerprint's order."""
    genes = fingerprint.genes
    out = np.full(len(genes), np.nan, dtype=np.float32)
    places = np.array([genes[n].number if n in genes else -1 for n in payload.names], dtype=int)
    known = places >= 0
    out[places[known]] = payload.array[known]
    means, sds = fingerprint.gene_scale()
    return Payload(np.clip((out - means) / sds, -5, 5).astype(np.float32), names=tuple(genes))
