"""Grade: which of several, in order, a patient has; proportional odds (McCullagh 1980).

    grade 0   │  grade 1  │     grade 2      │ grade 3
    ──────────┼───────────┼──────────────────┼────────▶  one direction of the patient's vector
             θ₁          θ₂                 θ₃           P(grade ≥ j) = σ(score − θⱼ)

One direction for all grades and a threshold between each two: k grades cost k − 2 numbers more than two classes do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from ..cohort import Label
from ..models import Model
from ..objectives import Finding
from ..objectives.outcomes import ascending, even_steps, grade_loss, log_probabilities
from ..schema import Modality, Target
from .task import Answer, LinearTask, Predictions, Read, TaskFields

Cells = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]


def once(every: tuple[Cells, ...], what: str) -> tuple[Cells, ...]:
    """The same cells of each grade (or class).

    Raises:
        ValueError: one is named twice.
    """
    cells = [cell.strip().lower() for cells in every for cell in cells]
    if twice := [cell for cell in dict.fromkeys(cells) if cells.count(cell) > 1]:
        raise ValueError(f"the cell {twice[0]!r} in two places: a cell is of one {what}, and named once")
    return every


class Grade(TaskFields):
    """Which of several grades, in order.

    Args:
        column: the table column that has it.
        grades: the cells of each grade, the lowest first; the first cell of each is its name. Other cells tell nothing.
    """

    kind: Literal["grade"] = "grade"
    column: str
    grades: tuple[Cells, ...] = Field(min_length=2)

    @field_validator("grades")
    @classmethod
    def _once(cls, grades: tuple[Cells, ...]) -> tuple[Cells, ...]:
        return once(grades, "grade")

    def names(self) -> tuple[str, ...]:
        """What the grades are called, the lowest first."""
        return tuple(cells[0] for cells in self.grades)

    def label(self, name: str) -> Label:
        """Where the answers stand."""
        return Label(name, "grade", self.column, grades=self.grades)

    def columns(self) -> tuple[str, ...]:
        """The columns that must not be inputs."""
        return (self.column,)

    def taught(self, name: str, read: Read) -> Finding:
        """Which grade."""
        return Finding(Modality.TABLE, self.names(), outcome="grade", inputs=self.inputs)

    def asks(self, words: Mapping[str, str]) -> str:
        """By its column and names."""
        return f"Which grade of “{self.column.replace('_', ' ')}”: {', '.join(self.names())}?"

    def build(self, name: str, model: Model) -> GradeTask:
        """The head, freshly initialised."""
        return GradeTask(name, self, model.width)


class GradeTask(LinearTask):
    """The output is the logits of each grade or a higher one (b k-1), the second grade's first; an answer each grade's probability.

    Args:
        name, spec: the task.
        width: d of the patient's vector.
    """

    prior: Tensor

    def __init__(self, name: str, spec: Grade, width: int) -> None:
        super().__init__(name, spec, width, bias=False)  # the thresholds are the offsets
        self.k = len(spec.grades)
        steps = even_steps(self.k)
        self.lowest, self.gaps = nn.Parameter(steps[:1].clone()), nn.Parameter(steps[1:].clone())
        self.register_buffer("prior", torch.zeros(self.k))

    @property
    def thresholds(self) -> Tensor:
        """(k-1) ascending: where along the direction each grade passes into the next."""
        return ascending(torch.cat([self.lowest, self.gaps]))

    def read(self, pooled: Tensor) -> Tensor:
        """(b d) → (b k-1)."""
        told = super().read(pooled)
        if isinstance(self.head, nn.Linear):
            return told[:, None] - self.thresholds
        return told.reshape(len(told), -1)  # the nearest patients tell each grade themselves

    def loss(self, output: Tensor, target: Target) -> Tensor | None:
        """The negative log likelihood of the labelled, all grades of the batch with equal weight."""
        assert isinstance(target.values, Tensor)
        return grade_loss(output[target.mask], target.values[target.mask])

    @property
    def says(self) -> str:
        """The probabilities."""
        return f"(1 {self.k}) the probability of each grade of {self.spec.column}: {', '.join(self.spec.names())}"

    def answer(self, output: Tensor) -> Tensor:
        """The probability of each grade (b k)."""
        return torch.softmax(log_probabilities(output) + self.prior, 1)

    def to_prevalence(self, values: Sequence[int]) -> None:
        """Give back how common each grade is among the training patients, by Bayes's rule.

        The loss weighs all grades alike, so that rare ones are learned; what it fits are probabilities among as many of each. Of two
        grades this is what a classification does with its offset; of more, no shift of thresholds does it (Saerens et al. 2002).
        """
        shares = torch.bincount(torch.tensor(values), minlength=self.k) / len(values)
        self.prior = torch.log(shares * self.k).to(self.prior)

    def score(self, predictions: Predictions) -> dict[str, float]:
        """Quadratic-weighted kappa (Cohen 1968), the mean absolute error in grades, and AUROC of each grade or a higher one."""
        from sklearn.metrics import cohen_kappa_score, mean_absolute_error, roc_auc_score

        known, nan = predictions.labelled(), float("nan")
        cuts = {f"auroc_from_{name}": n for n, name in enumerate(self.spec.names()) if n}
        if not len(known.patients):
            return dict.fromkeys(["quadratic_kappa", "mean_absolute_error", *cuts], nan)
        truth, said = known.targets.astype(int), known.outputs.argmax(1)
        differ = len(np.unique(np.concatenate([truth, said]))) > 1
        kappa = cohen_kappa_score(truth, said, labels=list(range(self.k)), weights="quadratic") if differ else nan
        found = {"quadratic_kappa": float(kappa), "mean_absolute_error": float(mean_absolute_error(truth, said))}
        for name, cut in cuts.items():
            both = 0 < (truth >= cut).sum() < len(truth)
            found[name] = float(roc_auc_score(truth >= cut, known.outputs[:, cut:].sum(1))) if both else nan
        return found

    def present(self, probabilities: Sequence[float], used: tuple[Modality, ...]) -> Answer:
        """The likeliest grade, and the probability of each."""
        names, what = self.spec.names(), self.spec.column.replace("_", " ")
        likeliest = names[int(np.argmax(probabilities))]
        each = ", ".join(f"{name} {p:.2f}" for name, p in zip(names, probabilities, strict=True))
        values = {f"probability_{name}": round(p, 4) for name, p in zip(names, probabilities, strict=True)}
        return Answer(f"{what}: {likeliest} is the likeliest grade ({each})", {"grade": likeliest, **values}, used)
