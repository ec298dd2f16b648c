"""Classes: which one of several, in no order, a patient has (multinomial logistic regression).

The loss is weighed and shifted by how common each class is among those it is shown, so that what it fits is how well each class
explains the patient, whoever was drawn into a batch; how common the classes are is given back at the end. With n_k patients of class k:

    weight of a patient of class k  ∝  n_k^(−balance)        share of class k that the weights leave  π_k ∝ n_k^(1 − balance)
    loss  =  cross-entropy of softmax(output + log π)         answer  =  softmax(output + log of the training shares)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor

from ..cohort import Label
from ..models import Model
from ..objectives import Finding
from ..objectives.outcomes import classes_loss
from ..schema import Modality, Target
from .grade import Cells, once
from .task import Answer, LinearTask, Predictions, Read, TaskFields

RAREST = 1e-9
"""The share of a class that no training patient has: it is never the likeliest, and its logarithm stays finite."""


class Classes(TaskFields):
    """Which of several classes, of which a patient has one.

    Args:
        column: the table column that has it.
        classes: the cells of each class; the first cell of each is its name. Other cells tell nothing, and who has cells of two
            classes is of none.
        balance: how much the rare classes are made to count while learning: 0 each patient as much, 1 each class as much.
        prior: whether an answer is of a patient of the training patients' classes, or of one as likely of any: the first is right
            most often, the second finds more of the rare ones.
        top: the metric `top_k_accuracy` counts an answer right where the true class is among so many likeliest ones.
    """

    kind: Literal["classes"] = "classes"
    column: str
    classes: tuple[Cells, ...] = Field(min_length=2)
    balance: float = Field(default=0.0, ge=0, le=1)
    prior: Literal["training", "even"] = "training"
    top: int = Field(default=3, ge=2)

    @field_validator("classes")
    @classmethod
    def _once(cls, classes: tuple[Cells, ...]) -> tuple[Cells, ...]:
        return once(classes, "class")

    def names(self) -> tuple[str, ...]:
        """What the classes are called."""
        return tuple(cells[0] for cells in self.classes)

    def label(self, name: str) -> Label:
        """Where the answers stand."""
        return Label(name, "classes", self.column, grades=self.classes)

    def columns(self) -> tuple[str, ...]:
        """The columns that must not be inputs."""
        return (self.column,)

    def taught(self, name: str, read: Read) -> Finding:
        """Which class."""
        return Finding(Modality.TABLE, self.names(), outcome="classes", inputs=self.inputs, balance=self.balance)

    def asks(self, words: Mapping[str, str]) -> str:
        """By its column and names."""
        return f"Which class of “{self.column.replace('_', ' ')}”: {', '.join(self.names())}?"

    def build(self, name: str, model: Model) -> ClassesTask:
        """The head, freshly initialised."""
        return ClassesTask(name, self, model.width)


class ClassesTask(LinearTask):
    """The output is how well each class explains the patient (b k), up to a number that all share; an answer each one's probability.

    Args:
        name, spec: the task.
        width: d of the patient's vector.
    """

    prior: Tensor

    def __init__(self, name: str, spec: Classes, width: int) -> None:
        super().__init__(name, spec, width, bias=True, outputs=len(spec.classes))
        self.k = len(spec.classes)
        self.register_buffer("prior", torch.zeros(self.k))

    def loss(self, output: Tensor, target: Target) -> Tensor | None:
        """Cross-entropy over the labelled, weighed and shifted by how many of each class there are."""
        assert isinstance(target.values, Tensor)
        return classes_loss(output[target.mask], target.values[target.mask], self.spec.balance)

    @property
    def says(self) -> str:
        """The probabilities."""
        return f"(1 {self.k}) the probability of each class of {self.spec.column}: {', '.join(self.spec.names())}"

    def answer(self, output: Tensor) -> Tensor:
        """The probability of each class (b k)."""
        return torch.softmax(output + self.prior, 1)

    def to_prevalence(self, values: Sequence[int]) -> None:
        """Give back how common each class is among the training patients, by Bayes's rule, where the task wants it."""
        shares = torch.bincount(torch.tensor(values), minlength=self.k) / len(values)
        even = torch.where(shares > 0, 1.0, RAREST)
        self.prior = torch.log(shares.clamp(min=RAREST) if self.spec.prior == "training" else even).to(self.prior)

    def score(self, predictions: Predictions) -> dict[str, float]:
        """Accuracy, macro F1, the true class among the likeliest, and the mean AUROC of each class against the rest.

        F1 and AUROC are means over the classes that these patients have.
        """
        from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

        known, top = predictions.labelled(), f"top_{self.spec.top}_accuracy"
        if not len(known.patients):
            return dict.fromkeys(["accuracy", "macro_f1", top, "macro_auroc"], float("nan"))
        truth, said = known.targets.astype(int), known.outputs.argmax(1)
        there = np.unique(truth)
        each = [roc_auc_score(truth == k, known.outputs[:, k]) for k in there] if len(there) > 1 else [float("nan")]
        return {
            "accuracy": float(accuracy_score(truth, said)),
            "macro_f1": float(f1_score(truth, said, labels=there, average="macro", zero_division=0))  # pyright: ignore[reportArgumentType]
            if len(there) > 1
            else float("nan"),
            top: float(np.mean(among(known.outputs, truth, self.spec.top))),
            "macro_auroc": float(np.mean(each)),
        }

    def present(self, probabilities: Sequence[float], used: tuple[Modality, ...]) -> Answer:
        """The likeliest class, and the probabilities of the likeliest few."""
        names, what = self.spec.names(), self.spec.column.replace("_", " ")
        order = sorted(range(self.k), key=lambda n: -probabilities[n])[: max(self.spec.top, 2)]
        each = ", ".join(f"{names[n]} {probabilities[n]:.2f}" for n in order)
        values = {f"probability_{name}": round(p, 4) for name, p in zip(names, probabilities, strict=True)}
        return Answer(
            f"{what}: {names[order[0]]} is the likeliest class ({each})", {"class": names[order[0]], **values}, used
        )


def among(outputs: np.ndarray, truth: np.ndarray, top: int) -> np.ndarray:
    """(n,) whether fewer than `top` classes are likelier than the true one; of ties the classes that come first are.

    Args:
        outputs: (n k).
        truth: (n,) classes.
    """
    order = np.argsort(-outputs, axis=1, kind="stable")
    return (order[:, :top] == truth[:, None]).any(1)
