"""Promptable segmentation: what is shown is what is masked, in its own record, wherever the grid lies."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from polyclinic.fusion import Late
from polyclinic.models import Model, TwoTower, build_model
from polyclinic.objectives import ObjectiveError, Prompt, Promptable, PromptableObjective, Structure
from polyclinic.objectives.promptable import binary_loss, box_of, clicked, drawn, sample
from polyclinic.objectives.segmentation import dice_cross_entropy
from polyclinic.schema import Batch, Modality, Ragged, Target
from polyclinic.tokens import Bert, Vit, Vit3d, phantom, select
from polyclinic.training.recipe import Recipe

SIZE: dict[str, Any] = {"width": 16, "depth": 1, "heads": 2}
WORDS = (torch.tensor([2, 10]), torch.tensor([2, 11, 12]))
DISCS = Structure(Modality.IMAGE, ("left", "right"), WORDS)


def model() -> Model:
    encoders = {
        Modality.IMAGE: Vit(size=32, patch=8, **SIZE),
        Modality.TEXT: Bert(words=8, **SIZE),
        Modality.VOLUME: Vit3d(size=(16, 16, 24), patch=(8, 8, 8), **SIZE),
    }
    return build_model(TwoTower(width=16, embedding=16, fusion=Late()), encoders, phantom.fingerprint(), 0)


def built(net: Model, structures: dict[str, Structure] | None = None, **fields: Any) -> PromptableObjective:
    structures = structures or {"discs": DISCS}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Promptable(tasks=tuple(structures), **{"width": 32, "channels": 8, **fields}).build(net, structures)


def discs(count: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two discs of one brightness: label 1 in the left half, 2 in the right one."""
    masks = torch.zeros(count, 32, 32, dtype=torch.int64)
    y, x = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    for mask in masks:
        for label, middle in ((1, 8), (2, 24)):
            at = torch.randint(6, 26, (), generator=draws), middle + torch.randint(-2, 3, (), generator=draws)
            mask[((y - at[0]) ** 2 + (x - at[1]) ** 2) < 25] = label
    return (masks > 0).float()[:, None] + 0.1 * torch.randn(count, 1, 32, 32, generator=draws), masks


def batch(images: Tensor, masks: Tensor, known: list[bool] | None = None) -> Batch:
    n = len(images)
    ragged = Ragged(images, torch.arange(n), torch.zeros(n), torch.full((n, 2), 1.5), n, [str(i) for i in range(n)])
    target = Target(list(masks), torch.tensor(known or [True] * n))
    return Batch({Modality.IMAGE: ragged}, {"discs": target}, [str(i) for i in range(n)])


def dice(logits: Tensor, mask: Tensor) -> float:
    own = logits > 0
    return float(2 * (own & mask).sum() / (own.sum() + mask.sum()))


@pytest.mark.parametrize("way", ["point", "box", "text"])
def test_what_is_shown_is_what_is_masked(way: Any) -> None:
    net = model()
    objective = built(net, prompts=(way,), clicks=1)
    adam = torch.optim.AdamW([*net.parameters(), *objective.parameters()], 1e-3)
    draws = torch.Generator().manual_seed(0)
    for _ in range(200):
        total = objective(net, batch(*discs(8, draws)), draws).total
        assert total is not None
        adam.zero_grad()
        total.backward()
        adam.step()
    images, masks = discs(6, draws)
    tokens = net(batch(images, masks)).tokens
    for label in (1, 2):
        meant = masks == label
        shown = {
            "point": [
                Prompt(points=torch.nonzero(m).float().mean(0, keepdim=True), on=torch.tensor([True])) for m in meant
            ],
            "box": [
                Prompt(box=torch.stack([(p := torch.nonzero(m).float()).min(0).values, p.max(0).values])) for m in meant
            ],
            "text": [Prompt(words=WORDS[label - 1])] * 6,
        }[way]
        with torch.no_grad():
            found = objective.segment(net, tokens, images, shown)
        assert sum(dice(a, b) for a, b in zip(found, meant, strict=True)) / 6 > 0.8


