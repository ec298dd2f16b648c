"""Omics: the directions in which the training patients' genes vary most, a token a direction.

Of a few hundred patients with thousands of genes, a network that begins with a weight a gene has nothing to learn them from. The leading
principal components are known without a label, and hold most of what genes say together; what a token costs is then a number.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..harmonise import Fingerprint, OmicsStandard
from ..schema import Modality, Ragged, Tokens
from .encoder import Encoder, EncoderFields

SPREAD = 0.1
"""What a score of one adds to each number of a record's mean token: about what a cell of a table adds, that a head weighs both alike."""
MEASURED = 0.1
"""Of a component's squared loadings, the share that a record's measured genes must have for it to be told."""


class Components(EncoderFields):
    """A transformer on the leading principal components of the training records' standardised genes.

    Args:
        components: how many; fewer where the training records are fewer.
        within: how a sample is made comparable in itself: counts per million, ranks.
    """

    kind: Literal["components"] = "components"
    components: int = Field(default=10, ge=1)
    within: Literal["none", "log1p_cpm", "rank"] = "none"

    def standard(self, exclude: tuple[str, ...] = ()) -> OmicsStandard:
        """What it wants from the harmoniser."""
        return OmicsStandard(within=self.within, components=self.components)

    def build(self, fingerprint: Fingerprint) -> ComponentEncoder:
        """The module, freshly initialised, with the fingerprint's components."""
        loadings = torch.tensor(fingerprint.components, dtype=torch.float32)
        if not len(loadings):  # nothing was measured of them yet, and their number is known
            loadings = torch.zeros(self.components, len(fingerprint.genes))
        return ComponentEncoder(self, loadings)


class ComponentEncoder(Encoder):
    """(m g) with NaN → a token for each component of which enough was measured: its direction times how far the record lies along it.

    A gene that was not measured adds nothing; the sum over the others is scaled to the spread that a whole record's would have.

    Args:
        spec: width, depth, heads.
        loadings: (k g), by which the training records' sums have unit variance.
    """

    loadings: Tensor

    def __init__(self, spec: Components, loadings: Tensor) -> None:
        super().__init__(Modality.OMICS, spec)
        self.answer_size = 1
        self.register_buffer("loadings", loadings)
        weight = torch.empty(len(loadings), spec.width)
        nn.init.orthogonal_(weight)  # what one component says is not said by another, where the width has room
        self.weight = nn.Parameter(weight * (SPREAD * len(loadings) * spec.width**0.5))
        # What all have in common is the larger part: a vector that is normed then still tells how far a record lies.
        self.name = nn.Parameter(torch.randn(spec.width) + 0.1 * torch.randn(len(loadings), spec.width))

    def scores(self, ragged: Ragged) -> Tensor:
        """(m k), NaN where too little of a component was measured."""
        assert isinstance(ragged.values, Tensor)
        known = torch.isfinite(ragged.values)
        squares = self.loadings.square()
        share = known.to(squares.dtype) @ squares.T / squares.sum(1).clamp(min=1e-12)
        score = torch.where(known, ragged.values, 0.0) @ self.loadings.T / share.clamp(min=MEASURED).sqrt()
        return torch.where(share >= MEASURED, score, torch.nan)

    def embed(self, ragged: Ragged) -> Tokens:
        """One token a component."""
        score = self.scores(ragged)
        record, place = torch.nonzero(torch.isfinite(score), as_tuple=True)
        values = score[record, place, None] * self.weight[place] + self.name[place]
        position = torch.zeros(len(record), 4, device=score.device)
        position[:, 3] = place.float()  # as a word's order: a decoder must know which component it is asked for
        return self.tokens(ragged, values, record, position)

    def answer(self, ragged: Ragged) -> Tensor:
        """(n 1) how far the record lies along each token's component."""
        score = self.scores(ragged)
        return score[torch.isfinite(score)][:, None]
