"""Recipes: one YAML file, one typed model. All of it is checked before anything is loaded."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from ..cohort import SplitSpec
from ..cohort.definitions import chosen
from ..harmonise import Fingerprint, TextStandard
from ..models import ModelSpec
from ..objectives import (
    Finding,
    Hybrid,
    Instruct,
    ObjectiveSpec,
    Promptable,
    Question,
    SegmentationPart,
    Structure,
    Supervised,
)
from ..schema import Modality
from ..tasks import (
    Classes,
    Classification,
    Findings,
    Grade,
    PlacedFields,
    Report,
    Retrieval,
    Segmentation,
    Survival,
    TaskSpec,
)
from ..tokens import EncoderSpec
from ..tokens.text import CausalFields, as_note
from .methods import Lora as LoraMethod
from .methods import MethodSpec, together
from .ranks import Strategy
from .reading import RecipeError as RecipeError
from .reading import explained, find, guess, read
from .reading import folder as folder
from .schedule import Schedule

if TYPE_CHECKING:
    pass

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
"""A name that can be a folder's."""


Share = Annotated[float, Field(ge=0, lt=1)]


class CohortSpec(BaseModel):
    """Who takes part.

    Args:
        condition: a DuckDB condition on the records, in a recipe called `where`; None for all.
        name, version: of a named cohort, whose frozen records take part.
        split: how train and test are told apart.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True)
    condition: str | None = Field(default=None, alias="where")
    name: Name | None = None
    version: int | None = Field(default=None, ge=1)
    split: SplitSpec = SplitSpec()

    @model_validator(mode="after")
    def _named_whole(self) -> CohortSpec:
        if (self.name is None) != (self.version is None):
            raise ValueError("a named cohort needs both `name` and `version`")
        if self.name is not None and self.condition is not None:
            raise ValueError("a named cohort and `where`: a condition is part of what `polyclinic cohort define` froze")
        return self

    @property
    def where(self) -> str | None:
        """The condition on the records that says who takes part, and what of them may be seen."""
        chosen_by = self.condition if self.name is None or self.version is None else chosen(self.name, self.version)
        return self.split.seen(chosen_by)


class MixturePart(BaseModel):
    """A part of a stage's mixture.

    Args:
        condition: a DuckDB condition on the records, in a recipe called `where`: its patients are drawn, and of them these records.
        share: of a batch, in any unit that all parts have.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, serialize_by_alias=True)
    condition: str = Field(alias="where")
    share: float = Field(gt=0)


