"""Hazards: how likely each of several events is by a time, where the first that comes ends the others' chance; no proportional hazards.

    0        end 1      end 2           end 3                  time, from the beginning or from a landmark
    ├──────────┼──────────┼───────────────┤                    in each interval, of those who are still at risk:
      h₁₁ h₁₂    h₂₁ h₂₂      h₃₁ h₃₂                          hⱼₖ the chance of event k, 1 − Σₖ hⱼₖ of none

The hazards of an interval are a softmax over its events and none (Tutz & Schmid 2016, chapter 8); of one event that is the logistic
hazard (Gensheimer & Narasimhan 2019). What a patient's vector does to a hazard may change along the intervals and the landmarks.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from ..cohort import Label
from ..cohort.landmarks import HOURS, Landmarks
from ..models import Model
from ..schema import MissingExtraError, Modality, Target
from .baseline import GRID, customary
from .incidence import Incidence, ends_of, on_grid
from .task import Answer, LinearTask, Predictions, TaskError, TaskFields

Cell = Annotated[str, Field(min_length=1)] | float
Cells = Annotated[tuple[Cell, ...], Field(min_length=1)]
Time = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Hazards(TaskFields):
    """Time to the first of one event or several.

    Args:
        time: the column of the time.
        event: the column that tells which event was seen.
        events: by name, the cells that mean each.
        censored: the cells that mean none was seen until then; empty: every other known cell.
        unit: of the time.
        horizons: the times, in that unit, by which a risk is told; none: two that suit the training patients' follow-up.
        intervals: into how many the follow-up is divided, with as many training patients' events each.
        landmarks: times from which it is asked anew, of those who are still at risk, from what was dated until then; none: once, of
            all, from all that there is.
        since: the column of the date from which time counts; none: the patient's first dated record.
        undated: read records without a date at every landmark: where they hold what was known at the beginning.
    """

    kind: Literal["hazards"] = "hazards"
    time: str
    event: str
    events: dict[Annotated[str, Field(min_length=1)], Cells] = Field(min_length=1)
    censored: tuple[Cell, ...] = ()
    unit: str = "months"
    horizons: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] = ()
    intervals: int = Field(default=10, ge=1, le=200)
    landmarks: tuple[Time, ...] = ()
    since: str | None = None
    undated: bool = False

    @field_validator("landmarks")
    @classmethod
    def _ascend(cls, landmarks: tuple[float, ...]) -> tuple[float, ...]:
        if list(landmarks) != sorted(set(landmarks)):
            raise ValueError(f"landmarks {', '.join(f'{t:g}' for t in landmarks)}: name each once, the earliest first")
        return landmarks

    @model_validator(mode="after")
    def _agree(self) -> Hazards:
        cells = [str(c).strip().lower() for some in (*self.events.values(), self.censored) for c in some]
        if twice := [c for c in dict.fromkeys(cells) if cells.count(c) > 1]:
            raise ValueError(f"the cell {twice[0]!r} in two places: a cell is of one event, or of none, and named once")
        if self.landmarks and self.unit.lower() not in HOURS:
            raise ValueError(
                f"landmarks in {self.unit}: records are placed along time in {', '.join(HOURS)}; use one of them"
            )
        if not self.landmarks and (self.since or self.undated):
            raise ValueError(
                "`since` and `undated` say what is read at a landmark: name `landmarks`, or leave them out"
            )
        return self

    def names(self) -> tuple[str, ...]:
        """What the events are called."""
        return tuple(self.events)

    def landmarks_of(self) -> Landmarks | None:
        """When it is asked, and what is read then; None where once, of all that there is."""
        return Landmarks(self.landmarks, self.unit.lower(), self.since, self.undated) if self.landmarks else None

    def label(self, name: str) -> Label:
        """Where the answers stand."""
        return Label(
            name, "outcome", self.time, event=self.event, events=self.names(), causes=tuple(self.events.values()),
            censored=self.censored, landmarks=self.landmarks_of(),
        )  # fmt: skip

    def columns(self) -> tuple[str, ...]:
        """The columns that must not be inputs."""
        return (self.time, self.event, *([self.since] if self.since else []))

    def asks(self, words: Mapping[str, str]) -> str:
        """By its events."""
        return f"Which comes first, {' or '.join(n.replace('_', ' ') for n in self.names())}, and when?"

    def build(self, name: str, model: Model) -> HazardsTask:
        """The head, freshly initialised."""
        return HazardsTask(name, self, model.width)


def shapes(landmarks: int, intervals: int) -> Tensor:
    """What a coordinate of a patient's vector can do to a hazard along the intervals and the landmarks.

    Returns:
        (l j s): alike everywhere, rising, and bending (Legendre's polynomials over the intervals), and rising over the landmarks. Of
        few intervals or one landmark there are fewer.
    """
    along = lambda n: torch.linspace(-1, 1, n) if n > 1 else torch.zeros(1)
    x, z = along(intervals).expand(landmarks, -1), along(landmarks)[:, None].expand(-1, intervals)
    told = [torch.ones(landmarks, intervals), x, (3 * x**2 - 1) / 2][: min(intervals, 3)]
    return torch.stack([*told, *([z] if landmarks > 1 else [])], -1)


class HazardsTask(LinearTask):
    """The output is logits of each event against none (b l j k), at l landmarks, of j intervals and k events.

    A target is (b 3): the time, which event (0 where none was seen), and the number of the landmark from which the time counts. An
    answer is each event's cumulative incidence by the end of each interval (b k j), at the landmark `landmark`.

    Args:
        name, spec: the task.
        width: d of the patient's vector.
    """

    shape: Tensor
    ends: Tensor
    grid: Tensor
    shares: Tensor
    horizons: Tensor
    landmark = 0

    def __init__(self, name: str, spec: Hazards, width: int) -> None:
        k, j, marks = len(spec.events), spec.intervals, max(1, len(spec.landmarks))
        told = shapes(marks, j)
        super().__init__(name, spec, width, bias=False, outputs=k * told.shape[-1])
        self.marks = marks
        self.register_buffer("shape", told)
        self.offset = nn.Parameter(torch.zeros(marks, j, k))
        self.register_buffer("ends", torch.zeros(j))
        self.register_buffer("grid", torch.zeros(marks, GRID))
        self.register_buffer("shares", torch.zeros(marks, k, GRID))
        self.register_buffer("horizons", torch.zeros(len(set(spec.horizons)) or 2))

    def at(self, landmark: float | None) -> HazardsTask:
        """The same head, which answers at a landmark, at the first where nobody names one; None changes nothing.

        Raises:
            TaskError: there is no such landmark.
        """
        if landmark is None:
            return self
        times = self.spec.landmarks or (0.0,)
        if landmark not in times:
            raise TaskError(
                f"the landmark {landmark:g} of {self.name!r}",
                "one of " + ", ".join(f"{t:g}" for t in times) + f" {self.spec.unit}",
                "name one of them",
            )
        then = copy.copy(self)
        then.landmark = times.index(landmark)
        return then

    def begin(self, values: Sequence[Any]) -> None:
        """Choose the intervals by the training patients' events, and begin with their hazards."""
        time, event, mark = np.array(values, float).reshape(-1, 3).T
        if not event.any() or time.max() <= 0:
            return
        k, ends = len(self.spec.events), ends_of(time, event, self.spec.intervals)
        self.ends = torch.as_tensor(ends).to(self.ends)
        asked = sorted(set(self.spec.horizons)) or customary(time, event, self.spec.unit)
        self.horizons = torch.as_tensor(np.array(asked)).to(self.horizons)
        for number in range(self.marks):
            mine = mark == number
            grid, shares = on_grid(time[mine], event[mine], k)
            self.grid[number], self.shares[number] = torch.as_tensor(grid), torch.as_tensor(shares)
            with torch.no_grad():
                self.offset[number] = self._usual(torch.as_tensor(time[mine]).float(), torch.as_tensor(event[mine]))

    def _usual(self, time: Tensor, event: Tensor) -> Tensor:
        """(j k) the logits of each interval's events among all; with half an event and one without more, that none is 0 or 1."""
        ends, k = self.ends.cpu(), len(self.spec.events)
        own, lived = torch.searchsorted(ends, time).clamp(max=len(ends) - 1), _lived(time, ends)
        lived = torch.where(event[:, None] > 0, lived.ceil(), lived)
        came = [torch.bincount(own[event == number], minlength=len(ends)) for number in range(1, k + 1)]
        events = torch.stack(came, 1)
        return torch.log((events + 0.5 / k) / (lived.sum(0) - events.sum(1) + 1)[:, None])

    def read(self, pooled: Tensor) -> Tensor:
        """(b d) → (b l j k)"""
        moved = super().read(pooled).reshape(len(pooled), 1, 1, len(self.spec.events), -1)
        return (moved * self.shape[:, :, None]).sum(-1) + self.offset

    def loss(self, output: Tensor, target: Target) -> Tensor | None:
        """The mean negative log likelihood of the labelled.

        Who is censored within an interval has lived a share of it without an event: what the actuarial estimator (Cutler & Ederer
        1958) takes to be a half is here as it was.
        """
        assert isinstance(target.values, Tensor)
        known = target.mask
        if not bool(known.any()):
            return None
        time, event, mark = target.values[known].T.contiguous()
        each = _each(output[known, mark.long()])
        own = torch.searchsorted(self.ends, time).clamp(max=len(self.ends) - 1)
        seen = (event > 0) & (time <= self.ends[-1])
        lived = _lived(time, self.ends).to(each)
        lived = lived.scatter(1, own[:, None], lived.gather(1, own[:, None]).masked_fill(seen[:, None], 0))
        came = each[torch.arange(len(own), device=own.device), own, event.long()].masked_fill(~seen, 0)
        return -((lived * each[..., 0]).sum(1) + came).mean()

    @property
    def says(self) -> str:
        """The cumulative incidences."""
        k, j = len(self.spec.events), self.spec.intervals
        return f"(1 {k} {j}) the chance of each of {', '.join(self.spec.names())} by the end of each of {j} intervals"

    def answer(self, output: Tensor) -> Tensor:
        """(b l j k) → (b k j) cumulative incidences; in each interval they and the share without an event add up to 1."""
        each = _each(output[:, self.landmark])
        without = torch.exp(torch.cumsum(each[..., 0], 1))
        before = torch.cat([torch.ones_like(without[:, :1]), without[:, :-1]], 1)
        return torch.cumsum(before[..., None] * each[..., 1:].exp(), 1).transpose(1, 2)

    def incidence(self) -> Incidence:
        """How answers are read at the landmark; without intervals where no training patient's event was seen."""
        kept = lambda tensor: tensor.double().cpu().numpy()
        ends = kept(self.ends) if float(self.ends[-1]) > 0 else np.zeros(0)
        horizons = np.unique(kept(self.horizons)) if len(ends) else np.zeros(0)
        landmark = self.spec.landmarks[self.landmark] if self.spec.landmarks else None
        return Incidence(
            ends, self.spec.names(), kept(self.grid[self.landmark]), kept(self.shares[self.landmark]), horizons, self.spec.unit, landmark
        )  # fmt: skip

    def score(self, predictions: Predictions) -> dict[str, float]:
        """Each event's concordance (Wolbers et al. 2009), and their mean where there are several; NaN where no pair can be compared."""
        try:
            from lifelines.utils import concordance_index
        except ImportError as error:
            raise MissingExtraError("lifelines", "survival") from error
        known, found = predictions.labelled(), list[float]()
        for number in range(1, len(self.spec.events) + 1):
            try:
                time, event = of_event(known.targets, number).T
                found.append(float(concordance_index(time, -mean_risk(known.outputs, number), event)))
            except (ZeroDivisionError, ValueError, IndexError):  # nobody, or no pair of whom it is known
                found.append(float("nan"))
        several = (
            {f"concordance_{name}": c for name, c in zip(self.spec.names(), found, strict=True)}
            if len(found) > 1
            else {}
        )
        defined = [c for c in found if np.isfinite(c)]
        return {"concordance": float(np.mean(defined)) if defined else float("nan"), **several}

    def present(self, chances: Sequence[Sequence[float]], used: tuple[Modality, ...]) -> Answer:
        """The risk of each event by each horizon, beside that of all training patients, and the chance of none."""
        known, values, said = self.incidence(), dict[str, float | str](), list[str]()
        when = known.horizons
        risks, all_of_them = known.risk(np.array([chances]), when)[0], known.null(when)
        for name, mine, theirs in zip(known.causes, risks, all_of_them, strict=True):
            told = []
            for at, risk, usual in zip(when, mine, theirs, strict=True):
                key = f"risk_of_{name}_at_{at:g}_{known.unit}"
                if np.isnan(risk):
                    values[key] = f"not known: the training patients were followed for {known.until:.3g} {known.unit}"
                    continue
                values[key] = round(float(risk), 4)
                told.append(f"at {at:g} {known.unit} {risk:.2f} (all: {usual:.2f})")
            said.append(f"risk of {name} " + (", ".join(told) or "not known"))
        for at, none in zip(when, 1 - risks.sum(0), strict=True):
            if np.isfinite(none):
                values[f"none_at_{at:g}_{known.unit}"] = round(float(none), 4)
        if known.landmark is not None:
            values["landmark"] = known.landmark
            said.insert(0, f"of one still at risk at {known.landmark:g} {known.unit}, counted from then")
        return Answer("; ".join(said), values, used)


def _each(logits: Tensor) -> Tensor:
    """(… k) logits of each event against none → (… 1+k) logarithms of the chances, none's first."""
    return torch.log_softmax(torch.cat([torch.zeros_like(logits[..., :1]), logits], -1), -1)


def _lived(time: Tensor, ends: Tensor) -> Tensor:
    """(b,) → (b j) the share of each interval that was lived."""
    starts = torch.cat([torch.zeros_like(ends[:1]), ends[:-1]])
    return ((time[:, None] - starts) / (ends - starts)).clamp(0, 1)


def mean_risk(outputs: np.ndarray, number: int) -> np.ndarray:
    """By what patients are ranked for an event: the mean of its chance by the end of each interval.

    Args:
        outputs: (n k j).
        number: of the event, from 1.
    Returns:
        (n,)
    """
    return outputs[:, number - 1].mean(-1)


def of_event(targets: np.ndarray, number: int) -> np.ndarray:
    """Times and whether an event came, for a concordance: who had another first never has it, which is known (Wolbers et al. 2009).

    Args:
        targets: (n 3) time, which event or 0, landmark.
        number: of the event, from 1.
    Returns:
        (n 2)
    """
    time, event = targets[:, 0], targets[:, 1]
    never = float(time.max(initial=0.0)) + 1.0
    return np.stack([np.where((event > 0) & (event != number), never, time), (event == number).astype(float)], 1)
