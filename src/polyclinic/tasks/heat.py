"""Heat maps: what is where, on a grid of cells over an image or a volume, by one network of convolutions in two or three dimensions.

Anchor-free: a thing is a peak of its class's map; where in the cell its middle lies, and how large it is, stands beside it
(Zhou, Wang & Krähenbühl 2019, Objects as Points; Tian et al. 2019, FCOS).

    samples ──▶ ▼ ▼ ──▶ (+) ──▶ convolutions ──▶ k maps of heat, and numbers of each cell
                         ▲
    tokens of the patient ┘   on the grid of the encoder's patches, each over its cells

A place is an index along (z y x) or (y x) of the standard grid, 0 being the centre of the first sample.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models import Model
from ..objectives.decoders import CONVOLUTION
from ..objectives.objective import on_grid
from ..schema import Batch, Modality, Tokens
from .task import TaskError

STRIDE = 4
"""Samples a cell, as CenterNet's; no more than the encoder's patch has."""
LEAST_LR = 0.002
"""A head that starts from nothing learns no slower beside a whole backbone, which learns at a quarter of it."""
RARE = 0.01
"""The heat that an untrained head gives everywhere: most cells are empty (Lin et al. 2017, 4.1)."""
SPREAD = 0.54 / 6
"""The Gaussian's standard deviation over the box's side, along each axis (Liu et al. 2020, Training-Time-Friendly Network, 3.2)."""
LEAST_SPREAD = 0.5
"""In cells: also of what is smaller than one."""
NEAR = 0.3
"""Heat from which on a cell answers for a box's size and middle."""


class _Step(nn.Module):
    """Convolution 3 × 3 (× 3), norm and GELU, twice, with a shortcut around the second.

    The norm is each place's own, over channels: that of a whole image would blow up the noise of one that has nothing to what
    others have, and scores are compared between images.
    """

    def __init__(self, inside: int, outside: int, stride: Sequence[int]) -> None:
        super().__init__()
        conv = CONVOLUTION[len(stride)]
        self.first = conv(inside, outside, 3, tuple(stride), 1)  # type: ignore[arg-type]
        self.second = conv(outside, outside, 3, 1, 1)
        self.norms = nn.ModuleList([nn.LayerNorm(outside), nn.LayerNorm(outside)])

    def forward(self, x: Tensor) -> Tensor:
        """(m c …) → (m c' …)."""
        normed = lambda norm, y: F.gelu(norm(y.movedim(1, -1)).movedim(-1, 1))
        x = normed(self.norms[0], self.first(x))
        return x + normed(self.norms[1], self.second(x))


