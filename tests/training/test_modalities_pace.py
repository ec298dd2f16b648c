"""Modalities that learn unevenly: the speeds and factors against the papers' own sums, and what is left out."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from polyclinic.cohort import Cohort
from polyclinic.fusion import Late
from polyclinic.models import Model, TwoTower, build_model
from polyclinic.objectives import Contrastive
from polyclinic.schema import Batch, Modality
from polyclinic.tokens import phantom
from polyclinic.training import InterruptedRunError, Recipe, RecipeError, pretrain
from polyclinic.training.modalities import SPAN, Pace, norms, own_weights, thinned
from polyclinic.training.ranks import Ranks, fabric_for
from polyclinic.training.recipe import Stage
from polyclinic.training.repeatable import generator, repeatable
from polyclinic.training.step import Stepper, Trainee

IMAGE, TEXT, TABLE = Modality.IMAGE, Modality.TEXT, Modality.TABLE
ENCODERS = {m: s for m, s in phantom.encoders().items() if m in (IMAGE, TEXT, TABLE)}
STANDARDS = {m: s.standard() for m, s in ENCODERS.items()}
PATIENTS = {f"p{n}": {IMAGE: 1, TEXT: 1 + n % 2} | ({TABLE: 1} if n % 3 else {}) for n in range(12)}


def stepper_of(strength: float = 0.0, **fields: object) -> Stepper:
    stage = Stage.model_validate(
        {
            "name": "s",
            "objective": Contrastive(),
            "steps": 10,
            "batch": 12,
            "warmup": 0,
            "lr": 1e-2,
            "weight_decay": 0.1,
            **fields,
        }
    )
    model: Model = build_model(TwoTower(width=16, embedding=16, fusion=Late()), ENCODERS, phantom.fingerprint(), 0)
    pace = Pace(list(own_weights(model)), strength) if strength else None
    return Stepper(Ranks(fabric_for("fp32")), Trainee(model, Contrastive().build(model, {}), pace), stage)


def batch(has: dict[str, dict[Modality, int]] = PATIENTS) -> Batch:
    return phantom.batch(STANDARDS, has)


def micros(count: int) -> list[Batch]:
    names, each = list(PATIENTS), len(PATIENTS) // count
    return [batch({p: PATIENTS[p] for p in names[n : n + each]}) for n in range(0, len(names), each)]


def test_every_weight_is_of_one_modality_of_the_fusion_or_of_the_objective() -> None:
    stepper = stepper_of()
    owned = [p for own in stepper.own.values() for p in own]
    assert len({id(p) for p in owned}) == len(owned)
    rest = {n for n, p in stepper.trainee.model.named_parameters() if all(p is not o for o in owned)}
    assert rest == {n for n, _ in stepper.trainee.model.named_parameters() if n.startswith("fusion.")}
    frozen = build_model(TwoTower(width=16, embedding=16, fusion=Late()), ENCODERS, phantom.fingerprint(), 0)
    frozen.encoders[IMAGE.value].requires_grad_(False)
    assert len(own_weights(frozen)[IMAGE]) == 5  # bridge and projection with their biases, and the name


def test_norms_are_of_all_tensors_of_a_group_as_one_vector() -> None:
    groups = {IMAGE: [torch.tensor([3.0, 4.0]), torch.tensor([[12.0]])], TEXT: [torch.tensor(2.0)], TABLE: []}
    assert norms(groups, Ranks(fabric_for("fp32"))) == {IMAGE: pytest.approx(13.0), TEXT: pytest.approx(2.0)}


def test_the_gradient_that_is_noted_is_the_whole_step_s_before_it_is_clipped() -> None:
    """Against autograd on the same loss, asked for each modality's weights alone."""
    stepper = stepper_of(clip=1e-3)
    trainee = stepper.trainee
    loss = trainee.objective(trainee.model, batch(), generator(0)).total
    assert loss is not None
    expected = {}
    for m in (IMAGE, TEXT, TABLE):
        own = [p for n, p in trainee.model.named_parameters() if n.split(".")[1] == m.value]
        slopes = torch.autograd.grad(loss, own, retain_graph=True, allow_unused=True)
        expected[m] = math.sqrt(sum(float(s.double().square().sum()) for s in slopes if s is not None))
    made = stepper.take([batch()], 12, (0, 0, 0))
    assert {m: made.values[f"gradient/{m}"] for m in expected} == pytest.approx(expected, rel=1e-4)
    divided = stepper_of(clip=1e-3, accumulate=4).take(micros(4), 12, (0, 0, 0))
    assert {m: divided.values[f"gradient/{m}"] for m in expected} == pytest.approx(expected, rel=1e-3)
    assert not any(name.startswith("pace/") for name in made.values)