def test_a_record_is_asked_alone() -> None:
    net, draws = model(), torch.Generator().manual_seed(0)
    objective = built(net)
    images, masks = discs(3, draws)
    box = torch.tensor([[2.0, 2.0], [9.0, 9.0]])
    prompts = [
        Prompt(points=torch.tensor([[8.0, 8.0], [3.0, 3.0]]), on=torch.tensor([True, False])),
        Prompt(box=box),
        Prompt(points=torch.tensor([[1.0, 2.0]]), on=torch.tensor([True]), box=box - 1),
    ]
    together = objective.segment(net, net(batch(images, masks)).tokens, images, prompts)
    for n in range(3):
        one = batch(images[n : n + 1], masks[n : n + 1])
        alone = objective.segment(net, net(one).tokens, images[n : n + 1], prompts[n : n + 1])
        torch.testing.assert_close(alone[0], together[n], atol=1e-5, rtol=1e-4)
    other = objective.segment(net, net(batch(images, masks)).tokens, images, [prompts[1], prompts[1], prompts[2]])
    assert not torch.allclose(other[0], together[0])


def test_prompts_are_drawn_where_they_are() -> None:
    cpu, on = torch.device("cpu"), torch.tensor([True, False])
    maps = drawn(Prompt(points=torch.tensor([[4.0, 4, 4], [0, 0, 0]]), on=on), (8, 9, 10), cpu)
    assert int(maps[0].sum()) == 33  # the integer points of a ball of radius 2
    assert maps[0, 4, 4, 6] == 1
    assert maps[0, 4, 4, 7] == 0
    assert int(maps[1].sum()) == 11  # an eighth of it, with its faces
    assert not maps[2].any()
    maps = drawn(Prompt(box=torch.tensor([[1.0, 2.4], [3.0, 4.6]])), (8, 9), cpu)
    assert torch.nonzero(maps[2]).min(0).values.tolist() == [1, 2]
    assert torch.nonzero(maps[2]).max(0).values.tolist() == [3, 5]
    assert int(maps.sum()) == 12
    assert not drawn(Prompt(words=torch.tensor([2])), (8, 9), cpu).any()


def test_the_unlabelled_and_the_empty_are_not_asked() -> None:
    net, draws = model(), torch.Generator().manual_seed(0)
    objective = built(net)
    images, masks = discs(3, draws)
    of = lambda masks, known: objective(net, batch(images, masks, known), torch.Generator().manual_seed(5)).terms
    one = of(masks, [True, False, True])
    other = masks.clone()
    other[1] = 0
    assert torch.equal(one["promptable/discs"], of(other, [True, False, True])["promptable/discs"])
    assert of(torch.zeros_like(masks), [True] * 3) == {}
    assert of(masks, [False] * 3) == {}
    by_words = built(net, prompts=("text",))
    none_there = by_words(net, batch(images, torch.zeros_like(masks)), torch.Generator()).terms["promptable/discs"]
    assert bool(torch.isfinite(none_there))  # "there is none" is an answer to a name


def test_two_data_sets_that_mask_different_things_are_learned_together() -> None:
    net, draws = model(), torch.Generator().manual_seed(0)
    structures = {"discs": DISCS, "squares": Structure(Modality.IMAGE, ("square",), WORDS[:1])}
    objective = built(net, structures)
    images, masks = discs(3, draws)
    data = batch(images, masks, [True, False, False])
    squares = [torch.zeros(32, 32, dtype=torch.int64), masks[1].clamp(max=1), masks[2] * 0]
    data.targets["squares"] = Target(squares, torch.tensor([False, True, True]))
    losses = objective(net, data, draws)
    assert set(losses.terms) == {"promptable/discs", "promptable/squares"}
    assert sum(losses.weights.values()) == pytest.approx(1)


def test_what_is_shown_while_training_is_of_the_mask() -> None:
    objective, draws = built(model(), clicks=4), torch.Generator().manual_seed(0)
    _, (mask,) = discs(1, draws)
    boxes = points = 0
    for _ in range(60):
        asked = objective.ask(mask, DISCS, draws)
        assert asked is not None
        meant, prompt = asked
        assert torch.equal(meant, mask == 1) or torch.equal(meant, mask == 2)
        if prompt.points is not None and prompt.on is not None:
            points += 1
            at = prompt.points.long()
            assert bool(prompt.on[0])
            assert torch.equal(meant[at[:, 0], at[:, 1]], prompt.on)
        if prompt.box is not None:
            boxes += 1
            places = torch.nonzero(meant).float()
            assert float((prompt.box[0] - places.min(0).values).abs().max()) <= 1
            assert float((prompt.box[1] - places.max(0).values).abs().max()) <= 1
    assert boxes > 10 < points
    assert box_of(torch.ones(4, 4, dtype=torch.bool), draws).max() <= 3
    assert sample(torch.zeros(5, 7, dtype=torch.bool), draws).tolist() == [2, 3]


