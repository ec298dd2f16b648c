"""Decoders: what answers from tokens, as patches or as masks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..schema import Modality, Tokens
from ..tokens import Layout, Transformer
from ..tokens.position import PhysicalPosition


class PatchDecoder(nn.Module):
    """A light Transformer that answers for the tokens that were hidden (MAE, He et al. 2022, section 3).

    Args:
        width: of the encoder's tokens.
        answers: p, numbers an answer (or how many categories).
        inner: the decoder's own width.
        depth, heads: of its Transformer.
        scale: of the encoder's positions.
    """

    def __init__(
        self, width: int, answers: int, inner: int, depth: int, heads: int, scale: tuple[float, float, float, float]
    ) -> None:
        super().__init__()
        self.enter = nn.Linear(width, inner)
        self.hidden = nn.Parameter(torch.randn(inner) * 0.02)
        self.position = PhysicalPosition(inner, scale)
        self.blocks = Transformer(inner, depth, heads)
        self.leave = nn.Linear(inner, answers)

    def forward(self, every: Tokens, kept: Tokens, keep: Tensor) -> Tensor:
        """The answers for the hidden tokens.

        Args:
            every: all tokens (n d) as embedded; only their places are read.
            kept: those that the encoder saw (k d), after it.
            keep: (n,) bool, which they are.
        Returns:
            (n - k, p)
        """
        seen = self.enter(kept.values)
        values = self.hidden.to(seen.dtype).expand(len(keep), -1)
        values = values.index_copy(0, torch.nonzero(keep).flatten(), seen)
        values = values + self.position(every.position, every.time_h).to(seen.dtype)
        hidden = torch.nonzero(~keep).flatten()
        return self.leave(self.blocks(values, Layout.of(every.record)).index_select(0, hidden))


CONVOLUTION: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
LAYOUT = {2: torch.channels_last, 3: torch.channels_last_3d}
"""Channels last in memory: convolutions of a CPU take two thirds of the time."""


class ConvStep(nn.Module):
    """Convolution 3 × 3 (× 3), instance norm and leaky ReLU, twice; a shortcut goes around the second."""

    def __init__(self, dims: int, inside: int, outside: int, stride: int = 1) -> None:
        super().__init__()
        conv = CONVOLUTION[dims]
        self.first = conv(inside, outside, 3, stride, 1)
        self.second = conv(outside, outside, 3, 1, 1)

    @staticmethod
    def _norm(x: Tensor) -> Tensor:
        return F.leaky_relu(F.instance_norm(x), 0.01)

    def forward(self, x: Tensor) -> Tensor:
        """(m c …) → (m c' …)."""
        x = self._norm(self.first(x))
        return x + self._norm(self.second(x))


class MaskDecoder(nn.Module):
    """Tokens and samples → a mask: a compact U-Net on the samples whose lowest level the tokens enter.

    After UNETR (Hatamizadeh et al. 2022), with the convolutions where they are cheap: half resolution and below; full resolution
    has one in and one out, both on few channels. With `full` there are as many at full resolution as at any other, as in a U-Net
    (Ronneberger et al. 2015): structures a few samples thick need them.

    Args:
        width: of the tokens.
        modality: IMAGE or VOLUME, whose tokens lie on a grid.
        patch: samples a token along each axis.
        classes: k, background among them.
        channels: at full resolution; twice as many at each level below.
        maps: further channels that come with the samples.
        inputs: numbers a sample: 3 of an image in colours.
        full: whether full resolution has convolutions too.
    """

    def __init__(
        self,
        width: int,
        modality: Modality,
        patch: tuple[int, ...],
        classes: int,
        channels: int = 8,
        maps: int = 0,
        inputs: int = 1,
        full: bool = False,
    ) -> None:
        super().__init__()
        self.modality, self.patch, self.classes, self.full = modality, patch, classes, full
        dims, c, conv = len(patch), channels, CONVOLUTION[len(patch)]
        self.stem = ConvStep(dims, inputs + maps, c) if full else conv(inputs + maps, c, 3, 1, 1)
        self.down = nn.ModuleList(
            [ConvStep(dims, c, 2 * c, 2), ConvStep(dims, 2 * c, 4 * c, 2), ConvStep(dims, 4 * c, 8 * c, 2)]
        )
        self.tokens = nn.Linear(width, 8 * c)
        self.bottom = ConvStep(dims, 8 * c, 8 * c)
        self.up = nn.ModuleList([ConvStep(dims, 12 * c, 4 * c), ConvStep(dims, 6 * c, 2 * c)])
        if full:
            self.up.append(ConvStep(dims, 3 * c, c))
        else:
            self.narrow = conv(2 * c, c, 1)
            self.out = conv(c, c, 3, 1, 1)
        self.leave = conv(c, classes, 1)
        for weight in (p for p in self.parameters() if p.ndim == dims + 2):
            weight.data = weight.data.contiguous(memory_format=LAYOUT[dims])

    def forward(self, tokens: Tokens, x: Tensor) -> Tensor:
        """Logits of every sample.

        Args:
            tokens: after fusion, of any modalities (those of this modality are used, which stand in the records' order).
            x: (m 1 z y x) or (m c y x), the modality's records, with the maps after them.
        Returns:
            (m k z y x) or (m k y x)
        """
        m, grid = len(x), [n // p for n, p in zip(x.shape[2:], self.patch, strict=True)]
        mine = self.tokens(tokens.values[tokens.modality == self.modality.number])
        placed = mine.view(m, *grid, -1).movedim(-1, 1)
        entered = self.stem(x.contiguous(memory_format=LAYOUT[x.ndim - 2]))
        levels = [entered if self.full else F.leaky_relu(entered, 0.01)]
        for step in self.down:
            levels.append(step(levels[-1]))
        if placed.shape[2:] != levels[-1].shape[2:]:
            # "area" is the nearest where there are fewer tokens than samples, and the mean of all where there are more.
            placed = F.interpolate(placed.float(), levels[-1].shape[2:], mode="area").to(placed.dtype)
        y = self.bottom(levels[-1] + placed)
        for step, skip in zip(self.up, levels[2::-1] if self.full else levels[2:0:-1], strict=True):
            y = step(torch.cat([F.interpolate(y, skip.shape[2:], mode="nearest"), skip], 1))
        if self.full:
            return self.leave(y)
        y = F.interpolate(self.narrow(y), x.shape[2:], mode="nearest") + levels[0]
        return self.leave(F.leaky_relu(self.out(y), 0.01))
