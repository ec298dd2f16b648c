"""The model: encoders, a bridge from each to the fusion's width, the fusion, and a projection from each into one space."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from ..fusion import FusionSpec, Intermediate
from ..harmonise import Fingerprint
from ..schema import Batch, Fused, Modality, Tokens
from ..tokens import Encoder, join
from ..tokens.packing import with_values


class ModelFields(BaseModel):
    """What every model's specification has.

    Args:
        width: d of the fusion.
        embedding: e of the space in which modalities are compared.
        fusion: how they meet.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    width: int = Field(default=128, ge=8)
    embedding: int = Field(default=128, ge=8)
    fusion: FusionSpec = Intermediate()


@dataclass(frozen=True, slots=True)
class Tower:
    """Vectors of the patients who have a modality.

    Args:
        vectors: (p e), of unit length.
        patient: (p,) int64, ascending.
    """

    vectors: Tensor
    patient: Tensor


@contextmanager
def seeded(seed: int, name: str) -> Iterator[None]:
    """Initial weights that depend on the seed and the part's name, and on no other part; the world's state is put back."""
    number = int.from_bytes(hashlib.blake2b(f"{seed}\x00{name}".encode(), digest_size=7).digest(), "big")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(number)
        yield


class Model(nn.Module):
    """Any subset of its modalities is a valid patient.

    Args:
        spec: width, embedding, fusion.
        encoders: how to build each modality's encoder.
        seed: of the initial weights.
    """

    def __init__(self, spec: ModelFields, encoders: Mapping[Modality, Callable[[], Encoder]], seed: int) -> None:
        super().__init__()
        self.encoders, self.bridge, self.project = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        self.name = nn.ParameterDict()
        self.width, self.embedding = spec.width, spec.embedding
        for modality in (m for m in Modality if m in encoders):
            with seeded(seed, modality.value):
                encoder = encoders[modality]()
                self.encoders[modality.value] = encoder
                self.bridge[modality.value] = nn.Linear(encoder.width, spec.width)
                self.name[modality.value] = nn.Parameter(torch.randn(spec.width) * 0.1)
                self.project[modality.value] = nn.Linear(spec.width, spec.embedding)
        with seeded(seed, "fusion"):
            self.fusion: Any = spec.fusion.build(spec.width)

    @property
    def modalities(self) -> list[Modality]:
        """What it can read."""
        return [Modality(name) for name in self.encoders]

    def encoder(self, modality: Modality) -> Encoder:
        """The encoder of one modality."""
        encoder = self.encoders[modality.value]
        assert isinstance(encoder, Encoder)
        return encoder

    def bridged(self, modality: Modality, tokens: Tokens) -> Tokens:
        """An encoder's tokens in the fusion's width, marked with their modality."""
        return with_values(tokens, self.bridge[modality.value](tokens.values) + self.name[modality.value])

    def encode(self, batch: Batch) -> dict[Modality, Tokens]:
        """The tokens of each modality that the batch has and the model knows, in the fusion's width."""
        found = {}
        for modality in self.modalities:
            if modality in batch.payloads:
                encoder = self.encoder(modality)
                ragged = batch.payloads[modality]
                tokens = encoder.embed(ragged) if self.fusion.embeds_only else encoder(ragged)
                found[modality] = self.bridged(modality, tokens)
        return found

    def fuse(self, tokens: Mapping[Modality, Tokens], patients: int) -> Fused:
        """What the modalities' tokens are together; a batch without any gives zeros for all."""
        parts = [tokens[m] for m in Modality if m in tokens]
        if not parts:
            return Fused(
                nothing(patients, self.width),
                torch.zeros(patients, self.width),
                torch.zeros(patients, dtype=torch.bool),
            )
        return self.fusion(join(parts))

    def forward(self, batch: Batch) -> Fused:
        """Batch → tokens and (b d)."""
        return self.fuse(self.encode(batch), len(batch.patients))

    def pool(self, tokens: Tokens) -> Tensor:
        """(b d) one modality's vector a patient, before its projection: where the towers end."""
        raise TypeError(f"{type(self).__name__} does not say where its towers end")

    def towers(self, tokens: Mapping[Modality, Tokens]) -> dict[Modality, Tower]:
        """Each modality's unit vectors in the space that all share, for the patients who have it."""
        out = {}
        for modality in (m for m in Modality if m in tokens):
            there = torch.nonzero(tokens[modality].lengths > 0).flatten()
            vectors = self.project[modality.value](self.pool(tokens[modality])[there])
            out[modality] = Tower(F.normalize(vectors.float(), dim=1), there)
        return out


def nothing(patients: int, width: int) -> Tokens:
    """No tokens at all of b patients."""
    empty = torch.zeros(0, dtype=torch.int64)
    return Tokens(
        torch.zeros(0, width),
        empty,
        empty,
        empty,
        torch.zeros(0, 4),
        torch.zeros(0),
        torch.zeros(patients, dtype=torch.int64),
    )


def build_model(spec: Any, encoders: Mapping[Modality, Any], fingerprint: Fingerprint, seed: int) -> Model:
    """The model of a recipe, freshly initialised.

    Args:
        spec: a `ModelSpec`.
        encoders: an `EncoderSpec` a modality.
        fingerprint: of the training patients: vocabulary, codes, genes.
        seed: of the weights.
    """
    builders = {m: (lambda s=s: s.build(fingerprint)) for m, s in encoders.items()}
    return spec.build(builders, seed)
