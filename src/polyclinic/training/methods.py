"""How a run is adapted to a task: what learns, or what is asked without any learning.

A method is one specification, or several adapters together: `lora`, `{kind: lora, rank: 4}`, `[{kind: lora}, {kind: bitfit}]`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from ..models.adapters import AdapterFields, Bitfit, Bottleneck, Dora, Lora, Prefix, Prompt
from ..schema import PolyclinicError
from .reading import guess


class MethodError(PolyclinicError):
    """A way of adapting that there is not, or that does not go together with another."""


class MethodFields(BaseModel):
    """What is no adapter: it stands alone."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Probe(MethodFields):
    """A head on the frozen backbone. Of a patient's vector it is linear, and fitted to its optimum under a ridge.

    Args:
        ridge: on the squared length of its weights, beside a mean loss; None chooses it within the training labels.
        penalty: what the ridge is on: the weights, or each direction in which the training patients' vectors differ, alike however
            much they differ along it. A modality that moves the vector little is then heard as well as one that moves it much.
        modalities: `together`: one head on the vector in which they met. `stacked`: one on each modality's own vector, of whoever
            has it; what they say is added up, each as strongly as it turns out to deserve for patients whom it did not learn from
            (Wolpert 1992). A modality that says little then takes little off one that says much, and one that is not there adds nothing.
        lr: of a decoder, which is trained by steps.
    """

    kind: Literal["probe"] = "probe"
    ridge: float | None = Field(default=None, gt=0)
    penalty: Literal["weights", "directions"] = "weights"
    modalities: Literal["together", "stacked"] = "together"
    lr: float = Field(default=2e-3, gt=0)


class Prototype(MethodFields):
    """The nearest mean: a patient is of the class, or has the finding, whose patients' mean vector is nearest (Snell et al. 2017)."""

    kind: Literal["prototype"] = "prototype"


class Knn(MethodFields):
    """The nearest training patients, by the cosine of the vectors, each weighed by exp(cosine / temperature) (Wu et al. 2018).

    The adapted run holds the training patients' vectors.

    Args:
        k: how many; None chooses it within the training labels.
        temperature: of the weights.
    """

    kind: Literal["knn"] = "knn"
    k: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=0.07, gt=0)


class ZeroShot(MethodFields):
    """Sentences instead of labels: how much nearer a patient is, on average, to those that say yes than to those that say no; of classes
    to which one's a patient is nearest.

    Args:
        yes, no: the sentences, of which several say more than one (Radford et al. 2021, section 3.1.4). {} in one is what the finding,
            or each class, is called; of several it must be there. Where there are none, our own. Classes have no `no`.
        words: of a class or finding, by its name, what it is called in a sentence; by default its name.
        temperature: a mean cosine, or a difference of two, over it is the logit.
    """

    kind: Literal["zero_shot"] = "zero_shot"
    yes: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    no: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    words: dict[str, Annotated[str, Field(min_length=1)]] = Field(default_factory=dict)
    temperature: float = Field(default=0.07, gt=0)


class Full(MethodFields):
    """All weights learn.

    Args:
        lr: of the head and of the layers next to it.
        decay: a layer learns at this times the rate of the one after it (Clark et al. 2020; 0.65 in Bao et al. 2022). 1 for all alike.
        thaw: over this share of the steps the layers begin to learn, one after the other from the head down (Howard & Ruder 2018).
        rehearsal: weight of the last stage's own loss, on a batch of its training patients beside each of the task's (Robins 1995).
        replay: where the adaptation goes on after others, weight of their tasks' own losses, by their heads as they were taught, on a
            batch of their labelled patients beside each of the task's (Chaudhry et al. 2019, "On tiny episodic memories").
        memory: how many patients of each earlier task are replayed; None for all that it had.
        ewc: how strongly weights that pretraining minds are held where they were (Kirkpatrick et al. 2017).
        distil: how strongly a patient's vector is held in the direction that it had, on the task's own patients. Li & Hoiem (2017) hold
            the old heads' answers; all heads here read this vector.
        interpolate: how far to go at the end from the weights of before to those learned, head and all (Wortsman et al. 2022).
    """

    kind: Literal["full"] = "full"
    lr: float = Field(default=5e-4, gt=0)
    decay: float = Field(default=1.0, gt=0, le=1)
    thaw: float = Field(default=0.0, ge=0, le=1)
    rehearsal: float = Field(default=0.0, ge=0)
    replay: float = Field(default=0.0, ge=0)
    memory: int | None = Field(default=None, ge=1)
    ewc: float = Field(default=0.0, ge=0)
    distil: float = Field(default=0.0, ge=0)
    interpolate: float = Field(default=1.0, ge=0, le=1)


