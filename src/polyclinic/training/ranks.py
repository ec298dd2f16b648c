"""Several processes that train one run: who they are, what they agree on, and how a module is spread over them.

`torchrun` starts them; Fabric joins them. Rank 0 writes. Whatever one of them finds (a signal, a number that is none) is told to all at
the end of each step, so that all of them stop at the same step or none.
"""

from __future__ import annotations

import atexit
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..schema import PolyclinicError

Strategy = Literal["auto", "ddp", "fsdp"]
Found = TypeVar("Found")


def has_bf16() -> bool:
    """Whether the CPU multiplies bfloat16 by itself (AVX-512 BF16 or AMX)."""
    info = Path("/proc/cpuinfo")
    return info.exists() and any(flag in info.read_text() for flag in ("avx512_bf16", "amx_bf16"))


def fabric_for(precision: str, strategy: Strategy | None = None) -> Any:
    """The launcher on the CPU, in the recipe's precision.

    Args:
        strategy: of the processes that `torchrun` started; None for this process alone.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy
    from lightning_fabric.strategies.model_parallel import ModelParallelStrategy

    bf16 = precision == "bf16" or (precision == "auto" and has_bf16())
    world = started() if strategy is not None else 1
    local = int(os.environ.get("LOCAL_WORLD_SIZE", world)) if world > 1 else 1
    how: Any = "auto"
    if world > 1 and strategy == "fsdp":
        how = ModelParallelStrategy(_shard, data_parallel_size=world, tensor_parallel_size=1)
    elif world > 1:
        # Looking for what took no part keeps the buckets as they are after the first step; otherwise four ranks would sum in another
        # order after a resume.
        how = DDPStrategy(find_unused_parameters=True, forward_sync_buffers=False)
    fabric = Fabric(
        accelerator="cpu", devices=local, num_nodes=world // local, strategy=how, precision="bf16-mixed" if bf16 else "32-true"
    )  # fmt: skip
    if world > 1:
        joined = dist.is_initialized()
        fabric.launch()
        if not joined:  # gloo's threads must end before the interpreter does, or it aborts now and then
            atexit.register(dist.destroy_process_group)
    return fabric


def started() -> int:
    """How many processes `torchrun` started for this run; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1")) if dist.is_torchelastic_launched() else 1


def _shard(module: nn.Module, mesh: Any) -> nn.Module:
    """FSDP2 over all ranks, as one group.

    A layer of an encoder whose modality no patient of a rank has is not called there: if each layer fetched its own weights, the
    other ranks would wait for it forever. So the weights are whole during a step, and what is spread are the gradients that are
    kept, the optimiser's moments and the weights between steps (as in ZeRO's second stage, Rajbhandari et al. 2020).
    """
    from torch.distributed.fsdp import fully_shard

    fully_shard(module, mesh=mesh["data_parallel"], ignored_params=set(scalars(module)))
    return module


def scalars(module: nn.Module) -> list[nn.Parameter]:
    """The weights without a dimension, which cannot be sharded."""
    return [p for p in module.parameters() if p.ndim == 0]


class Ranks:
    """The processes of a run, seen from one of them.

    Args:
        fabric: launched.
    """

    def __init__(self, fabric: Any) -> None:
        self.fabric, self.rank, self.world = fabric, int(fabric.global_rank), int(fabric.world_size)

    @property
    def first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def tell(self, mine: Found) -> list[Found]:
        """What every rank says, in their order."""
        if self.world == 1:
            return [mine]
        every: list[Any] = [None] * self.world
        dist.all_gather_object(every, mine)
        return every

    def once(self, work: Callable[[], None]) -> None:
        """Let rank 0 do it while the others wait.

        Raises:
            PolyclinicError: what rank 0 raised, on every rank.
        """
        failure: PolyclinicError | None = None
        if self.first:
            try:
                work()
            except PolyclinicError as error:
                failure = error
        told = self.tell(None if failure is None else (failure.found, failure.expected, failure.remedy))[0]
        if failure is not None:
            raise failure
        if told is not None:
            raise PolyclinicError(*told)

    def average_(self, tensors: list[Tensor]) -> None:
        """Each tensor becomes its mean over the ranks."""
        if self.world == 1 or not tensors:
            return
        together = torch.cat([t.detach().reshape(-1).float() for t in tensors])
        dist.all_reduce(together)
        for tensor, part in zip(tensors, (together / self.world).split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def idle(self, gradients: list[Tensor]) -> list[bool]:
        """Which gradients are zero on every rank: nothing spoke to those weights, and they must not be moved by their momentum."""
        parts = [local(g) for g in gradients]
        largest = torch.stack([p.abs().max() if p.numel() else p.new_zeros(()) for p in parts])
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        return (largest == 0).tolist()


def local(tensor: Any) -> Tensor:
    """This rank's part of a sharded tensor; of another, all of it."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def whole(tensor: Any) -> Tensor:
    """A sharded tensor put together; all ranks must ask for it."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


@contextmanager
def stop_signals(patient: bool = False) -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM end the step and not the process; the yielded function tells whether one came.

    A second one does not wait for the step: whatever is being written is written whole or not at all.

    Args:
        patient: a second one changes nothing. `torchrun` passes on to its processes what the terminal has told them already.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return

    def note(number: int, _: object) -> None:
        if came and not patient:
            raise KeyboardInterrupt
        came.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
