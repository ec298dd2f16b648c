"""The same bits each time: kernels that give them, and generators that depend on numbers alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def generator(*numbers: object) -> torch.Generator:
    """A generator that depends on these and on nothing else."""
    digest = hashlib.blake2b("\x00".join(map(str, numbers)).encode(), digest_size=7).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big"))


@contextmanager
def repeatable() -> Iterator[None]:
    """Only kernels that give the same bits each time; the world's setting is put back.

    Without it the gradient of an indexed tensor is summed by several threads in whatever order they come.
    """
    import torch.utils.deterministic

    deterministic: Any = torch.utils.deterministic
    before = (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled())
    filled = deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    deterministic.fill_uninitialized_memory = False  # it costs time and finds faults, not bits
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        deterministic.fill_uninitialized_memory = filled
