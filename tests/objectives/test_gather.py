"""The gradient of what is compared, or is a mean, over all of a divided step is that of one process with the whole batch."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.fusion import Late
from polyclinic.models import Model, TwoTower, build_model
from polyclinic.objectives import Contrastive, Dino, Hybrid, Ibot, Local, Objective, ObjectiveError
from polyclinic.objectives.balance import GradNorm
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


SMALL: dict[str, Any] = {"smalls": 2, "prototypes": 6, "width": 16, "jitter": 0.2}
SPECS: dict[str, Any] = {
    "contrastive": Contrastive(),
    "supcon": Contrastive(loss="supcon"),
    "local": Local(pairs=((TEXT, IMAGE), (IMAGE, TABLE))),
    "dino": Dino(**SMALL),
    "ibot": Ibot(**SMALL),
    "hybrid": Hybrid(parts=(Contrastive(), Local(), Ibot(modalities=(IMAGE,), **SMALL))),
    "gradnorm": Hybrid(parts=(Contrastive(), Ibot(modalities=(IMAGE,), **SMALL)), balance="gradnorm"),
}


def model_of() -> Model:
    return build_model(TwoTower(width=16, embedding=16, fusion=Late()), ENCODERS, phantom.fingerprint(), 0)


def batch_of(patients: list[str]) -> Batch:
    return phantom.batch(STANDARDS, {p: HAS[p] for p in patients})


def built(name: str, model: Model) -> Objective:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SPECS[name].build(model, {}).train()


def learn(objective: Objective, view: Any, batch: Batch, share: float = 1.0) -> float:
    """The gradient of a part's share of the loss is added; the share of the loss."""
    total = objective(view, batch, torch.Generator()).total
    assert total is not None
    if total.requires_grad:  # what is of others alone teaches this part nothing
        (share * total).backward()
    return share * float(total.detach())


def gradients(model: Model, objective: Objective) -> dict[str, torch.Tensor]:
    """And what is of the whole step: where its centres are after it, which no part may have moved alone, and GradNorm's measure."""
    named = {**dict(model.named_parameters()), **dict(objective.named_parameters())}
    found = {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in named.items()}
    if isinstance(balance := getattr(objective, "balance", None), GradNorm):
        found["measured norms"], found["measured losses"] = balance.measured()[1:]
    objective.stepped(model, 0.5)
    return found | {n: b.clone() for n, b in objective.named_buffers() if "centre" in n}


def whole(name: str) -> dict[str, torch.Tensor]:
    model = model_of()
    objective = built(name, model)
    loss = learn(objective, model, batch_of(list(HAS)))
    return gradients(model, objective) | {"loss": torch.tensor(loss)}


def divided(name: str, parts: list[list[str]]) -> dict[str, torch.Tensor]:
    """As an engine does it in one process, with as many micro-batches."""
    model = model_of()
    objective = built(name, model)
    batches, seen = [batch_of(part) for part in parts], [Seen(model, n) for n in range(len(parts))]
    with torch.no_grad():
        for batch, view in zip(batches, seen, strict=True):
            objective(view, batch, torch.Generator())
    known, loss = pieces_of(seen, model.modalities, 1), 0.0
    for place, batch in enumerate(batches):
        share = len(batch.patients) / len(HAS)
        loss += learn(objective, Part(model, share, place=place, known=known), batch, share)
    return gradients(model, objective) | {"loss": torch.tensor(loss)}


@pytest.mark.parametrize("name", SPECS)
@given(st.permutations(list(HAS)), st.lists(st.integers(1, 6), max_size=3, unique=True))
@settings(max_examples=8, deadline=None)
def test_micro_batches_of_any_size_give_the_gradient_of_the_whole(name: str, order: list[str], cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(order)]
    parts = [order[one:other] for one, other in pairwise(edges)]
    found, expected = divided(name, parts), whole(name)
    taught = [
        n for n, gradient in expected.items() if n.startswith("encoders.image") and float(gradient.abs().max()) > 1e-3
    ]
    assert taught
    for own, gradient in expected.items():
        torch.testing.assert_close(found[own], gradient, atol=1e-5, rtol=1e-4, msg=lambda m, n=own: f"{n}: {m}")


@pytest.mark.parametrize("name", SPECS)
def test_parts_that_do_not_see_each_other_do_not(name: str) -> None:
    """What the gather is for: the mean of the parts' own losses has another gradient."""
    model = model_of()
    objective = built(name, model)
    for part in (["a", "b", "c"], ["d", "e", "f", "g"]):
        learn(objective, model, batch_of(part), len(part) / len(HAS))
    found, expected = gradients(model, objective), whole(name)
    one = "encoders.image.blocks.norm.weight"
    assert float((found[one] - expected[one]).norm()) > 0.03 * float(expected[one].norm())
    assert all(not torch.allclose(found[n], expected[n], rtol=0.01) for n in found if "centre_image" in n)


WORKER = """
import sys
import torch, torch.distributed as dist
from polyclinic.objectives.gather import agreed
sys.path.insert(0, sys.argv[1])
from test_gather import HAS, SPECS, Part, batch_of, built, gradients, learn, model_of, whole
rank, worst = int(sys.argv[2]), 0.0
dist.init_process_group("gloo", init_method="file://" + sys.argv[3], rank=rank, world_size=2)
for spec in SPECS:
    expected = whole(spec)
    for parts in ([p.split(",") for p in way.split("/")] for way in sys.argv[4:]):
        model = model_of()
        objective = built(spec, model)
        share = len(parts[rank]) / len(HAS)
        loss = learn(objective, Part(model, share, world=2, place=rank), batch_of(parts[rank]), share)
        for name, found in (gradients(model, objective) | {"loss": torch.tensor(loss)}).items():
            if "centre" not in name and "measured" not in name:  # which each rank must come to by itself
                dist.all_reduce(found)
            size = max(1.0, float(expected[name].abs().max()))  # a loss of 20 is rounded at its sixth digit
            worst = max(worst, float((found - expected[name]).abs().max()) / size)
seed = lambda view, own: agreed(view, torch.Generator().manual_seed(own))
assert seed(Part(model, 0.5, world=2, place=rank), rank) == seed(model, 0), "ranks would not draw as one process does"
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
    one, other = Seen(model, 0), Seen(model, 1)
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
    numbers = torch.tensor([1.0, -2.0])
    assert torch.equal(model.summed(numbers), numbers)
    assert torch.equal(view.summed(numbers), numbers)
