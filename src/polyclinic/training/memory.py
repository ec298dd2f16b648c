"""How much memory a stage takes, measured on two of its own patients, and how much the machine has."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from ..harmonise.loader import Loader
from ..schema import Batch, Losses
from .checkpoint import RunError
from .recipe import Recipe, Stage
from .repeatable import generator

PROBED = 2
"""Patients whose step is measured."""
SPARE = 1.25
"""What a step takes over what it keeps for its backward: the operators' own room, and gradients on their way."""
IMPOSSIBLE = 1.5
"""Times the machine's memory from which a stage is refused; below it may be swapped, or the estimate be wrong."""
LOG = logging.getLogger("polyclinic.training")


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes that one process takes in a stage, besides what it takes already.

    Args:
        weights: those that are trained, once (float32); they are here already.
        kept: gradients, the optimiser's two moments, and the average where there is one.
        activations: of one micro-batch.
        patients: of one micro-batch.
    """

    weights: int
    kept: int
    activations: int
    patients: int

    @property
    def total(self) -> int:
        """What has to be found."""
        return self.kept + self.activations

    def as_words(self) -> str:
        """For a person."""
        return (
            f"about {gib(self.total)}: {gib(self.activations)} for the activations of {self.patients} patients at once, "
            f"{gib(self.kept)} for the gradients and the optimiser of {gib(self.weights)} of weights"
        )


def gib(size: float) -> str:
    """Such as "1.5 GiB"."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**29 else f"{size / 2**20:.1f} MiB"


def estimate(fabric: Any, trainee: nn.Module, loader: Loader, stage: Stage, world: int) -> Estimate:
    """What a stage takes, from the memory that a forward of two patients keeps for its backward.

    Args:
        fabric: whose precision counts.
        trainee: not yet spread over ranks.
        loader: of the stage.
        world: ranks; with FSDP what is kept is spread over them.
    """
    who = loader.sampler.batch(0)
    # Those with most to read, or the estimate would be of whoever comes first.
    most = sorted(who, key=lambda p: -sum(min(len(r), stage.most or len(r)) for r in loader.by_patient[p].values()))
    probed, _ = loader.parted(sorted(most[:PROBED]), seed=0)
    return estimate_of(fabric, trainee, probed or Batch({}, {}, []), stage, world)


def estimate_of(fabric: Any, trainee: nn.Module, probed: Batch, stage: Stage, world: int) -> Estimate:
    """What a stage takes whose patients are as these; the other arguments are `estimate`'s."""
    trained = sum(p.numel() * p.element_size() for p in trainee.parameters() if p.requires_grad)
    copies = 3 + (stage.ema is not None)
    kept = trained * copies // (world if world > 1 and _sharded(fabric) else 1)
    micro = -(-stage.batch // (world * stage.accumulate))
    size = kept_for_backward(fabric, trainee, probed) / max(1, len(probed.patients)) * micro
    return Estimate(trained, kept, int(SPARE * size), micro)


def _sharded(fabric: Any) -> bool:
    return type(fabric.strategy).__name__ == "ModelParallelStrategy"


def kept_for_backward(fabric: Any, trainee: nn.Module, batch: Batch) -> int:
    """Bytes that autograd would keep of a forward, each storage once, weights and the batch itself not counted.

    Nothing is kept: the look itself takes no more than a forward without gradients.
    """
    known = {p.untyped_storage().data_ptr() for p in trainee.parameters()}
    known |= {b.untyped_storage().data_ptr() for b in trainee.buffers()}
    storages: dict[int, tuple[StorageWeakRef, int]] = {}

    def note(tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            seen = StorageWeakRef(storage)  # by which a storage that is freed keeps its name, and lends it to no other
            storages[seen.cdata] = seen, storage.nbytes()

    trained, before = trainee.training, [b.clone() for b in trainee.buffers()]
    trainee.eval()  # a look that leaves no trace: no running mean moves, and no teacher's answer is noted
    with torch.autograd.graph.saved_tensors_hooks(note, _gone), fabric.autocast():
        total = Losses(*trainee(batch, generator("memory"))).total
    del total
    trainee.train(trained)
    with torch.no_grad():
        for buffer, old in zip(trainee.buffers(), before, strict=True):
            buffer.copy_(old)
    return sum(size for _, size in storages.values())


def _gone(_: None) -> Tensor:
    raise RuntimeError("a backward of a forward that was only looked at")


def machine() -> tuple[int | None, int | None]:
    """Bytes of memory in all and free, of the machine or of the container, whichever is less; None where it does not say."""
    info = Path("/proc/meminfo")
    text = info.read_text() if info.exists() else ""
    found = {k: int(v) * 1024 for k, v in re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)}
    total, free = found.get("MemTotal"), found.get("MemAvailable")
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if total and free and limit.exists() and used.exists() and (words := limit.read_text().strip()) != "max":
        total = min(total, int(words))
        free = min(free, max(0, int(words) - int(used.read_text())))
    return total, free


def check(recipe: Recipe, stage: Stage, found: Estimate) -> None:
    """Refuse a stage that the machine clearly cannot hold; warn where it has to be lucky.

    Raises:
        RunError: with the numbers to lower.
    """
    total, free = machine()
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # processes that share this machine
    if total is not None and found.total * here > IMPOSSIBLE * total:
        raise RunError(
            f"stage {stage.name!r} needs more memory than this machine's {gib(total)}", *told(recipe, stage, found)
        )
    if free is not None and found.total * here > free:
        LOG.warning("stage %r may run out of memory (%s free): %s", stage.name, gib(free), found.as_words())


def told(recipe: Recipe, stage: Stage, found: Estimate | None) -> tuple[str, str]:
    """What a stage needs, and the numbers that decide it, as they are: the second and third part of an error."""
    sizes = [
        f"encoders.{m}.{key}={value}"
        for m, spec in recipe.encoders.items()
        for key in ("size", "words", "seconds", "genes", "events", "frames", "tiles")
        if (value := getattr(spec, key, None)) is not None
    ]
    now = f"batch={stage.batch}, accumulate={stage.accumulate}, most={stage.most}"
    half = f"a higher `accumulate` (accumulate={2 * stage.accumulate} halves what is held at once, and the step stays the same)"
    return (
        "an estimate of " + found.as_words() if found is not None else "room for a micro-batch",
        f"in stages: {half}, or a lower `batch` or `most` (now {now}); or a smaller record ({', '.join(sizes)})",
    )
