"""Weights on the disk: safetensors with the configuration that they belong to."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..schema import PolyclinicError


class WeightsError(PolyclinicError):
    """Weights that are not of this model, or that could not be read or written."""


def config_hash(config: Mapping[str, Any]) -> str:
    """blake2b-128 of a configuration."""
    return hashlib.blake2b(json.dumps(config, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()


def save_weights(
    path: Path, state: Mapping[str, Tensor], config: Mapping[str, Any] | None = None, about: Mapping[str, Any] | None = None
) -> None:  # fmt: skip
    """Write weights whole or not at all.

    Equal weights give equal bytes: the header has one entry and no more, for safetensors writes the entries of a header in an order
    that changes from one time to the next.

    Args:
        path: of the file.
        state: the weights.
        config: that they belong to, of which the header holds the hash.
        about: what the header says of them instead, in JSON.
    Raises:
        WeightsError: the disk is full, or the place cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    beside = path.with_name(f".{path.name}.{os.getpid()}")
    own = {k: v.detach().cpu().contiguous() for k, v in state.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        told = (
            {"about": json.dumps(about, sort_keys=True)} if about is not None else {"config": config_hash(config or {})}
        )
        save_file(own, beside, told)
        os.replace(beside, path)
    except (OSError, SafetensorError) as error:  # safetensors has its own error for a full disk
        raise WeightsError(
            f"{path.name} could not be written ({error})",
            f"room on the disk, and a folder {path.parent} that may be written",
            "free some space, or choose another folder",
        ) from error
    finally:
        with suppress(OSError):
            beside.unlink()


def load_weights(path: Path, module: torch.nn.Module, config: Mapping[str, Any] | None = None) -> None:
    """Read weights into a module, every one of them, in its shape and its type.

    Args:
        path: a safetensors file.
        module: whose weights they are; untouched where they are not.
        config: refuse weights that were saved with another.
    Raises:
        WeightsError: the file is broken, of another configuration, or its weights are others; it names the first.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise WeightsError(
            f"{path.name} does not open ({error})", "a whole safetensors file", "copy it again"
        ) from error
    if config is not None and about.get("config") != config_hash(config):
        raise WeightsError(
            f"{path.name} belongs to another configuration", "the run's own weights", "train or copy them again"
        )
    wanted, found = _described(module.state_dict()), _described(state)
    wrong = [k for k in sorted(wanted.keys() | found.keys()) if wanted.get(k) != found.get(k)]
    if wrong:
        first = wrong[0]
        close = [] if first in found else difflib.get_close_matches(first, found, n=1)
        raise WeightsError(
            f"{len(wrong)} weights of {path.name} do not fit; the first is {first}: {found.get(first, 'absent')}"
            + (f" (the file has {close[0]})" if close else ""),
            wanted.get(first, "no such weight"),
            "use the recipe that the weights were trained with",
        )
    module.load_state_dict(state)


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, by what their names go on with."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _described(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Each weight's shape and type, as a person reads them."""
    return {k: f"{tuple(v.shape)} {str(v.dtype).removeprefix('torch.')}" for k, v in state.items()}
