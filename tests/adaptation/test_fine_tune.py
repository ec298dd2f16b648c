from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import snapshots
from polyclinic.adaptation import adapt, open_adapted
from polyclinic.adaptation.fine_tune import Group, adam_of, distances, groups_of
from polyclinic.fusion import Early, Intermediate
from polyclinic.harmonise import Fingerprint
from polyclinic.models import Model, TwoTower, build_model
from polyclinic.models.adapters import Bitfit, Lora, Prompt, put
from polyclinic.schema import Modality
from polyclinic.tasks import Classification, ClassificationTask
from polyclinic.tokens import PretrainedText, Vit
from polyclinic.training import Run
from polyclinic.training.methods import Full


def model(fusion: Any, depth: int = 3) -> Model:
    encoders: dict[Modality, Any] = {
        Modality.IMAGE: Vit(size=32, patch=8, width=16, depth=depth, heads=2),
        Modality.TEXT: PretrainedText(folder=str(snapshots.folder("bert")), frozen=False),
    }
    return build_model(TwoTower(width=16, embedding=8, fusion=fusion), encoders, Fingerprint(), 0)


def head(width: int = 16) -> ClassificationTask:
    return ClassificationTask("finding", Classification(column="finding", positive=("Y",)), width)


def test_layers_are_counted_from_the_answer() -> None:
    """Head 0; the fusion's blocks 2 and 1; the bridge 3; of an encoder its last block 4, and so on down to what makes tokens."""
    far = distances(model(Intermediate(style="self_attention", depth=2, heads=2)))
    at = lambda start: {d for name, d in far.items() if name.startswith(start)}
    assert at("fusion.trunk.norm") == {1}
    assert [at(f"fusion.trunk.blocks.{n}.") for n in (1, 0)] == [{1}, {2}]
    assert at("bridge.") == at("name.") == at("project.") == {3}
    assert [at(f"encoders.image.blocks.blocks.{n}.") for n in (2, 1, 0)] == [{4}, {5}, {6}]
    assert at("encoders.image.position") == {7}
    assert [at(f"encoders.text.backbone.network.encoder.layer.{n}.") for n in (1, 0)] == [{4}, {5}]
    assert at("encoders.text.backbone.network.embeddings.word") == {6}
    assert set(far.values()) == set(range(1, 8))


def test_without_trunks_of_its_own_an_encoder_is_the_farthest() -> None:
    far = distances(model(Early(depth=2, heads=2)))
    assert far["fusion.trunk.blocks.0.up.weight"] == 2
    assert {d for name, d in far.items() if name.startswith("encoders.image.position")} == {4}


def test_each_layer_learns_at_its_share_of_the_rate_of_the_one_after_it() -> None:
    """Clark et al. 2020, section 3.2."""
    network = model(Intermediate(style="self_attention", depth=1, heads=2))
    groups = groups_of((Full(lr=1.0, decay=0.5),), network, head())
    assert [(g.distance, g.lr) for g in groups] == [(d, 0.5**d) for d in range(len(groups))]
    every = [id(p) for g in groups for p in g.weights]
    assert len(every) == len(set(every)) == len(list(network.parameters())) + 2
    flat = groups_of((Full(lr=1.0),), network, head())
    assert {g.lr for g in flat} == {1.0}


def test_each_adapter_learns_at_its_own_rate_and_the_head_at_the_slowest() -> None:
    network = model(Intermediate(style="self_attention", depth=1, heads=2))
    specs = (Lora(lr=0.3), Prompt(lr=0.7), Bitfit(lr=0.1))
    put(network, specs, 0)
    groups = groups_of(specs, network, head())
    assert [g.lr for g in groups] == [0.1, 0.3, 0.7, 0.1]
    learns = {id(p) for p in network.parameters() if p.requires_grad}
    assert {id(p) for g in groups[1:] for p in g.weights} == learns
    assert sum(len(g.weights) for g in groups[1:]) == len(learns)


def test_only_matrices_decay() -> None:
    group = Group([torch.nn.Parameter(torch.zeros(2, 2)), torch.nn.Parameter(torch.zeros(2))], 1.0, 3)
    matrix, vector = adam_of([group], 0.25).param_groups
    assert (matrix["weight_decay"], vector["weight_decay"]) == (0.05, 0.0)
    assert (matrix["base"], matrix["distance"]) == (0.25, 3)


def moved(run: Run, of: Run) -> set[str]:
    before = of.model().state_dict()
    return {n for n, t in open_adapted(run).model.state_dict().items() if not torch.equal(t, before[n])}


def test_layers_begin_to_learn_from_the_head_down(tiny_run: Run, tmp_path: Path) -> None:
    """Howard & Ruder 2018, section 3.3. In the first of ten steps only the head learns; in half of the time half of the layers."""
    full = lambda steps, over: adapt(
        tiny_run, "finding", {"kind": "full", "thaw": over}, steps=steps, into=tmp_path / f"{steps}-{over}"
    )
    assert moved(full(1, 1.0), tiny_run) == set()
    far = distances(tiny_run.model())
    every, some = moved(full(2, 0.0), tiny_run), moved(full(2, 1.0), tiny_run)
    assert some
    assert {far[n] for n in some if n in far} == {d for d in range(1, 6) if d <= max(far.values()) / 2}
    assert {far[n] for n in every if n in far} > {far[n] for n in some if n in far}


@pytest.mark.parametrize("decay", [0.3, 1.0])
def test_far_layers_move_less_where_they_learn_more_slowly(decay: float, tiny_run: Run, tmp_path: Path) -> None:
    run = adapt(tiny_run, "finding", {"kind": "full", "decay": decay}, steps=2, into=tmp_path)
    before, after = tiny_run.model().state_dict(), open_adapted(run).model.state_dict()
    step = lambda name: float((after[name] - before[name]).abs().max())
    near, far = step("fusion.trunk.blocks.0.up.weight"), step("encoders.image.blocks.blocks.0.up.weight")
    assert (far < 0.2 * near) is (decay < 1)
