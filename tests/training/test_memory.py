from __future__ import annotations

import gc
import logging
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from polyclinic.cohort import Cohort
from polyclinic.schema import Batch
from polyclinic.training import Recipe, RunError, memory, pretrain
from polyclinic.training.memory import Estimate, check, gib, kept_for_backward, machine
from polyclinic.training.ranks import fabric_for


class Two(nn.Module):
    """Two layers and a ReLU: what autograd keeps of it is known."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(32, 64), nn.Linear(64, 1)
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, batch: Batch, draws: torch.Generator) -> Any:
        self.get_buffer("mean").add_(1)
        hidden = torch.relu(self.one(torch.ones(10, 32)))
        return {"a": self.two(hidden).sum()}, {"a": 1.0}


def test_what_autograd_keeps_is_counted_once() -> None:
    """The input (10 × 32) of one layer, and the ReLU's output (10 × 64), which is the other layer's input too."""
    module = Two()
    assert kept_for_backward(fabric_for("fp32"), module, Batch({}, {}, [])) == 4 * 10 * (32 + 64)
    assert module.get_buffer("mean").tolist() == [0, 0, 0]  # measuring changes nothing


PEAK = """
import gc, pathlib, re, sys, torch
torch.set_num_threads(1)
from polyclinic.training import memory
from polyclinic.training.ranks import Ranks, fabric_for
from polyclinic.training.recipe import Stage
from polyclinic.training.step import Stepper, Trainee
from polyclinic.fusion import Late
from polyclinic.harmonise import Fingerprint
from polyclinic.models import TwoTower, build_model
from polyclinic.objectives import Masked
from polyclinic.schema import Batch, Modality, Ragged
from polyclinic.tokens import Vit
spec = Vit(size=224, patch=16, width=192, depth=6, heads=3)
model = build_model(TwoTower(width=192, embedding=64, fusion=Late()), {Modality.IMAGE: spec}, Fingerprint("{}"), 0)
trainee = Trainee(model, Masked(ratio=0.1).build(model, {}))
def batch(b):
    ids = [str(n) for n in range(b)]
    return Batch({Modality.IMAGE: Ragged(torch.randn(b, 1, 224, 224), torch.arange(b), torch.zeros(b), torch.ones(b, 2), b, ids)}, {}, ids)
class Loader:
    sampler = type("Sampler", (), {"batch": staticmethod(lambda step: ["a", "b"])})
    by_patient = {"a": {}, "b": {}}
    parted = staticmethod(lambda patients, seed: (batch(2), []))
size = int(sys.argv[1])
stage = Stage(name="s", objective=Masked(), steps=1, batch=size)
fabric = fabric_for("fp32")
found = memory.estimate(fabric, trainee, Loader, stage, 1)
whole = batch(size)
stepper = Stepper(Ranks(fabric), trainee, stage)
gc.collect()
# Not ru_maxrss, in which the peak of the process that started this one lives on.
peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+) kB', pathlib.Path('/proc/self/status').read_text())[1])
before = peak()
stepper.take([whole], size, (0, 0, 0))
print(found.total, (peak() - before) * 1024)
"""


@pytest.mark.slow
def test_the_estimate_is_near_what_a_step_takes() -> None:
    """The peak of a process that takes one step of 48 images, beside the estimate from two."""
    done = subprocess.run([sys.executable, "-c", PEAK, "48"], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    expected, took = map(int, done.stdout.split())
    assert took > 300e6  # or the process before it would hide it
    assert 0.5 < expected / took < 3  # what the machine multiplies by, and how many threads it has, change it


def test_a_stage_that_cannot_be_held_is_refused_and_one_that_may_not_is_warned_of(
    light: Recipe, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(memory, "machine", lambda: (8 * 2**30, 4 * 2**30))
    found = lambda gibs: Estimate(2**28, 3 * 2**28, int(gibs * 2**30), 6)
    with pytest.raises(RunError, match=r"stage 'align' needs more memory than this machine's 8\.0 GiB") as caught:
        check(light, light.stages[0], found(12))
    assert "about 12.8 GiB" in caught.value.expected
    assert "accumulate=2 halves" in caught.value.remedy
    with caplog.at_level(logging.WARNING):
        check(light, light.stages[0], found(6))
    assert "may run out of memory (4.0 GiB free)" in caplog.text
    caplog.clear()
    check(light, light.stages[0], found(2))
    assert not caplog.text
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")  # eight processes share the machine
    with pytest.raises(RunError):
        check(light, light.stages[0], found(2))


def test_a_run_that_cannot_fit_stops_before_its_first_step(
    light: Recipe, tiny_cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "machine", lambda: (2**17, 2**17))
    with pytest.raises(RunError, match="needs more memory"):
        pretrain(light, tiny_cohort, into=tmp_path, progress=lambda *_: pytest.fail("a step was made"))


def test_the_machine_s_memory() -> None:
    total, free = machine()
    assert total is not None
    assert free is not None
    assert 0 < free <= total
    assert total > resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    gc.collect()


def test_sizes_in_words() -> None:
    assert gib(3 * 2**30) == "3.0 GiB"
    assert gib(1.5 * 2**20) == "1.5 MiB"