class Lora(BaseModel):
    """Low-rank additions to the Transformers' linear layers (Hu et al. 2022), which alone are trained.

    Args:
        rank, alpha: of them: each is alpha / rank · B A.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    rank: int = Field(default=8, ge=1)
    alpha: float = Field(default=16.0, gt=0)


class Stage(BaseModel):
    """One stage of pretraining.

    Args:
        name: in the curves.
        objective: what is asked.
        steps: optimiser steps.
        batch: patients a step, of all ranks and micro-batches together.
        accumulate: micro-batches that a rank makes of its part, one after the other: less memory, more time. What is compared
            is still compared across the whole step; a loss that is a mean over what it speaks to is weighed by patients.
        lr: learning rate at the top of the schedule.
        warmup: steps of linear rise.
        schedule: what comes after it: see `schedule.schedule`.
        weight_decay: of AdamW, on matrices.
        betas: of AdamW.
        clip: the largest norm of the gradient; None leaves it.
        ema: decay of an average of the weights over the steps, which is then what the stage has learned; None for the last weights.
        temperature: of the sampler: 1 draws patients evenly, 0 patterns of modalities.
        most: records a patient and modality in a step; which of them is a function of the seed and the step.
        site_temperature: of the sampler: 1 draws the patients of a pattern evenly, 0 its sites.
        rare: a table's column whose rare cells' patients are drawn more often; the model does not see it by that.
        rarity: how much: 0 not at all, 1 draws the cells evenly.
        modality_dropout: the share of cases in which a patient lacks a modality that they have, drawn anew in each step (ModDrop); of all,
            or of each that is named. Nobody lacks all, and what is to be segmented stays.
        modality_balance: how much the steps of a modality that learns faster than the others are shortened (OGM's alpha; its authors
            take 0.1 to 0.8): see `modalities.Pace`. 0 leaves each its own pace.
        mixture: name → a part of the cohort that batches are drawn from, in its share; none for the whole cohort.
        lora: trains additions to a model that stays as it is, and adds them at the stage's end; None trains the model.
        keep: whether the weights at the stage's end are kept, as `model/stages/NAME.safetensors`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    name: str
    objective: ObjectiveSpec
    steps: int = Field(ge=1)
    batch: int = Field(default=16, ge=1)
    accumulate: int = Field(default=1, ge=1)
    lr: float = Field(default=1e-3, gt=0)
    warmup: int = Field(default=20, ge=0)
    schedule: Schedule = "cosine"
    weight_decay: float = Field(default=0.05, ge=0)
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.95)
    clip: float | None = Field(default=1.0, gt=0)
    ema: float | None = Field(default=None, gt=0, lt=1)
    temperature: float = Field(default=0.5, ge=0, le=1)
    most: int | None = Field(default=2, ge=1)
    site_temperature: float = Field(default=1.0, ge=0, le=1)
    rare: str | None = None
    rarity: float = Field(default=0.5, ge=0, le=1)
    modality_dropout: Share | dict[Modality, Share] = 0.0
    modality_balance: float = Field(default=0.0, ge=0)
    mixture: dict[Name, MixturePart] = Field(default_factory=dict)
    lora: Lora | None = None
    keep: bool = False

    def told(self) -> dict[str, tuple[str, float]]:
        """The mixture's parts: name → condition, share."""
        return {name: (part.condition, part.share) for name, part in self.mixture.items()}

    @model_validator(mode="after")
    def _kept(self) -> Stage:
        if self.keep and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise ValueError(
                f"a stage {self.name!r} that is kept: its name is a file's; use letters, digits, . _ and -"
            )
        return self

    @model_validator(mode="after")
    def _whole_pairs(self) -> Stage:
        if self.most is not None and any(isinstance(part, Instruct) for part in parts(self.objective)):
            raise ValueError(
                f"instruct with `most: {self.most}` might draw an instruction and another's answer: say `most: null`"
            )
        return self

    @model_validator(mode="after")
    def _divides(self) -> Stage:
        if self.batch % self.accumulate:
            raise ValueError(f"{self.accumulate} micro-batches do not divide a batch of {self.batch} patients")
        return self


