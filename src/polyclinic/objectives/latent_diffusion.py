"""Latent diffusion: images and volumes that could be, alone or of a patient of whom other records are known (Rombach et al. 2022).

    record ── autoencoder ── latents ── noise ── denoiser ── latents ── autoencoder ── record that could be
                                                    │
    the patient's other records ── encoders ────────┘  left out now and then: guidance without a classifier (Ho & Salimans 2022)

The autoencoder and the denoiser are one objective of one stage: a stage's objective begins anew, and what an earlier one learned besides
the model is not handed on. The autoencoder learns during the first part of the stage and stands still after it; the denoiser learns
all along, and never moves the autoencoder. Both are in the checkpoint and in `model/objective.safetensors`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from ..fusion import FusionFields
from ..schema import Batch, Losses, Modality, Ragged, Tokens
from ..tokens import EncoderFields, select
from ..tokens.encoder import spacing_or
from ..tokens.image import NOMINAL_SIDE_MM
from .autoencoder import Autoencoder, divergence, draw, halves
from .between import Between, lying_at
from .diffusion import cosine, ddim, noised, velocity
from .dit import Denoiser
from .objective import Backbone, Objective, ObjectiveError, Structure

TIMES = 1000
FOLLOW = 0.1
"""How far the latents' mean and spread go towards a batch's in a step."""


class LatentDiffusion(Between):
    """What is generated, given what, and by what.

    Args:
        target: "image" or "volume".
        source, target_kind, source_kind: see `Between`; an empty `source` generates alone.
        share: of the stage's steps in which the autoencoder learns.
        factor: samples a latent along each axis.
        channels, latent: of the autoencoder: at full resolution, and numbers a latent.
        kl: weight of the latents' divergence from a standard normal.
        patch: latents a token along each axis.
        width, depth, heads: of the denoiser.
        drop: the share of patients of whom nothing is told in a step.
        weight: in a hybrid objective.
    """

    kind: Literal["latent_diffusion"] = "latent_diffusion"
    alike: ClassVar[tuple[str, ...]] = ("target",)
    share: float = Field(default=0.4, gt=0, le=1)
    factor: Literal[4, 8] = 4
    channels: int = Field(default=16, ge=4)
    latent: int = Field(default=4, ge=1)
    kl: float = Field(default=1e-4, ge=0)
    patch: int = Field(default=1, ge=1)
    depth: int = Field(default=4, ge=1)
    drop: float = Field(default=0.1, ge=0, le=1)
    weight: float = Field(default=1.0, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> LatentDiffusion:
        if self.target not in (Modality.IMAGE, Modality.VOLUME):
            raise ValueError(f"{self.target} has no grid to be generated on: image or volume")
        return self

    def fits(self, encoders: Mapping[Modality, EncoderFields], width: int, fusion: FusionFields) -> None:
        """The autoencoder and the patches divide the target's samples, where all its records are of one size."""
        size = getattr(encoders[self.target].standard(), "size", None)
        if size is not None:
            sides = (size, size) if isinstance(size, int) else size
            try:
                halves(torch.Size((1, 1, *sides)), self.factor * self.patch)
            except ObjectiveError as error:
                raise ValueError(
                    f"latent_diffusion of {error.found}; expected {error.expected}: {error.remedy}"
                ) from error

    def build(self, model: Backbone, structures: Mapping[str, Structure]) -> LatentDiffusionObjective:
        """The module: an autoencoder and a denoiser."""
        return LatentDiffusionObjective(self, model)


