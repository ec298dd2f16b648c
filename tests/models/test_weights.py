from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from polyclinic.models import Model, TwoTower, WeightsError, build_model, load_weights, save_weights
from polyclinic.tokens import phantom

CONFIG = {"width": 16, "depth": 1}


def model_of(seed: int = 0) -> Model:
    return build_model(TwoTower(width=16, embedding=16), phantom.encoders(), phantom.fingerprint(), seed)


def test_weights_come_back_bit_for_bit(tmp_path: Path) -> None:
    one, other = model_of(0), model_of(1)
    save_weights(tmp_path / "deep/er/model.safetensors", one.state_dict(), CONFIG)
    load_weights(tmp_path / "deep/er/model.safetensors", other, CONFIG)
    state = other.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in one.state_dict().items())
    assert [p.name for p in (tmp_path / "deep/er").iterdir()] == ["model.safetensors"]


def test_equal_weights_are_equal_files(tmp_path: Path) -> None:
    """Every time: safetensors writes two entries of a header in either order, and the header used to have two."""
    state, found = {"b": torch.ones(3), "a": torch.zeros(2, 2)}, set()
    for turn in range(12):
        some = [dict, lambda items: dict(reversed(items))][turn % 2]
        save_weights(tmp_path / "w", some(list(state.items())), some(list(CONFIG.items())))
        found.add((tmp_path / "w").read_bytes())
    assert len(found) == 1


def test_another_configuration_is_refused(tmp_path: Path) -> None:
    save_weights(tmp_path / "w", {"weight": torch.ones(2, 2), "bias": torch.ones(2)}, CONFIG)
    layer = nn.Linear(2, 2)
    before = layer.weight.clone()
    with pytest.raises(WeightsError, match="another configuration"):
        load_weights(tmp_path / "w", layer, CONFIG | {"depth": 2})
    assert torch.equal(layer.weight, before)
    load_weights(tmp_path / "w", layer)
    assert torch.equal(layer.weight, torch.ones(2, 2))


@pytest.mark.parametrize(
    ("state", "found", "expected"),
    [
        ({"weight": torch.ones(2, 3)}, r"1 weights .* first is bias: absent", r"\(2,\) float32"),
        ({"weight": torch.ones(3, 2), "bias": torch.ones(2)}, r"weight: \(3, 2\) float32", r"\(2, 3\) float32"),
        (
            {"weight": torch.ones(2, 3), "bias": torch.ones(2), "gain": torch.ones(1)},
            r"gain: \(1,\) float32",
            "no such weight",
        ),
        ({"weight": torch.ones(2, 3), "bias": torch.ones(2).half()}, r"bias: \(2,\) float16", r"\(2,\) float32"),
        ({"weight": torch.ones(2, 3), "bais": torch.ones(2)}, r"2 weights .* bais: \(2,\)", "no such weight"),
        ({"weights": torch.ones(2, 3), "bias": torch.ones(2)}, r"weight: absent \(the file has weights\)", r"\(2, 3\)"),
    ],
)
def test_weights_of_another_module_are_refused_by_name(tmp_path: Path, state, found: str, expected: str) -> None:
    save_weights(tmp_path / "w.safetensors", state, CONFIG)
    layer = nn.Linear(3, 2)
    before = layer.weight.clone()
    with pytest.raises(WeightsError) as caught:
        load_weights(tmp_path / "w.safetensors", layer, CONFIG)
    assert caught.match(found)
    assert caught.match(expected)
    assert torch.equal(layer.weight, before)


@pytest.mark.parametrize("damage", ["truncated", "header", "empty", "missing", "folder"])
def test_a_broken_file_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, nn.Linear(3, 2).state_dict(), CONFIG)
    whole = path.read_bytes()
    if damage in ("missing", "folder"):
        path.unlink()
    if damage == "folder":
        path.mkdir()
    if damage in ("truncated", "header", "empty"):
        path.write_bytes({"truncated": whole[:-7], "header": b"\xff" * 8 + whole[8:], "empty": b""}[damage])
    with pytest.raises(WeightsError, match=r"w\.safetensors does not open"):
        load_weights(path, nn.Linear(3, 2))


FILL = """
import resource, signal, sys, torch
from pathlib import Path
from polyclinic.models.weights import save_weights
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
save_weights(Path(sys.argv[1]), {"weight": torch.ones(100_000)}, {})
"""


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    """A limit on a file's size stands for the disk's end: the write fails half-way. It cannot be taken back: a process of its own."""
    path = tmp_path / "w.safetensors"
    save_weights(path, {"weight": torch.ones(3)}, CONFIG)
    before = path.read_bytes()
    done = subprocess.run([sys.executable, "-c", FILL, str(path)], capture_output=True, text=True, timeout=120)
    assert "WeightsError: Found: w.safetensors could not be written" in done.stderr
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_a_place_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("a file")
    with pytest.raises(WeightsError, match="could not be written"):
        save_weights(tmp_path / "model/w.safetensors", {"weight": torch.ones(3)}, CONFIG)
