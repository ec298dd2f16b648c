from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from polyclinic.adaptation import adapt
from polyclinic.cohort import Cohort, CohortError
from polyclinic.inference import predict
from polyclinic.models import TwoTower, WeightsError
from polyclinic.training import Run, RunError
from polyclinic.training.run import file_hash, weights_config, write_json, write_text


@pytest.fixture
def moved(tiny_run: Run, tiny_cohort: Cohort, tmp_path: Path) -> Run:
    """A copy of the run somewhere else, with a probe in it."""
    place = tmp_path / "here/tiny"
    shutil.copytree(tiny_run.path, place, ignore=shutil.ignore_patterns("adapted", "comparison"))
    adapt(place, "finding", "probe", cohort=tiny_cohort)
    there = tmp_path / "elsewhere"
    shutil.move(tmp_path / "here", there)
    (adapted,) = (there / "tiny/adapted").iterdir()
    return Run.open(adapted)


def test_a_run_that_was_moved_answers_as_before(moved: Run, tiny_finding_run: Run, tiny_cohort: Cohort) -> None:
    assert moved.backbone.path.resolve() == moved.path.resolve().parents[1]
    here, there = predict(tiny_finding_run, tiny_cohort), predict(moved, tiny_cohort)
    assert here.patients == there.patients
    assert (here.outputs == there.outputs).all()


def test_an_adapter_apart_from_its_backbone(moved: Run, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    shutil.copytree(moved.path, alone)
    with pytest.raises(RunError, match="whose backbone is not in"):
        Run.open(alone)


def test_an_adapter_of_another_backbone(moved: Run) -> None:
    weights = moved.weights
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    with pytest.raises(RunError, match="an adapter of another backbone"):
        Run.open(moved.path)


def test_weights_of_a_recipe_that_was_changed_beside_them(tiny_run: Run, tmp_path: Path) -> None:
    """The shapes still fit; what the numbers mean does not."""
    place = tmp_path / "tiny"
    shutil.copytree(tiny_run.path, place, ignore=shutil.ignore_patterns("adapted", "comparison", "cache"))
    recipe = place / "recipe.yaml"
    data = yaml.safe_load(recipe.read_text())
    data["model"]["fusion"]["heads"] = 4
    recipe.write_text(yaml.safe_dump(data))
    with pytest.raises(WeightsError, match="another configuration"):
        Run.open(place).model()


def test_a_default_that_is_new_leaves_old_weights_theirs(tiny_run: Run) -> None:
    class Wider(TwoTower):
        later: bool = False

    recipe = tiny_run.recipe
    wider = recipe.model_copy(update={"model": Wider(**recipe.model.model_dump())})
    assert weights_config(wider) == weights_config(recipe)
    assert weights_config(recipe)["kinds"]["image"] == "vit"


def test_an_adapted_run_without_its_weights(moved: Run) -> None:
    (moved.path / "adapter.safetensors").unlink()
    with pytest.raises(RunError, match="without its weights"):
        Run.open(moved.path)


def test_an_adapted_run_whose_description_is_broken(moved: Run) -> None:
    (moved.path / "adapter.json").write_text('{"run": "..')
    with pytest.raises(RunError, match="which is broken"):
        Run.open(moved.path)


def test_no_run_and_half_a_run(tiny_run: Run, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run in"):
        Run.open(tmp_path)
    (tmp_path / "recipe.yaml").write_text((tiny_run.path / "recipe.yaml").read_text())
    with pytest.raises(RunError, match="was not finished") as caught:
        Run.open(tmp_path)
    assert "resumes" in caught.value.remedy


def test_a_run_without_its_lock(moved: Run) -> None:
    (moved.backbone.path / "lock.json").unlink()
    with pytest.raises(RunError, match=r"lock\.json, which is not there"):
        _ = Run.open(moved.backbone.path).split


def test_the_cohort_is_looked_for_where_it_lay_or_where_one_says(moved: Run, tiny_cohort: Cohort) -> None:
    run = Run.open(moved.backbone.path)
    assert run.cohort().path == tiny_cohort.path
    lock = json.loads((run.path / "lock.json").read_text())
    write_json(run.path / "lock.json", lock | {"cohort": "/nowhere/cohort"})
    run = Run.open(run.path)
    with pytest.raises(CohortError, match="no catalogue in /nowhere/cohort") as caught:
        run.cohort()
    assert "--cohort" in caught.value.remedy
    assert run.cohort(tiny_cohort.path).path == tiny_cohort.path


def test_the_same_network_with_fresh_weights(tiny_run: Run) -> None:
    first, again, other = (tiny_run.model(pretrained=False, seed=s).state_dict() for s in (1, 1, 2))
    assert all(torch.equal(v, again[k]) for k, v in first.items())
    name = next(k for k, v in first.items() if v.is_floating_point() and v.ndim > 1)
    assert not torch.equal(first[name], other[name])
    assert not torch.equal(first[name], tiny_run.model().state_dict()[name])


def test_the_objective_that_was_learned(tiny_run: Run, tmp_path: Path) -> None:
    """Every weight of the file is in it, and building it draws nothing of the world's."""
    model, state = tiny_run.model(), torch.random.get_rng_state()
    objective = tiny_run.objective(model)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not objective.training
    learned = load_file(tiny_run.path / "model/objective.safetensors")
    assert learned.keys() == objective.state_dict().keys()
    assert all(torch.equal(tensor, learned[name]) for name, tensor in objective.state_dict().items())
    shutil.copytree(tiny_run.path, tmp_path / "other", ignore=shutil.ignore_patterns("adapted", "comparison", "cache"))
    shutil.copy(tiny_run.weights, tmp_path / "other/model/objective.safetensors")
    with pytest.raises(WeightsError):
        Run.open(tmp_path / "other").objective(model)


def test_the_hash_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"weights" * 100_000)
    assert file_hash(tmp_path / "f") == hashlib.blake2b(b"weights" * 100_000, digest_size=16).hexdigest()


def test_a_file_that_cannot_be_written_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="could not be written"):
        write_json(tmp_path / "file/lock.json", {})
    (tmp_path / "folder/x").mkdir(parents=True)
    with pytest.raises(RunError, match="could not be written"):
        write_text(tmp_path / "folder", "words")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_what_a_run_says_of_itself(moved: Run) -> None:
    assert "finding by probe" in repr(moved)
    assert "pretrained" in repr(moved.backbone)
