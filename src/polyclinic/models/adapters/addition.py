"""What every adapter is: a few learned weights beside a frozen layer, its host, whose own weights and names stay as they are.

An addition is a submodule of its host and reaches its answer by a hook: `blocks.0.attention.qkv.weight` is still called that, and
beside it stand `blocks.0.attention.qkv.lora.a` and `.b`. Several kinds may therefore have one host, in any order of their making.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ...schema import PolyclinicError
from ...tokens.pretrained import Backbone
from ...tokens.transformer import Block


class AdapterError(PolyclinicError):
    """An adapter that a model has no place for, or whose weights are of another."""


class AdapterFields(BaseModel, ABC):
    """What every adapter's specification has; a subclass adds its `kind` and its own fields.

    Args:
        lr: learning rate at the top of the schedule.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    first: ClassVar[bool] = False
    """Whether it speaks before others at the same host: what is folded into a weight is heard by all that come after the weight."""
    lr: float = Field(default=2e-3, gt=0)

    @abstractmethod
    def put(self, model: nn.Module, draws: torch.Generator) -> None:
        """Put its additions into a frozen model, or set its weights free, in place.

        Args:
            model: a `Model`, or any module with Transformers in it.
            draws: of the first weights.
        Raises:
            AdapterError: the model has no place for it.
        """


class Addition(nn.Module, ABC):
    """What is learned beside one host.

    A subclass names itself in `kind`, and registers its hooks in `hook`.
    """

    kind: ClassVar[str]
    foldable: ClassVar[bool] = False
    """Whether what it learned can be folded into the host's weights."""

    def __init__(self) -> None:
        super().__init__()
        self._hooks: list[RemovableHandle] = []
        self._start: list[Tensor] = []

    @abstractmethod
    def hook(self, host: Any) -> list[RemovableHandle]:
        """Listen to the host."""

    def attach(self, host: nn.Module) -> None:
        """Become the host's; what it is now is what it will have learned nothing beyond."""
        host.add_module(self.kind, self)
        self._hooks = self.hook(host)
        self._start = [p.detach().clone() for p in self.parameters()]

    def detach(self, host: nn.Module) -> None:
        """Leave the host as it was."""
        for handle in self._hooks:
            handle.remove()
        delattr(host, self.kind)

    def fold(self, host: Any) -> None:
        """Give the host new weights that do the same alone.

        Raises:
            AdapterError: no weights could.
        """
        raise AdapterError(
            f"an adapter of the kind {self.kind!r} to be merged",
            "one that only adds to weights (lora, dora, bitfit, full)",
            "leave it as it is: it is applied in each answer",
        )

    @property
    def idle(self) -> bool:
        """Whether it has learned nothing: no batch went through its host."""
        return all(torch.equal(now, start) for now, start in zip(self.parameters(), self._start, strict=True))


def additions(module: nn.Module) -> Iterator[tuple[str, nn.Module, Addition]]:
    """The host's name, the host and the addition, of all."""
    for name, host in list(module.named_modules()):
        for child in list(host.children()):
            if isinstance(child, Addition):
                yield name, host, child


def linears(module: nn.Module) -> list[tuple[str, nn.Linear]]:
    """The linear layers of its Transformers' blocks and of pretrained networks, those of additions left out, in the module's order."""
    blocks = [(name, block) for name, block in module.named_modules() if isinstance(block, Block | Backbone)]
    added = {id(inner) for _, _, one in additions(module) for inner in one.modules()}
    return [
        (f"{outer}.{inner}" if outer else inner, layer)
        for outer, block in blocks
        for inner, layer in block.named_modules()
        if isinstance(layer, nn.Linear) and id(layer) not in added
    ]


def put(model: nn.Module, specs: Sequence[AdapterFields], seed: int) -> None:
    """Freeze a model and put adapters into it, in place; each draws its first weights from the seed and from nothing else.

    Raises:
        AdapterError: the model has no place for one.
    """
    model.requires_grad_(False)
    for spec in sorted(specs, key=lambda spec: not spec.first):
        spec.put(model, torch.Generator().manual_seed(seed))


