"""One optimiser step, in one piece and in several."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from polyclinic.fusion import Late
from polyclinic.models import Model, TwoTower, build_model
from polyclinic.objectives import Contrastive, Dino, Hybrid, Local, Objective, Symile
from polyclinic.schema import Batch, Losses, Modality
from polyclinic.tokens import phantom
from polyclinic.training.ranks import Ranks, fabric_for
from polyclinic.training.recipe import Stage
from polyclinic.training.repeatable import repeatable
from polyclinic.training.step import Made, Stepper, Trainee, weighted

IMAGE, TEXT, TABLE = Modality.IMAGE, Modality.TEXT, Modality.TABLE
ENCODERS = {m: s for m, s in phantom.encoders().items() if m in (IMAGE, TEXT, TABLE)}
STANDARDS = {m: s.standard() for m, s in ENCODERS.items()}
PATIENTS = {f"p{n}": {IMAGE: 1, TEXT: 1 + n % 2} | ({TABLE: 1} if n % 3 else {}) for n in range(12)}
CLIP = Contrastive()


class Mean(Objective):
    """A loss that is a mean over patients: how far their fused vectors are from a learned point."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.point = nn.Parameter(torch.ones(width))

    def forward(self, model: Any, batch: Batch, generator: torch.Generator, tokens: Any = None) -> Losses:
        fused = model.fuse(model.encode(batch), len(batch.patients))
        return Losses({"mean": (fused.pooled - self.point).square().sum(1).mean()}, {"mean": 1.0})


def stage_of(**fields: Any) -> Stage:
    return Stage(name="s", objective=Contrastive(), **{"steps": 10, "batch": 12, "warmup": 0, "lr": 1e-2, **fields})


def stepper_of(stage: Stage, mean: bool = False, centre: bool = False, spec: Any = CLIP) -> Stepper:
    shape = TwoTower(width=16, embedding=16, fusion=Late(), centre=centre)
    model: Model = build_model(shape, ENCODERS, phantom.fingerprint(), 0)
    objective = Mean(16) if mean else spec.build(model, {})
    return Stepper(Ranks(fabric_for("fp32")), Trainee(model, objective), stage)


def micros(count: int) -> list[Batch]:
    names, each = list(PATIENTS), len(PATIENTS) // count
    return [phantom.batch(STANDARDS, {p: PATIENTS[p] for p in names[n : n + each]}) for n in range(0, len(names), each)]


def trained(stage: Stage, steps: int = 3, **options: Any) -> tuple[dict[str, torch.Tensor], list[Made]]:
    stepper = stepper_of(stage, **options)
    with repeatable():
        made = [stepper.take(micros(stage.accumulate), 12, (0, 0, step)) for step in range(steps)]
    return stepper.trainee.state_dict(), made


@pytest.mark.parametrize(
    ("count", "options"),
    [
        (2, {"mean": True}),
        (12, {"mean": True}),
        (4, {}),
        (12, {}),
        (2, {"centre": True}),
        (4, {"centre": True}),
        (3, {"spec": Local()}),
        (4, {"spec": Hybrid(parts=(CLIP, Local()), balance="gradnorm", rate=0.2)}),
        (3, {"spec": Symile(modalities=(IMAGE, TEXT, TABLE), tuples=20)}),
    ],
)
def test_accumulated_is_the_large_batch(count: int, options: dict[str, Any]) -> None:
    """A mean over patients, and contrastive losses, whose micro-batches see each other's vectors (and draw alike); over several steps.

    Running means are exact where the micro-batches have as many patients of each modality, as two and four of them have here.
    """
    expected, before = trained(stage_of(), **options)
    found, made = trained(stage_of(accumulate=count), **options)
    assert [m.values["loss"] for m in made] == pytest.approx([m.values["loss"] for m in before], rel=1e-4)
    assert made[0].values["loss"] != pytest.approx(made[2].values["loss"], rel=1e-3)
    # Adam divides by the gradient's size: where that is next to nothing, as of the keys' offsets, rounding decides its sign.
    moved = {n: (found[n] - v).abs() for n, v in expected.items()}
    assert max(float(d.mean()) for d in moved.values()) < 5e-4