def test_the_speeds_are_running_means_and_the_factors_those_of_the_paper() -> None:
    pace = Pace([IMAGE, TEXT, TABLE], 0.5)
    assert pace.factors() == {IMAGE: 1.0, TEXT: 1.0, TABLE: 1.0}
    drawn = torch.rand(50, 3, generator=torch.Generator().manual_seed(0)).double() + 0.1
    speeds: dict[Modality, list[float]] = {IMAGE: [], TEXT: [], TABLE: []}
    for step, row in enumerate(drawn.tolist()):
        gradients = dict(zip(speeds, row, strict=True))
        if step % 3:  # nobody has a table then
            del gradients[TABLE]
        pace.note(gradients, {IMAGE: 2.0, TEXT: 1.0, TABLE: 4.0})
        for m, g in gradients.items():
            speeds[m].append(math.log(g**2 / {IMAGE: 2.0, TEXT: 1.0, TABLE: 4.0}[m] ** 2))
    mean = {}
    for m, every in speeds.items():
        first = sum(every[: int(SPAN)]) / len(every[: int(SPAN)])
        for later in every[int(SPAN) :]:
            first = first * (1 - 1 / SPAN) + later / SPAN
        mean[m] = first
    assert pace.speed.tolist() == pytest.approx(list(mean.values()))
    for m, factor in pace.factors().items():
        rho = mean[m] - sum(v for n, v in mean.items() if n is not m) / 2
        assert factor == pytest.approx(1 - math.tanh(0.5 * rho) if rho > 0 else 1.0)
    assert min(pace.factors().values()) < 1.0


def test_a_modality_alone_and_equal_speeds_are_left_as_they_are() -> None:
    alone, equal = Pace([IMAGE, TEXT], 1.0), Pace([IMAGE, TEXT], 1.0)
    alone.note({IMAGE: 3.0, TEXT: 0.0}, {IMAGE: 1.0, TEXT: 1.0})
    equal.note({IMAGE: 3.0, TEXT: 6.0}, {IMAGE: 1.0, TEXT: 2.0})
    assert alone.factors() == equal.factors() == {IMAGE: 1.0, TEXT: 1.0}


def test_a_step_is_shortened_by_the_factor_and_no_other_is() -> None:
    """AdamW's first step, weight decay and all, is as long as its learning rate says."""
    plain, paced = stepper_of(clip=None), stepper_of(2.0, clip=None)
    before = {n: p.detach().clone() for n, p in plain.trainee.model.named_parameters()}
    with repeatable():
        plain.take([batch()], 12, (0, 0, 0))
        values = paced.take([batch()], 12, (0, 0, 0)).values
    factors = {m.value: values[f"pace/{m}"] for m in (IMAGE, TEXT, TABLE)}
    assert min(factors.values()) < 0.9
    assert max(factors.values()) == 1.0
    whole, found = dict(plain.trainee.model.named_parameters()), dict(paced.trainee.model.named_parameters())
    for name, start in before.items():
        share = factors.get(name.split(".")[1], 1.0)
        torch.testing.assert_close(found[name] - start, share * (whole[name] - start), rtol=1e-3, atol=1e-6)


def test_speeds_are_in_the_checkpoint_and_not_in_the_model_s_file(
    light: Recipe, tiny_cohort: Cohort, tmp_path: Path
) -> None:
    """Stopped and resumed, a run that balances and leaves out comes to the same bits, and its average has no speeds to give."""
    balanced = {"modality_balance": 0.8, "modality_dropout": 0.3, "ema": 0.9}
    stages = tuple(stage.model_copy(update=balanced) for stage in light.stages)
    recipe = Recipe.model_validate(light.model_copy(update={"stages": stages}).model_dump())
    whole = pretrain(recipe, tiny_cohort, into=tmp_path / "whole")

    def stop(done: int, total: int, what: str) -> None:
        if done in (2, 7):
            import signal

            signal.raise_signal(signal.SIGINT)

    for _ in range(2):
        with pytest.raises(InterruptedRunError):
            pretrain(recipe, tiny_cohort, into=tmp_path / "again", progress=stop)
    again = pretrain(recipe, tiny_cohort, into=tmp_path / "again")
    for place in ("weights", "objective_weights"):
        assert getattr(again, place).read_bytes() == getattr(whole, place).read_bytes()
    assert again.metrics().equals(whole.metrics())
    names = {row["name"] for row in whole.metrics().to_pylist()}
    assert {f"{what}/{m}" for what in ("gradient", "pace") for m in ("text", "table", "omics")} <= names
    assert whole.model().state_dict().keys() == whole.model(pretrained=False).state_dict().keys()


