"""Signals: windows of each lead, placed in seconds."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from ..harmonise import LEADS, Fingerprint, SignalStandard
from ..schema import Modality, Ragged, Tokens
from .encoder import Encoder, EncoderFields, normalised, spacing_or


class SignalVit(EncoderFields):
    """A transformer on windows of `window` samples of each lead, `seconds` at `rate_hz`."""

    pieced: ClassVar[bool] = True
    kind: Literal["signal_vit"] = "signal_vit"
    rate_hz: float = Field(default=100.0, gt=0)
    seconds: float = Field(default=10.0, gt=0)
    window: int = Field(default=50, ge=2)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if round(self.rate_hz * self.seconds) % self.window:
            raise ValueError(f"windows of {self.window} do not fill {round(self.rate_hz * self.seconds)} samples")
        return self

    def standard(self, exclude: tuple[str, ...] = ()) -> SignalStandard:
        """What it wants from the harmoniser."""
        return SignalStandard(rate_hz=self.rate_hz, seconds=self.seconds)

    def build(self, fingerprint: Fingerprint) -> SignalEncoder:
        """The module, freshly initialised."""
        return SignalEncoder(self)


class SignalEncoder(Encoder):
    """(m c t) with NaN rows → a token for each window of each lead that is there.

    These files do not say where an electrode was: x is the lead's number, which tells a decoder which one is asked for.
    """

    def __init__(self, spec: SignalVit) -> None:
        super().__init__(Modality.SIGNAL, spec, scale=(1.0, 1.0, 1.0, 0.05))
        self.window, self.nominal_s, self.answer_size = spec.window, 1 / spec.rate_hz, spec.window
        self.project = nn.Linear(spec.window, spec.width)
        self.lead = nn.Embedding(len(LEADS), spec.width)
        nn.init.normal_(self.lead.weight, std=0.1)

    def _windows(self, ragged: Ragged) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(n w) samples and, of each, the record, the lead and the window's number."""
        assert isinstance(ragged.values, Tensor)
        m, c, t = ragged.values.shape
        windows = ragged.values.reshape(m, c, t // self.window, self.window)
        record, lead, number = torch.nonzero(torch.isfinite(windows).all(3), as_tuple=True)
        return windows[record, lead, number], record, lead, number

    def embed(self, ragged: Ragged) -> Tokens:
        """One token a window."""
        windows, record, lead, number = self._windows(ragged)
        position = torch.zeros(len(record), 4, device=windows.device)
        position[:, 0] = lead.float()
        position[:, 3] = (number + 0.5) * self.window * spacing_or(ragged, (self.nominal_s,))[record, 0]
        return self.tokens(ragged, self.project(windows) + self.lead(lead), record, position)

    def pieces(self, ragged: Ragged) -> Tensor:
        """(n w) windows."""
        return self._windows(ragged)[0]

    def answer(self, ragged: Ragged) -> Tensor:
        """(n w) standardised windows."""
        return normalised(self.pieces(ragged))
