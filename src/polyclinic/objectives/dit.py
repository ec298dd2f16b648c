"""The denoiser: a diffusion Transformer (DiT, Peebles & Xie 2023), with cross-attention to what is known of the patient.

    latents ── patches + places ── [ norm · time ── attention ── (+) ── cross-attention ── (+) ── norm · time ── perceptron ── (+) ] … ── v
                                                                             │
    the patient's other records' tokens + places ───────────────────────────┘

The time scales and shifts what the norms give and gates what is added; all gates begin at 0 (adaLN-Zero, section 3.2). A patient of whom
nothing is known, or to be shown, has no tokens to look at: there is no word for nothing to be learned.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..schema import Tokens
from ..tokens import Context, Layout
from ..tokens.attention import Attention, CrossAttention, Sight
from ..tokens.encoder import grid_positions, rows
from ..tokens.position import PhysicalPosition

_WAVES = 64


def cut(x: Tensor, p: int) -> Tensor:
    """(m c …) → (m n c·p^k), boxes of p along each of k axes."""
    m, c, *grid = x.shape
    k = len(grid)
    split = x.reshape(m, c, *(part for n in grid for part in (n // p, p)))
    order = (0, *range(2, 2 * k + 2, 2), 1, *range(3, 2 * k + 3, 2))
    return split.permute(order).reshape(m, math.prod(n // p for n in grid), c * p**k)


def uncut(pieces: Tensor, grid: tuple[int, ...], p: int) -> Tensor:
    """The way back: (m n c·p^k) → (m c …) on a grid of …"""
    k = len(grid)
    split = pieces.reshape(len(pieces), *(n // p for n in grid), -1, *[p] * k)
    order = (0, k + 1, *(axis for n in range(k) for axis in (n + 1, n + k + 2)))
    return split.permute(order).reshape(len(pieces), -1, *grid)


class TimedBlock(nn.Module):
    """Attention, cross-attention and a perceptron; the first and the last are scaled, shifted and gated by the time."""

    def __init__(self, width: int, heads: int, looks: bool) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.cross = CrossAttention(width, width, heads) if looks else None
        self.norm_cross = nn.LayerNorm(width) if looks else nn.Identity()
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.timed = nn.Linear(width, 6 * width)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.zeros_(self.timed.weight)
        if self.cross is not None:
            nn.init.zeros_(
                self.cross.out.weight
            )  # what is known begins as nothing too (PixArt, Chen et al. 2024, section 2.3)

    def forward(self, x: Tensor, time: Tensor, sight: Sight, context: Context | None) -> Tensor:
        """(n d), the time of each (n d) → (n d)."""
        shift, scale, gate, shift2, scale2, gate2 = self.timed(time).chunk(6, 1)
        x = x + gate * self.attention(plain(x) * (1 + scale) + shift, sight)
        if self.cross is not None and context is not None:
            x = x + self.cross(self.norm_cross(x), context)
        y = plain(x) * (1 + scale2) + shift2
        return x + gate2 * self.down(F.gelu(self.up(y), approximate="tanh"))


def plain(x: Tensor) -> Tensor:
    """A layer norm without weights: the time has them."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


class Denoiser(nn.Module):
    """Noisy latents, how noisy, and what is known of the patient → v.

    Args:
        dims: 2 or 3.
        latent: numbers a place.
        patch: places a token along each axis.
        samples: of the record a place, along each axis.
        width, depth, heads: of the Transformer.
        context: width of what is known; None where nothing ever is.
        scale: mm, of the positions; see `PhysicalPosition`.
    """

    def __init__(
        self, dims: int, latent: int, patch: int, samples: int, width: int, depth: int, heads: int, context: int | None,
        scale: tuple[float, float, float, float],
    ) -> None:  # fmt: skip
        super().__init__()
        self.patch, self.samples, self.heads = patch, (samples * patch,) * dims, heads
        self.enter = nn.Linear(latent * patch**dims, width)
        self.position = PhysicalPosition(width, scale)
        self.time = nn.Sequential(nn.Linear(2 * _WAVES, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.known = None if context is None else nn.Sequential(nn.Linear(context, width), nn.LayerNorm(width))
        self.blocks = nn.ModuleList(TimedBlock(width, heads, context is not None) for _ in range(depth))
        self.timed, self.leave = nn.Linear(width, 2 * width), nn.Linear(width, latent * patch**dims)
        for layer in (self.timed, self.leave):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, z: Tensor, time: Tensor, spacing_mm: Tensor, patient: Tensor, time_h: Tensor, seen: Tokens | None
    ) -> Tensor:
        """What v is.

        Args:
            z: (m l …).
            time: (m,) of the diffusion, from 0 to 1000.
            spacing_mm: (m k) of the records' samples.
            patient: (m,) ascending, whose they are.
            time_h: (m,) when they are of.
            seen: what is known of the patients.
        Returns:
            (m l …)
        """
        grid = tuple(z.shape[2:])
        pieces = cut(z, self.patch)
        m, n, _ = pieces.shape
        record = rows(m, n, z.device)
        place = grid_positions(tuple(g // self.patch for g in grid), self.samples, spacing_mm).flatten(0, 1)
        x = self.enter(pieces.flatten(0, 1)) + self.position(place, time_h[record])
        context = None
        if self.known is not None and seen is not None and len(seen.values):
            known = self.known(seen.values) + self.position(seen.position, seen.time_h)
            context = Context.of(patient[record], known, seen.patient)
        layout = Layout.of(record)
        sight = Sight(layout.seats(3 * self.heads), layout.seats(self.heads), [b.bias for b in layout.buckets])
        when = self.time(waves(time))[record]
        for block in self.blocks:
            x = block(x, when, sight, context)
        shift, scale = self.timed(when).chunk(2, 1)
        v = self.leave(plain(x) * (1 + scale) + shift)
        return uncut(v.float().view(m, n, -1), grid, self.patch)


def waves(time: Tensor) -> Tensor:
    """(m,) from 0 to 1000 → (m 128) sines and cosines (Vaswani et al. 2017, section 3.5)."""
    rates = torch.exp(torch.arange(_WAVES, device=time.device) * (-math.log(10000.0) / _WAVES))
    angle = time.float()[:, None] * rates
    return torch.cat([angle.cos(), angle.sin()], 1)
