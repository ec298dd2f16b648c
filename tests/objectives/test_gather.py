"""The gradient of a contrastive loss whose step is divided is that of one process with the whole batch."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.fusion import Late
from polyclinic.models import Model, TwoTower, build_model
from polyclinic.objectives import Contrastive, ObjectiveError
from polyclinic.objectives.gather import Part, Piece, Seen, across, pieces_of, weighed
from polyclinic.schema import Batch, Modality
from polyclinic.tokens import phantom

IMAGE, TEXT, TABLE = Modality.IMAGE, Modality.TEXT, Modality.TABLE
ENCODERS = {m: s for m, s in phantom.encoders().items() if m in (IMAGE, TEXT, TABLE)}
STANDARDS = {m: s.standard() for m, s in ENCODERS.items()}
HAS = {
    "a": {IMAGE: 1, TEXT: 1}, "b": {IMAGE: 1, TABLE: 1}, "c": {IMAGE: 2, TEXT: 1, TABLE: 1}, "d": {TEXT: 1},
    "e": {IMAGE: 1, TEXT: 2, TABLE: 1}, "f": {}, "g": {IMAGE: 1, TEXT: 1},
}  # fmt: skip
"""Patients of whom some have only a part of the modalities, and one has nothing."""


def model_of() -> Model:
    return build_model(TwoTower(width=16, embedding=16, fusion=Late()), ENCODERS, phantom.fingerprint(), 0)


def batch_of(patients: list[str]) -> Batch:
    return phantom.batch(STANDARDS, {p: HAS[p] for p in patients})


def gradients(model: Model, objective: torch.nn.Module) -> dict[str, torch.Tensor]:
    named = {**dict(model.named_parameters()), **dict(objective.named_parameters())}
    return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in named.items()}


def whole() -> dict[str, torch.Tensor]:
    model = model_of()
    objective = Contrastive().build(model, {})
    total = objective(model, batch_of(list(HAS)), torch.Generator()).total
    assert total is not None
    total.backward()
    return gradients(model, objective)


def divided(parts: list[list[str]]) -> dict[str, torch.Tensor]:
    """As an engine does it in one process, with as many micro-batches."""
    model = model_of()
    objective = Contrastive().build(model, {})
    batches, seen = [batch_of(part) for part in parts], [Seen(model) for _ in parts]
    with torch.no_grad():
        for batch, view in zip(batches, seen, strict=True):
            objective(view, batch, torch.Generator())
    known = pieces_of(seen, model.modalities, 1)
    for place, batch in enumerate(batches):
        share = len(batch.patients) / len(HAS)
        total = objective(Part(model, share, place=place, known=known), batch, torch.Generator()).total
        assert total is not None
        (share * total).backward()
    return gradients(model, objective)


@given(st.permutations(list(HAS)), st.lists(st.integers(1, 6), max_size=3, unique=True))
@settings(max_examples=15, deadline=None)
def test_micro_batches_of_any_size_give_the_gradient_of_the_whole(order: list[str], cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(order)]
    parts = [order[one:other] for one, other in pairwise(edges)]
    found, expected = divided(parts), whole()
    assert float(expected["log_scale"].abs()) > 0.01
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_parts_that_do_not_see_each_other_do_not() -> None:
    """What the gather is for: the mean of the parts' own losses has another gradient."""
    model = model_of()
    objective = Contrastive().build(model, {})
    for part in (["a", "b", "c"], ["d", "e", "f", "g"]):
        total = objective(model, batch_of(part), torch.Generator()).total
        assert total is not None
        (len(part) / len(HAS) * total).backward()
    assert not torch.allclose(gradients(model, objective)["log_scale"], whole()["log_scale"], rtol=0.01)


WORKER = """
import sys
import torch, torch.distributed as dist
sys.path.insert(0, sys.argv[1])
from test_gather import HAS, Contrastive, Part, batch_of, gradients, model_of, whole
rank, worst, expected = int(sys.argv[2]), 0.0, whole()
dist.init_process_group("gloo", init_method="file://" + sys.argv[3], rank=rank, world_size=2)
for parts in ([p.split(",") for p in way.split("/")] for way in sys.argv[4:]):
    model = model_of()
    objective = Contrastive().build(model, {})
    share = len(parts[rank]) / len(HAS)
    total = objective(Part(model, share, world=2, place=rank), batch_of(parts[rank]), torch.Generator()).total
    (share * total).backward()
    for name, gradient in gradients(model, objective).items():
        dist.all_reduce(gradient)
        worst = max(worst, float((gradient - expected[name]).abs().max()))
dist.destroy_process_group()
print(worst)
"""


@pytest.mark.slow
def test_two_processes_give_the_gradient_of_one(tmp_path: Path) -> None:
    """Of unequal parts: one without tables, one whose only patient has a note, one whose only patient has nothing."""
    ways = ["a,b,c,e,f/d,g", "d/a,b,c,e,f,g", "f/a,b,c,d,e,g"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WORKER), str(Path(__file__).parent), str(rank), str(tmp_path / "store"), *ways],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]  # fmt: skip
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert float(out) < 1e-5


def test_one_process_asks_nobody() -> None:
    own = Piece({}, 3)
    assert across(own, [IMAGE, TEXT], 1) == [own]


def test_an_objective_that_does_not_compare_equally_often_is_refused() -> None:
    model = model_of()
    one, other = Seen(model), Seen(model)
    one.everyone({}, 1)
    with pytest.raises(ObjectiveError, match="0 times in one micro-batch and 1 in another"):
        pieces_of([one, other], model.modalities, 1)


def test_a_weighed_gradient_leaves_the_value() -> None:
    values = torch.tensor([1.5, -2.25e-7, 3e8], requires_grad=True)
    out = weighed(values, 3.7)
    assert torch.equal(out, values)
    out.sum().backward()
    assert values.grad is not None
    torch.testing.assert_close(values.grad, torch.full((3,), 3.7))


def test_the_view_is_the_model_in_all_else() -> None:
    model = model_of()
    view = Part(model, 0.5)
    assert view.width == model.width
    assert view.modalities == model.modalities
    towers = model.towers(model.encode(batch_of(["a", "c"])))
    assert model.everyone(towers, 2) is towers
