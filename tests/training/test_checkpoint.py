from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from polyclinic.training.checkpoint import KEYS, RunError, alone, put_back, read, save, tensors_of


def trained(width: int = 3) -> tuple[nn.Module, torch.optim.AdamW]:
    layer = nn.Linear(width, 2)
    adam = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, width)).sum().backward()
    adam.step()
    return layer, adam


def state(width: int = 3) -> dict[str, object]:
    layer, adam = trained(width)
    rows = [{"stage": "a", "step": 0, "name": "loss", "value": 0.1}]
    return dict(zip(KEYS, (0, 1, tensors_of(layer, adam, None), rows), strict=True))


def test_what_is_saved_is_read_and_put_back_to_the_same_bits(tmp_path: Path) -> None:
    path, kept = tmp_path / "checkpoints/last.pt", state()
    save(path, kept)
    found = read(path)
    assert found is not None
    layer = nn.Linear(3, 2)
    adam = torch.optim.AdamW(layer.parameters())
    put_back(path, found["tensors"], layer, adam)
    again, before = tensors_of(layer, adam, None), kept["tensors"]
    assert isinstance(before, dict)
    assert again.keys() == before.keys()
    assert {"weights/bias", "moments/weight/exp_avg", "moments/weight/step"} < again.keys()
    assert all(torch.equal(v, before[k]) for k, v in again.items())
    assert found["rows"] == kept["rows"]


def test_there_is_none(tmp_path: Path) -> None:
    assert read(tmp_path / "last.pt") is None


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_checkpoint_that_was_cut_short(share: float, tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save(path, state())
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(RunError, match="a broken checkpoint") as caught:
        read(path)
    assert "remove it" in caught.value.remedy


def test_a_file_that_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(RunError, match="a broken checkpoint"):
        read(path)
    torch.save({"stage": 0}, path)
    with pytest.raises(RunError, match="it has no step, tensors, rows"):
        read(path)
    torch.save(nn.Linear(2, 2), path)  # a pickled object is not loaded
    with pytest.raises(RunError, match="a broken checkpoint"):
        read(path)


def test_weights_of_another_network(tmp_path: Path) -> None:
    layer, adam = trained(4)
    with pytest.raises(
        RunError, match="do not fit the network that the recipe builds with this version: moments/weight/exp_avg"
    ):
        put_back(tmp_path / "last.pt", state(3)["tensors"], layer, adam)  # type: ignore[arg-type]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".last.pt.4711").write_bytes(b"half")
    save(tmp_path / "last.pt", state())
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_a_place_that_may_not_be_written(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints/last.pt"
    save(path, state())
    before = path.read_bytes()
    (tmp_path / "checkpoints/other").mkdir()
    with pytest.raises(RunError, match="could not be written"):
        save(tmp_path / "checkpoints/other", state())  # a folder stands where the file should go
    assert path.read_bytes() == before
    assert sorted(p.name for p in path.parent.iterdir()) == ["last.pt", "other"]


def test_the_lock_is_free_again_after_it_was_held(tmp_path: Path) -> None:
    with alone(tmp_path / "run"), pytest.raises(RunError, match="another process"), alone(tmp_path / "run"):
        pass
    with alone(tmp_path / "run"):
        pass
