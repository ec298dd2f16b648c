"""Findings: several at once, each of which may be unknown of a patient for whom others are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from torch import Tensor

from ..cohort import Label
from ..models import Model
from ..objectives import Finding
from ..objectives.outcomes import yes_no_loss
from ..schema import Modality, Target
from .classification import threshold
from .task import Answer, LinearTask, Predictions, Read, TaskFields

Cell = Annotated[str, Field(min_length=1)]


class Sought(BaseModel):
    """One of the findings.

    Args:
        column: the table column that has it.
        positive: the cells that mean yes.
        negative: the cells that mean no; empty: every other known cell.
        questions: ways to ask it in words, for a model that reads the question (the objective `question`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    column: str
    positive: tuple[Cell, ...] = Field(min_length=1)
    negative: tuple[Cell, ...] = ()
    questions: tuple[Cell, ...] = ()

    def asked(self, name: str) -> tuple[str, ...]:
        """The ways to ask it; where the recipe has none, one made of its name."""
        return self.questions or (f"Is there {name.replace('_', ' ')}?",)


class Findings(TaskFields):
    """Which of several findings a patient has.

    Args:
        findings: by name.
        tree: of findings that are kinds of others, what each is a kind of: then none is likelier than what it is a kind of.
        threshold: what the training patients' threshold of each is chosen by: the best F1, or the best sum of sensitivity and
            specificity (Youden 1950).
    """

    kind: Literal["findings"] = "findings"
    findings: dict[Annotated[str, Field(min_length=1)], Sought] = Field(min_length=2)
    tree: dict[str, str] = Field(default_factory=dict)
    threshold: Literal["f1", "youden"] = "f1"

    @field_validator("tree")
    @classmethod
    def _grows(cls, tree: dict[str, str], told: ValidationInfo) -> dict[str, str]:
        there = told.data.get("findings", {})
        if unknown := [name for pair in tree.items() for name in pair if name not in there]:
            raise ValueError(f"no finding {unknown[0]!r} (there are {', '.join(there)})")
        for name in tree:
            line = [name]
            while line[-1] in tree:
                line.append(tree[line[-1]])
                if line[-1] in line[:-1]:
                    raise ValueError(f"{' of '.join(line)}: a finding that is a kind of itself")
        return tree

    def parents(self) -> tuple[int, ...]:
        """Of each finding the place of what it is a kind of, or −1."""
        place = {name: number for number, name in enumerate(self.findings)}
        return tuple(place.get(self.tree.get(name, ""), -1) for name in self.findings)

    def names(self) -> tuple[str, ...]:
        """What the findings are called."""
        return tuple(self.findings)

    def label(self, name: str) -> Label:
        """Where the answers stand."""
        parts = [Label(n, "class", s.column, s.positive, s.negative) for n, s in self.findings.items()]
        return Label(name, "findings", parts=tuple(parts), parents=self.parents() if self.tree else ())

    def columns(self) -> tuple[str, ...]:
        """The columns that must not be inputs."""
        return tuple(dict.fromkeys(s.column for s in self.findings.values()))

    def asked(self) -> tuple[str, ...]:
        """The ways to ask each."""
        return tuple(way for name, sought in self.findings.items() for way in sought.asked(name))

    def taught(self, name: str, read: Read) -> Finding:
        """Which findings, and each by itself."""
        parts = [
            Finding(Modality.TABLE, (n,), read(*sought.asked(n)), inputs=self.inputs)
            for n, sought in self.findings.items()
        ]
        parents = self.parents() if self.tree else ()
        return Finding(
            Modality.TABLE, self.names(), outcome="findings", inputs=self.inputs, parents=parents, parts=tuple(parts)
        )

    def asks(self, words: Mapping[str, str]) -> str:
        """By their names."""
        return f"Which of {', '.join(self.names())}?"

    def build(self, name: str, model: Model) -> FindingsTask:
        """The head, freshly initialised."""
        if self.tree:
            from .tree import TreeTask  # which is a FindingsTask

            return TreeTask(name, self, model.width)
        return FindingsTask(name, self, model.width)


class FindingsTask(LinearTask):
    """The output is logits (b k); the targets (b k) are 1, 0 or, where a finding is unknown, NaN.

    Args:
        name, spec: the task.
        width: d of the patient's vector.
    """

    cuts: Tensor
    refers = True

    def __init__(self, name: str, spec: Findings, width: int) -> None:
        super().__init__(name, spec, width, bias=True, outputs=len(spec.findings))
        self.register_buffer("cuts", torch.zeros(len(spec.findings)))

    @property
    def thresholds(self) -> tuple[float, ...]:
        """The probability of each from which on it is called present."""
        return tuple(self.cuts.sigmoid().tolist())

    def loss(self, output: Tensor, target: Target) -> Tensor | None:
        """The mean over the findings of each one's cross-entropy over those of whom it is known, both classes with equal weight."""
        assert isinstance(target.values, Tensor)
        return yes_no_loss(output[target.mask], target.values[target.mask])

    @property
    def says(self) -> str:
        """The probabilities."""
        return f"(1 {self.cuts.numel()}) the probability of each of {', '.join(self.spec.names())}"

    def answer(self, output: Tensor) -> Tensor:
        """Probabilities (b k)."""
        return output.sigmoid()

    def refer_to(self, output: Tensor, target: Target) -> None:
        """Choose the threshold of each finding by the training patients of whom it is known."""
        assert isinstance(target.values, Tensor)
        for number in range(len(self.cuts)):
            known = target.mask & target.values[:, number].isfinite()
            if bool(known.any()):
                self.cuts[number] = threshold(output[known, number], target.values[known, number], self.spec.threshold)

    @torch.no_grad()
    def to_prevalence(self, values: Sequence[Sequence[float]]) -> None:
        """Give back how common each finding is, as a classification's is given back; the thresholds move along."""
        shift = torch.logit(torch.tensor(values).nanmean(0)).to(self.cuts)
        self.head.bias.add_(shift)
        self.cuts += shift

    def score(self, predictions: Predictions) -> dict[str, float]:
        """AUROC, average precision and F1 at its threshold, of each finding and (macro) their mean; NaN with one class."""
        from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

        known, each = predictions.labelled(), dict[str, list[float]]()
        for number, cut in enumerate(self.thresholds):
            truth = known.targets[:, number] if len(known.patients) else np.zeros(0)
            there = np.isfinite(truth)
            made: list[Any] = [float("nan")] * 3
            if len(np.unique(truth[there])) == 2:
                said, truth = known.outputs[there, number], truth[there]
                made = [roc_auc_score(truth, said), average_precision_score(truth, said), f1_score(truth, said >= cut)]
            for metric, value in zip(("auroc", "average_precision", "f1"), made, strict=True):
                each.setdefault(metric, []).append(float(value))
        mean = lambda v: float(np.nanmean(v)) if np.isfinite(v).any() else float("nan")
        found = {f"macro_{metric}": mean(values) for metric, values in each.items()}
        for metric, values in each.items():
            found |= {f"{metric}_{n}": v for n, v in zip(self.spec.names(), values, strict=True)}
        return found

    def present(self, probabilities: Sequence[float], used: tuple[Modality, ...]) -> Answer:
        """Each finding with its score, the highest above its threshold first; what a score means is for the evidence to say."""
        rows = [
            (p >= cut, p, name) for p, cut, name in zip(probabilities, self.thresholds, self.spec.names(), strict=True)
        ]
        rows.sort(key=lambda row: (not row[0], -row[1]))
        words = [f"{name} {p:.2f}{' (above its threshold)' if above else ''}" for above, p, name in rows]
        values = {f"score_{name}": round(p, 4) for p, name in zip(probabilities, self.spec.names(), strict=True)}
        above = ", ".join(name for above, _, name in rows if above) or "none"
        return Answer("scores: " + ", ".join(words), {"above_threshold": above, **values}, used)
