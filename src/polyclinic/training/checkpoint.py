"""Checkpoints: written whole or not at all, and read back to the same bits.

One process writes one file, `last.pt`, which is read without unpickling anything but tensors; several write a folder
(`sharded.py`). Any number of ranks goes on from either. Both hold the same tensors under the same names: `weights/…` and
`buffers/…` by their names in the module, `moments/<name>/<what>` of the optimiser, for weights that it has moved, and `average/…`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..schema import PolyclinicError

KEYS = ("stage", "step", "tensors", "rows")
"""What a checkpoint holds: where it was taken, weights and the optimiser's moments, the curves so far."""


class RunError(PolyclinicError):
    """A run that cannot go on as asked."""


class InterruptedRunError(PolyclinicError):
    """Stopped by the user, at a checkpoint; the command line exits with 130."""


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a run's folder: two processes that trained one run would write over each other.

    The lock goes with the process, however that ends.

    Raises:
        RunError: another process holds it.
    """
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(
                f"another process is training the run {folder}", "one at a time", "wait for it, or stop it"
            ) from error
        yield


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint beside the last one and put it in its place.

    Raises:
        RunError: the disk is full; the last checkpoint is intact.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for stale in path.parent.glob(f".{path.name}.*"):  # of a process that was killed while it wrote
        stale.unlink(missing_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except (OSError, RuntimeError) as error:  # torch reports a failed write as a RuntimeError
        beside.unlink(missing_ok=True)
        raise RunError(
            f"a checkpoint that could not be written to {path.parent} ({str(error).splitlines()[0][:80]})",
            "room on the disk; "
            + ("the checkpoint before it is intact" if path.exists() else "there was none before it"),
            "free some space and run the same command again: it resumes",
        ) from error


def read(path: Path) -> dict[str, Any] | None:
    """The last checkpoint of one process; None where there is none.

    Raises:
        RunError: it is broken.
    """
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        missing = [key for key in KEYS if key not in state]
    except Exception as error:
        raise broken(path, f"torch says {type(error).__name__}") from error
    if missing:
        raise broken(path, f"it has no {', '.join(missing)}")
    return state


def tensors_of(trainee: nn.Module, adam: torch.optim.Optimizer, average: dict[str, Tensor] | None) -> dict[str, Tensor]:
    """All that a stage's state is, by name; the tensors themselves, or a rank's shards of them."""
    found: dict[str, Tensor] = {f"buffers/{n}": b for n, b in trainee.named_buffers()}
    for name, weight in trainee.named_parameters():
        found[f"weights/{name}"] = weight.detach()
        for what, moment in adam.state.get(weight, {}).items():
            found[f"moments/{name}/{what}"] = moment
    return found | {f"average/{n}": t for n, t in (average or {}).items()}


def targets_of(
    place: Path, shapes: dict[str, Any], trainee: nn.Module, adam: torch.optim.Optimizer, average: dict[str, Tensor] | None
) -> dict[str, Tensor]:  # fmt: skip
    """`tensors_of`, with room for the moments that a checkpoint has.

    Args:
        place: of the checkpoint, for the error.
        shapes: of its tensors, by name.
    Raises:
        RunError: they are of another network than the recipe builds now.
    """
    weights = dict(trainee.named_parameters())
    for name in shapes:
        kind, _, rest = name.partition("/")
        owner, _, what = rest.rpartition("/")
        if kind == "moments" and owner in weights:
            adam.state[weights[owner]][what] = _room(weights[owner], what)
    targets = tensors_of(trainee, adam, average)
    fits = lambda n: n in targets and n in shapes and list(targets[n].shape) == list(shapes[n])
    if wrong := [n for n in sorted(targets.keys() | shapes.keys()) if not fits(n)]:
        raise broken(
            place,
            f"{len(wrong)} of its tensors do not fit the network that the recipe builds with this version: {wrong[0]}",
        )
    return targets


@torch.no_grad()
def put_back(
    path: Path, tensors: dict[str, Tensor], trainee: nn.Module, adam: torch.optim.Optimizer, average: dict[str, Tensor] | None = None
) -> None:  # fmt: skip
    """A checkpoint's whole tensors into a module, its optimiser and its average, spread over ranks as those are.

    Raises:
        RunError: they are of another network than the recipe builds now.
    """
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    for name, target in targets_of(path, shapes, trainee, adam, average).items():
        target.copy_(_like(tensors[name], target))


def _room(weight: Tensor, what: str) -> Tensor:
    """Room for a moment: as its weight; the count of the updates is one number."""
    return torch.zeros(()) if what == "step" else torch.zeros_like(weight)


def _like(tensor: Tensor, target: Any) -> Any:
    """A whole tensor, spread as another is."""
    if not hasattr(target, "device_mesh"):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, target.device_mesh, target.placements)


def forget(folder: Path, but: Path | None = None) -> None:
    """Remove a run's checkpoints, except one."""
    for place in folder.glob("step-*"):
        if place != but:
            shutil.rmtree(place, ignore_errors=True)
    if but is None or but.name != "last.pt":
        (folder / "last.pt").unlink(missing_ok=True)


def broken(path: Path, why: str) -> RunError:
    """The error of a checkpoint that cannot be used."""
    return RunError(
        f"a broken checkpoint {path} ({why})", "one that this version wrote", "remove it, and the run starts again"
    )