class Scratch(MethodFields):
    """The same network with fresh weights: what pretraining is worth is measured against it."""

    kind: Literal["scratch"] = "scratch"
    lr: float = Field(default=1e-3, gt=0)


MethodSpec = Annotated[
    Probe | Prototype | Knn | ZeroShot | Lora | Dora | Bottleneck | Prompt | Prefix | Bitfit | Full | Scratch,
    Field(discriminator="kind"),
]
Kind = Literal[
    "probe", "prototype", "knn", "zero_shot", "lora", "dora", "adapter", "prompt", "prefix", "bitfit", "full", "scratch"
]
KINDS: tuple[str, ...] = get_args(Kind)
_ONE: TypeAdapter[Any] = TypeAdapter(MethodSpec)
Told = str | Mapping[str, Any] | MethodFields | AdapterFields
"""A method as a person says it: its kind, or its kind and options."""


def methods(told: Told | Sequence[Told]) -> tuple[Any, ...]:
    """The specifications of a method.

    Args:
        told: a kind; several joined by +; a mapping with options, or YAML of one; a specification; or several of these.
    Raises:
        MethodError: there is no such kind or option, or they do not go together.
    """
    found = tuple(_read(told))
    try:
        return together(found)
    except ValueError as error:
        kinds = " and ".join(spec.kind for spec in found) or "none"
        raise MethodError(f"the method {kinds}: {error}", "one method, or several adapters", "leave one out") from error


def together(specs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same specifications, where they can be adapted by at once.

    Raises:
        ValueError: they cannot, in a person's words.
    """
    kinds = [spec.kind for spec in specs]
    if not kinds:
        raise ValueError("nothing is said")
    if len(kinds) > 1 and (alone := [s.kind for s in specs if not isinstance(s, AdapterFields)]):
        raise ValueError(f"{alone[0]} stands alone; adapters go together")
    if twice := [k for k in kinds if kinds.count(k) > 1]:
        raise ValueError(f"{twice[0]} is said twice")
    if {"lora", "dora"} <= set(kinds):
        raise ValueError("lora and dora are two ways to say the same weights")
    return specs


def name_of(specs: Sequence[Any]) -> str:
    """What a method is called: its kinds, joined by +."""
    return "+".join(spec.kind for spec in specs)


def _read(told: Any) -> list[Any]:
    if isinstance(told, MethodFields | AdapterFields):
        return [told]
    if isinstance(told, str) and told.lstrip().startswith(("{", "[")):
        try:
            told = yaml.safe_load(told)
        except yaml.YAMLError as error:
            raise MethodError(
                f"the method {told!r}", "a kind, or YAML as {kind: lora, rank: 4}", "correct it"
            ) from error
    if isinstance(told, str):
        return [_checked({"kind": kind}) for kind in told.split("+")]
    if isinstance(told, Mapping):
        return [_checked(dict(told))]
    return [spec for one in told for spec in _read(one)]


def _checked(told: dict[str, Any]) -> Any:
    kind = str(told.get("kind"))
    if kind not in KINDS:
        raise MethodError(f"no method {kind!r}", "one of " + ", ".join(KINDS), guess(kind, KINDS, "correct it"))
    try:
        return _ONE.validate_python(told)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:])
        fields = _fields(kind)
        raise MethodError(
            f"the method {kind} with {json.dumps(told, default=str)}: {place}: {first['msg'][0].lower()}{first['msg'][1:]}",
            "of " + ", ".join(fields),
            guess(place, fields, "correct it") if place not in fields else "correct it",
        ) from error


def _fields(kind: str) -> list[str]:
    """The options of a kind."""
    one = next(c for c in get_args(get_args(MethodSpec)[0]) if c.model_fields["kind"].default == kind)
    return [name for name in one.model_fields if name != "kind"]