def test_the_loss_is_that_of_two_classes() -> None:
    logits, masks = torch.randn(2, 5, 6), torch.rand(2, 5, 6) > 0.5
    both = torch.stack([torch.zeros_like(logits), logits], 1)
    each = [float(dice_cross_entropy(both[n : n + 1], masks[n : n + 1].long())) for n in range(2)]
    assert float(binary_loss(logits, masks)) == pytest.approx(sum(each) / 2)


def test_what_cannot_be_asked_is_refused() -> None:
    net = model()
    with pytest.raises(ObjectiveError, match="image and volume"):
        built(net, {"a": DISCS, "b": Structure(Modality.VOLUME, ("x",))})
    with pytest.raises(ObjectiveError, match="reads none"):
        built(net, {"a": Structure(Modality.IMAGE, ("x",))}, prompts=("text",))
    with pytest.raises(ValidationError, match="3 heads do not divide a width of 64"):
        Promptable(tasks=("a",), heads=3)
    recipe: dict[str, Any] = {
        "name": "r", "encoders": {"image": {"kind": "vit"}, "volume": {"kind": "vit3d"}}, "model": {"kind": "two_tower"},
        "tasks": {"lung": {"kind": "segmentation", "structure": "lung", "classes": ["lung"], "modality": "image"},
                  "liver": {"kind": "segmentation", "structure": "liver", "classes": ["liver"]}},
        "stages": [{"name": "s", "steps": 1, "objective": {"kind": "promptable", "tasks": ["lung", "lvier"]}}],
    }  # fmt: skip
    with pytest.raises(ValidationError, match="no segmentation task 'lvier'"):
        Recipe.model_validate(recipe)
    recipe["stages"][0]["objective"]["tasks"] = ["lung", "liver"]
    with pytest.raises(ValidationError, match="tasks of image and of volume"):
        Recipe.model_validate(recipe)


def test_a_correction_shows_what_was_wrong() -> None:
    meant = torch.zeros(8, 9, dtype=torch.bool)
    meant[2:5, 2:6] = True
    draws = torch.Generator().manual_seed(0)
    box = Prompt(box=torch.tensor([[2.0, 2.0], [4.0, 5.0]]))
    missing, much = torch.zeros_like(meant), torch.zeros_like(meant)
    missing[3, 4] = much[7, 8] = True
    once = clicked(box, missing, meant, draws)
    twice = clicked(once, much, meant, draws)
    assert twice.points is not None
    assert twice.on is not None
    assert twice.points.tolist() == [[3.0, 4.0], [7.0, 8.0]]
    assert twice.on.tolist() == [True, False]
    assert twice.box is box.box
    assert clicked(twice, torch.zeros_like(meant), meant, draws) is twice  # nothing is wrong


def test_corrections_are_on_errors_of_the_network_itself() -> None:
    """What is asked at last has more points than were shown at first, each where what was drawn before is wrong."""
    net = model()
    objective, asked = built(net, corrections=3, prompts=("box",)), list[list[Prompt]]()
    images, masks = discs(4, torch.Generator().manual_seed(3))
    whole = objective.segment

    def watched(model: Any, tokens: Any, images: Tensor, prompts: list[Prompt]) -> Tensor:
        asked.append(prompts)
        return whole(model, tokens, images, prompts)

    objective.segment = watched  # type: ignore[method-assign, assignment]
    # Up to three corrections: one batch in four has all of them.
    assert any(len(run_once(objective, net, images, masks, seed, asked)) == 4 for seed in range(40))
    counts = [[0 if p.points is None else len(p.points) for p in prompts] for prompts in asked]
    assert counts == [[n] * 4 for n in range(4)]
    for before, after in pairwise(asked):
        seen = drawn_by(whole, net, images, masks, before)
        for row, prompt in enumerate(after):
            assert prompt.points is not None
            place = tuple(prompt.points[-1].long())
            meant = masks[row] == label_of(masks[row], prompt)
            assert bool(seen[row][place] != meant[place])


def run_once(
    objective: PromptableObjective, net: Model, images: Tensor, masks: Tensor, seed: int, asked: list[list[Prompt]]
) -> list[list[Prompt]]:
    asked.clear()
    objective(net, batch(images, masks), torch.Generator().manual_seed(seed))
    return asked


def drawn_by(segment: Any, net: Model, images: Tensor, masks: Tensor, prompts: list[Prompt]) -> Tensor:
    with torch.no_grad():
        tokens = net(batch(images, masks)).tokens
        return segment(net, select(tokens, tokens.modality == Modality.IMAGE.number), images, prompts) > 0


def label_of(mask: Tensor, prompt: Prompt) -> int:
    """Which of the two discs a box is around."""
    assert prompt.box is not None
    return 1 if float(prompt.box[:, 1].mean()) < 16 else 2
