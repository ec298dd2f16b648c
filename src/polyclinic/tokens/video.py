"""Videos: tubelets of a clip, a few frames long and a patch wide (ViViT, Arnab et al. 2021, section 3.2), placed in mm and seconds."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from ..harmonise import Fingerprint, VideoStandard
from ..schema import Modality, Ragged, Tokens
from .encoder import Encoder, EncoderFields, grid_positions, normalised, rows_of, spacing_or
from .image import squares

NOMINAL_SIDE_MM = 200.0
"""The side of a frame whose file has no scale, as the harmoniser takes it."""


class Vivit(EncoderFields):
    """A vision transformer on clips, whose tokens all see each other (ViViT's model 1).

    Args:
        size: pixels of a frame's side.
        patch: of a tubelet's.
        frames: that a tubelet lasts.
        rate_hz, seconds: of the clip.
        colour: red, green and blue, or luminance.
    """

    pieced: ClassVar[bool] = True
    kind: Literal["vivit"] = "vivit"
    size: int = Field(default=112, ge=8)
    patch: int = Field(default=16, ge=2)
    frames: int = Field(default=2, ge=1)
    rate_hz: float = Field(default=4.0, gt=0, le=240)
    seconds: float = Field(default=4.0, gt=0)
    colour: bool = True

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.size % self.patch:
            raise ValueError(f"patches of {self.patch} do not fill a frame of {self.size}")
        return self

    def standard(self, exclude: tuple[str, ...] = ()) -> VideoStandard:
        """What it wants from the harmoniser."""
        return VideoStandard(rate_hz=self.rate_hz, seconds=self.seconds, size=self.size, colour=self.colour)

    def build(self, fingerprint: Fingerprint) -> VideoEncoder:
        """The module, freshly initialised."""
        return VideoEncoder(self)


class VideoEncoder(Encoder):
    """m clips (t c y x) of differing length → ceil(t / frames) · (size / patch)² tokens each.

    The last tubelet of a clip that they do not fill stands still in its last frame.
    """

    def __init__(self, spec: Vivit) -> None:
        super().__init__(Modality.VIDEO, spec, scale=(1.0, 1.0, 1.0, spec.frames / spec.rate_hz))
        self.side, self.frames = spec.patch, spec.frames
        self.answer_size = spec.frames * (3 if spec.colour else 1) * spec.patch**2
        self.project = nn.Linear(self.answer_size, spec.width)

    def tubelets(self, clip: Tensor) -> Tensor:
        """(t c y x) → (time, space, p), of each tubelet one frame after the other."""
        lacking = -len(clip) % self.frames
        whole = torch.cat([clip, clip[-1:].expand(lacking, -1, -1, -1)])
        return squares(whole.reshape(-1, self.frames * clip.shape[1], *clip.shape[2:]), self.side)

    def embed(self, ragged: Ragged) -> Tokens:
        """One token a tubelet; its s is the mean of its frames' times, in the source."""
        assert ragged.places is not None
        parts = [self.tubelets(clip) for clip in ragged.values]
        nominal = NOMINAL_SIDE_MM / max(ragged.values[0].shape[2:])
        y, x = (n // self.side for n in ragged.values[0].shape[2:])
        grid = grid_positions((y, x), (self.side, self.side), spacing_or(ragged, (nominal, nominal)))
        position = []
        for place, frames in zip(grid, ragged.places, strict=True):
            moments = torch.stack([times.mean() for times in frames[:, 3].split(self.frames)])
            placed = place.repeat(len(moments), 1)
            placed[:, 3] = moments.repeat_interleave(len(place))
            position.append(placed)
        record = rows_of([part.flatten(0, 1) for part in parts])
        return self.tokens(ragged, self.project(torch.cat(parts).flatten(0, 1)), record, torch.cat(position))

    def pieces(self, ragged: Ragged) -> Tensor:
        """(n p) tubelets."""
        return torch.cat([self.tubelets(clip).flatten(0, 1) for clip in ragged.values])

    def answer(self, ragged: Ragged) -> Tensor:
        """(n p) standardised tubelets."""
        return normalised(self.pieces(ragged))
