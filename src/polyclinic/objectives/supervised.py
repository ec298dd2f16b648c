"""Supervised: what the recipe's labelled tasks ask of a patient, each by a linear head of its own on the patient's fused vector.

Beside others in a hybrid this is multi-task pretraining. Who is not labelled for a task is in none of its losses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from ..schema import Batch, Fused, Losses, Modality, Target, Tokens
from ..tokens import select
from .objective import Backbone, Finding, Objective, ObjectiveError, ObjectiveFields, Structure
from .outcomes import ascending, even_steps, finding_loss


class LabelledFields(ObjectiveFields):
    """What every objective of labelled patients has.

    Args:
        tasks: of the recipe, whose labels are of whole patients.
        labels: how many training patients' labels of each may be seen; None for all. A comparison at few labels is honest only
            if pretraining saw no more.
        weight: in a hybrid objective; each task has an equal share of it.
    """

    tasks: tuple[str, ...] = Field(min_length=1)
    labels: int | None = Field(default=None, ge=1)
    weight: float = Field(default=1.0, ge=0)

    @field_validator("tasks")
    @classmethod
    def _once(cls, tasks: tuple[str, ...]) -> tuple[str, ...]:
        if twice := [task for task in dict.fromkeys(tasks) if tasks.count(task) > 1]:
            raise ValueError(f"the task {twice[0]!r} twice: name it once")
        return tasks

    def labelled(self) -> dict[str, int | None]:
        """Those of its tasks."""
        return dict.fromkeys(self.tasks, self.labels)


class Supervised(LabelledFields):
    """The tasks' own losses while pretraining."""

    kind: Literal["supervised"] = "supervised"

    def build(self, model: Backbone, structures: Mapping[str, Structure]) -> SupervisedObjective:
        """The module, with a head a task."""
        return SupervisedObjective(self, model, findings(self.tasks, structures))


def findings(tasks: Iterable[str], structures: Mapping[str, Structure]) -> dict[str, Finding]:
    """What is known of patients by each of the tasks.

    Raises:
        ObjectiveError: a task's labels are of a record, and of no patient.
    """
    found = {}
    for task in tasks:
        structure = structures[task]
        if not isinstance(structure, Finding):
            raise ObjectiveError(f"the task {task!r}, of masks", "a task of whole patients", "use `segmentation`")
        found[task] = structure
    return found


def known(target: Target | None) -> Tensor:
    """(p,) int64, ascending: which of the batch's patients are labelled."""
    return torch.nonzero(target.mask).flatten() if target is not None else torch.zeros(0, dtype=torch.int64)


class SupervisedObjective(Objective):
    """A linear head a task, and of grades the thresholds; the head's rows are in the order of the tasks."""

    def __init__(self, spec: Supervised, model: Backbone, asked: Mapping[str, Finding]) -> None:
        super().__init__()
        self.spec, self.asked = spec, dict(asked)
        self.norm = nn.LayerNorm(model.width, elementwise_affine=False)
        sizes = [finding.outputs for finding in asked.values()]
        self.head = nn.Linear(model.width, sum(sizes))
        self.rows = {task: slice(sum(sizes[:n]), sum(sizes[: n + 1])) for n, task in enumerate(asked)}
        self.graded = [task for task, finding in asked.items() if finding.outcome == "grade"]
        self.steps = nn.ParameterList(even_steps(len(asked[task].names)) for task in self.graded)

    def told(self, task: str, pooled: Tensor) -> Tensor:
        """What a task's head says of patients' vectors (p d): (p,); of classes and findings (p k), of grades (p k-1)."""
        with torch.autocast(pooled.device.type, enabled=False):  # bfloat16 would tie patients
            output = self.head(self.norm(pooled.float()))[:, self.rows[task]]
            if task in self.graded:
                return output - ascending(self.steps[self.graded.index(task)])
        return output.squeeze(1)

    def forward(
        self, model: Backbone, batch: Batch, generator: torch.Generator, tokens: Mapping[Modality, Tokens] | None = None
    ) -> Losses:
        """The term `supervised/task` of each task of which somebody in the batch is labelled and can be read."""
        who = {task: labelled for task in self.asked if len(labelled := known(batch.targets.get(task)))}
        if not who:
            return Losses({}, {})
        tokens = model.encode(batch) if tokens is None else tokens
        seen: dict[tuple[Modality, ...] | None, Fused] = {}
        for inputs in dict.fromkeys(self.asked[task].inputs for task in who):
            labelled = torch.cat([rows for task, rows in who.items() if self.asked[task].inputs == inputs])
            seen[inputs] = model.fuse(read(tokens, inputs, labelled), len(batch.patients))
        terms: dict[str, Tensor] = {}
        for task, finding in self.asked.items():
            if task not in who:
                continue
            fused, values = seen[finding.inputs], batch.targets[task].values
            assert isinstance(values, Tensor)
            rows = who[task][fused.present[who[task]]]
            term = finding_loss(finding, self.told(task, fused.pooled[rows]), values[rows])
            if term is not None:
                terms[f"supervised/{task}"] = term
        return Losses(terms, dict.fromkeys(terms, self.spec.weight / len(self.asked)))


def read(
    tokens: Mapping[Modality, Tokens], inputs: tuple[Modality, ...] | None, patients: Tensor
) -> dict[Modality, Tokens]:
    """What may be read of some patients: no patient sees another, so the rest need not be fused."""
    reads = [m for m in tokens if inputs is None or m in inputs]
    return {m: select(tokens[m], torch.isin(tokens[m].patient, patients)) for m in reads}
