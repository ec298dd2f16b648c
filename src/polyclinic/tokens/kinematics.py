"""Kinematics: windows of each arm's channels, placed in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from ..harmonise import Fingerprint, KinematicsStandard
from ..records.kinematics import JIGSAWS_CHANNELS
from ..schema import Modality, Ragged, Tokens
from .encoder import Encoder, EncoderFields, spacing_or


class MotionVit(EncoderFields):
    """A transformer on windows of `window` samples of each arm, `seconds` at `rate_hz`.

    Args:
        rate_hz, seconds: of the recording's part that is read.
        window: samples a token.
        channels: by name, in order; what a recording has beside them is not read. JIGSAWS's 76 by default.
        arms: how the names of one arm's channels begin; channels of none are together one more.
    """

    pieced: ClassVar[bool] = True
    kind: Literal["motion_vit"] = "motion_vit"
    rate_hz: float = Field(default=30.0, gt=0)
    seconds: float = Field(default=10.0, gt=0)
    window: int = Field(default=15, ge=2)
    channels: tuple[str, ...] = Field(default=JIGSAWS_CHANNELS, min_length=1)
    arms: tuple[str, ...] = ("master left", "master right", "slave left", "slave right")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if round(self.rate_hz * self.seconds) % self.window:
            raise ValueError(f"windows of {self.window} do not fill {round(self.rate_hz * self.seconds)} samples")
        return self

    def standard(self, exclude: tuple[str, ...] = ()) -> KinematicsStandard:
        """What it wants from the harmoniser."""
        return KinematicsStandard(rate_hz=self.rate_hz, seconds=self.seconds, channels=self.channels)

    def build(self, fingerprint: Fingerprint) -> KinematicsEncoder:
        """The module, freshly initialised."""
        return KinematicsEncoder(self)


def of_arms(channels: Sequence[str], arms: Sequence[str]) -> list[list[int]]:
    """Which channels each arm has, in the arms' order, those of none last; an arm without any is left out."""
    found: list[list[int]] = [[] for _ in (*arms, "")]
    for number, name in enumerate(channels):
        own = next((n for n, arm in enumerate(arms) if name.lower().startswith(arm.lower())), len(arms))
        found[own].append(number)
    return [numbers for numbers in found if numbers]


class KinematicsEncoder(Encoder):
    """(m c t) with NaN → a token for each window of each arm of which a sample was measured.

    A sample that was not measured adds nothing; the sum over the others is scaled to the spread that a whole window's would have.
    What an arm moves in is its robot's own frame, which no file gives in the patient's: x is the arm's number, which tells a
    decoder which one is asked for.
    """

    order: Tensor
    own: Tensor

    def __init__(self, spec: MotionVit) -> None:
        super().__init__(Modality.KINEMATICS, spec, scale=(1.0, 1.0, 1.0, spec.window / spec.rate_hz))
        arms = of_arms(spec.channels, spec.arms)
        most, nobody = max(map(len, arms)), len(spec.channels)
        self.window, self.nominal_s, self.answer_size = spec.window, 1 / spec.rate_hz, most * spec.window
        order = [numbers + [nobody] * (most - len(numbers)) for numbers in arms]
        self.register_buffer("order", torch.tensor(order), persistent=False)
        self.register_buffer("own", torch.tensor([len(numbers) for numbers in arms]), persistent=False)
        spread = (self.own * spec.window).float().rsqrt()[:, None, None]
        self.weight = nn.Parameter(torch.randn(len(arms), self.answer_size, spec.width) * spread)
        self.arm = nn.Parameter(torch.randn(len(arms), spec.width) * 0.1)

    def _windows(self, ragged: Ragged) -> Tensor:
        """(m arms windows p), p being an arm's channels one after the other; NaN where nothing was measured."""
        assert isinstance(ragged.values, Tensor)
        m, _, t = ragged.values.shape
        wide = torch.cat([ragged.values, ragged.values.new_full((m, 1, t), torch.nan)], 1)[:, self.order]
        split = wide.reshape(*wide.shape[:3], t // self.window, self.window)
        return split.transpose(2, 3).flatten(3)

    def embed(self, ragged: Ragged) -> Tokens:
        """One token a window of an arm."""
        windows = self._windows(ragged)
        known = torch.isfinite(windows)
        value = torch.einsum("manp,apd->mand", torch.where(known, windows, 0.0), self.weight)
        share = known.sum(3, keepdim=True) / (self.own[:, None, None] * self.window)
        value = value / share.clamp(min=1e-3).sqrt() + self.arm[:, None]
        record, arm, number = torch.nonzero(known.any(3), as_tuple=True)
        position = torch.zeros(len(record), 4, device=windows.device)
        position[:, 0] = arm.float()
        position[:, 3] = (number + 0.5) * self.window * spacing_or(ragged, (self.nominal_s,))[record, 0]
        return self.tokens(ragged, value[record, arm, number], record, position)

    def answer(self, ragged: Ragged) -> Tensor:
        """(n p) each window as the harmoniser has it, about each channel's median and in its spread; NaN where not measured.

        A window is not standardised by itself: where an arm is would be gone, and of what stands still noise would be asked.
        """
        return self.pieces(ragged)

    def pieces(self, ragged: Ragged) -> Tensor:
        """(n p) windows; NaN where not measured."""
        windows = self._windows(ragged)
        return windows[torch.isfinite(windows).any(3)]
