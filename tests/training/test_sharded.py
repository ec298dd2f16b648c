"""Checkpoints of several ranks, here of one; `test_ranks.py` writes them on two and reads them on one and on four."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from polyclinic.training import RunError, checkpoint, sharded
from polyclinic.training.checkpoint import tensors_of
from polyclinic.training.ranks import Ranks, fabric_for
from polyclinic.training.schedule import Average


def trained(width: int = 3) -> tuple[nn.Module, torch.optim.AdamW, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(width, 2), nn.Linear(2, 2), nn.BatchNorm1d(2))
    adam = torch.optim.AdamW(layer.parameters(), fused=True)
    layer[0](torch.ones(1, width)).sum().backward()  # the second layer has no moments
    adam.step()
    return layer, adam, Average(layer, 0.9).tensors


def fresh(width: int = 3) -> tuple[nn.Module, torch.optim.AdamW, dict[str, torch.Tensor]]:
    layer = nn.Sequential(nn.Linear(width, 2), nn.Linear(2, 2), nn.BatchNorm1d(2))
    return layer, torch.optim.AdamW(layer.parameters(), fused=True), Average(layer, 0.9).tensors


def saved(folder: Path, at: int = 7) -> dict[str, torch.Tensor]:
    tensors = tensors_of(*trained())
    rows = [{"stage": "a", "step": 0, "name": "loss", "value": 0.1}]
    sharded.save(folder, at, {"stage": 0, "step": at, "tensors": tensors, "rows": rows}, Ranks(fabric_for("fp32")))
    return tensors


def test_what_is_saved_is_put_back_to_the_same_bits(tmp_path: Path) -> None:
    kept = saved(tmp_path)
    state = sharded.last_of(tmp_path)
    assert state is not None
    assert (state["stage"], state["step"], state["rows"][0]["value"]) == (0, 7, 0.1)
    layer, adam, average = fresh()
    sharded.put_back(state["folder"], state["shapes"], layer, adam, average)
    again = tensors_of(layer, adam, average)
    assert again.keys() == kept.keys()
    assert "moments/0.weight/exp_avg" in again
    assert "moments/1.weight/exp_avg" not in again
    assert all(torch.equal(v, kept[k]) for k, v in again.items())


def test_the_one_before_goes_and_the_last_counts(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "last.pt", {"stage": 0, "step": 1, "tensors": {}, "rows": []})
    saved(tmp_path, 9)
    saved(tmp_path, 10)
    assert [p.name for p in tmp_path.iterdir()] == ["step-10"]
    checkpoint.forget(tmp_path)
    assert not list(tmp_path.iterdir())
    assert sharded.last_of(tmp_path) is None


def test_one_that_was_not_finished_does_not_count(tmp_path: Path) -> None:
    saved(tmp_path, 5)
    (tmp_path / "step-12").mkdir()  # killed before its where.json
    state = sharded.last_of(tmp_path)
    assert state is not None
    assert state["step"] == 5


def test_a_part_that_was_cut_short(tmp_path: Path) -> None:
    saved(tmp_path)
    (part,) = (tmp_path / "step-7").glob("*.distcp")
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(RunError, match="a broken checkpoint"):
        sharded.put_back(tmp_path / "step-7", (sharded.last_of(tmp_path) or {})["shapes"], *fresh())
    (tmp_path / "step-7/where.json").write_text("{")
    with pytest.raises(RunError, match=r"its where\.json is no JSON"):
        sharded.last_of(tmp_path)


def test_weights_of_another_network(tmp_path: Path) -> None:
    saved(tmp_path)
    state = sharded.last_of(tmp_path)
    assert state is not None
    with pytest.raises(RunError, match=r"do not fit the network .*: average/0\.weight"):
        sharded.put_back(state["folder"], state["shapes"], *fresh(4))


def test_a_place_that_may_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="could not be written"):
        saved(tmp_path / "file")
