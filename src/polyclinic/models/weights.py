"""Weights on the disk: safetensors with the configuration that they belong to."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..schema import PolyclinicError


class WeightsError(PolyclinicError):
    """Weights that are not of this model."""


def config_hash(config: Mapping[str, Any]) -> str:
    """blake2b-128 of a configuration."""
    return hashlib.blake2b(json.dumps(config, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()


def save_weights(path: Path, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Write weights whole or not at all.

    The header holds only the format and the configuration's hash, so that equal weights give equal bytes.
    """
    from safetensors.torch import save_file

    beside = path.with_name(f".{path.name}.{os.getpid()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        save_file(
            {k: v.detach().cpu().contiguous() for k, v in state.items()},
            beside,
            {"format": "pt", "config": config_hash(config)},
        )
        os.replace(beside, path)
    except Exception as error:  # safetensors raises its own error for a full disk
        beside.unlink(missing_ok=True)
        raise WeightsError(
            f"weights that could not be written ({type(error).__name__})", "room on the disk", "free some space"
        ) from error


def load_weights(path: Path, module: torch.nn.Module, config: Mapping[str, Any] | None = None) -> None:
    """Read weights into a module, every one of them and in its shape.

    Raises:
        WeightsError: the file is broken, of another configuration, or its weights are others; it names the first.
    """
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise WeightsError(
            f"{path.name} does not open ({type(error).__name__})", "a whole safetensors file", "copy it again"
        ) from error
    if config is not None and about.get("config") not in (None, config_hash(config)):
        raise WeightsError(
            f"{path.name} belongs to another configuration", "the run's own weights", "train or copy them again"
        )
    wanted = {k: tuple(v.shape) for k, v in module.state_dict().items()}
    found = {k: tuple(v.shape) for k, v in state.items()}
    wrong = sorted(k for k in wanted.keys() | found.keys() if wanted.get(k) != found.get(k))
    if wrong:
        close = difflib.get_close_matches(wrong[0], found, n=1)
        raise WeightsError(
            f"{len(wrong)} weights of {path.name} do not fit, first {wrong[0]} {found.get(wrong[0], 'absent')}",
            f"{wanted.get(wrong[0], 'no such weight')}" + (f" (the file has {close[0]})" if close else ""),
            "use the recipe that the weights were trained with",
        )
    module.load_state_dict(state)
