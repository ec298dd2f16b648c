"""Several processes that train one run, started as a person starts them: by torchrun, over gloo."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from polyclinic.cohort import Cohort
from polyclinic.training import InterruptedRunError, Recipe, Run, RunError, pretrain
from polyclinic.training.ranks import Ranks, fabric_for, local, started, stop_signals, whole

STEPS = 5
WORKER = """
import os, signal, sys
import polyclinic.training.step as step
from polyclinic.training import InterruptedRunError, pretrain
folder, cohort, *jobs = sys.argv[1:]
take, left, who = step.Stepper.take, 0, 0
def counted(self, *arguments):
    global left
    left -= 1
    if left == 0 and self.ranks.rank == who:
        os.kill(os.getpid(), signal.SIGTERM)
    made = take(self, *arguments)
    assert len(set(map(repr, self.ranks.tell(made.values)))) == 1, "ranks differ in gradients or paces"
    return made
step.Stepper.take = counted
for job in jobs:
    into, strategy, left, who = job.split(":")
    left, who = int(left), int(who)
    try:
        pretrain(f"{folder}/{strategy}.yaml", cohort, into=f"{folder}/{into}")
    except InterruptedRunError as error:
        print(into, error.found, flush=True)
"""
"""Runs jobs `into:strategy:stop:who` one after the other: rank `who` gets a SIGTERM in its step `stop`."""


@pytest.fixture(scope="module")
def recipe(light: Recipe) -> Recipe:
    """One stage of both objectives whose batch 2 and 4 ranks divide."""
    two = light.stages[1].model_dump()
    stage = {
        **two,
        "objective": two["objective"] | {"balance": "gradnorm"},
        "batch": 8,
        "steps": STEPS,
        "accumulate": 2,
        "ema": 0.5,
        "most": None,
        "modality_balance": 0.5,
    }
    model = {**light.model.model_dump(), "centre": True}
    return Recipe.model_validate(light.model_dump() | {"stages": [stage], "precision": "fp32", "model": model})


class Started:
    """What processes made in a folder."""

    def __init__(self, recipe: Recipe, cohort: Cohort, folder: Path) -> None:
        self.recipe, self.cohort, self.folder, self.told = recipe, cohort, folder, ""
        (folder / "worker.py").write_text(WORKER)
        for strategy in ("ddp", "fsdp"):
            (folder / f"{strategy}.yaml").write_text(self.of(strategy).as_yaml())

    def on(self, ranks: int, *jobs: str) -> None:
        done = subprocess.run(
            [
                sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks),
                str(self.folder / "worker.py"), str(self.folder), str(self.cohort.path), *jobs,
            ],
            capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        self.told += done.stdout

    def of(self, strategy: Any) -> Recipe:
        return self.recipe.model_copy(update={"strategy": strategy})

    def run(self, into: str) -> Run:
        return Run.open(self.folder / into / "light")

    def tensors(self, into: str) -> dict[str, torch.Tensor]:
        model = self.run(into).path / "model"
        return load_file(model / "model.safetensors") | load_file(model / "objective.safetensors")


@pytest.fixture(scope="module")
def made(recipe: Recipe, tiny_cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Started:
    """By two processes: a run that was never stopped, one that was, and three that wait at step 3."""
    started = Started(recipe, tiny_cohort, tmp_path_factory.mktemp("ranks"))

    def halt(done: int, *_: object) -> None:
        if done == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(InterruptedRunError, match="stopped at step 3"):
        pretrain(started.of("fsdp"), tiny_cohort, into=started.folder / "up", progress=halt)
    assert (started.folder / "up/light/checkpoints/last.pt").exists()
    started.on(
        2, "whole:ddp:0:0", "stopped:ddp:3:1", "stopped:ddp:0:0", "sharded:fsdp:0:0", "four:fsdp:3:0", "one:ddp:3:1", "up:fsdp:0:0"
    )  # fmt: skip
    return started


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(v, other[k]) for k, v in one.items())


@pytest.mark.slow
def test_stopped_on_one_rank_and_resumed_is_never_stopped(made: Started) -> None:
    # Both ranks of each of the three that stop, at the same step; what two processes say at once may be mixed by words.
    assert made.told.count(f"stopped at step 3 of {STEPS}") == 6
    assert same(made.tensors("stopped"), made.tensors("whole"))
    runs = made.run("stopped"), made.run("whole")
    assert runs[0].metrics().equals(runs[1].metrics())
    assert not list((runs[0].path / "checkpoints").iterdir())
    assert [(s["steps"], s["ranks"]) for s in runs[0].training["sessions"]] == [([0, 3], 2), ([3, STEPS], 2)]


@pytest.mark.slow
def test_what_is_sharded_learns_what_is_whole(made: Started) -> None:
    """FSDP2 beside DDP."""
    found, expected = made.run("sharded").metrics().to_pylist(), made.run("whole").metrics().to_pylist()
    assert [r["value"] for r in found] == pytest.approx([r["value"] for r in expected], rel=1e-3)
    tensors = made.tensors("sharded")
    assert tensors.keys() == made.tensors("whole").keys()
    # Adam divides by the gradient's size: where that is next to nothing, rounding decides its sign.
    assert max(float((v - tensors[k]).float().abs().mean()) for k, v in made.tensors("whole").items()) < 1e-4


@pytest.mark.slow
def test_a_checkpoint_of_two_is_read_by_one_and_by_four(made: Started) -> None:
    before = made.folder / "one/light/checkpoints/step-3"
    assert len(list(before.glob("*.distcp"))) == 2  # each rank wrote its part
    pretrain(made.of("ddp"), made.cohort, into=made.folder / "one")
    made.on(4, "four:fsdp:0:0")
    kept = made.run("whole").metrics().to_pylist()
    for into, ranks in (("one", 1), ("four", 4)):
        run = made.run(into)
        assert [(s["steps"], s["ranks"]) for s in run.training["sessions"]] == [([0, 3], 2), ([3, STEPS], ranks)]
        rows = run.metrics().to_pylist()
        # What is compared has no draws: the step after the checkpoint says that it is the same model, of the same patients.
        at = lambda rows: {
            r["name"]: r["value"] for r in rows if r["step"] == 3 and r["name"].startswith("contrastive/")
        }
        assert at(rows) == pytest.approx(at(kept), rel=1e-3)
        assert len(at(rows)) > 0
        assert max(row["step"] for row in rows) == STEPS - 1


@pytest.mark.slow
def test_a_checkpoint_of_one_is_read_by_two(made: Started) -> None:
    assert [(s["steps"], s["ranks"]) for s in made.run("up").training["sessions"]] == [([0, 3], 1), ([3, STEPS], 2)]


def test_a_batch_that_ranks_do_not_divide_is_refused(
    recipe: Recipe, tiny_cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polyclinic.training.loop.Ranks", lambda fabric: type("Three", (), {"world": 3, "rank": 0}))
    with pytest.raises(RunError, match="a batch of 8 patients on 3 ranks in 2 micro-batches each") as caught:
        pretrain(recipe, tiny_cohort, into=tmp_path)
    assert "a multiple of 6" in caught.value.expected


def test_without_torchrun_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "8")  # of some other launcher
    assert started() == 1
    ranks = Ranks(fabric_for("fp32", "ddp"))
    assert (ranks.rank, ranks.world, ranks.first) == (0, 1, True)
    assert ranks.tell("x") == ["x"]
    tensor = torch.ones(2)
    ranks.average_([tensor])
    assert tensor.tolist() == [1, 1]
    assert local(tensor) is tensor
    assert whole(tensor) is tensor


def test_what_rank_0_raises_is_raised() -> None:
    def fail() -> None:
        raise RunError("a", "b", "c")

    with pytest.raises(RunError, match="a"):
        Ranks(fabric_for("fp32")).once(fail)


def test_torchrun_says_a_signal_twice() -> None:
    with stop_signals(patient=True) as stopped:
        assert not stopped()
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopped()
