"""Adapted runs on the disk, and several of them on one backbone in memory."""

from __future__ import annotations

import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from polyclinic.adaptation import Adapted, AdaptError, Shelf, adapt, open_adapted
from polyclinic.adaptation.adapted import FILE
from polyclinic.cohort import Cohort
from polyclinic.inference import predict
from polyclinic.training import Run, RunError, pretrain
from polyclinic.training.run import file_hash

MODULE = sys.modules["polyclinic.adaptation.adapt"]
METHODS: tuple[Any, ...] = (
    "probe", "prototype", "knn", "zero_shot", "lora", {"kind": "dora", "rank": 2}, "adapter", "prompt", "prefix", "bitfit", "full",
    "prefix+lora+bitfit",
)  # fmt: skip


@pytest.fixture(scope="module")
def runs(tiny_run: Run, tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """One finding by every method, with answers that differ from the backbone's."""
    place = tmp_path_factory.mktemp("adapted")
    return [adapt(tiny_run, "finding", m, steps=4, into=place / str(n)) for n, m in enumerate(METHODS)]


def answers(run: Adapted, cohort: Cohort) -> np.ndarray:
    return predict(run, cohort).outputs


def test_one_backbone_and_every_method_on_it(runs: list[Run], tiny_run: Run, tiny_cohort: Cohort) -> None:
    """Opened after and before each other, asked in any order and at once, each says what it says alone."""
    shelf = Shelf(tiny_run)
    weights = {n: t.clone() for n, t in shelf.model.state_dict().items()}
    opened = [shelf.open(run) for run in runs]
    alone = [answers(open_adapted(run, folded=False), tiny_cohort) for run in runs]
    found = [answers(one, tiny_cohort) for one in reversed(opened)][::-1]
    for method, here, there in zip(METHODS, found, alone, strict=True):
        np.testing.assert_array_equal(here, there, err_msg=str(method))
    with ThreadPoolExecutor(4) as pool:
        at_once = list(pool.map(lambda one: answers(one, tiny_cohort), opened))
    for here, there in zip(at_once, alone, strict=True):
        np.testing.assert_array_equal(here, there)
    assert len({tuple(a) for a in alone}) == len(METHODS)
    assert all(torch.equal(t, weights[n]) for n, t in shelf.model.state_dict().items())


def test_an_adapter_on_a_shelf_costs_its_own_weights_alone(runs: list[Run], tiny_run: Run) -> None:
    shelf = Shelf(tiny_run)
    held = {t.data_ptr() for t in shelf.model.state_dict().values()}
    for run, method in zip(runs, METHODS, strict=True):
        model = shelf.open(run).model
        own = [t for t in model.state_dict().values() if t.data_ptr() not in held]
        size = sum(t.numel() * t.element_size() for t in own)
        assert size < (run.path / FILE).stat().st_size, method
        if method not in ("full", "bitfit", "prefix+lora+bitfit"):
            assert all(t.data_ptr() in held for n, t in model.state_dict().items() if n in shelf.model.state_dict())


def test_folded_is_unfolded(runs: list[Run], tiny_run: Run, tiny_cohort: Cohort) -> None:
    shelf = Shelf(tiny_run)
    for run in runs:
        plain, folded = (answers(open_adapted(run, folded=f), tiny_cohort) for f in (False, True))
        np.testing.assert_allclose(folded, plain, atol=1e-5)
        np.testing.assert_array_equal(answers(shelf.open(run, folded=True), tiny_cohort), folded)
    fresh = [answers(shelf.open(run), tiny_cohort) for run in runs]  # what was folded stayed its own
    for run, found in zip(runs, fresh, strict=True):
        np.testing.assert_array_equal(found, answers(open_adapted(run, folded=False), tiny_cohort))


def test_what_was_trained_is_what_is_opened(
    tiny_run: Run, tiny_cohort: Cohort, tmp_path: Path, monkeypatch: Any
) -> None:
    """To the bit: the module that learned, and the one made of its file."""
    kept: dict[str, Any] = {}
    write = MODULE.write

    def listening(plan: Any, place: Path, model: Any, head: Any, chosen: Any) -> Run:
        kept[plan.method] = (model, head)
        return write(plan, place, model, head, chosen)

    monkeypatch.setattr(MODULE, "write", listening)
    for n, method in enumerate(METHODS):
        run = adapt(tiny_run, "finding", method, steps=3, into=tmp_path / str(n))
        opened = open_adapted(run, folded=False)
        model, head = kept[run.adapter["method"]]
        trained = Adapted(run, "finding", model.eval(), head.eval(), opened.inputs)
        np.testing.assert_array_equal(answers(trained, tiny_cohort), answers(opened, tiny_cohort), err_msg=str(method))


def test_the_file_says_what_it_is_and_of_which_backbone(runs: list[Run], tiny_run: Run) -> None:
    for run, method in zip(runs, METHODS, strict=True):
        with safe_open(run.path / FILE, framework="pt") as file:
            about = json.loads(file.metadata()["about"])
        assert about["backbone"] == file_hash(tiny_run.weights) == run.adapter["backbone"]
        assert about["task"] == "finding"
        kinds = method.split("+") if isinstance(method, str) else [method["kind"]]
        assert [m["kind"] for m in about["methods"]] == kinds
    assert runs[5].adapter["methods"][0]["rank"] == 2


def test_an_adapter_is_a_part_of_what_full_fine_tuning_keeps(runs: list[Run]) -> None:
    size = {r.adapter["method"]: (r.path / FILE).stat().st_size for r in runs}
    assert size["probe"] < size["bitfit"] < size["full"] / 4
    assert all(size[m] < size["full"] for m in ("lora", "dora", "adapter", "prompt", "prefix"))
    assert size["prompt"] < 12_000


@pytest.fixture(scope="module")
def other(tiny_recipe: Path, tiny_cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Run:
    from polyclinic.training import Recipe

    recipe = Recipe.load(tiny_recipe, ["stages.0.steps=1", "seed=1", "name=other"])
    return pretrain(recipe, tiny_cohort, into=tmp_path_factory.mktemp("runs"))


def test_a_file_of_another_backbone_is_refused(runs: list[Run], other: Run, tmp_path: Path) -> None:
    with pytest.raises(AdaptError) as caught:
        Shelf(other).open(runs[4])
    assert runs[4].adapter["backbone"] in caught.value.found
    assert file_hash(other.weights) in caught.value.expected
    assert "its own backbone" in caught.value.remedy
    mine = adapt(other, "finding", "lora", steps=1, into=tmp_path / "mine")
    shutil.copy(runs[4].path / FILE, mine.path / FILE)  # of the same shapes, made on other weights
    with pytest.raises(AdaptError) as caught:
        open_adapted(mine.path)
    assert runs[4].adapter["backbone"] in caught.value.found
    assert mine.adapter["backbone"] in caught.value.expected
    about = json.loads((mine.path / "adapter.json").read_text())
    (mine.path / "adapter.json").write_text(json.dumps(about | {"backbone": runs[4].adapter["backbone"]}))
    with pytest.raises(RunError, match="another backbone"):
        Run.open(mine.path)


def test_a_file_of_another_method_is_refused(runs: list[Run], tmp_path: Path, tiny_run: Run) -> None:
    mine = adapt(tiny_run, "finding", "probe", into=tmp_path / "mine")
    shutil.copy(runs[4].path / FILE, mine.path / FILE)
    with pytest.raises(AdaptError, match="do not fit: they are of the methods"):
        open_adapted(mine.path)


def test_the_recipe_s_method_is_taken_where_none_is_said(tiny_run: Run, tmp_path: Path) -> None:
    run = adapt(tiny_run, "finding", steps=1, into=tmp_path)
    assert run.adapter["method"] == "lora"
    assert run.adapter["methods"] == [{"kind": "lora", "lr": 2e-3, "rank": 8, "alpha": 16.0}]


def test_a_ridge_that_is_said_is_not_chosen(tiny_run: Run, tmp_path: Path) -> None:
    run = adapt(tiny_run, "finding", {"kind": "probe", "ridge": 0.37}, into=tmp_path)
    assert run.adapter["ridge"] == 0.37
