"""What the benchmarks of training steps share: contenders that step in turn, the machine's products between them, and the table.

The first contender is ours. `ratio` is over the fastest of the peers that are tuned, in the precision that the library takes on this
machine: bf16 where the CPU multiplies it (AVX-512 BF16 or AMX), else fp32: without such a unit bf16 is emulated, ten times slower
than fp32, and says nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from polyclinic.harmonise import Fingerprint
from polyclinic.models import Model
from polyclinic.objectives import Objective
from polyclinic.schema import Batch, Losses, Modality, Ragged, Target
from polyclinic.tokens import Layout, Transformer
from polyclinic.training.schedule import optimiser
from polyclinic.training.step import Trainee

LR, DECAY = 1e-4, 0.05
Step = Callable[[], float]
"""One optimiser step; gives the loss before it."""


def command(doc: str | None) -> argparse.ArgumentParser:
    """The command line of a benchmark."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small model, few rounds: does it run?")
    return parser


def batch_of(records: Mapping[Modality, Tensor | list[Tensor]], targets: dict[str, Target] | None = None) -> Batch:
    """Patients with a record of each modality."""
    b = len(next(iter(records.values())))
    names = [str(n) for n in range(b)]
    ragged = lambda values: Ragged(values, torch.arange(b), torch.zeros(b), None, b, names)
    return Batch({m: ragged(values) for m, values in records.items()}, targets or {}, names)


def reading(vocabulary: int) -> Fingerprint:
    """Of notes whose words are numbers."""
    return Fingerprint(json.dumps({"model": {"vocab": {str(n): n for n in range(vocabulary)}}}))


def our_step(model: Model, objective: Objective, batch: Batch, bf16: bool) -> Step:
    """A step of the library: its objective on its model."""
    trainee, draws = Trainee(model, objective).train(), torch.Generator().manual_seed(0)

    def loss() -> Tensor:
        total = Losses(*trainee(batch, draws)).total
        assert total is not None
        return total

    return training_step(trainee, loss, bf16)


def training_step(
    module: nn.Module, loss_of: Callable[[], Tensor], bf16: bool, adam: torch.optim.Optimizer | None = None
) -> Step:
    """Forward, backward and a step of the library's own optimiser (fused AdamW), or of another."""
    adam = optimiser(module, LR, DECAY) if adam is None else adam

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = loss_of()
        loss.backward()
        adam.step()
        adam.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def block_flops(lengths: Sequence[int], width: int, mlp: float) -> float:
    """Of the products of one block, forward, on sequences of these lengths."""
    return 2 * sum(lengths) * (4 + 2 * mlp) * width**2 + 4 * width * sum(n * n for n in lengths)


@dataclass(frozen=True, slots=True)
class Contender:
    """Who steps.

    Args:
        label: what the table calls it.
        step: builds the model, and gives its step.
        bf16: its precision.
        tuned: whether it counts as the peer.
    """

    label: str
    step: Callable[[], Step]
    bf16: bool
    tuned: bool = True


@dataclass(frozen=True, slots=True)
class Measured:
    """What was found, of each contender in turn.

    Args:
        contenders: the first is ours.
        seconds: of every round.
        losses: of every round, and of one before.
        peaks: GFLOP/s of the machine's best product, in bf16 or not.
    """

    contenders: Sequence[Contender]
    seconds: list[list[float]]
    losses: list[list[float]]
    peaks: dict[bool, float]

    def median(self, number: int) -> float:
        return statistics.median(self.seconds[number])

    @property
    def peer(self) -> int:
        """The fastest of the tuned ones."""
        return min((n for n, c in enumerate(self.contenders) if n and c.tuned), key=self.median)

    def over(self, number: int) -> float:
        """How many times faster ours is."""
        return self.median(number) / self.median(0)

    def table(self, count: int, unit: str, work: float) -> None:
        """Print it.

        Args:
            count, unit: what a step takes.
            work: FLOP of a step that all must do; 0 where nobody counted.
        """
        best = self.peaks[self.contenders[0].bf16]
        print(f"{'':6}{'':34}{'ms a step':>10}{unit + '/s':>12}{'of peak':>9}{'loss':>16}")
        for number, c in enumerate(self.contenders):
            s, found = self.median(number), self.losses[number]
            share = f"{1e-9 * work / s / self.peaks[c.bf16]:.0%}" if work else "–"
            loss = f"{found[0]:.2f} → {found[-1]:.2f}"
            print(f"{'bf16' if c.bf16 else 'fp32':6}{c.label:34}{s * 1e3:10.1f}{count / s:12.1f}{share:>9}{loss:>16}")
        each = [p / o for p, o in zip(self.seconds[self.peer], self.seconds[0], strict=True)]
        low, middle, high = statistics.quantiles(each, n=4)
        print(
            f"ours over {self.contenders[self.peer].label}: {middle:.2f} (quartiles of the rounds {low:.2f} to {high:.2f})"
        )
        if work:
            print(f"peak of matrix products: {best:.0f} GFLOP/s; a step's useful work: {work / 1e9:.1f} GFLOP")

    def report(self, name: str, count: int, unit: str, work: float, equal_output: str, **more: float) -> None:
        """Print the last line."""
        ours, peer = count / self.median(0), count / self.median(self.peer)
        bf16 = self.contenders[0].bf16
        share = {"share_of_peak": 1e-9 * work / self.median(0) / self.peaks[bf16]} if work else {}
        figure: Mapping[str, object] = {
            "name": name, "ours": ours, "peer": peer, "unit": f"{unit}/s, {'bf16' if bf16 else 'fp32'}", "ratio": ours / peer,
            "n": len(self.seconds[0]), **share, **more, "equal_output": equal_output,
        }  # fmt: skip
        print(json.dumps(figure))


