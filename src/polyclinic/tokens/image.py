"""Images: patches of a square (ViT, Dosovitskiy et al. 2021), placed in mm."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor, nn

from ..harmonise import Fingerprint, ImageStandard
from ..schema import Modality, Ragged, Tokens
from .encoder import Encoder, EncoderFields, grid_positions, normalised, rows, spacing_or

NOMINAL_SIDE_MM = 350.0
"""The side of an image whose file has no scale: about a chest film's."""


class Vit(EncoderFields):
    """A vision transformer on images of `size` pixels in patches of `patch`: of luminance, or with 3 `channels` of colours."""

    pieced: ClassVar[bool] = True
    kind: Literal["vit"] = "vit"
    size: int = Field(default=128, ge=8)
    patch: int = Field(default=16, ge=2)
    channels: Literal[1, 3] = 1

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.size % self.patch:
            raise ValueError(f"patches of {self.patch} do not fill an image of {self.size}")
        return self

    def standard(self, exclude: tuple[str, ...] = ()) -> ImageStandard:
        """What it wants from the harmoniser."""
        return ImageStandard(size=self.size, channels=self.channels)

    def build(self, fingerprint: Fingerprint) -> ImageEncoder:
        """The module, freshly initialised."""
        return ImageEncoder(self)


class ImageEncoder(Encoder):
    """(m c y x) → m · (size / patch)² tokens."""

    def __init__(self, spec: Vit) -> None:
        super().__init__(Modality.IMAGE, spec)
        self.patch, self.channels = (spec.patch, spec.patch), spec.channels
        self.answer_size = spec.channels * spec.patch**2
        self.project = nn.Linear(self.answer_size, spec.width)

    def grid(self, values: Tensor) -> tuple[int, int]:
        """How many patches along (y x)."""
        return values.shape[2] // self.patch[0], values.shape[3] // self.patch[1]

    def patches(self, values: Tensor) -> Tensor:
        """(m c y x) → (m n p), of each patch one channel after the other."""
        return squares(values, self.patch[0])

    def embed(self, ragged: Ragged) -> Tokens:
        """One token a patch."""
        assert isinstance(ragged.values, Tensor)
        patches = self.patches(ragged.values)
        m, n, _ = patches.shape
        nominal = NOMINAL_SIDE_MM / max(ragged.values.shape[2:])
        position = grid_positions(self.grid(ragged.values), self.patch, spacing_or(ragged, (nominal, nominal)))
        record = rows(m, n, patches.device)
        return self.tokens(ragged, self.project(patches.flatten(0, 1)), record, position.flatten(0, 1))

    def pieces(self, ragged: Ragged) -> Tensor:
        """(n p) patches."""
        assert isinstance(ragged.values, Tensor)
        return self.patches(ragged.values).flatten(0, 1)

    def answer(self, ragged: Ragged) -> Tensor:
        """(n p) standardised patches."""
        return normalised(self.pieces(ragged))


def squares(values: Tensor, p: int) -> Tensor:
    """(m c y x) → (m (y/p · x/p) (c · p · p)): patches row by row, of each one channel after the other."""
    m, c, y, x = values.shape
    return values.reshape(m, c, y // p, p, x // p, p).permute(0, 2, 4, 1, 3, 5).reshape(m, -1, c * p * p)