class DenseHead(nn.Module):
    """Tokens and samples → numbers of each cell.

    Args:
        model: whose tokens, after fusion, they are.
        modality: IMAGE or VOLUME.
        channels: of a cell.
        maps: k, of heat.
        numbers: further ones of each cell.
    Raises:
        TaskError: the model does not read the modality, or its tokens lie on no grid.
    """

    def __init__(self, model: Model, modality: Modality, channels: int, maps: int, numbers: int) -> None:
        super().__init__()
        encoder = on_grid(model, modality, f"a search in {modality}", TaskError)
        self.modality, self.patch, self.maps = modality, encoder.patch, maps
        self.stride = tuple(_stride(p) for p in encoder.patch)
        steps = max(1, max(self.stride).bit_length() - 1)
        halved = [[2 if s > 2**n else 1 for s in self.stride] for n in range(steps)]
        sizes = [encoder.channels, *(channels >> n for n in reversed(range(steps)))]
        self.down = nn.ModuleList([_Step(a, b, h) for a, b, h in zip(sizes[:-1], sizes[1:], halved, strict=True)])
        self.tokens, self.norm = nn.Linear(model.width, channels), nn.LayerNorm(model.width)
        same = [1] * len(self.patch)
        self.among = nn.Sequential(_Step(2 * channels, channels, same), _Step(channels, channels, same))
        self.leave = CONVOLUTION[len(self.patch)](channels, maps + numbers, 1)
        nn.init.normal_(self.leave.weight, std=0.01)
        nn.init.zeros_(self.leave.bias)  # type: ignore[arg-type]
        nn.init.constant_(self.leave.bias[:maps], float(np.log(RARE / (1 - RARE))))  # type: ignore[index]

    def forward(self, tokens: Tokens, x: Tensor) -> Tensor:
        """(m k+numbers …cells) float32.

        Args:
            tokens: after fusion, of any modalities.
            x: (m c z y x) or (m c y x), the modality's records.
        """
        m, grid = len(x), [n // p for n, p in zip(x.shape[2:], self.patch, strict=True)]
        mine = self.tokens(self.norm(tokens.values[tokens.modality == self.modality.number]))
        placed = mine.view(m, *grid, -1).movedim(-1, 1)
        for step in self.down:
            x = step(x)
        y = torch.cat([x, F.interpolate(placed.float(), x.shape[2:], mode="nearest").to(x.dtype)], 1)
        return self.leave(self.among(y)).float()

    def read(self, model: Model, batch: Batch) -> Tensor:
        """(m k+numbers …cells) of the batch's records.

        Raises:
            TaskError: the batch has none of the modality.
        """
        ragged = batch.payloads.get(self.modality)
        if ragged is None:
            raise TaskError(
                f"patients without any {self.modality}", "one to search", "ask only of patients who have one"
            )
        assert isinstance(ragged.values, Tensor)
        return self(model(batch).tokens, ragged.values)

    def cells(self, places: Tensor) -> Tensor:
        """Places in samples (n d) in cells, of which 0 is the centre of the first."""
        stride = places.new_tensor(self.stride)
        return (places - (stride - 1) / 2) / stride

    def samples(self, cells: Tensor) -> Tensor:
        """The way back of `cells`."""
        stride = cells.new_tensor(self.stride)
        return cells * stride + (stride - 1) / 2


def _stride(patch: int) -> int:
    """The largest power of two up to `STRIDE` that divides a patch."""
    return next(s for s in (STRIDE, STRIDE // 2, 1) if patch % s == 0)


def bells(middle: Tensor, spread: Tensor, cells: Sequence[int]) -> Tensor:
    """(n …cells) Gaussians of height 1.

    Args:
        middle: (n d) in cells.
        spread: (n d), or () for all, standard deviations in cells.
        cells: how many along each axis.
    """
    out = middle.new_ones(len(middle), *[1] * len(cells))
    for axis, count in enumerate(cells):
        place = torch.arange(count, device=middle.device, dtype=middle.dtype)
        sd = spread if spread.ndim == 0 else spread[:, axis, None]
        along = torch.exp(-0.5 * ((place - middle[:, axis, None]) / sd) ** 2)
        out = out * along.view(len(middle), *[count if a == axis else 1 for a in range(len(cells))])
    return out


def focal(logits: Tensor, heat: Tensor) -> Tensor:
    """The penalty-reduced focal loss, summed (Zhou, Wang & Krähenbühl 2019, equation 1; alpha 2, beta 4).

    Args:
        logits, heat: of one shape; heat is 1 in the cell of a thing's middle and falls off about it.
    """
    p, middle = logits.sigmoid(), heat >= 1
    there, nothing = (1 - p) ** 2 * F.logsigmoid(logits), (1 - heat) ** 4 * p**2 * F.logsigmoid(-logits)
    return -torch.where(middle, there, nothing).sum()


def peaks(heat: Tensor) -> Tensor:
    """(k …cells) bool: no neighbour is higher; of as high ones that touch, the first."""
    flat, around = heat[:, None], {2: F.max_pool2d, 3: F.max_pool3d}[heat.ndim - 1]
    highest = (around(flat, 3, 1, 1) == flat)[:, 0]
    order = torch.arange(heat[0].numel(), 0, -1, device=heat.device, dtype=heat.dtype).view(heat.shape[1:])
    first = torch.where(highest, order.expand_as(heat), torch.zeros((), dtype=heat.dtype, device=heat.device))
    return highest & (around(first[:, None], 3, 1, 1)[:, 0] == first)
