"""Physical positions: where a token is in mm and seconds, and when in the patient's history."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

SHORTEST, LONGEST = 2.0, 1000.0
_FREQUENCIES = 12


class PhysicalPosition(nn.Module):
    """Sines and cosines of x, y, z (mm) and s (seconds, or words) at wavelengths from 2 to 1000, and the hour, mapped to d.

    Fourier features after Tancik et al. 2020; the hour enters as a signed logarithm, which holds minutes and decades. One is taken
    off the cosines, so that an axis that a modality does not have adds nothing, and the first weights are small, so that its place does
    not drown what a token says: with weights of 0.1 a word was 2% of its token, and masked reconstruction took twice as many steps.

    Args:
        width: d.
        scale: what one unit of (x, y, z, s) is divided by first, so that a modality's range suits the wavelengths.
    """

    frequencies: Tensor
    scale: Tensor

    def __init__(self, width: int, scale: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)) -> None:
        super().__init__()
        waves = torch.logspace(math.log10(SHORTEST), math.log10(LONGEST), _FREQUENCIES)
        self.register_buffer("frequencies", 2 * math.pi / waves, persistent=False)
        self.register_buffer("scale", torch.tensor(scale), persistent=False)
        self.project = nn.Linear(4 * 2 * _FREQUENCIES + 1, width)
        nn.init.normal_(self.project.weight, std=0.03)
        nn.init.zeros_(self.project.bias)

    def forward(self, position: Tensor, time_h: Tensor) -> Tensor:
        """position (n 4), time_h (n,) → (n d)."""
        angles = (position / self.scale)[:, :, None] * self.frequencies
        hour = torch.sign(time_h) * torch.log1p(time_h.abs())
        return self.project(
            torch.cat([angles.sin().flatten(1), angles.cos().flatten(1) - 1, hour[:, None] / 10], dim=1)
        )
