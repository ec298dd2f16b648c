"""Survival: who is at higher risk, and how high that is by a time, from times that are partly censored (Cox 1972)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ..cohort import Label
from ..models import Model
from ..objectives import Finding, cox_loss
from ..schema import MissingExtraError, Modality, Target
from .baseline import GRID, Baseline, fit_baseline
from .task import Answer, AskedFields, LinearTask, Predictions, Read


class Survival(AskedFields):
    """Time to an event.

    Args:
        time: the column of the time.
        event: the column that tells whether it was seen, and its cell where it was.
        unit: of the time.
        horizons: the times, in that unit, by which a risk is told; none: two that suit the training patients' follow-up.
    """

    kind: Literal["survival"] = "survival"
    time: str
    event: str
    event_value: str | float = 1.0
    unit: str = "months"
    horizons: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] = ()

    def label(self, name: str) -> Label:
        """Where the answers stand."""
        return Label(name, "survival", self.time, event=self.event, event_value=self.event_value)

    def columns(self) -> tuple[str, ...]:
        """The columns that must not be inputs."""
        return (self.time, self.event)

    def asked(self) -> tuple[str, ...]:
        """The ways to ask it; where the recipe has none, one made of the event's column."""
        return self.questions or (f"How soon: {self.event.replace('_', ' ')}?",)

    def taught(self, name: str, read: Read) -> Finding:
        """How soon."""
        return Finding(Modality.TABLE, (name,), read(*self.asked()), "survival", self.inputs)

    def asks(self, words: Mapping[str, str]) -> str:
        """By its column."""
        return f"Whose event comes sooner, by “{self.time.replace('_', ' ')}”?"

    def build(self, name: str, model: Model) -> SurvivalTask:
        """The head, freshly initialised."""
        return SurvivalTask(name, self, model.width)


class SurvivalTask(LinearTask):
    """The output is log hazards (b,). The training patients' hazards place an answer among them, and how their hazard accumulates
    (Breslow 1972) makes a risk of it."""

    reference: Tensor
    curve: Tensor
    horizons: Tensor
    refers = True

    def __init__(self, name: str, spec: Survival, width: int) -> None:
        super().__init__(name, spec, width, bias=False)  # a baseline hazard takes any offset
        horizons = len(set(spec.horizons)) or 2
        self.register_buffer("reference", torch.zeros(101))
        self.register_buffer("curve", torch.zeros(3, GRID + horizons + 1))
        self.register_buffer("horizons", torch.zeros(horizons))

    def loss(self, output: Tensor, target: Target) -> Tensor | None:
        """Cox's loss over the labelled of the batch."""
        assert isinstance(target.values, Tensor)
        time, event = target.values[target.mask].unbind(1)
        return cox_loss(output[target.mask], time, event)

    @property
    def says(self) -> str:
        """The log hazard."""
        return "(1,) the log hazard; larger is sooner"

    def refer_to(self, output: Tensor, target: Target) -> None:
        """Remember the labelled training patients' hazards, as 101 quantiles, and their baseline hazard.

        Args:
            output: (p,) log hazards.
            target: time and event of the labelled.
        """
        assert isinstance(target.values, Tensor)
        if not bool(target.mask.any()):
            return
        hazards, device = output[target.mask].float(), output.device
        self.reference = torch.quantile(hazards, torch.linspace(0, 1, 101, device=device))
        time, event = target.values[target.mask].double().cpu().numpy().T
        if not event.any():
            return
        asked, centre = tuple(sorted(set(self.spec.horizons))), float(self.reference[50])
        known = fit_baseline(hazards.double().cpu().numpy(), time, event, asked, centre, self.spec.unit)
        curve = np.stack([known.times, known.hazard, known.survival])
        self.curve = torch.as_tensor(curve, dtype=torch.float32, device=device)
        self.horizons = torch.as_tensor(known.horizons, dtype=torch.float32, device=device)

    def baseline(self) -> Baseline:
        """How the training patients' hazard accumulates; without times where that is not known."""
        kept = self.curve.double().cpu().numpy()
        times, hazard, survival = kept if kept[0, -1] > 0 else kept[:, :0]
        horizons = np.unique(self.horizons.double().cpu().numpy()) if len(times) else np.zeros(0)
        return Baseline(times, hazard, survival, float(self.reference[50]), horizons, self.spec.unit)

    def score(self, predictions: Predictions) -> dict[str, float]:
        """Harrell's concordance; NaN where no pair can be compared."""
        try:
            from lifelines.utils import concordance_index
        except ImportError as error:
            raise MissingExtraError("lifelines", "survival") from error
        known = predictions.labelled()
        if not len(known.patients):
            return {"concordance": float("nan")}
        try:
            return {"concordance": float(concordance_index(known.targets[:, 0], -known.outputs, known.targets[:, 1]))}
        except ZeroDivisionError:
            return {"concordance": float("nan")}

    def present(self, log_hazard: float, used: tuple[Modality, ...]) -> Answer:
        """Where the patient stands among the training patients, and the risk by each horizon up to which those were followed."""
        # Between two quantiles, or in the middle of those that are alike: a model that tells nobody apart puts all in the middle.
        below, upto = int((self.reference < log_hazard).sum()), int((self.reference <= log_hazard).sum())
        rank = min(max(((below + upto) / 2 - 0.5) / (len(self.reference) - 1), 0.0), 1.0)
        group = "higher" if rank >= 2 / 3 else "lower" if rank <= 1 / 3 else "middle"
        place = f"{group} third of risk among the training patients (percentile {100 * rank:.0f})"
        values: dict[str, float | str] = {"log_hazard": round(log_hazard, 4), "percentile": round(100 * rank)}
        known, said = self.baseline(), list[str]()
        risks = known.risk(np.array([log_hazard]), known.horizons)[0]
        for at, risk in zip(known.horizons, risks, strict=True):
            named = f"risk_at_{at:g}_{known.unit}"
            if np.isnan(risk):
                values[named] = f"not known: the training patients were followed for {known.until:.3g} {known.unit}"
                continue
            values[named] = round(float(risk), 4)
            said.append(f"at {at:g} {known.unit} {risk:.2f}")
        return Answer("; ".join([place, *(["risk " + ", ".join(said)] if said else [])]), values, used)
