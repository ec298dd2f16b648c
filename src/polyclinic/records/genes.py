"""Names of genes, whatever file they stand in: as they are written there, Ensembl's without version, each once."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

_ENSEMBL = re.compile(r"^(ENS[A-Z]{0,4}[GTP]\d{11})\.\d+(_PAR_Y)?$")
_TCGA = re.compile(r"^(TCGA-[A-Z0-9]{2}-[A-Z0-9]{4}|P\d{15})(-|$)")
"""A barcode, or what `deidentify` makes of one: the patient's pseudonym, and the sample."""


def without_version(name: str) -> str:
    """`ENSG00000141510.16` → `ENSG00000141510`; the copy of a gene on chromosome Y (`_PAR_Y`) goes by the same name."""
    found = _ENSEMBL.match(name.strip())
    return found[1] if found else name.strip()


def once(names: Sequence[str], values: np.ndarray, counts: bool) -> tuple[tuple[str, ...], np.ndarray]:
    """Every gene once, in the order in which they first stand.

    Args:
        names: of the g columns.
        values: (... g).
        counts: values of the same name are summed; else their mean is taken, over those that were measured.
    Returns:
        the names and (... k).
    """
    plain = [without_version(n) for n in names]
    places = {name: i for i, name in enumerate(dict.fromkeys(plain))}
    if len(places) == len(names):
        return tuple(plain), values
    place = np.array([places[n] for n in plain])
    known = np.isfinite(values)
    total, n = (np.zeros((len(places), *values.shape[:-1])) for _ in range(2))
    np.add.at(total, place, np.moveaxis(np.where(known, values, 0.0), -1, 0))
    np.add.at(n, place, np.moveaxis(known, -1, 0))
    with np.errstate(invalid="ignore", divide="ignore"):
        merged = np.where(n > 0, total if counts else total / n, np.nan)
    return tuple(places), np.moveaxis(merged, 0, -1).astype(values.dtype)


def patient_of_sample(name: str) -> str | None:
    """The patient of a TCGA barcode: its first twelve characters (TCGA-02-0001-01C → TCGA-02-0001); None for another name."""
    found = _TCGA.match(name.strip().upper().replace(".", "-"))
    return found[1] if found else None
