"""Omics: the genes of the training patients in one order, standardised; what was not measured is NaN.

First, where the standard asks for it, a sample's expression is made comparable with another's, within the sample; then each gene is
standardised over the training patients, whose values went the same way.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from ..schema import Payload, PolyclinicError, Record
from .fingerprint import Fingerprint

EXPRESSION = ("", "rnaseq")
"""What stands behind a gene's name (`TP53_rnaseq`) where it is expression; mutations and copy numbers stay as they are."""


class OmicsError(PolyclinicError):
    """Values that a transform is not for."""


class OmicsStandard(BaseModel):
    """Each gene about zero mean and unit variance over the training patients, within ±5.

    Args:
        within: what is done within a sample before: nothing; `log1p_cpm`, for counts, log(1 + counts per million), which takes
            out how deep the sample was sequenced; `rank`, for values of any scale, the normal quantile of each gene's rank.
        standardise: whether the gene's mean and spread over the training patients are taken out; without, the values stay.
        components: how many leading principal components of the training records the fingerprint is to hold.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["omics"] = "omics"
    within: Literal["none", "log1p_cpm", "rank"] = "none"
    standardise: bool = True
    components: int = 0


def log1p_cpm(counts: np.ndarray) -> np.ndarray:
    """log(1 + counts per million) of the genes that were measured.

    Args:
        counts: (g,), NaN where not measured.
    Raises:
        OmicsError: a value below 0.
    """
    if np.nanmin(counts, initial=0.0) < 0:
        raise OmicsError(
            "values below 0 where `within: log1p_cpm` needs counts", "raw counts",
            "use `within: rank`, or `none` for values that are scaled",
        )  # fmt: skip
    total = np.nansum(counts)
    return np.log1p(counts * (1e6 / total)) if total > 0 else counts


def rank(values: np.ndarray) -> np.ndarray:
    """The rank-based inverse normal transform: Φ⁻¹((r − 3/8) / (n + 1/4)), equal values sharing their mean rank.

    Args:
        values: (g,), NaN where not measured; they have no rank.

    Source: Blom 1958; Beasley, Erickson and Allison 2009.
    """
    from scipy.special import ndtri
    from scipy.stats import rankdata

    known = np.isfinite(values)
    out = np.full(values.shape, np.nan)
    out[known] = ndtri((rankdata(values[known]) - 0.375) / (known.sum() + 0.25))
    return out


def within(payload: Payload, standard: OmicsStandard) -> Payload:
    """A sample's own transform; each assay of expression is one.

    Raises:
        OmicsError: it is not for these values.
    """
    if standard.within == "none":
        return payload
    transform = log1p_cpm if standard.within == "log1p_cpm" else rank
    assays = np.array([name.rsplit("_", 1)[-1] if "_" in name else "" for name in payload.names])
    out = payload.array.astype(np.float64)
    for assay in EXPRESSION:
        if (mine := assays == assay).any():
            out[mine] = transform(out[mine])
    return Payload(out.astype(np.float32), names=payload.names)


def leading(values: np.ndarray, count: int) -> np.ndarray:
    """The loadings of the leading principal components, by which the rows' sums have zero mean and unit variance.

    Args:
        values: (n g) standardised; NaN where not measured, which counts as the mean.
        count: how many; fewer where n or g is smaller, or where nothing varies any more.
    Returns:
        (k g), the largest loading of each positive.

    Source: by the eigenvectors of the n by n matrix of inner products (Jolliffe 2002, section 3.5); there are fewer records than genes.
    """
    filled = np.nan_to_num(values.astype(np.float64))
    filled -= filled.mean(0)
    variance, directions = np.linalg.eigh(filled @ filled.T)
    order = np.argsort(-variance)[: min(count, len(values) - 1, values.shape[1])]
    kept = order[variance[order] > 1e-8 * max(float(variance.max(initial=0.0)), 1e-12)]
    loadings = directions[:, kept].T @ filled / variance[kept, None] * np.sqrt(len(values))
    largest = np.abs(loadings).argmax(1) if len(kept) else np.zeros(0, dtype=int)
    return loadings * np.sign(loadings[np.arange(len(kept)), largest])[:, None]


def harmonise(payload: Payload, record: Record, standard: OmicsStandard, fingerprint: Fingerprint) -> Payload:
    """(g,) float32 in the fingerprint's order."""
    payload, genes = within(payload, standard), fingerprint.genes
    out = np.full(len(genes), np.nan, dtype=np.float32)
    places = np.array([genes[n].number if n in genes else -1 for n in payload.names], dtype=int)
    known = places >= 0
    out[places[known]] = payload.array[known]
    if not standard.standardise:
        return Payload(out, names=tuple(genes))
    means, sds = fingerprint.gene_scale()
    return Payload(np.clip((out - means) / sds, -5, 5).astype(np.float32), names=tuple(genes))