class LatentDiffusionObjective(Objective):
    """The autoencoder, the denoiser, and what they need to know of how far they are."""

    done: Tensor
    centre: Tensor
    spread: Tensor
    left: Tensor

    def __init__(self, spec: LatentDiffusion, model: Backbone) -> None:
        super().__init__()
        encoder = model.encoder(spec.target)
        dims = 2 if spec.target is Modality.IMAGE else 3
        x, y, z, s = encoder.position.scale.tolist()
        self.spec, wide = spec, (spec.latent, *[1] * dims)
        self.autoencoder = Autoencoder(dims, encoder.channels, spec.factor, spec.channels, spec.latent)
        size, known = (spec.width, spec.depth, spec.heads), None if spec.source == () else model.width
        self.denoiser = Denoiser(dims, spec.latent, spec.patch, spec.factor, *size, known, (x, y, z, s))
        self.register_buffer("done", torch.zeros(()))
        self.register_buffer("centre", torch.zeros(wide))
        self.register_buffer("spread", torch.ones(wide))
        self.register_buffer("left", cosine(TIMES), persistent=False)
        self.moments: list[tuple[Tensor, Tensor]] = []
        """Mean and standard deviation of the latents of each batch since the last step."""

    @property
    def learning(self) -> bool:
        """Whether the autoencoder still learns."""
        return float(self.done) < self.spec.share

    def forward(
        self, model: Backbone, batch: Batch, generator: torch.Generator, tokens: Mapping[Modality, Tokens] | None = None
    ) -> Losses:
        """The terms `denoising/target` and, while the autoencoder learns, `reconstruction/target` and `kl/target`."""
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        wanted = self.spec.wanted(batch)
        if wanted is None:
            return Losses({}, {})
        draws, device = torch.Generator().manual_seed(seed), wanted.patient.device
        normal = lambda like: torch.randn(like.shape, generator=draws, device="cpu").to(device)
        spec, m, x = self.spec, self.spec.target, self._whole(wanted)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.learning):
            mean, log_variance = self.autoencoder.encode(x)
            z = draw(mean, log_variance, normal(mean))
        terms: dict[str, Tensor] = {}
        if self.learning:
            terms[f"reconstruction/{m}"] = F.l1_loss(self.autoencoder.decode(z), x)
            terms[f"kl/{m}"] = divergence(mean, log_variance)
        z = z.detach()
        if self.training and self.learning and torch.is_grad_enabled():
            self.moments.append((z.mean(over := (0, *range(2, z.ndim))), z.std(over, correction=0)))
        z, noise = (z - self.centre) / self.spread, normal(z)
        time = torch.randint(TIMES, (len(z),), generator=draws, device="cpu").to(device)
        told = torch.rand(len(batch.patients), generator=draws, device="cpu").to(device) >= spec.drop
        seen = self.spec.shown(model, batch, tokens)
        if seen is not None:
            seen = select(seen, told[seen.patient])
        left = self.left[time]
        found = self._velocity(wanted, noised(z, noise, left), time, seen)
        terms[f"denoising/{m}"] = F.mse_loss(found, velocity(z, noise, left))
        return Losses(terms, {name: spec.weight * (spec.kl if name.startswith("kl/") else 1.0) for name in terms})

    def _whole(self, ragged: Ragged) -> Tensor:
        """(m c …) of records that the autoencoder and the patches divide.

        Raises:
            ObjectiveError: they do not.
        """
        assert isinstance(ragged.values, Tensor)
        halves(ragged.values.shape, self.spec.factor * self.spec.patch)
        return ragged.values.float()

    def _velocity(self, at: Ragged, z: Tensor, time: Tensor, seen: Tokens | None) -> Tensor:
        """What the denoiser says of latents of records that lie at places."""
        side = NOMINAL_SIDE_MM / max(at.values[0].shape[1:])
        nominal = (side, side) if self.spec.target is Modality.IMAGE else (1.0, 1.0, 1.0)
        return self.denoiser(z, time, spacing_or(at, nominal), at.patient, at.time_h, seen)

    @torch.no_grad()
    def stepped(self, model: Backbone, done: float) -> None:
        """While the autoencoder learns, the latents' mean and spread follow it."""
        for mean, spread in self.moments:
            share = FOLLOW if float(self.done) > 0 else 1.0
            self.centre.lerp_(mean.view_as(self.centre), share)
            self.spread.lerp_(spread.view_as(self.spread).clamp(min=1e-4), share)
        self.moments = []
        self.done.fill_(done)

    @torch.no_grad()
    def sample(
        self, model: Backbone, batch: Batch, steps: int = 50, guidance: float = 2.0,
        generator: torch.Generator | None = None, at: Ragged | None = None,
    ) -> tuple[Ragged, Tensor]:  # fmt: skip
        """Records that could be of the batch's patients.

        Args:
            model: that was trained with it.
            batch: b patients; what they have of the target is not read.
            steps: of the DDIM sampler; `TIMES` at most.
            guidance: how much more than the denoiser's own share what is known counts: 1 is its own, 0 leaves it out.
            generator: of the noise.
            at: records that say where, of whom and how many: shape and spacing. By default a patient's source of the same modality,
                or else the patients' own targets.
        Returns:
            the records that say where, and (m c …) what could be there, as harmonised.
        Raises:
            ObjectiveError: nothing says where.
        """
        at = lying_at(batch, self.spec, at)
        shape = (len(at), self.spec.latent, *halves(self._whole(at).shape, self.spec.factor))
        device = generator.device if generator else at.patient.device
        z = torch.randn(shape, generator=generator, device=device).to(at.patient.device)
        seen = self.spec.shown(model, batch) if guidance else None

        def ask(z: Tensor, time: Tensor) -> Tensor:
            known = self._velocity(at, z, time, seen)
            if seen is None or guidance == 1:
                return known
            alone = self._velocity(at, z, time, None)
            return alone + guidance * (known - alone)

        z = ddim(ask, z, self.left, steps)
        return at, self.autoencoder.decode(z * self.spread + self.centre)
