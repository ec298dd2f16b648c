"""The data's fingerprint: what the training patients' records decide, once, for every later payload of the run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..schema import Record


@dataclass(frozen=True, slots=True)
class Scale:
    """The number, mean, spread and count of a code or a gene; the spread of a category is 0."""

    number: int
    mean: float
    sd: float
    n: int


@dataclass(frozen=True, slots=True)
class Intensity:
    """How bright the training voxels are: their 0.5th and 99.5th percentile, and the mean and spread of what is between."""

    low: float
    high: float
    mean: float
    sd: float


@dataclass(frozen=True)
class Fingerprint:
    """What was learned of the training records without any label.

    Args:
        tokenizer: the word pieces, as the JSON of `tokenizers`; None without notes.
        codes: table and EHR codes.
        genes: genes in their order.
        components: of the training records' standardised genes, the loadings (k g) of the leading principal ones, where the standard
            asks for them.
        spacing_mm: median (z y x) of the volumes, where the standard asks for it.
        hounsfield: whether most of the volumes are CT; one whose file does not say is taken for what they are.
        ct: of the voxels of the training CTs that are not air, where the standard asks for it.
        rate_hz: median rate of the signals, where the standard asks for it.
        terms: of the training notes, the inverse document frequency of each term that is kept, where the standard asks for it.
        directions: the leading directions (k t) of the training notes' terms.
    """

    tokenizer: str | None = None
    codes: Mapping[str, Scale] = field(default_factory=dict)
    genes: Mapping[str, Scale] = field(default_factory=dict)
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    hounsfield: bool = False
    ct: Intensity | None = None
    rate_hz: float = 100.0
    components: tuple[tuple[float, ...], ...] = ()
    terms: Mapping[str, float] = field(default_factory=dict)
    directions: tuple[tuple[float, ...], ...] = ()

    @cached_property
    def hash(self) -> str:
        """What tells two fingerprints apart, as hex."""
        return hashlib.blake2b(self._json().encode(), digest_size=12).hexdigest()

    def decides(self, record: Record, standard: Any) -> str:
        """What of it decides a record's payload under a standard; a cache may be shared by runs of other training patients."""
        match standard.kind:
            case "image" | "slide" | "video" | "kinematics":
                return ""
            case "signal" if standard.rate_hz is not None:
                return ""
            case "volume" if standard.spacing_mm is not None and standard.intensity == "own":
                return f"HU {self.hounsfield}" if record.kind.startswith("volume") else ""
        return self.hash

    @cached_property
    def _gene_scale(self) -> tuple[np.ndarray, np.ndarray]:
        means = np.array([g.mean for g in self.genes.values()], dtype=np.float32)
        return means, np.array([g.sd or 1.0 for g in self.genes.values()], dtype=np.float32)

    def gene_scale(self) -> tuple[np.ndarray, np.ndarray]:
        """(g,) means and (g,) spreads."""
        return self._gene_scale

    @cached_property
    def _term_scale(self) -> tuple[dict[str, int], np.ndarray]:
        return {term: n for n, term in enumerate(self.terms)}, np.array(list(self.terms.values()), dtype=np.float64)

    def term_scale(self) -> tuple[dict[str, int], np.ndarray]:
        """The place of each term, and (t,) inverse document frequencies."""
        return self._term_scale

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
        if self.ct is not None:  # what no standard asked for is not written
            data["ct"] = [self.ct.low, self.ct.high, self.ct.mean, self.ct.sd]
        if self.rate_hz != type(self).rate_hz:
            data["rate_hz"] = self.rate_hz
        if self.components:
            data["components"] = self.components
        if self.terms:
            data |= {"terms": dict(self.terms), "directions": self.directions}
        return json.dumps(data)

    @classmethod
    def open(cls, path: Path) -> Fingerprint:
        """Read what `save` wrote."""
        data = json.loads(path.read_text())
        scales = lambda rows: {k: Scale(*v) for k, v in rows.items()}
        codes, genes = scales(data["codes"]), scales(data["genes"])
        return cls(
            data["tokenizer"], codes, genes, tuple(data["spacing_mm"]), data["hounsfield"],
            Intensity(*data["ct"]) if "ct" in data else None, data.get("rate_hz", cls.rate_hz),
            tuple(map(tuple, data.get("components", ()))), data.get("terms", {}), tuple(map(tuple, data.get("directions", ()))),
        )  # fmt: skip
