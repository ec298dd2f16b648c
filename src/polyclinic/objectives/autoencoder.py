"""The autoencoder that images and volumes are generated within (Rombach et al. 2022, section 3.1).

It is trained by the absolute difference and a slight pull of the latents to a standard normal. The paper's perceptual and adversarial
losses are left out: the first needs a network trained on photographs, the second a discriminator to be balanced. Fine texture is smoother
for it.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .decoders import CONVOLUTION
from .objective import ObjectiveError


class Residual(nn.Module):
    """Group norm, SiLU and convolution, twice, added to what was given.

    Unlike `ConvStep`, whose instance norm is in the way itself, it lets the level of the intensities through.
    """

    def __init__(self, dims: int, channels: int) -> None:
        super().__init__()
        groups = math.gcd(channels, 8)
        self.norm1, self.norm2 = nn.GroupNorm(groups, channels), nn.GroupNorm(groups, channels)
        self.first, self.second = (CONVOLUTION[dims](channels, channels, 3, 1, 1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """(m c …) → (m c …)."""
        return x + self.second(F.silu(self.norm2(self.first(F.silu(self.norm1(x))))))


class Autoencoder(nn.Module):
    """(m c …) → a Gaussian of (m latent …/factor) → (m c …).

    Args:
        dims: 2 or 3.
        inputs: c, numbers a sample.
        factor: samples a latent along each axis, a power of 2.
        channels: at full resolution; twice as many at each level below.
        latent: numbers a place.
    """

    def __init__(self, dims: int, inputs: int, factor: int, channels: int, latent: int) -> None:
        super().__init__()
        conv, levels = CONVOLUTION[dims], factor.bit_length() - 1
        sizes = [channels * 2**n for n in range(levels + 1)]
        down, up = [], []
        for small, large in pairwise(sizes):
            down += [Residual(dims, small), conv(small, large, 3, 2, 1)]
            up = [nn.Upsample(scale_factor=2), conv(large, small, 3, 1, 1), Residual(dims, small), *up]
        self.down = nn.Sequential(conv(inputs, channels, 3, 1, 1), *down, Residual(dims, sizes[-1]))
        self.gaussian = conv(sizes[-1], 2 * latent, 1)
        self.up = nn.Sequential(conv(latent, sizes[-1], 1), Residual(dims, sizes[-1]), *up)
        self.leave = conv(channels, inputs, 3, 1, 1)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance (m latent …)."""
        mean, spread = self.gaussian(self.down(x)).float().chunk(2, 1)
        return mean, spread.clamp(-30, 20)

    def decode(self, z: Tensor) -> Tensor:
        """(m latent …) → (m c …)."""
        return self.leave(F.silu(self.up(z))).float()


def draw(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """(m l …) of the Gaussian, by standard normal noise."""
    return mean + (log_variance / 2).exp() * noise


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """() Kullback-Leibler divergence to the standard normal in nats, the mean over all numbers (Kingma & Welling 2014, appendix B)."""
    return (mean.square() + log_variance.exp() - 1 - log_variance).mean() / 2


def halves(shape: torch.Size, factor: int) -> tuple[int, ...]:
    """The latents' grid.

    Raises:
        ObjectiveError: the factor does not divide it.
    """
    if any(n % factor for n in shape[2:]):
        grid = " x ".join(map(str, shape[2:]))
        raise ObjectiveError(
            f"records of {grid} samples, which places of {factor} along each axis do not fill",
            f"a multiple of {factor} along each axis",
            "change the encoder's `size`, or the objective's `factor` or `patch`",
        )
    return tuple(n // factor for n in shape[2:])
