"""What a part of an objective has learned goes on where the next stage asks the same; where it asks another thing, nothing does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from polyclinic.cohort import Cohort
from polyclinic.fusion import Late
from polyclinic.models import Model, TwoTower, build_model
from polyclinic.objectives import Caption, Contrastive, Dino, Hybrid, Masked, Objective, SegmentationPart, Structure
from polyclinic.schema import Modality
from polyclinic.tokens import phantom
from polyclinic.training import Recipe, pretrain
from polyclinic.training.carried import carry

IMAGE, TEXT, VOLUME = Modality.IMAGE, Modality.TEXT, Modality.VOLUME
ENCODERS = {m: s for m, s in phantom.encoders().items() if m in (IMAGE, TEXT, VOLUME)}
TASKS = {name: Structure(VOLUME, ("one",)) for name in ("lung", "liver")}
CAPTION = Caption(modalities=(IMAGE,), queries=2, width=16, depth=1, heads=2)
DINO = Dino(modalities=(IMAGE,), prototypes=4, width=16, smalls=1)


def model(seed: int = 0) -> Model:
    return build_model(TwoTower(width=16, embedding=16, fusion=Late()), ENCODERS, phantom.fingerprint(), seed)


def built(spec: Any, seed: int, of: Model | None = None) -> Objective:
    """Of which each number is another than of another seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        objective = spec.build(of or model(), TASKS)
        for weight in objective.parameters():
            weight.data += torch.rand(weight.shape)
    return objective


def carried(before: Any, after: Any) -> tuple[list[str], dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The places, and both state dicts."""
    earlier, later = built(before, 1).state_dict(), built(after, 2)
    fresh = {name: tensor.clone() for name, tensor in later.state_dict().items()}
    places = carry(later, after, earlier, before, model())
    for name, tensor in later.state_dict().items():
        if not any(name.startswith(place) for place in places) and "teacher" not in name:
            assert torch.equal(tensor, fresh[name]), name
    return places, earlier, later.state_dict()


def test_a_part_goes_on_wherever_it_stands() -> None:
    before = Hybrid(parts=(Contrastive(), CAPTION, Masked(width=16)), balance="uncertainty")
    after = Hybrid(
        parts=(CAPTION.model_copy(update={"weight": 3.0}), Contrastive(pairs=((IMAGE, TEXT),)), DINO),
        balance="uncertainty",
    )
    places, earlier, later = carried(before, after)
    assert places == ["parts.0_caption.", "parts.1_contrastive."]
    assert torch.equal(later["parts.1_contrastive.log_scale"], earlier["parts.0_contrastive.log_scale"])
    words = [n for n in later if n.startswith("parts.0_caption.")]
    assert len(words) > 10
    assert all(torch.equal(later[n], earlier[n.replace("0_caption", "1_caption")]) for n in words)
    alone, earlier, later = carried(Contrastive(), Hybrid(parts=(Masked(width=16), Contrastive())))
    assert alone == ["parts.1_contrastive."]
    assert torch.equal(later["parts.1_contrastive.log_scale"], earlier["log_scale"])


def test_of_two_of_a_kind_the_second_is_the_second_s() -> None:
    two = (Contrastive(), Contrastive(pairs=((IMAGE, TEXT),)))
    places, earlier, later = carried(Hybrid(parts=two), Hybrid(parts=(Masked(width=16), *two)))
    assert places == ["parts.1_contrastive.", "parts.2_contrastive."]
    assert torch.equal(later["parts.2_contrastive.log_scale"], earlier["parts.1_contrastive.log_scale"])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Contrastive(), Contrastive(temperature=0.2)),
        (Contrastive(), Contrastive(loss="supcon")),
        (Contrastive(), Contrastive(loss="siglip")),
        (CAPTION, CAPTION.model_copy(update={"depth": 2})),
        (CAPTION, CAPTION.model_copy(update={"queries": 3})),
        (SegmentationPart(task="lung", channels=2), SegmentationPart(task="liver", channels=2)),
        (Masked(width=16), Masked(width=16, modalities=(IMAGE,))),
    ],
)
def test_what_is_another_part_begins_anew(before: Any, after: Any) -> None:
    assert carried(before, after)[0] == []


def test_a_teacher_is_the_student_and_what_is_counted_begins_anew() -> None:
    """The student's head is what the stage before left; its centres and its clock, and the teacher that lagged, are not."""
    earlier, left = built(DINO, 1), model(3)
    earlier.get_buffer("done").fill_(1.0)
    earlier.get_buffer("centre_image").fill_(0.3)
    later = built(DINO, 2, left)
    assert carry(later, DINO, earlier.state_dict(), DINO, left) == [""]
    state = later.state_dict()
    assert float(state["done"]) == float(state["centre_image"].abs().sum()) == 0
    heads = [n for n in state if n.startswith("heads.")]
    assert heads
    for name in heads:
        assert torch.equal(state[name], earlier.state_dict()[name])
        assert torch.equal(state[f"teacher.{name}"], state[name])
    assert all(torch.equal(state[f"teacher.model.{n}"], w) for n, w in left.named_parameters())


def test_titan_s_third_stage_goes_on_with_the_second_s_decoder_and_temperature() -> None:
    second, third = (stage.objective for stage in Recipe.load("titan").stages[1:])
    assert isinstance(second, Hybrid)
    assert isinstance(third, Hybrid)
    swap = {"modalities": (IMAGE,), "pairs": ((IMAGE, TEXT),), "width": 16, "heads": 2, "depth": 1, "queries": 2}
    small = lambda spec: spec.model_copy(
        update={
            "parts": tuple(p.model_copy(update={k: v for k, v in swap.items() if hasattr(p, k)}) for p in spec.parts)
        }
    )
    assert carried(small(second), small(third))[0] == ["parts.0_contrastive.", "parts.1_caption."]


def test_a_run_goes_on_with_it(light: Recipe, tiny_cohort: Cohort, tmp_path: Path) -> None:
    """The second stage hardly moves: its temperature is where the first one left it, and not where the paper starts."""
    stages = light.model_dump()["stages"]
    first = stages[0] | {"lr": 0.05}
    for name, told in (("one", [first]), ("two", [first, stages[1] | {"lr": 1e-9}])):
        pretrain(Recipe.model_validate(light.model_dump() | {"name": name, "stages": told}), tiny_cohort, into=tmp_path)
    one, two = (load_file(tmp_path / name / "model/objective.safetensors") for name in ("one", "two"))
    learned = float(one["log_scale"])
    assert abs(learned - float(Contrastive().build(model(), {}).log_scale.detach())) > 0.01
    assert float(two["parts.0_contrastive.log_scale"]) == pytest.approx(learned, abs=1e-6)
