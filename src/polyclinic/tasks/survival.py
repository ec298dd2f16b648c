"""Survival: who is at higher risk, from times that are partly censored (Cox 1972)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..cohort import Label
from ..models import Model
from ..objectives import cox_loss
from ..schema import MissingExtraError, Modality, Target
from .task import Answer, AskedFields, LinearTask, Predictions


class Survival(AskedFields):
    """Time to an event.

    Args:
        time: the column of the time.
        event: the column that tells whether it was seen, and its cell where it was.
        unit: of the time.
    """

    kind: Literal["survival"] = "survival"
    time: str
    event: str
    event_value: str | float = 1.0
    unit: str = "months"

    def label(self, name: str) -> Label:
        """Where the answers stand."""
        return Label(name, "survival", self.time, event=self.event, event_value=self.event_value)

    def columns(self) -> tuple[str, ...]:
        """The columns that must not be inputs."""
        return (self.time, self.event)

    def asked(self) -> tuple[str, ...]:
        """The ways to ask it; where the recipe has none, one made of the event's column."""
        return self.questions or (f"How soon: {self.event.replace('_', ' ')}?",)

    def build(self, name: str, model: Model) -> SurvivalTask:
        """The head, freshly initialised."""
        return SurvivalTask(name, self, model.width)


class SurvivalTask(LinearTask):
    """The output is log hazards (b,); the training patients' hazards place an answer among them."""

    reference: Tensor

    def __init__(self, name: str, spec: Survival, width: int) -> None:
        super().__init__(name, spec, width, bias=False)  # a baseline hazard takes any offset
        self.register_buffer("reference", torch.zeros(101))

    def loss(self, output: Tensor, target: Target) -> Tensor | None:
        """Cox's loss over the labelled of the batch."""
        assert isinstance(target.values, Tensor)
        time, event = target.values[target.mask].unbind(1)
        return cox_loss(output[target.mask], time, event)

    @property
    def says(self) -> str:
        """The log hazard."""
        return "(1,) the log hazard; larger is sooner"

    def refer_to(self, output: Tensor, target: Target | None = None) -> None:
        """Remember the training patients' hazards, as 101 quantiles."""
        self.reference = torch.quantile(output.float(), torch.linspace(0, 1, 101, device=output.device))

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
        """Where the patient stands among the training patients."""
        # Between two quantiles, or in the middle of those that are alike: a model that tells nobody apart puts all in the middle.
        below, upto = int((self.reference < log_hazard).sum()), int((self.reference <= log_hazard).sum())
        rank = min(max(((below + upto) / 2 - 0.5) / (len(self.reference) - 1), 0.0), 1.0)
        group = "higher" if rank >= 2 / 3 else "lower" if rank <= 1 / 3 else "middle"
        return Answer(
            f"{group} third of risk among the training patients (percentile {100 * rank:.0f})",
            {"log_hazard": round(log_hazard, 4), "percentile": round(100 * rank)},
            used,
        )
