"""The data's fingerprint: what the training patients' records decide, once, for every later payload of the run."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..schema import Modality, Payload, Record


@dataclass(frozen=True, slots=True)
class Scale:
    """The number, mean, spread and count of a code or a gene; the spread of a category is 0."""

    number: int
    mean: float
    sd: float
    n: int


@dataclass(frozen=True)
class Fingerprint:
    """What was learned of the training records without any label.

    Args:
        tokenizer: the word pieces, as the JSON of `tokenizers`; None without notes.
        codes: table and EHR codes.
        genes: genes in their order.
        spacing_mm: median (z y x) of the volumes, where the standard asks for it.
        hounsfield: whether most of the volumes are CT; one whose file does not say is taken for what they are.
    """

    tokenizer: str | None = None
    codes: Mapping[str, Scale] = field(default_factory=dict)
    genes: Mapping[str, Scale] = field(default_factory=dict)
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    hounsfield: bool = False

    @cached_property
    def hash(self) -> str:
        """What tells two fingerprints apart, as hex."""
        return hashlib.blake2b(self._json().encode(), digest_size=12).hexdigest()

    @cached_property
    def _gene_scale(self) -> tuple[np.ndarray, np.ndarray]:
        means = np.array([g.mean for g in self.genes.values()], dtype=np.float32)
        return means, np.array([g.sd or 1.0 for g in self.genes.values()], dtype=np.float32)

    def gene_scale(self) -> tuple[np.ndarray, np.ndarray]:
        """(g,) means and (g,) spreads."""
        return self._gene_scale

    @property
    def words(self) -> int:
        """How many word pieces there are."""
        return len(json.loads(self.tokenizer)["model"]["vocab"]) if self.tokenizer else 4

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(self._json())

    def _json(self) -> str:
        rows = lambda scales: {k: [v.number, v.mean, v.sd, v.n] for k, v in scales.items()}
        data = {
            "tokenizer": self.tokenizer,
            "codes": rows(self.codes),
            "genes": rows(self.genes),
            "spacing_mm": self.spacing_mm,
            "hounsfield": self.hounsfield,
        }
        return json.dumps(data)

    @classmethod
    def open(cls, path: Path) -> Fingerprint:
        """Read what `save` wrote."""
        data = json.loads(path.read_text())
        scales = lambda rows: {k: Scale(*v) for k, v in rows.items()}
        codes, genes = scales(data["codes"]), scales(data["genes"])
        return cls(data["tokenizer"], codes, genes, tuple(data["spacing_mm"]), data["hounsfield"])


def fit(records: Sequence[Record], load: Callable[[Record], Payload], standards: Mapping[Modality, Any]) -> Fingerprint:
    """The fingerprint of the training records (never of a test patient's).

    Args:
        records: the training patients' records that are inputs.
        load: record → source payload.
        standards: what the recipe's encoders want, by modality.
    """
    from .text import train_tokenizer

    by = {m: [r for r in records if r.modality is m] for m in standards}
    spacing = (1.0, 1.0, 1.0)
    if by.get(Modality.VOLUME) and standards[Modality.VOLUME].spacing_mm is None:
        spacing = _spacing(load(r) for r in by[Modality.VOLUME])
    tokenizer = None
    if by.get(Modality.TEXT):
        tokenizer = train_tokenizer(
            (load(r).text or "" for r in by[Modality.TEXT]), standards[Modality.TEXT].vocabulary
        )
    codes: dict[str, Scale] = {}
    if by.get(Modality.TABLE):
        codes = _codes(by[Modality.TABLE], load, standards[Modality.TABLE].exclude, standards[Modality.TABLE].fewest)
    genes: dict[str, Scale] = {}
    if by.get(Modality.OMICS):
        genes = _genes((load(r) for r in by[Modality.OMICS]), set(_labels(standards)))
    volumes = [r.kind.startswith("CT") for r in by.get(Modality.VOLUME, [])]
    return Fingerprint(tokenizer, codes, genes, spacing, sum(volumes) > len(volumes) / 2)


def _spacing(payloads: Iterable[Payload]) -> tuple[float, float, float]:
    """Median mm (z y x) along the axes nearest to S, P and L, which is where the standard grid's axes lie."""
    from .geometry import nearest_axes, spacing_of

    known = [spacing_of(p.to_world)[list(nearest_axes(p.to_world)[0])] for p in payloads if p.to_world is not None]
    x, y, z = np.median(known, axis=0).tolist() if known else (1.0, 1.0, 1.0)
    return z, y, x


def _labels(standards: Mapping[Modality, Any]) -> Iterable[str]:
    return standards[Modality.TABLE].exclude if Modality.TABLE in standards else ()


def _codes(
    records: Sequence[Record], load: Callable[[Record], Payload], exclude: Sequence[str], fewest: int
) -> dict[str, Scale]:
    """Codes that at least `fewest` patients have, in the order of their names."""
    from .table import is_of

    excluded, who, values = set(exclude), Counter[str](), dict[str, list[float]]()
    seen: set[tuple[str, str]] = set()
    for record in records:
        payload = load(record)
        for name, (value, _) in zip(payload.names, payload.array.reshape(-1, 2), strict=True):
            if is_of(name, excluded):
                continue
            values.setdefault(name, []).append(float(value))
            if (record.patient, name) not in seen:
                seen.add((record.patient, name))
                who[name] += 1
    kept = sorted(n for n in values if who[n] >= fewest)
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