class Recipe(BaseModel):
    """What is to be learned, of whom, by which network.

    Args:
        name: of the run.
        cohort: who.
        encoders: one a modality; a modality without one is not read.
        model: how they are assembled.
        tasks: questions asked after (and, by the objectives that name them, while) pretraining; the columns they name never
            enter the model.
        stages: of pretraining, one after the other.
        adaptation: how runs are adapted to the tasks where nothing else is said: one method, or several adapters together.
        seed: of weights, batches and masks.
        precision: "auto" is bf16 where the CPU multiplies it.
        strategy: where several processes train, whether each holds all ("ddp", and "auto") or a part of the optimiser's state ("fsdp").
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: Name
    cohort: CohortSpec = CohortSpec()
    encoders: dict[Modality, EncoderSpec] = Field(min_length=1)
    model: ModelSpec
    tasks: dict[Name, TaskSpec] = Field(default_factory=dict)
    stages: tuple[Stage, ...] = Field(min_length=1)
    adaptation: tuple[MethodSpec, ...] = Field(default=(LoraMethod(),), min_length=1)
    seed: int = 0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    strategy: Strategy = "auto"
    _left_out: tuple[str, ...] = PrivateAttr(default=())

    @model_validator(mode="after")
    def _fits(self) -> Recipe:
        for modality, spec in self.encoders.items():
            if spec.standard().kind != modality.value:
                raise ValueError(f"encoders.{modality}: an encoder of kind {spec.kind!r} reads {spec.standard().kind}")
            if isinstance(spec, CausalFields) and spec.class_token and not self.model.fusion.own_trunks:
                raise ValueError(
                    f"encoders.{modality}: early fusion leaves the class token no trunk in which it hears the words; "
                    "use intermediate or late, or leave `class_token` out"
                )
        heads = getattr(self.model.fusion, "heads", 1)
        if self.model.width % heads:
            raise ValueError(f"model.fusion: {heads} heads do not divide a width of {self.model.width}")
        for number, stage in enumerate(self.stages):
            for part in parts(stage.objective):
                self._part_fits(f"stages.{number}.objective", part)
            self._divides(f"stages.{number}", stage)
            self._uneven(f"stages.{number}", stage)
        for name, task in self.tasks.items():
            self._task_fits(f"tasks.{name}", task)
        stratify = self.cohort.split.stratify
        told = [
            n for n, t in self.tasks.items() if isinstance(t, Classification | Classes | Findings | Grade | Survival)
        ]
        if stratify and stratify not in told:
            asked = "classification, classes, findings, grade or survival"
            raise ValueError(f"cohort.split.stratify: no {asked} {stratify!r} {_there(stratify, told)}")
        try:
            together(self.adaptation)
        except ValueError as error:
            raise ValueError(f"adaptation: {error}") from error
        names = [stage.name for stage in self.stages]
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"stages: two are called {twice[0]!r}; the curves are told apart by it")
        return self

    def _encoded(self, place: str, modalities: Iterable[Modality]) -> None:
        """Refuse a modality that no encoder reads."""
        for modality in sorted(set(modalities) - set(self.encoders)):
            raise ValueError(f"{place}: names {modality}, which has no encoder (there are {', '.join(self.encoders)})")

    def _task_fits(self, place: str, task: Any) -> None:
        self._encoded(f"{place}.inputs", task.inputs or ())
        if isinstance(task, Report):
            self._encoded(place, [Modality.TEXT])
        if isinstance(task, Retrieval):
            self._encoded(f"{place}.query", [task.query])
            self._encoded(f"{place}.answer", [task.answer])
        if isinstance(task, PlacedFields):
            self._encoded(f"{place}.modality", [Modality(task.modality)])
            if task.inputs is not None and task.modality not in task.inputs:
                raise ValueError(f"{place}.inputs: without {task.modality}, which the answers lie on")

    def _part_fits(self, place: str, part: Any) -> None:
        if not isinstance(part, SegmentationPart):  # the task says what that one reads
            self._encoded(place, part.named())
        try:
            part.fits(self.encoders, self.model.width, self.model.fusion)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
        if isinstance(part, Promptable):
            self._promptable_fits(place, part)
        if isinstance(part, Supervised | Question):
            self._labelled_fits(place, part)
        if isinstance(part, SegmentationPart):
            task = self.tasks.get(part.task)
            if not isinstance(task, Segmentation):
                have = [n for n, t in self.tasks.items() if isinstance(t, Segmentation)]
                raise ValueError(f"{place}: no segmentation task {part.task!r} {_there(part.task, have)}")
            if task.decoder != part.decoder:
                raise ValueError(
                    f"{place}: a decoder of {part.decoder}, and the task {part.task!r} has {task.decoder}: it could not go on"
                )

    def _divides(self, place: str, stage: Stage) -> None:
        """Refuse micro-batches for what asks all of a step at once and cannot be put together of parts."""
        if stage.accumulate == 1:
            return
        timed = [n for n in stage.objective.labelled() if isinstance(self.tasks.get(n), Survival)]
        if timed:
            raise ValueError(
                f"{place}.accumulate: the survival {timed[0]!r} compares patients of one whole batch; use 1"
            )

    def _uneven(self, place: str, stage: Stage) -> None:
        """Refuse what is between modalities of a model that reads one."""
        if isinstance(stage.modality_dropout, dict):
            self._encoded(f"{place}.modality_dropout", stage.modality_dropout)
        for key in ("modality_dropout", "modality_balance"):
            if getattr(stage, key) and len(self.encoders) < 2:
                raise ValueError(f"{place}.{key}: there is one encoder, and nothing to balance it with")

    def masked_modalities(self, stage: Stage) -> frozenset[Modality]:
        """The modalities whose masks a stage's objective asks for."""
        tasks = [self.tasks[name] for name in stage.objective.labelled()]
        return frozenset(Modality(task.modality) for task in tasks if isinstance(task, Segmentation))

    def _promptable_fits(self, place: str, part: Promptable) -> None:
        have = {n: t for n, t in self.tasks.items() if isinstance(t, Segmentation)}
        for name in part.tasks:
            if name not in have:
                raise ValueError(f"{place}: no segmentation task {name!r} {_there(name, have)}")
        if len(modalities := sorted({have[name].modality for name in part.tasks})) > 1:
            raise ValueError(f"{place}: tasks of {' and of '.join(modalities)}; use an objective for each")

    def _labelled_fits(self, place: str, part: Supervised | Question) -> None:
        known = {n: s for n, s in self.structures().items() if isinstance(s, Finding)}
        asks = isinstance(part, Question)
        have = [n for n, finding in known.items() if finding.questions or not asks]
        for name in (n for n in part.tasks if n not in have):
            wanted = "classification, " + ("survival or findings" if asks else "classes, findings, grade or survival")
            hint = "; `supervised` takes it" if asks and name in known else ""
            raise ValueError(f"{place}: no {wanted} {name!r} {_there(name, have)}{hint}")

    def excluded(self) -> tuple[str, ...]:
        """The columns that no encoder may read: those that the tasks name, and those left out besides."""
        return tuple(sorted({c for task in self.tasks.values() for c in task.columns()} | set(self._left_out)))

    def without(self, columns: Iterable[str]) -> Recipe:
        """The same recipe, of which no encoder reads these columns: what an adapted run leaves out of a network that had read them."""
        made = self.model_copy()
        made._left_out = (*self._left_out, *columns)
        return made

    def standards(self) -> dict[Modality, Any]:
        """What each encoder wants of the harmoniser."""
        return {m: s.standard(self.excluded()) for m, s in self.encoders.items()}

    def structures(self, fingerprint: Fingerprint | None = None) -> dict[str, Structure]:
        """What the labels of each task are of; with a fingerprint, whose names and questions the model can read."""
        standard = self.standards().get(Modality.TEXT) if fingerprint is not None else None
        read = lambda *texts: (
            tuple(as_note(t, standard, fingerprint) for t in texts)
            if isinstance(standard, TextStandard) and fingerprint is not None
            else ()
        )
        found = {name: task.taught(name, read) for name, task in self.tasks.items()}
        return {name: structure for name, structure in found.items() if structure is not None}

    def as_yaml(self) -> str:
        """The recipe with its defaults written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
        """Read and check a recipe.

        Args:
            path: a YAML file, or the name of a shipped one.
            overrides: such as `stages.0.steps=10`.
        Raises:
            RecipeError: with the line, what was found and what there is.
        """
        source = read(find(path), overrides)
        try:
            return cls.model_validate(source.data)
        except ValidationError as error:
            raise explained(error, source, cls.model_json_schema()) from error


def schema() -> dict[str, Any]:
    """The JSON Schema of recipes, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Recipe.model_json_schema()}


def _there(found: str, names: Iterable[str]) -> str:
    """What there is, and which of it comes closest."""
    listed = ", ".join(names)
    question = guess(found, names, "")
    return f"(there are {listed or 'none'})" + (f"; {question}" if question else "")


def parts(objective: Any) -> tuple[Any, ...]:
    """The objectives that an objective is made of."""
    return objective.parts if isinstance(objective, Hybrid) else (objective,)


def differing(one: Recipe, other: Recipe) -> list[str]:
    """The keys in which two recipes differ, as dotted paths."""

    def flat(value: Any, at: str = "") -> dict[str, Any]:
        if not isinstance(value, dict | list):
            return {at: value}
        found: dict[str, Any] = {}
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            found |= flat(inner, f"{at}.{key}" if at else str(key))
        return found

    a, b = flat(json.loads(one.model_dump_json())), flat(json.loads(other.model_dump_json()))
    return sorted(k for k in a.keys() | b.keys() if a.get(k) != b.get(k))