def side_by_side(contenders: Sequence[Contender], rows: int, width: int, rounds: int, mlp: int = 4) -> Measured:
    """All contenders in turn, `rounds` times after one that is not counted; between them the machine's products.

    Args:
        contenders: ours first.
        rows, width, mlp: the shapes of the products: tokens of a step, d, and how many d the perceptron is wide.
        rounds: of each, at least 2.
    """
    steps = [contender.step() for contender in contenders]
    rates = {bf16: products(rows, width, mlp, bf16) for bf16 in {c.bf16 for c in contenders}}
    seconds: list[list[float]] = [[] for _ in steps]
    found = {bf16: [[] for _ in each] for bf16, each in rates.items()}
    losses = [[step()] for step in steps]
    for _ in range(rounds):
        for step, spent, loss in zip(steps, seconds, losses, strict=True):
            begun = time.perf_counter()
            loss.append(step())
            spent.append(time.perf_counter() - begun)
        for bf16, each in rates.items():
            for rate, speeds in zip(each, found[bf16], strict=True):
                speeds.append(rate())
    peaks = {bf16: max(statistics.median(speeds) for speeds in each) for bf16, each in found.items()}
    return Measured(contenders, seconds, losses, peaks)


def products(rows: int, width: int, mlp: int, bf16: bool) -> list[Callable[[], float]]:
    """The machine's best: each gives GFLOP/s of one product of a block's shapes, or of a square one."""
    dtype, side = torch.bfloat16 if bf16 else torch.float32, min(rows, 1024)
    shapes = (rows, width, mlp * width), (rows, mlp * width, width), (width, rows, mlp * width), (side, side, side)
    return [rate_of(torch.randn(m, k, dtype=dtype), torch.randn(k, n, dtype=dtype)) for m, k, n in shapes]


def rate_of(a: Tensor, b: Tensor) -> Callable[[], float]:
    """GFLOP/s of one product, warm."""

    def rate() -> float:
        torch.mm(a, b)
        begun = time.perf_counter()
        torch.mm(a, b)
        return 2e-9 * a.shape[0] * a.shape[1] * b.shape[1] / (time.perf_counter() - begun)

    return rate


def peer_weights(layers: nn.ModuleList, norm: nn.Module, names: Mapping[str, Sequence[str]]) -> dict[str, Tensor]:
    """The peer's blocks and final norm under our names.

    Args:
        layers, norm: the peer's.
        names: of each of a block's modules, those of the peer's layer that it is made of.
    """
    state = {f"norm.{kind}": getattr(norm, kind) for kind in ("weight", "bias")}
    for number, layer in enumerate(layers):
        for ours, theirs in names.items():
            for kind in ("weight", "bias"):
                parts = [getattr(layer.get_submodule(name), kind) for name in theirs]
                state[f"blocks.{number}.{ours}.{kind}"] = torch.cat(parts)
    return state


def apart(
    state: Mapping[str, Tensor], heads: int, peer: Callable[[Tensor], Tensor], x: Tensor, inside: Tensor
) -> tuple[float, float]:
    """How far our blocks with the peer's weights are from the peer's: of the states, and of the gradient to `x`, of its largest.

    Args:
        state, heads: of `peer_weights`.
        peer: its blocks and final norm, (b n d) → (b n d).
        x: (b n d).
        inside: (b n) bool, False for padding.
    """
    width, depth = x.shape[2], len({name.split(".")[1] for name in state if name.startswith("blocks")})
    ours = Transformer(width, depth, heads)
    ours.load_state_dict(dict(state))
    theirs, mine = x.clone().requires_grad_(), x[inside].clone().requires_grad_()
    wanted, given = peer(theirs)[inside], ours(mine, Layout.of(torch.nonzero(inside)[:, 0]))
    pull = torch.randn(given.shape, generator=torch.Generator().manual_seed(0))
    (wanted * pull).sum().backward()
    (given * pull).sum().backward()
    assert theirs.grad is not None
    assert mine.grad is not None
    gradient = (theirs.grad[inside] - mine.grad).abs().max() / theirs.grad.abs().max()
    return float((wanted - given).detach().abs().max()), float(gradient)