def settle(model: nn.Module) -> None:
    """Take the additions out that have learned nothing: what was never read keeps its host as it was."""
    for _, host, addition in additions(model):
        if addition.idle:
            addition.detach(host)


def learned(model: nn.Module) -> dict[str, Tensor]:
    """The weights of the additions, by their names in the model."""
    return {
        ".".join(filter(None, (name, one.kind, own))): tensor.detach()
        for name, _, one in additions(model)
        for own, tensor in one.named_parameters()
    }


def restore(model: nn.Module, specs: Sequence[AdapterFields], tensors: Mapping[str, Tensor]) -> None:
    """Put adapters back as `learned` gave them, in place; hosts of which there is nothing stay as they are.

    Args:
        model: with its own weights, and no addition.
        specs: that the adapters were put by.
        tensors: of `learned`.
    Raises:
        AdapterError: the tensors are not of these adapters, or of another model; it names the first.
    """
    put(model, specs, 0)
    missing = set(tensors)
    for name, host, one in additions(model):
        own = {key: ".".join(filter(None, (name, one.kind, key))) for key, _ in one.named_parameters()}
        if not missing.intersection(own.values()):
            one.detach(host)
            continue
        for key, parameter in one.named_parameters():
            found = tensors.get(own[key])
            if found is None or found.shape != parameter.shape:
                raise AdapterError(
                    f"{own[key]}: {'absent' if found is None else tuple(found.shape)}",
                    f"{tuple(parameter.shape)}",
                    "use the backbone that the adapter was made on",
                )
            parameter.data = found.to(parameter.dtype)
            missing.discard(own[key])
    if missing:
        first = min(missing)
        raise AdapterError(
            f"{len(missing)} weights that are of no adapter here, the first {first}",
            "weights of " + ", ".join(str(getattr(spec, "kind", spec)) for spec in specs),
            "use the backbone that the adapter was made on",
        )


@torch.no_grad()
def go_on(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Let additions that were just put go on from what `learned` gave, in place; those of which there is nothing stay fresh.

    Args:
        model: with additions of the same specifications.
        tensors: of `learned`.
    """
    for name, _, one in additions(model):
        for key, parameter in one.named_parameters():
            if (found := tensors.get(".".join(filter(None, (name, one.kind, key))))) is not None:
                parameter.copy_(found)


def fold(model: nn.Module) -> None:
    """Fold every addition that can be into its host's weights, in place: the same answers at no cost.

    The host gets new weights: where it shares the old ones with others, theirs stay as they are.
    """
    for _, host, addition in additions(model):
        if addition.foldable:
            addition.fold(host)
            addition.detach(host)


def sharing(model: nn.Module) -> Any:
    """The same network around the same weights: modules of its own, which adapters may be put into, and not one weight more."""
    own = {id(t): t for t in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, own)


def replace(model: nn.Module, name: str, tensor: Tensor) -> None:
    """Give a model another weight or buffer in the place of its own, which is left as it is.

    Raises:
        AdapterError: it has none of this name and shape.
    """
    place, _, leaf = name.rpartition(".")
    try:
        owner = model.get_submodule(place)
        own = getattr(owner, leaf)
    except AttributeError:
        own, owner = None, model
    if not isinstance(own, Tensor) or own.shape != tensor.shape:
        raise AdapterError(
            f"a weight {name} {tuple(tensor.shape)}",
            "no such weight" if not isinstance(own, Tensor) else f"{tuple(own.shape)}",
            "use the backbone that the adapter was made on",
        )
    if isinstance(own, nn.Parameter):
        setattr(owner, leaf, nn.Parameter(tensor.to(own.dtype), requires_grad=False))
    else:
        setattr(owner, leaf, tensor.to(own.dtype))
