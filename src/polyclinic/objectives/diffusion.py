"""Diffusion (Ho et al. 2020): how noise is laid on, what a denoiser is asked for, and the way from noise to what could be.

With ᾱ the share of variance that is left of x, and e standard normal noise:

    z = √ᾱ x + √(1 - ᾱ) e        v = √ᾱ e - √(1 - ᾱ) x        x = √ᾱ z - √(1 - ᾱ) v        e = √(1 - ᾱ) z + √ᾱ v

The denoiser is asked for v (Salimans & Ho 2022, appendix D), which is e where there is little noise and -x where there is nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def cosine(steps: int, offset: float = 0.008) -> Tensor:
    """(t,) float64 ᾱ after each step, falling from about 1 to about 0 (Nichol & Dhariwal 2021, equation 17)."""
    at = torch.arange(steps + 1, dtype=torch.float64) / steps
    f = torch.cos((at + offset) / (1 + offset) * math.pi / 2) ** 2
    beta = (1 - f[1:] / f[:-1]).clamp(max=0.999)  # section 3.2: no step takes everything
    return torch.cumprod(1 - beta, 0)


def roots(left: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """√ᾱ and √(1 - ᾱ) of (m,), in the type of (m …) and spread over it."""
    wide = left.double().view(-1, *[1] * (like.ndim - 1))
    return wide.sqrt().to(like.dtype), (1 - wide).sqrt().to(like.dtype)


def noised(x: Tensor, noise: Tensor, left: Tensor) -> Tensor:
    """z of (m …), of which a share ᾱ (m,) is left."""
    a, b = roots(left, x)
    return a * x + b * noise


def velocity(x: Tensor, noise: Tensor, left: Tensor) -> Tensor:
    """v of (m …)."""
    a, b = roots(left, x)
    return a * noise - b * x


def parted(z: Tensor, v: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
    """x and e of which z (m …) was made, if v is right."""
    a, b = roots(left, z)
    return a * z - b * v, b * z + a * v


def ddim(
    ask: Callable[[Tensor, Tensor], Tensor], z: Tensor, left: Tensor, steps: int, eta: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:  # fmt: skip
    """From noise to what could be, in few steps (DDIM, Song et al. 2021, equation 12).

    Args:
        ask: z (m …) and the time of each (m,) int64, 0 the least noise → v.
        z: (m …) standard normal.
        left: (t,) ᾱ of all times that the denoiser knows.
        steps: how many of these times are visited, evenly.
        eta: 0 adds no noise on the way, and the same z gives the same answer; 1 adds as much as DDPM.
        generator: of that noise.
    Returns:
        (m …)
    Raises:
        ValueError: fewer than one step, or more than there are times.
    """
    if not 1 <= steps <= len(left):
        raise ValueError(f"{steps} steps of a diffusion of {len(left)}: take from 1 to all")
    times = torch.linspace(len(left) - 1, 0, steps, dtype=torch.float64).round().long().tolist()
    for time, after in zip(times, [*times[1:], None], strict=True):
        now = left[time]
        then = left[after] if after is not None else torch.ones_like(now)
        x, noise = parted(z, ask(z, torch.full((len(z),), time, device=z.device)), now.to(z.device))
        anew = eta**2 * float((1 - then) / (1 - now) * (1 - now / then))
        z = x * float(then.sqrt()) + noise * math.sqrt(max(0.0, 1 - float(then) - anew))
        if anew > 0:
            drawn = torch.randn(z.shape, generator=generator, device=generator.device if generator else z.device)
            z = z + math.sqrt(anew) * drawn.to(z)
    return z
