"""The model: encoders, a bridge from each to the fusion's width, the fusion, and a projection from each into one space."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from ..fusion import Fusion, FusionSpec, Intermediate, Tower
from ..harmonise import Fingerprint
from ..schema import Batch, Fused, Modality, Tokens
from ..tokens import Encoded, Encoder, EncoderFields, compared, join
from ..tokens.packing import with_values


class ModelFields(BaseModel, ABC):
    """What every model's specification has; a subclass adds its `kind`.

    Args:
        width: d of the fusion.
        embedding: e of the space in which modalities are compared.
        fusion: how they meet.
        centre: take a running mean of its vectors off each modality's before they are compared. What all patients share says
            nothing of anyone, and keeps modalities apart (Liang et al. 2022); CLIP has no such thing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    width: int = Field(default=128, ge=8)
    embedding: int = Field(default=128, ge=8)
    fusion: FusionSpec = Intermediate()
    centre: bool = False

    @abstractmethod
    def build(self, encoders: Mapping[Modality, EncoderFields], fingerprint: Fingerprint, seed: int) -> Model:
        """The module, freshly initialised; the arguments are `Model`'s."""


@contextmanager
def seeded(seed: int, name: str) -> Iterator[None]:
    """Initial weights that depend on the seed and the part's name, and on no other part; the world's state is put back."""
    number = int.from_bytes(hashlib.blake2b(f"{seed}\x00{name}".encode(), digest_size=7).digest(), "big")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(number)  # and not torch.manual_seed, which would seed the accelerators too
        yield


class Centre(nn.Module):
    """Takes a mean off that it keeps while training: of all vectors so far, then of about the last `SPAN` batches.

    The mean is of earlier batches, so that no patient's vector depends on who else is in the batch.
    """

    SPAN = 5.0
    mean: Tensor
    batches: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("batches", torch.zeros(()))

    def forward(self, vectors: Tensor) -> Tensor:
        """(p e) → (p e)."""
        centred = vectors - self.mean
        if self.training and len(vectors):
            with torch.no_grad():
                self.batches += 1
                self.mean += (vectors.mean(0) - self.mean) / self.batches.clamp(max=self.SPAN)
        return centred


class Model(nn.Module, ABC):
    """Any subset of its modalities is a valid patient.

    Args:
        spec: width, embedding, fusion.
        encoders: an `EncoderSpec` a modality.
        fingerprint: of the training patients: vocabulary, codes, genes.
        seed: of the initial weights; a part's depend on it and on no other part.
    """

    place, world = 0, 1
    """Which part of a step it reads, and for how many processes; `training` divides a step, and has a view of the model in each
    part (`objectives/gather.py`)."""

    def __init__(
        self, spec: ModelFields, encoders: Mapping[Modality, EncoderFields], fingerprint: Fingerprint, seed: int
    ) -> None:
        super().__init__()
        self.own_trunks = spec.fusion.own_trunks
        self.encoders, self.bridge, self.project = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        self.name = nn.ParameterDict()
        self.width, self.embedding = spec.width, spec.embedding
        self.centre = nn.ModuleDict()
        for modality in (m for m in Modality if m in encoders):
            with seeded(seed, modality.value):
                own = encoders[modality] if self.own_trunks else encoders[modality].model_copy(update={"depth": 0})
                encoder = own.build(fingerprint)
                self.encoders[modality.value] = encoder
                self.bridge[modality.value] = nn.Linear(encoder.width, spec.width)
                self.name[modality.value] = nn.Parameter(torch.randn(spec.width) * 0.1)
                self.project[modality.value] = nn.Linear(spec.width, spec.embedding)
                if spec.centre:
                    self.centre[modality.value] = Centre(spec.embedding)
        with seeded(seed, "fusion"):
            self.fusion: Fusion = spec.fusion.build(spec.width, self.modalities)

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

    def encode(self, batch: Batch) -> Encoded:
        """The tokens of each modality that the batch has and the model knows, in the fusion's width; each is read when it is asked for."""
        there = [m for m in self.modalities if m in batch.payloads]
        return Encoded(there, lambda m: self.encoder(m).ended(batch.payloads[m]), self.bridged)

    def fuse(self, tokens: Mapping[Modality, Tokens], patients: int) -> Fused:
        """What the modalities' tokens are together; a batch without any gives zeros for all."""
        parts = [tokens[m] for m in Modality if m in tokens]
        return self.fusion(join(parts) if parts else nothing(patients, self.width, next(self.parameters()).device))

    def forward(self, batch: Batch) -> Fused:
        """Batch → tokens and (b d)."""
        return self.fuse(self.encode(batch), len(batch.patients))

    @property
    def shared(self) -> list[nn.Parameter]:
        """The weights of the last layer that every objective's answer comes through: into the fusion's width."""
        return [p for p in self.bridge.parameters() if p.ndim > 1]

    @abstractmethod
    def alone(self, tokens: Tokens) -> Tokens:
        """One modality's tokens after everything that reads them before other modalities do."""

    @abstractmethod
    def pool(self, tokens: Tokens) -> Tensor:
        """(b d) one modality's vector a patient, before its projection: where the towers end."""

    def towers(self, tokens: Mapping[Modality, Tokens]) -> dict[Modality, Tower]:
        """Each modality's unit vectors in the space that all share, for the patients who have it.

        Args:
            tokens: of each modality; of what `encode` gives, those that it is compared by (`tokens.compared`).
        """
        out, tokens = {}, compared(tokens)
        for modality in (m for m in Modality if m in tokens):
            there = torch.nonzero(tokens[modality].lengths > 0).flatten()
            vectors = self.project[modality.value](self.pool(tokens[modality])[there]).float()
            if modality.value in self.centre:
                vectors = self.centre[modality.value](vectors)
            out[modality] = Tower(F.normalize(vectors, dim=1), there)
        return out

    def placed(self, tokens: Mapping[Modality, Tokens]) -> dict[Modality, Tokens]:
        """Each token's unit vector in the space in which `towers` has each patient's (and never centred)."""
        out = {}
        for modality in (m for m in Modality if m in tokens):
            vectors = self.project[modality.value](self.alone(tokens[modality]).values).float()
            out[modality] = with_values(tokens[modality], F.normalize(vectors, dim=1))
        return out

    def everyone(self, towers: Mapping[Modality, Tower], patients: int) -> Mapping[Modality, Tower]:
        """The towers of all whom a loss compares: here, of the batch; `training` divides a step and gives the whole step's."""
        return towers

    def summed(self, numbers: Tensor) -> Tensor:
        """Sums over all of a step: here, over the batch's, which they are already."""
        return numbers.detach()


def nothing(patients: int, width: int, device: torch.device) -> Tokens:
    """No tokens at all of b patients."""
    numbers = lambda n: torch.zeros(n, dtype=torch.int64, device=device)
    floats = lambda *shape: torch.zeros(shape, device=device)
    return Tokens(floats(0, width), numbers(0), numbers(0), numbers(0), floats(0, 4), floats(0), numbers(patients))


def build_model(
    spec: ModelFields, encoders: Mapping[Modality, EncoderFields], fingerprint: Fingerprint, seed: int
) -> Model:
    """The model of a recipe, freshly initialised.

    Args:
        spec: a `ModelSpec`.
        encoders: an `EncoderSpec` a modality.
        fingerprint: of the training patients: vocabulary, codes, genes.
        seed: of the weights.
    """
    return spec.build(encoders, fingerprint, seed)