@pytest.mark.parametrize("spec", [Local(), Dino(modalities=(IMAGE,), prototypes=4, width=16)])
def test_a_micro_batch_that_has_nothing_of_what_others_compare(spec: Any) -> None:
    """Their loss teaches it nothing, and its share of the step counts."""
    stepper = stepper_of(stage_of(accumulate=2), spec=spec)
    before = stepper.trainee.model.encoder(IMAGE).blocks.norm.weight.detach().clone()  # type: ignore[union-attr]
    apart = [{p: {IMAGE: 1, TEXT: 1} for p in "abc"}, {p: {TABLE: 1} for p in "def"}]
    with repeatable():
        made = stepper.take([phantom.batch(STANDARDS, has) for has in apart], 6, (0, 0, 0))
    assert not made.wrong
    assert made.values["loss"] > 0
    assert not torch.equal(stepper.trainee.model.encoder(IMAGE).blocks.norm.weight, before)  # type: ignore[union-attr]


def test_without_a_limit_gradients_are_not_clipped() -> None:
    small = trained(stage_of(clip=1e-9, weight_decay=0.0), 1)[0]
    large = trained(stage_of(clip=None, weight_decay=0.0), 1)[0]
    start = stepper_of(stage_of()).trainee.state_dict()
    step = lambda state: max(float((state[n] - v).abs().max()) for n, v in start.items() if v.is_floating_point())
    assert step(small) < 0.5 * step(large)  # so small that Adam's epsilon counts


def test_the_learning_rate_is_the_schedule_s() -> None:
    stepper = stepper_of(stage_of(schedule="linear", steps=11))
    stepper.take(micros(1), 12, (0, 0, 5))
    assert stepper.bare.param_groups[0]["lr"] == pytest.approx(1e-2 * (0.1 + 0.9 * 6 / 11))


def test_a_batch_that_says_nothing_moves_nothing() -> None:
    stepper = stepper_of(stage_of(accumulate=2))
    before = {n: v.clone() for n, v in stepper.trainee.state_dict().items()}
    alone = [phantom.batch(STANDARDS, {p: {IMAGE: 1}}) for p in "ab"]
    assert stepper.take(alone, 2, (0, 0, 0)) == Made({})
    assert all(torch.equal(v, before[n]) for n, v in stepper.trainee.state_dict().items())


@pytest.mark.parametrize("count", [1, 3])
def test_what_is_not_a_number_is_said_and_moves_nothing(count: int) -> None:
    stepper = stepper_of(stage_of(accumulate=count))
    before = {n: v.clone() for n, v in stepper.trainee.state_dict().items()}
    batches = micros(count)
    values = batches[-1].payloads[IMAGE].values
    assert isinstance(values, torch.Tensor)
    values[0, 0, 0] = float("nan")
    made = stepper.take(batches, 12, (0, 0, 0))
    assert made.wrong.startswith("a loss that is not a number (")
    assert "contrastive/image-text" in made.wrong
    assert all(torch.equal(v, before[n]) for n, v in stepper.trainee.state_dict().items())
    assert all(p.grad is None for p in stepper.trainee.parameters())


def test_a_gradient_that_is_not_a_number() -> None:
    stepper = stepper_of(stage_of(), mean=True)
    point = stepper.trainee.objective.point
    assert isinstance(point, nn.Parameter)
    point.register_hook(lambda g: g * float("inf"))
    assert stepper.take(micros(1), 12, (0, 0, 0)).wrong == "gradients that are not numbers (of mean)"


def test_the_average_follows_the_weights() -> None:
    stepper = stepper_of(stage_of(ema=0.5))
    start = {n: v.clone() for n, v in stepper.trainee.named_parameters()}
    stepper.take(micros(1), 12, (0, 0, 0))
    assert stepper.average is not None
    name = "objective.log_scale"
    now = dict(stepper.trainee.named_parameters())[name]
    assert not torch.equal(now, start[name])
    torch.testing.assert_close(stepper.average.tensors[name], 0.1 * start[name] + 0.9 * now.detach())


def test_terms_are_weighed_by_who_speaks_to_them() -> None:
    made = [(0.5, {"a": 2.0}, 2.0), (0.25, {"a": 4.0, "b": 1.0}, 5.0), (0.25, {"b": 3.0}, 3.0)]
    assert weighted(made) == pytest.approx({"a": 8 / 3, "b": 2.0, "loss": 3.0})
    assert weighted([]) == {}
