"""Weights in the format of `transformers`: a folder with `config.json` and safetensors, read into our modules and written back.

What a system's weights are called in both worlds is a list of `Same`, one a weight of ours.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..weights import WeightsError

ONE_FILE, INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class Same:
    """One weight of ours and what it is in `transformers`.

    Args:
        ours: its name.
        theirs: the names of what it is made of, one under the other.
        rows: how many rows each of them has; None where there is one.
        turned: theirs is (in out), as GPT-2's.
        shape: theirs, where it has other axes than ours: a convolution's, or some of length one.
    """

    ours: str
    theirs: tuple[str, ...]
    rows: tuple[int, ...] | None = None
    turned: bool = False
    shape: tuple[int, ...] | None = None

    def join(self, parts: Sequence[Tensor], shape: torch.Size) -> Tensor:
        """Theirs → ours, of this shape."""
        whole = torch.cat([p.T if self.turned else p for p in parts]) if parts[0].ndim else parts[0]
        return whole if self.shape is None or whole.numel() != shape.numel() else whole.reshape(shape)

    def split(self, whole: Tensor) -> list[Tensor]:
        """Ours → theirs."""
        parts = [whole] if self.rows is None else whole.split(list(self.rows))
        parts = [p if self.shape is None else p.reshape(self.shape) for p in parts]
        return [(p.T if self.turned else p).contiguous() for p in parts]


class System(Protocol):
    """A network that has a namesake in `transformers`."""

    config: Mapping[str, Any]
    """As its `config.json`."""

    def same(self) -> Iterator[Same]:
        """Every weight of it, and what it is there."""
        ...


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a folder.

    Raises:
        WeightsError: there is none, or it is none.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"{path.name} of {folder.name} cannot be read ({error})",
            "a folder as `save_pretrained` writes it",
            "give its path",
        ) from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise WeightsError(f"a {path.name} without `model_type`", "a network's configuration", "save it anew")
    return config


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, of one file or of several.

    Raises:
        WeightsError: there are none in safetensors, or a file is broken.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if (folder / INDEX).exists():
            files = sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
        else:
            files = [ONE_FILE]
        if any(Path(name).name != name for name in files):
            raise WeightsError(f"{INDEX} names a file outside of its folder", "files beside it", "save it anew")
        return {name: tensor for file in files for name, tensor in load_file(folder / file).items()}
    except (OSError, SafetensorError, ValueError, KeyError, AttributeError) as error:
        pickled = [] if not folder.is_dir() else sorted(p.name for p in folder.glob("*.bin"))
        raise WeightsError(
            f"the weights of {folder.name} cannot be read ({error})" + (f"; there is {pickled[0]}" if pickled else ""),
            f"{ONE_FILE}, or the files that {INDEX} lists",
            "a pickle runs what it likes when it is opened: save it as safetensors" if pickled else "copy them again",
        ) from error


def load_into(
    module: torch.nn.Module, same: Iterator[Same], found: Mapping[str, Tensor], ignored: Sequence[str] = ()
) -> None:
    """Give a module the weights of a folder, every one of them.

    Args:
        module: ours; untouched where they are not its own.
        same: its `System.same`.
        found: theirs; a prefix of all (the base model of a network with a head) may be there or not.
        ignored: names that may be left over: buffers, heads that ours has not.
    Raises:
        WeightsError: a weight is missing, left over or of another shape; it names the first.
    """
    wanted, state, used = module.state_dict(), {}, set[str]()
    for weight in same:
        if missing := [name for name in weight.theirs if name not in found]:
            raise WeightsError(
                f"no weight {missing[0]}", f"it, for our {weight.ours}", "give the folder of the whole network"
            )
        used.update(weight.theirs)
        try:
            whole = weight.join([found[name] for name in weight.theirs], wanted[weight.ours].shape)
        except RuntimeError as error:
            raise WeightsError(
                f"weights {weight.theirs} that do not fit each other", "one width", "copy them again"
            ) from error
        if whole.shape != wanted[weight.ours].shape:
            raise WeightsError(
                f"{weight.theirs[0]} of shape {tuple(found[weight.theirs[0]].shape)}",
                f"what makes our {weight.ours}, {tuple(wanted[weight.ours].shape)}", "use the configuration that belongs to the weights",
            )  # fmt: skip
        state[weight.ours] = whole.to(wanted[weight.ours].dtype)
    left = sorted(name for name in found.keys() - used if not name.endswith(tuple(ignored)))
    if left:
        raise WeightsError(
            f"{len(left)} weights that ours has no place for; the first is {left[0]}",
            "a plain network",
            "use another folder",
        )
    module.load_state_dict(state)


def theirs_of(module: torch.nn.Module, same: Iterator[Same]) -> dict[str, Tensor]:
    """Our weights under their names."""
    state = module.state_dict()
    return {
        name: part.clone()
        for w in same
        for name, part in zip(w.theirs, w.split(state[w.ours].detach().cpu()), strict=True)
    }


def write(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """A folder as `save_pretrained` writes it."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), folder / ONE_FILE, {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(dict(config), indent=2, sort_keys=True) + "\n")


def expect(config: Mapping[str, Any], **allowed: tuple[Any, ...]) -> None:
    """Refuse a configuration whose values ours does not have.

    Args:
        config: of `transformers`.
        allowed: of each key, the values that are ours; None among them where it may be absent.
    """
    for key, values in allowed.items():
        if config.get(key) not in values:
            listed = ", ".join(str(v) for v in values if v is not None)
            raise WeightsError(
                f"{key}: {config.get(key)!r}", f"{key}: {listed}", "use the network through `transformers`"
            )


def prefixed(config: Mapping[str, Any], prefix: str, base: str) -> str:
    """The prefix of a network's weights: none where it was saved without a head, as `base`."""
    named = (config.get("architectures") or [""])[0]
    return "" if named == base else prefix
