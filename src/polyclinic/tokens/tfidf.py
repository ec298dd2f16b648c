"""Text: a note's terms along the directions in which the training notes differ most, one token a note.

What a bag of words says (TF-IDF of words and pairs) by latent semantic analysis (Deerwester et al. 1990): a head on it has a hundred
numbers to weigh instead of a network's hundreds of thousands, and is what a small cohort's notes can teach.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..harmonise import Fingerprint, TfidfStandard
from ..schema import Modality, Ragged, Tokens
from .encoder import Encoder, EncoderFields

SPREAD = 0.3
"""What a note adds to each number of its token, where what all notes have in common adds one."""


class Tfidf(EncoderFields):
    """The note as a bag of words and pairs of words, along the training notes' leading directions.

    Args:
        vocabulary: terms at most.
        fewest: training patients in whose notes a term must stand to be kept, at least two.
        directions: how many; fewer where the training notes are fewer.
        depth: blocks of a trunk; of one token a note there is nothing to see for them.
    """

    kind: Literal["tfidf"] = "tfidf"
    vocabulary: int = Field(default=5000, ge=1)
    fewest: int = Field(default=3, ge=2)
    directions: int = Field(default=100, ge=1)
    depth: int = Field(default=0, ge=0)

    def standard(self, exclude: tuple[str, ...] = ()) -> TfidfStandard:
        """What it wants from the harmoniser."""
        return TfidfStandard(vocabulary=self.vocabulary, fewest=self.fewest, directions=self.directions)

    def build(self, fingerprint: Fingerprint) -> TfidfEncoder:
        """The module, freshly initialised, with the fingerprint's directions."""
        directions = torch.tensor(fingerprint.directions, dtype=torch.float32)
        if not len(directions):  # no note was read yet, and their number is known
            directions = torch.zeros(self.directions, len(fingerprint.terms))
        return TfidfEncoder(self, directions)


class TfidfEncoder(Encoder):
    """m notes of (t,) weights → a token of each in which a kept term stands; another says nothing, as a note that is not there.

    Args:
        spec: width, depth, heads.
        directions: (k t), orthonormal.
    """

    directions: Tensor

    def __init__(self, spec: Tfidf, directions: Tensor) -> None:
        super().__init__(Modality.TEXT, spec)
        self.register_buffer("directions", directions)
        weight = torch.empty(len(directions), spec.width)
        nn.init.orthogonal_(weight)  # what one direction says is not said by another, where the width has room
        self.weight = nn.Parameter(weight * (SPREAD * spec.width**0.5))
        # What all have in common is the larger part: a vector that is normed then still tells how far a note lies.
        self.name = nn.Parameter(torch.randn(spec.width))

    def embed(self, ragged: Ragged) -> Tokens:
        """One token a note."""
        terms = torch.stack(list(ragged.values)) if len(ragged.values) else self.directions.new_zeros(0, self.terms)
        record = torch.nonzero(terms.any(1)).flatten()
        values = terms[record] @ self.directions.T @ self.weight + self.name
        return self.tokens(ragged, values, record, torch.zeros(len(record), 4, device=record.device))

    @property
    def terms(self) -> int:
        """How many it reads."""
        return self.directions.shape[1]
