"""Omics: genes in programmes, a token a programme."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..harmonise import Fingerprint, OmicsStandard
from ..schema import Modality, Ragged, Tokens
from .encoder import Encoder, EncoderFields


class Programmes(EncoderFields):
    """A transformer on programmes of genes.

    Args:
        genes: at most so many a programme. A programme holds genes of one assay.
        within: how a sample is made comparable in itself: counts per million, ranks.
        standardise: whether each gene is then put by its training mean and spread.
    """

    pieced: ClassVar[bool] = True
    kind: Literal["programmes"] = "programmes"
    genes: int = Field(default=128, ge=1)
    within: Literal["none", "log1p_cpm", "rank"] = "none"
    standardise: bool = True

    def standard(self, exclude: tuple[str, ...] = ()) -> OmicsStandard:
        """What it wants from the harmoniser."""
        return OmicsStandard(within=self.within, standardise=self.standardise)

    def build(self, fingerprint: Fingerprint) -> OmicsEncoder:
        """The module, freshly initialised, with the fingerprint's genes."""
        return OmicsEncoder(self, list(fingerprint.genes))


class OmicsEncoder(Encoder):
    """(m g) with NaN → a token for each programme of which a gene was measured.

    A gene that was not measured adds nothing; the sum over the others is scaled to the spread that a whole programme's would have.
    """

    order: Tensor

    def __init__(self, spec: Programmes, names: list[str]) -> None:
        super().__init__(Modality.OMICS, spec)
        self.answer_size = spec.genes
        self.register_buffer("order", programmes(names, spec.genes))
        count = len(self.order)
        self.weight = nn.Parameter(torch.randn(count, spec.genes, spec.width) / spec.genes**0.5)
        self.name = nn.Parameter(torch.randn(count, spec.width) * 0.1)

    def programmes(self, ragged: Ragged) -> Tensor:
        """(m k p), NaN where a gene was not measured or the programme is not full."""
        assert isinstance(ragged.values, Tensor)
        wide = torch.cat([ragged.values, ragged.values.new_full((len(ragged), 1), torch.nan)], dim=1)
        return wide[:, self.order]

    def embed(self, ragged: Ragged) -> Tokens:
        """One token a measured programme."""
        genes = self.programmes(ragged)
        known = torch.isfinite(genes)
        value = torch.einsum("mkp,kpd->mkd", torch.where(known, genes, 0.0), self.weight)
        share = known.float().mean(2, keepdim=True)
        value = value / share.clamp(min=1e-3).sqrt() + self.name
        record, place = torch.nonzero(known.any(2), as_tuple=True)
        position = torch.zeros(len(record), 4, device=genes.device)
        position[:, 3] = place.float()  # as a word's order: a decoder must know which programme it is asked for
        return self.tokens(ragged, value[record, place], record, position)

    def pieces(self, ragged: Ragged) -> Tensor:
        """(n p) the genes of each token, NaN where not measured."""
        genes = self.programmes(ragged)
        return genes[torch.isfinite(genes).any(2)]

    def answer(self, ragged: Ragged) -> Tensor:
        """The same."""
        return self.pieces(ragged)


def programmes(names: list[str], most: int) -> Tensor:
    """(k most) gene numbers, by assay (`GENE_assay`) and then by name; len(names) where a programme is not full."""
    by_assay: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        by_assay.setdefault(name.rsplit("_", 1)[-1] if "_" in name else "", []).append(number)
    out = []
    for assay in sorted(by_assay):
        numbers = by_assay[assay]
        for start in range(0, len(numbers), most):
            chunk = numbers[start : start + most]
            out.append(chunk + [len(names)] * (most - len(chunk)))
    return torch.tensor(out or [[0] * most], dtype=torch.int64)