has = st.lists(
    st.dictionaries(st.sampled_from([IMAGE, TEXT, TABLE]), st.integers(1, 2), max_size=3), min_size=1, max_size=6
)


@given(has=has, share=st.floats(0, 0.99), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_nobody_is_left_with_nothing_and_modalities_go_whole(
    has: list[dict[Modality, int]], share: float, seed: int
) -> None:
    data = batch({f"p{n}": own for n, own in enumerate(has)})
    found = thinned(data, share, generator(seed))
    assert found.patients == data.patients
    count = lambda b, m, n: 0 if m not in b.payloads else int((b.payloads[m].patient == n).sum())
    for n, own in enumerate(has):
        left = {m: count(found, m, n) for m in own}
        assert all(left[m] in (0, own[m]) for m in own)
        assert not own or any(left.values())
    ids = lambda b: {m: r.ids for m, r in b.payloads.items()}
    assert ids(found) == ids(thinned(data, share, generator(seed)))
    if share == 0:
        assert ids(found) == ids(data)


def test_modalities_go_in_their_shares() -> None:
    """3000 patients with all three: what is left out is what was asked for, but for those who would have had nothing."""
    people = 3000
    data = batch({f"p{n}": {IMAGE: 1, TEXT: 1, TABLE: 1} for n in range(people)})
    found = thinned(data, {IMAGE: 0.5, TEXT: 0.2}, generator(0))
    share = {m: len(found.payloads[m]) / people for m in (IMAGE, TEXT, TABLE)}
    assert share == pytest.approx({IMAGE: 0.5, TEXT: 0.8, TABLE: 1.0}, abs=0.03)
    every = thinned(data, 0.5, generator(0))
    for m in (IMAGE, TEXT, TABLE):  # one in eight loses all three, and keeps one of them
        assert len(every.payloads[m]) / people == pytest.approx(0.5 + 0.125 / 3, abs=0.03)
    kept = thinned(data, 0.9, generator(0), frozenset({TEXT}))
    assert kept.payloads[TEXT].ids == data.payloads[TEXT].ids


def test_the_draw_of_a_modality_does_not_depend_on_which_others_there_are() -> None:
    whole = thinned(batch({f"p{n}": {IMAGE: 1, TEXT: 1, TABLE: 1} for n in range(40)}), {IMAGE: 0.5}, generator(3))
    fewer = thinned(batch({f"p{n}": {IMAGE: 1, TABLE: 1} for n in range(40)}), {IMAGE: 0.5}, generator(3))
    assert whole.payloads[IMAGE].ids == fewer.payloads[IMAGE].ids
    assert 0 < len(fewer.payloads[IMAGE].ids) < 40


def test_a_step_leaves_out_what_is_drawn_and_nothing_else_changes_its_draws() -> None:
    seen: list[int] = []
    stepper = stepper_of(modality_dropout={TEXT: 0.9})
    note = stepper.trainee.register_forward_pre_hook(lambda _, args: seen.append(len(args[0].payloads[TEXT])))
    first = batch()
    stepper.take([first], 12, (0, 0, 0))
    note.remove()
    assert 0 < seen[0] < len(first.payloads[TEXT])
    assert len(first.payloads[TEXT]) == 18  # the loader's batch is as it was


@pytest.mark.parametrize(
    ("override", "found"),
    [
        ("modality_dropout={video: 0.1}", "stages.0.modality_dropout: names video, which has no encoder"),
        ("modality_dropout=1.0", "less than 1"),
        ("modality_balance=-1", "greater than or equal to 0"),
    ],
)
def test_what_cannot_be_balanced_is_refused(override: str, found: str, light_file: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.load(light_file, [f"stages.0.{override}"])
    assert found in str(caught.value)


@pytest.mark.parametrize("override", ["modality_dropout=0.1", "modality_balance=0.5"])
def test_one_encoder_has_nothing_to_be_balanced_with(override: str, light_file: Path) -> None:
    alone = [
        "encoders={text: {kind: bert}}", "tasks={}", "stages=[{name: a, steps: 1, objective: {kind: masked}}]", f"stages.0.{override}",
    ]  # fmt: skip
    with pytest.raises(RecipeError, match="there is one encoder, and nothing to balance it with"):
        Recipe.load(light_file, alone)


def test_a_structure_that_is_to_be_segmented_is_never_left_out() -> None:
    recipe = Recipe.load("demo")
    assert {m for stage in recipe.stages for m in recipe.masked_modalities(stage)} == {Modality.VOLUME}
    assert isinstance(
        own_weights(build_model(TwoTower(width=16), ENCODERS, phantom.fingerprint(), 0))[IMAGE][0], nn.Parameter
    )
