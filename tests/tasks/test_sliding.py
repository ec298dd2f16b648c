"""Boxes cover the whole, their answers blend to what one answer would be, and MONAI's agree."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from polyclinic.tasks.sliding import Axis, sliding


@given(st.integers(1, 200), st.integers(1, 64), st.floats(0, 0.9), st.floats(1, 2), st.sampled_from([1, 8]))
def test_boxes_cover_an_axis(length: int, size: int, overlap: float, grow: float, step: int) -> None:
    length = max(length, size)
    axis = Axis.over(length, size, overlap, grow, step)
    assert size <= axis.size <= max(size, int(grow * size)) or axis.size == length
    assert axis.starts[0] == 0
    assert axis.starts[-1] + axis.size == length
    total = torch.zeros(length)
    for start, weights in zip(axis.starts, axis.weights, strict=True):
        total[start : start + axis.size] += weights
    torch.testing.assert_close(total, torch.ones(length), atol=1e-5, rtol=0)
    shared = [a + axis.size - b for a, b in zip(axis.starts, axis.starts[1:], strict=False)]
    assert all(n >= int(overlap * size) - 1 for n in shared)


def test_few_larger_boxes_instead_of_many() -> None:
    assert len(Axis.over(192, 96, 0.125, 1.0, 8).starts) == 3
    grown = Axis.over(192, 96, 0.125, 1.25, 8)
    assert (grown.size, grown.starts) == (104, (0, 88))


@given(st.lists(st.integers(3, 40), min_size=2, max_size=3), st.integers(4, 16), st.integers(1, 5), st.floats(0, 0.7))
def test_what_each_voxel_says_for_itself_is_said_of_the_whole(
    shape: list[int], size: int, batch: int, overlap: float
) -> None:
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    say = lambda boxes: torch.cat([boxes * 2 + 1, boxes.square()], 1)
    found = sliding(say, x, [size] * len(shape), overlap=overlap, batch=batch)
    torch.testing.assert_close(found, say(x[None])[0], atol=1e-4, rtol=1e-4)


@given(st.lists(st.integers(3, 40), min_size=2, max_size=3), st.integers(4, 16), st.integers(1, 5), st.floats(0, 0.7))
def test_what_is_told_plane_by_plane_is_told_of_the_whole(
    shape: list[int], size: int, batch: int, overlap: float
) -> None:
    x = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    say = lambda boxes: torch.cat([boxes, boxes.roll(1, 2), boxes.roll(1, 3)], 1)
    how: dict[str, Any] = {"overlap": overlap, "batch": batch}
    whole = sliding(say, x, [size] * len(shape), **how)
    found = sliding(say, x, [size] * len(shape), told=lambda planes: planes.argmax(0), **how)
    assert torch.equal(found, whole.argmax(0))


def test_of_many_classes_no_more_is_held_than_a_box_has_planes() -> None:
    """60 classes of a volume of 2 million voxels are 480 MiB of logits; with 300 MiB beside what the libraries take it is answered."""
    code = """
    import resource, sys, torch
    from polyclinic.tasks.sliding import sliding
    torch.set_num_threads(1)
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 300 * 2**20,) * 2)
    x = torch.arange(512.0)[None, :, None, None].expand(1, 512, 64, 64)
    say = lambda boxes: torch.zeros(1, 60, *boxes.shape[2:]).scatter_(1, (boxes // 9).long(), 1.0)
    if sys.argv[1] == "told":
        found = sliding(say, x, (32, 64, 64), told=lambda planes: planes.argmax(0))
        assert torch.equal(found, (x[0] // 9).long())
    else:
        sliding(say, x, (32, 64, 64))
    """
    # What is freed goes back at once: a heap with holes takes address space that nobody uses.
    alone = os.environ | {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": str(2**20)}
    run = lambda how: subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), how], capture_output=True, text=True, timeout=300, env=alone
    )
    told, whole = run("told"), run("whole")
    assert told.returncode == 0, told.stderr
    assert "memory" in whole.stderr  # the bound is one


def test_every_box_has_the_size_of_training() -> None:
    seen: list[tuple[int, ...]] = []

    def say(boxes: Tensor) -> Tensor:
        seen.append(tuple(boxes.shape))
        return boxes

    sliding(say, torch.randn(1, 20, 30, 9), (8, 12, 16), batch=4)
    assert {s[1:] for s in seen} == {(1, 8, 12, 16)}
    assert max(s[0] for s in seen) == 4


@pytest.mark.parametrize("overlap", [0.25, 0.5])
def test_seams_are_no_worse_than_monais(overlap: float) -> None:
    monai = pytest.importorskip("monai.inferers.utils")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 3, 3, padding=1)).eval()
        x = torch.randn(1, 48, 40, 32)
    with torch.no_grad():
        whole = network(x[None])[0]
        ours = sliding(network, x, (24, 20, 16), overlap=overlap)
        theirs = monai.sliding_window_inference(x[None], (24, 20, 16), 1, network, overlap=overlap, mode="gaussian")[0]
    seam = lambda found: float((found - whole).abs().mean() / whole.abs().mean())
    assert seam(ours) < 0.05
    assert seam(ours) <= 1.02 * seam(theirs)
