"""Fitting: the training patients' records → the fingerprint by which every later payload of the run is harmonised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..schema import Modality, Payload, Record
from . import tfidf
from .fingerprint import Fingerprint, Intensity, Scale
from .geometry import nearest_axes, spacing_of
from .omics import OmicsStandard, harmonise, leading, within
from .table import TableStandard, ancestors, is_of
from .text import TextStandard, import_tokenizer, train_tokenizer
from .tfidf import TfidfStandard
from .volume import AIR_HU


def fit(records: Sequence[Record], load: Callable[[Record], Payload], standards: Mapping[Modality, Any]) -> Fingerprint:
    """The fingerprint of the training records (never of a test patient's).

    Args:
        records: the training patients' records that are inputs.
        load: record → source payload.
        standards: what the recipe's encoders want, by modality.
    """
    by = {m: [r for r in records if r.modality is m] for m in standards}
    spacing = (1.0, 1.0, 1.0)
    if by.get(Modality.VOLUME) and standards[Modality.VOLUME].spacing_mm is None:
        spacing = _spacing(load(r) for r in by[Modality.VOLUME])
    tokenizer, terms, directions = None, {}, ()
    match standards.get(Modality.TEXT):
        case TextStandard() as text if text.tokenizer is not None:
            tokenizer = import_tokenizer(text.tokenizer)
        case TextStandard() as text if by[Modality.TEXT]:
            notes = (load(r).text or "" for r in by[Modality.TEXT])
            tokenizer = train_tokenizer(notes, text.vocabulary, text.languages)
        case TfidfStandard() as text if by[Modality.TEXT]:
            said = [(r.patient, load(r).text or "") for r in sorted(by[Modality.TEXT], key=lambda r: r.id)]
            terms, found = tfidf.fit(said, text)
            directions = _digits(found)
    codes: dict[str, Scale] = {}
    if by.get(Modality.TABLE):
        codes = _codes(by[Modality.TABLE], load, standards[Modality.TABLE])
    genes: dict[str, Scale] = {}
    if by.get(Modality.OMICS):
        standard = standards[Modality.OMICS]
        genes = _genes((within(load(r), standard) for r in by[Modality.OMICS]), set(_labels(standards)))
    components = ()
    if genes and standards[Modality.OMICS].components:
        components = _components(by[Modality.OMICS], load, standards[Modality.OMICS], Fingerprint(genes=genes))
    volumes = [r.kind.startswith("CT") for r in by.get(Modality.VOLUME, [])]
    ct, rate = None, Fingerprint.rate_hz
    if any(volumes) and standards[Modality.VOLUME].intensity == "fingerprint":
        ct = _intensity(load(r) for r in by[Modality.VOLUME] if r.kind.startswith("CT"))
    if by.get(Modality.SIGNAL) and standards[Modality.SIGNAL].rate_hz is None:
        rate = float(np.median([1 / load(r).to_world[0, 0] for r in by[Modality.SIGNAL]]))  # type: ignore[index]
    return Fingerprint(
        tokenizer, codes, genes, spacing, sum(volumes) > len(volumes) / 2, ct, rate, components, terms, directions
    )


RECORDS = 2000
"""Records that the components are found by, evenly spread over all: their inner products are held at once."""


def _components(
    records: Sequence[Record], load: Callable[[Record], Payload], standard: OmicsStandard, fingerprint: Fingerprint
) -> tuple[tuple[float, ...], ...]:
    """The loadings of the leading principal components."""
    some = records[:: max(1, -(-len(records) // RECORDS))]
    values = np.stack([harmonise(load(r), r, standard, fingerprint).array for r in some])
    return _digits(leading(values, standard.components))


def _digits(values: np.ndarray) -> tuple[tuple[float, ...], ...]:
    """To six digits: the last ones depend on the processor."""
    return tuple(tuple(float(f"{v:.6g}") for v in row) for row in values)


SAMPLED = 20_000
"""Voxels of each CT that speak for it."""


def _intensity(payloads: Iterable[Payload]) -> Intensity | None:
    """Of what is not air, the same number of voxels of each CT, evenly spread."""
    drawn: list[np.ndarray] = []
    for payload in payloads:
        hu = payload.array[np.isfinite(payload.array)]
        hu = hu[hu > AIR_HU + 50]
        drawn.append(hu[:: max(1, len(hu) // SAMPLED)][:SAMPLED])
    body = np.concatenate(drawn) if drawn else np.empty(0)
    if not body.size:
        return None
    low, high = np.percentile(body, [0.5, 99.5])
    clipped = np.clip(body, low, high)
    return Intensity(float(low), float(high), float(clipped.mean()), max(float(clipped.std()), 1e-6))


def _spacing(payloads: Iterable[Payload]) -> tuple[float, float, float]:
    """Median mm (z y x) along the axes nearest to S, P and L, which is where the standard grid's axes lie."""
    known = [spacing_of(p.to_world)[list(nearest_axes(p.to_world)[0])] for p in payloads if p.to_world is not None]
    x, y, z = np.median(known, axis=0).tolist() if known else (1.0, 1.0, 1.0)
    return z, y, x


def _labels(standards: Mapping[Modality, Any]) -> Iterable[str]:
    return standards[Modality.TABLE].exclude if Modality.TABLE in standards else ()


def _codes(records: Sequence[Record], load: Callable[[Record], Payload], standard: TableStandard) -> dict[str, Scale]:
    """Codes that at least `fewest` patients have, themselves or, where the standard asks for it, by one that stands under them."""
    excluded, who, values = set(standard.exclude), Counter[str](), dict[str, list[float]]()
    seen: set[tuple[str, str]] = set()
    for record in records:
        payload = load(record)
        for name, (value, _) in zip(payload.names, payload.array.reshape(-1, 2), strict=True):
            line = (name, *ancestors(name)) if standard.ancestors else (name,)
            if any(is_of(n, excluded) for n in line):
                continue
            for code in line:
                values.setdefault(code, []).append(float(value))
                if (record.patient, code) not in seen:
                    seen.add((record.patient, code))
                    who[code] += 1
    kept = sorted(n for n in values if who[n] >= standard.fewest)
    return {n: Scale(i, float(np.mean(values[n])), float(np.std(values[n])), who[n]) for i, n in enumerate(kept)}


def _genes(payloads: Iterable[Payload], exclude: set[str]) -> dict[str, Scale]:
    """Mean and spread of each gene over those in whom it was measured, by running sums."""
    sums: dict[tuple[str, ...], list[np.ndarray]] = {}
    for payload in payloads:
        known = np.isfinite(payload.array)
        value = np.where(known, payload.array, 0.0).astype(np.float64)
        total = sums.setdefault(payload.names, [np.zeros(len(value)) for _ in range(3)])
        for into, part in zip(total, (known, value, value**2), strict=True):
            into += part
    merged: dict[str, np.ndarray] = {}
    for names, (n, first, second) in sums.items():
        for place, name in enumerate(names):
            if name not in exclude:
                merged[name] = merged.get(name, np.zeros(3)) + np.array([n[place], first[place], second[place]])
    scales = {}
    for name in sorted(merged):
        n, first, second = merged[name]
        if n >= 2 and (variance := second / n - (first / n) ** 2) > 1e-8:
            scales[name] = Scale(len(scales), float(first / n), float(variance**0.5), int(n))
    return scales
