"""What an objective keeps from step to step (a teacher, centres, running weights) is in the checkpoint and not in the model."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from polyclinic.cohort import Cohort
from polyclinic.training import InterruptedRunError, Recipe, Run, pretrain

IBOT: dict[str, Any] = {"kind": "ibot", "smalls": 2, "prototypes": 16, "width": 16, "momentum": 0.9}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "ibot": IBOT,
    "gradnorm": {"kind": "hybrid", "balance": "gradnorm", "parts": [IBOT, {"kind": "contrastive", "loss": "siglip"}]},
    "uncertainty": {"kind": "hybrid", "balance": "uncertainty", "parts": [{"kind": "masked"}, {"kind": "contrastive"}]},
}


def recipe_of(light: Recipe, name: str) -> Recipe:
    stages = [stage | {"objective": OBJECTIVES[name], "steps": 3} for stage in light.model_dump()["stages"]]
    return Recipe.model_validate(light.model_dump() | {"name": name, "stages": stages})


def weights(run: Run) -> tuple[bytes, bytes]:
    model = run.path / "model"
    return (model / "model.safetensors").read_bytes(), (model / "objective.safetensors").read_bytes()


def keys(run: Run, file: str) -> list[str]:
    with safe_open(run.path / "model" / file, "pt") as found:
        return list(found.keys())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_stopped_at_every_step_and_resumed_is_never_stopped(
    name: str, light: Recipe, tiny_cohort: Cohort, tmp_path: Path
) -> None:
    recipe = recipe_of(light, name)
    whole = pretrain(recipe, tiny_cohort, into=tmp_path / "whole")
    for step in range(1, 6):
        with pytest.raises(InterruptedRunError, match=f"stopped at step {step} of 6"):
            pretrain(recipe, tiny_cohort, into=tmp_path, progress=lambda *_: os.kill(os.getpid(), signal.SIGINT))
    run = pretrain(recipe, tiny_cohort, into=tmp_path)
    assert weights(run) == weights(whole)
    assert run.metrics().equals(whole.metrics())
    kept = [k for k in keys(run, "objective.safetensors") if "teacher" in k or "balance" in k]
    assert kept
    assert not [k for k in keys(run, "model.safetensors") if "teacher" in k or "centre" in k or "balance" in k]


def test_each_stage_starts_with_a_teacher_of_its_own(light: Recipe, tiny_cohort: Cohort, tmp_path: Path) -> None:
    """One that has learned what the stage before left, not one that must catch up from the run's first weights."""
    recipe = recipe_of(light, "ibot")
    frozen = recipe.model_dump()
    frozen["stages"] = [stage | {"objective": IBOT | {"momentum": 1.0}} for stage in frozen["stages"]]
    run = pretrain(Recipe.model_validate(frozen | {"name": "frozen"}), tiny_cohort, into=tmp_path)
    with safe_open(run.path / "model/objective.safetensors", "pt") as found:
        name = "teacher.model.encoders.text.words.weight"
        teacher = found.get_tensor(name)
    fresh, last = run.model(pretrained=False), run.model()
    assert not teacher.equal(fresh.encoder(next(m for m in fresh.modalities if m == "text")).words.weight)  # type: ignore[union-attr]
    assert not teacher.equal(last.encoder(next(m for m in last.modalities if m == "text")).words.weight)  # type: ignore[union-attr]
