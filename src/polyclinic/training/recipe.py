"""Recipes: one YAML file, one typed model. All of it is checked before anything is loaded."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..cohort import SplitSpec
from ..models import ModelSpec
from ..objectives import Contrastive, Hybrid, Masked, ObjectiveSpec, SegmentationPart
from ..schema import Modality, PolyclinicError
from ..tasks import Segmentation, TaskSpec
from ..tokens import EncoderSpec


class RecipeError(PolyclinicError):
    """A recipe that cannot be followed."""


class CohortSpec(BaseModel):
    """Who takes part.

    Args:
        where: a DuckDB condition on the records; None for all.
        split: how train and test are told apart.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    where: str | None = None
    split: SplitSpec = SplitSpec()


class Stage(BaseModel):
    """One stage of pretraining.

    Args:
        name: in the curves.
        objective: what is asked.
        steps: optimiser steps.
        batch: patients a step.
        lr: learning rate at the top of the schedule.
        warmup: steps of linear rise; a cosine falls to a tenth of `lr` after it.
        weight_decay: of AdamW, on matrices.
        temperature: of the sampler: 1 draws patients evenly, 0 patterns of modalities.
        most: records a patient and modality in a step.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    objective: ObjectiveSpec
    steps: int = Field(ge=1)
    batch: int = Field(16, ge=1)
    lr: float = Field(1e-3, gt=0)
    warmup: int = Field(20, ge=0)
    weight_decay: float = Field(0.05, ge=0)
    temperature: float = Field(0.5, ge=0, le=1)
    most: int | None = Field(2, ge=1)


class Recipe(BaseModel):
    """What is to be learned, of whom, by which network.

    Args:
        name: of the run.
        cohort: who.
        encoders: one a modality; a modality without one is not read.
        model: how they are assembled.
        tasks: questions asked after (and, by a segmentation objective, while) pretraining; the columns they name never
            enter the model.
        stages: of pretraining, one after the other.
        seed: of weights, batches and masks.
        precision: "auto" is bf16 where the CPU multiplies it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    cohort: CohortSpec = CohortSpec()
    encoders: dict[Modality, EncoderSpec] = Field(min_length=1)
    model: ModelSpec
    tasks: dict[str, TaskSpec] = Field(default_factory=dict)
    stages: tuple[Stage, ...] = Field(min_length=1)
    seed: int = 0
    precision: Literal["auto", "fp32", "bf16"] = "auto"

    @model_validator(mode="after")
    def _fits(self) -> Recipe:
        for modality, spec in self.encoders.items():
            if spec.standard().kind != modality.value:
                raise ValueError(f"encoders.{modality}: an encoder of kind {spec.kind!r} reads {spec.standard().kind}")
        heads = getattr(self.model.fusion, "heads", 1)
        if self.model.width % heads:
            raise ValueError(f"model.fusion: {heads} heads do not divide a width of {self.model.width}")
        for number, stage in enumerate(self.stages):
            for part in parts(stage.objective):
                self._part_fits(f"stages.{number}.objective", part)
        for name, task in self.tasks.items():
            wanted = {Modality(task.modality)} if isinstance(task, Segmentation) else set(task.inputs or ())
            for modality in sorted(wanted - set(self.encoders)):
                raise ValueError(f"tasks.{name}: reads {modality}, which has no encoder (there are {', '.join(self.encoders)})")
        if self.cohort.split.stratify and self.cohort.split.stratify not in self.tasks:
            raise ValueError(f"cohort.split.stratify: no task {self.cohort.split.stratify!r} (there are {', '.join(self.tasks)})")
        return self

    def _part_fits(self, place: str, part: Any) -> None:
        named = part.modalities() if isinstance(part, Contrastive) else part.named() if isinstance(part, Masked) else set()
        for modality in sorted(named - set(self.encoders)):
            raise ValueError(f"{place}: names {modality}, which has no encoder (there are {', '.join(self.encoders)})")
        if isinstance(part, SegmentationPart):
            task = self.tasks.get(part.task)
            if not isinstance(task, Segmentation):
                have = [n for n, t in self.tasks.items() if isinstance(t, Segmentation)]
                raise ValueError(f"{place}: no segmentation task {part.task!r} (there are {', '.join(have) or 'none'})")
            if task.modality is not Modality.VOLUME:
                raise ValueError(f"{place}: segmentation while pretraining reads volumes; task {part.task!r} reads {task.modality}")

    def excluded(self) -> tuple[str, ...]:
        """The columns that no encoder may read: those that the tasks name."""
        return tuple(sorted({c for task in self.tasks.values() for c in task.columns()}))

    def standards(self) -> dict[Modality, Any]:
        """What each encoder wants of the harmoniser."""
        return {m: s.standard(self.excluded()) for m, s in self.encoders.items()}

    def classes(self) -> dict[str, int]:
        """How many labels each segmentation task has, background among them."""
        return {n: len(t.classes) + 1 for n, t in self.tasks.items() if isinstance(t, Segmentation)}

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
        place = find(path)
        text = place.read_text()
        try:
            data = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise RecipeError(f"{place.name} is not YAML: {str(error).splitlines()[0]}", "a YAML file", "mend its syntax") from error
        if not isinstance(data, dict):
            raise RecipeError(f"{place.name} holds a {type(data).__name__}", "keys and values", "see `polyclinic recipe show demo`")
        for override in overrides:
            _set(data, override)
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise _explained(error, place, text) from error


