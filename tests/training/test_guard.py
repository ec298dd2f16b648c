from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from polyclinic.cohort import Cohort
from polyclinic.schema import Batch, Modality, Target
from polyclinic.tokens import phantom
from polyclinic.training import Recipe, RunError, offending, pretrain
from polyclinic.training.guard import FEWEST, PATIENCE, Watch, enough_memory, keep, ran_out
from polyclinic.training.memory import Estimate

STANDARDS = {m: s.standard() for m, s in phantom.encoders().items()}


def noisy(level: float, steps: int, seed: int = 0) -> list[float]:
    draws = random.Random(seed)
    return [level * draws.uniform(0.8, 1.2) for _ in range(steps)]


def test_a_loss_that_runs_away_is_noticed_after_so_many_steps() -> None:
    watch = Watch(noisy(2.0, 200))
    away = [watch.diverged(50.0) for _ in range(PATIENCE)]
    assert away == [False] * (PATIENCE - 1) + [True]


@pytest.mark.parametrize("losses", [
    [*noisy(2, 200), *([50.0] * (PATIENCE - 1)), 2.0, *([50.0] * (PATIENCE - 1))],  # spikes
    [5.0 * 0.98**n + 0.01 for n in range(600)],  # learning
    noisy(2, FEWEST - 1) + [1e9] * 3,  # nothing to compare with yet
    noisy(0.001, 100) + noisy(0.0018, 500),  # worse, but not far
    [-5.0 + x for x in noisy(0.1, 300)],  # below zero
], ids=["spikes", "learning", "early", "worse", "negative"])  # fmt: skip
def test_what_is_no_divergence(losses: list[float]) -> None:
    assert not any(map(Watch().diverged, losses))


def test_a_resumed_watch_is_one_that_was_never_stopped() -> None:
    losses = noisy(2, 120) + [40.0] * 20
    straight, again = Watch(losses), Watch(losses)
    rest = [40.0] * 40
    assert [straight.diverged(x) for x in rest] == [again.diverged(x) for x in rest]
    assert straight.limit == again.limit


def test_a_batch_comes_back_without_words(tmp_path: Path) -> None:
    has = {"p": dict.fromkeys(STANDARDS, 1), "q": {Modality.IMAGE: 2, Modality.TABLE: 1}}
    batch = phantom.batch(STANDARDS, has)
    batch.patients = ["Anna Roe", "Ben Doe"]
    batch.targets["finding"] = Target(torch.tensor([1.0, 0.0]), torch.tensor([True, False]))
    place = tmp_path / "offending/x.pt"
    keep(place, [batch], {"stage": "s", "step": 7})
    (found,), about = offending(place)
    assert about == {"stage": "s", "step": 7, "texts": batch.payloads[Modality.TEXT].ids}
    assert set(found.payloads) == set(batch.payloads) - {Modality.TEXT}
    for modality, ragged in found.payloads.items():
        before = batch.payloads[modality]
        torch.testing.assert_close(list(ragged.values), list(before.values), rtol=0, atol=0, equal_nan=True)
        assert ragged.ids == before.ids
        assert torch.equal(ragged.patient, before.patient)
    torch.testing.assert_close(found.targets["finding"].values, batch.targets["finding"].values, rtol=0, atol=0)
    assert found.patients == ["0", "1"]
    assert b"Anna Roe" not in place.read_bytes()


def test_another_file_is_no_batch(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(b"x")
    torch.save({"step": 1}, tmp_path / "y.pt")
    for name in ("x.pt", "y.pt", "z.pt"):
        with pytest.raises(RunError, match="no batch that stopped a run"):
            offending(tmp_path / name)


def test_the_batch_that_stopped_a_run_is_kept(light: Recipe, tiny_cohort: Cohort, tmp_path: Path) -> None:
    wild = light.stages[0].model_copy(update={"lr": 1e38, "warmup": 0})
    recipe = Recipe.model_validate(light.model_dump() | {"stages": [wild.model_dump()]})
    with pytest.raises(RunError, match="at step 1 of stage 'align'; the weights are as before it") as caught:
        pretrain(recipe, tiny_cohort, into=tmp_path)
    place = tmp_path / "light/offending/align-1-rank-0.pt"
    assert str(place) in caught.value.expected
    (batch,), about = offending(place)
    assert (about["stage"], about["step"], about["seed"]) == ("align", 1, 0)
    assert "not a number" in about["why"]
    assert len(batch.patients) == light.stages[0].batch
    known = {record.id for record in tiny_cohort.records()}
    assert {i for r in batch.payloads.values() for i in r.ids} | set(about["texts"]) <= known
    with pytest.raises(RunError):
        pretrain(recipe, tiny_cohort, into=tmp_path)  # it resumes, and comes to the same


def test_a_run_whose_loss_runs_away_stops(
    light: Recipe, tiny_cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a rate that is far too high; patience and history are cut short to keep the test so."""
    monkeypatch.setattr("polyclinic.training.guard.FEWEST", 3)
    monkeypatch.setattr("polyclinic.training.guard.PATIENCE", 2)
    parts = {"kind": "masked", "modalities": ["omics"], "width": 16}
    stage = light.stages[0].model_copy(update={"steps": 60, "lr": 20.0, "warmup": 30, "clip": None})
    recipe = Recipe.model_validate(light.model_dump() | {"stages": [stage.model_dump() | {"objective": parts}]})
    with pytest.raises(RunError, match=r"a loss of .*, above .* for 2 steps, at step \d+ of stage 'align'"):
        pretrain(recipe, tiny_cohort, into=tmp_path)
    assert list((tmp_path / "light/offending").iterdir())


def test_no_memory_says_which_numbers_to_lower(light: Recipe) -> None:
    stage, found = light.stages[1], Estimate(2**30, 3 * 2**30, 5 * 2**30, 6)
    with pytest.raises(RunError, match="out of memory in stage 'hybrid'") as caught, enough_memory(light, stage, found):
        torch.empty(2**58)
    assert "8.0 GiB" in caught.value.expected
    assert "5.0 GiB for the activations of 6 patients" in caught.value.expected
    for words in ("accumulate=2", "batch=6", "most=2", "encoders.text.words=24", "encoders.omics.genes=256"):
        assert words in caught.value.remedy


@pytest.mark.parametrize(("error", "is_it"), [
    (MemoryError(), True),
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
    (RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to allocate 5 bytes"), True),
    (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    (ValueError("out of memory"), False),
])  # fmt: skip
def test_which_errors_are_about_memory(error: Exception, is_it: bool) -> None:
    assert ran_out(error) is is_it


def test_other_errors_pass(light: Recipe) -> None:
    with pytest.raises(RuntimeError, match="shapes"), enough_memory(light, light.stages[0], None):
        raise RuntimeError("shapes")


def test_a_batch_of_nobody(tmp_path: Path) -> None:
    keep(tmp_path / "x.pt", [Batch({}, {}, [])], {})
    found: Any = offending(tmp_path / "x.pt")
    assert found == ([Batch({}, {}, [])], {"texts": []})