def parts(objective: Any) -> tuple[Any, ...]:
    """The objectives that an objective is made of."""
    return objective.parts if isinstance(objective, Hybrid) else (objective,)


def folder() -> Path:
    """Where the shipped recipes are: in the package, or beside the sources."""
    packaged = Path(__file__).parents[1] / "recipes"
    return packaged if packaged.is_dir() else Path(__file__).parents[3] / "recipes"


def find(path: str | Path) -> Path:
    """The file of a path, or of a shipped recipe's name.

    Raises:
        RecipeError: with the names there are.
    """
    if Path(path).is_file():
        return Path(path)
    shipped = {p.stem: p for p in sorted(folder().glob("*.yaml"))}
    if str(path) in shipped:
        return shipped[str(path)]
    close = difflib.get_close_matches(Path(path).stem, shipped, n=1)
    raise RecipeError(
        f"no recipe {path}",
        "a file, or one of " + ", ".join(shipped),
        f"did you mean {close[0]!r}?" if close else "check the path",
    )


def _set(data: dict[str, Any], override: str) -> None:
    path, mark, value = override.partition("=")
    if not mark:
        raise RecipeError(f"the override {override!r}", "KEY.KEY=VALUE", "for example --set stages.0.steps=10")
    at: Any = data
    *way, last = path.split(".")
    try:
        for key in way:
            at = at[int(key)] if isinstance(at, list) else at.setdefault(key, {})
        at[int(last) if isinstance(at, list) else last] = yaml.safe_load(value)
    except (IndexError, ValueError, TypeError, AttributeError) as error:
        raise RecipeError(f"the override {override!r} leads nowhere", "a path of the recipe", "see `polyclinic recipe show`") from error


def _line(text: str, place: Sequence[int | str]) -> int | None:
    """The line of a key, as far as the path can be followed."""
    try:
        node = yaml.compose(text)
    except yaml.YAMLError:
        return None
    line = None
    for key in place:
        if isinstance(node, yaml.MappingNode):
            pair = next(((k, v) for k, v in node.value if k.value == str(key)), None)
            if pair is None:
                continue  # a union's tag stands in pydantic's path and not in the file
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            node = node.value[key]
            line = node.start_mark.line + 1
    return line


def _fields_at(schema: dict[str, Any], place: Sequence[int | str]) -> list[str]:
    """The keys that a place of the recipe may have."""
    names = schema["$defs"]
    at: dict[str, Any] = schema
    for key in place:
        while "$ref" in at:
            at = names[at["$ref"].rsplit("/", 1)[1]]
        if isinstance(key, int) and "items" in at:
            at = at["items"]
        elif isinstance(key, str) and key in at.get("properties", {}):
            at = at["properties"][key]
        elif "discriminator" in at and key in at["discriminator"]["mapping"]:
            at = {"$ref": at["discriminator"]["mapping"][key]}
        elif isinstance(at.get("additionalProperties"), dict):
            at = at["additionalProperties"]
        else:
            return []
    while "$ref" in at:
        at = names[at["$ref"].rsplit("/", 1)[1]]
    return sorted(at.get("properties", {}))


def _explained(error: ValidationError, place: Path, text: str) -> RecipeError:
    """The first thing that is wrong, as a person would say it."""
    first = error.errors()[0]
    loc = [p for p in first["loc"] if p != "[key]"]
    key = ".".join(str(p) for p in loc) or "the recipe"
    line = _line(text, loc)
    where = f"{place.name}{f', line {line}' if line else ''}: {key}"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    kind = first["type"]
    if kind == "extra_forbidden":
        known = _fields_at(Recipe.model_json_schema(), loc[:-1])
        close = difflib.get_close_matches(str(loc[-1]), known, n=1)
        return RecipeError(f"{where} is not a key{more}", "one of " + ", ".join(known), f"did you mean {close[0]!r}?" if close else "remove it")
    if kind == "union_tag_invalid":
        tags = [t.strip(" '") for t in first["ctx"]["expected_tags"].split(",")]
        found = first["ctx"]["tag"]
        close = difflib.get_close_matches(found, tags, n=1, cutoff=0.4)
        return RecipeError(f"{where} of kind {found!r}{more}", "one of " + ", ".join(tags), f"did you mean {close[0]!r}?" if close else "choose one")
    if kind == "enum":
        names = [m.value for m in Modality]
        close = difflib.get_close_matches(str(first["input"]), names, n=1, cutoff=0.4)
        return RecipeError(
            f"{where}: an unknown modality {first['input']!r}{more}", "one of " + ", ".join(names),
            f"did you mean {close[0]!r}?" if close else "choose one",
        )  # fmt: skip
    message = first["msg"].removeprefix("Value error, ")
    return RecipeError(f"{where}: {message}{more}", "a recipe that fits together", "see `polyclinic recipe schema` or `recipe show demo`")


def differing(one: Recipe, other: Recipe) -> list[str]:
    """The keys in which two recipes differ, as dotted paths."""

    def flat(value: Any, at: str = "") -> dict[str, Any]:
        if isinstance(value, dict):
            return {k: v for key, inner in value.items() for k, v in flat(inner, f"{at}.{key}" if at else str(key)).items()}
        if isinstance(value, list):
            return {k: v for n, inner in enumerate(value) for k, v in flat(inner, f"{at}.{n}").items()}
        return {at: value}

    a, b = flat(json.loads(one.model_dump_json())), flat(json.loads(other.model_dump_json()))
    return sorted(k for k in a.keys() | b.keys() if a.get(k) != b.get(k))
