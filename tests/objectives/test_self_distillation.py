from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from polyclinic.fusion import Early, Intermediate
from polyclinic.fusion.pooling import balanced
from polyclinic.models import Model, TwoTower, Unified, build_model
from polyclinic.objectives import Dino, Ibot, SelfDistillationObjective
from polyclinic.objectives.teacher import token_loss, view_loss
from polyclinic.objectives.views import draw, jittered
from polyclinic.schema import Modality
from polyclinic.tokens import phantom

ENCODERS = phantom.encoders()
STANDARDS = {m: s.standard() for m, s in ENCODERS.items()}
IMAGE, TEXT, SIGNAL = Modality.IMAGE, Modality.TEXT, Modality.SIGNAL
SMALL: dict[str, Any] = {"smalls": 2, "prototypes": 6, "width": 16}


def made(spec: Dino | Ibot, kind: type[TwoTower | Unified] = TwoTower, fusion: Any = None) -> tuple[Model, Any]:
    fusion = fusion or Intermediate(depth=1, heads=2)
    model = build_model(kind(width=16, embedding=8, fusion=fusion), ENCODERS, phantom.fingerprint(), 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return model, spec.build(model, {})


def a_step(model: Model, objective: SelfDistillationObjective, seed: int, done: float) -> dict[str, float]:
    """A step of plain gradient descent."""
    batch = phantom.batch(STANDARDS, {p: {IMAGE: 1, TEXT: 1} for p in "abc"}, seed)
    learned = [p for p in (*model.parameters(), *objective.parameters()) if p.requires_grad]
    losses = objective(model, batch, torch.Generator().manual_seed(seed))
    assert losses.total is not None
    losses.total.backward()
    with torch.no_grad():
        for p in learned:
            if p.grad is not None:
                p -= 0.1 * p.grad
            p.grad = None
    objective.stepped(model, done)
    return {name: float(term.detach()) for name, term in losses.terms.items()}


def distributions(n: int, k: int, seed: int) -> torch.Tensor:
    return torch.softmax(torch.randn(n, k, generator=torch.Generator().manual_seed(seed)), 1)


def test_views_are_compared_as_in_the_papers_algorithm() -> None:
    record, g = (
        [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2],
        6,
    )  # two views of three records that the teacher sees, two that it does not
    student, teacher = distributions(12, 5, 0), distributions(g, 5, 1)
    losses = [
        -sum(float(t) * math.log(float(s)) for t, s in zip(teacher[i], student[j], strict=True))
        for i in range(g) for j in range(12) if record[i] == record[j] and i != j
    ]  # fmt: skip
    assert len(losses) == 3 * 2 * 3
    found, count = view_loss(student.log(), teacher, torch.tensor(record))
    assert (float(found), int(count)) == (pytest.approx(sum(losses), rel=1e-5), len(losses))


def test_masked_tokens_count_by_view() -> None:
    student, teacher, view = distributions(5, 4, 0), distributions(5, 4, 1), [0, 0, 0, 2, 2]
    each = [-float((t * s.log()).sum()) for t, s in zip(teacher, student, strict=True)]
    found, count = token_loss(student.log(), teacher, torch.tensor(view))
    assert (float(found), int(count)) == (pytest.approx(np.mean(each[:3]) + np.mean(each[3:]), rel=1e-5), 2)


@pytest.mark.parametrize("kind", [TwoTower, Unified])
@pytest.mark.parametrize("fusion", [Intermediate(depth=1, heads=2), Early(depth=1, heads=2)])
def test_the_whole_is_what_one_view_at_a_time_gives(kind: type[TwoTower | Unified], fusion: Any) -> None:
    """Each view through the networks alone, and the formulas of both papers on the answers; after two steps, so that all has moved."""
    model, objective = made(Ibot(modalities=(IMAGE,), jitter=0.3, **SMALL), kind, fusion)
    for n in range(2):
        a_step(model, objective, n, n / 10)
    batch = phantom.batch(STANDARDS, {p: {IMAGE: 1} for p in "ab"})
    found = objective(model, batch, torch.Generator().manual_seed(5)).terms

    seed = int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(5))) + IMAGE.number
    ragged, encoder, scale = batch.payloads[IMAGE], model.encoder(IMAGE), model.encoder(IMAGE).position.scale
    views = draw(encoder.embed(ragged), ragged.ids, [(0.4, 1.0)] * 2 + [(0.05, 0.4)] * 2, seed, scale)
    looks = jittered(ragged, IMAGE, 4, 0.3, seed)
    large = views.first(4).of(encoder.embed(ragged))
    hide = draw(large, ["image-a-0/0", "image-b-0/0", "image-a-0/1", "image-b-0/1"], [(0.3, 0.3)], seed, scale)

    def alone(network: Any, head: Any, number: int, masked: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """A view's answer, and its tokens' answers."""
        own = network.encoder(IMAGE)
        embedded = own.embed(looks[number // 2])
        mine = views.token[views.view == number]
        tokens = type(views)(mine, torch.zeros_like(mine), views.record[number : number + 1]).of(embedded)
        if masked:
            starts = int((views.view < number).sum())
            rows = hide.token[hide.view == number] - starts
            tokens.values = tokens.values.clone()
            tokens.values[rows] = objective.hidden["image"] + own.position(tokens.position[rows], tokens.time_h[rows])
        seen = network.alone(network.bridged(IMAGE, own.trunk(tokens)))
        return head(balanced(seen))[0], head(seen.values)

    temperature = 0.04 + 0.03 * (0.1 / 0.3)
    sharp = lambda x, centre: torch.softmax((x - objective.get_buffer(centre)) / temperature, -1)
    teacher = [alone(objective.teacher.model, objective.teacher.heads["image"], n, False) for n in range(4)]
    student = [alone(model, objective.heads["image"], n, n < 4) for n in range(8)]
    answers = [F.log_softmax(whole / 0.1, 0) for whole, _ in student]
    crossed = [
        -(sharp(teacher[i][0], "centre_image") * answers[j]).sum() for i in range(4) for j in range(8) if i % 2 == j % 2 and i != j
    ]  # fmt: skip
    torch.testing.assert_close(found["dino/image"], torch.stack(crossed).mean(), atol=1e-4, rtol=1e-4)
    tokens = []
    for number in range(4):
        rows = hide.token[hide.view == number] - int((views.view < number).sum())
        wanted = sharp(teacher[number][1][rows], "centre_tokens_image")
        tokens.append(-(wanted * F.log_softmax(student[number][1][rows] / 0.1, 1)).sum(1).mean())
    torch.testing.assert_close(found["ibot/image"], torch.stack(tokens).mean(), atol=1e-4, rtol=1e-4)


def test_the_teacher_is_the_students_running_mean_and_the_centre_its_answers() -> None:
    """Both by the papers' formulas, step by step, from the weights that each step left."""
    spec = Dino(modalities=(IMAGE,), momentum=0.9, jitter=0.0, **SMALL)
    model, objective = made(spec)
    student = lambda: [p.detach().clone() for p in (*model.parameters(), *objective.heads.parameters())]
    teacher, centre, steps = student(), torch.zeros(6), 4
    for step in range(steps):
        batch = phantom.batch(STANDARDS, {p: {IMAGE: 1, TEXT: 1} for p in "abc"}, step)
        ragged, encoder = batch.payloads[IMAGE], objective.teacher.model.encoder(IMAGE)
        seed = int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(step))) + IMAGE.number
        shares = [(0.4, 1.0)] * 2 + [(0.05, 0.4)] * 2
        views = draw(encoder.embed(ragged), ragged.ids, shares, seed, encoder.position.scale).first(6)
        seen = objective.teacher.model.bridged(IMAGE, encoder.trunk(views.of(encoder.embed(ragged))))
        said = objective.teacher.heads["image"](balanced(seen)).mean(0)
        a_step(model, objective, step, (step + 1) / steps)
        momentum = 1 - (1 - 0.9) * (math.cos(math.pi * step / steps) + 1) / 2
        teacher = [momentum * t + (1 - momentum) * s for t, s in zip(teacher, student(), strict=True)]
        centre = 0.9 * centre + 0.1 * said
        mine = [*objective.teacher.model.parameters(), *objective.teacher.heads.parameters()]
        torch.testing.assert_close([p.detach() for p in mine], teacher, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(objective.get_buffer("centre_image"), centre, atol=1e-4, rtol=1e-3)
    assert float(objective.done) == 1.0


@pytest.mark.parametrize("spec", [Dino(**SMALL), Ibot(**SMALL)])
def test_asking_changes_nothing_and_teaches_the_student_alone(spec: Dino | Ibot) -> None:
    model, objective = made(spec)
    a_step(model, objective, 0, 0.1)
    before = {k: v.clone() for k, v in objective.state_dict().items()}
    batch = phantom.batch(STANDARDS, {p: dict.fromkeys(ENCODERS, 1) for p in "ab"})
    total = objective.train()(model, batch, torch.Generator()).total
    assert total is not None
    total.backward()
    assert all(torch.equal(v, before[k]) for k, v in objective.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in objective.teacher.parameters())
    assert not any(module.training for module in objective.teacher.modules())
    assert all(p.grad is not None for p in (*objective.heads.parameters(), *objective.hidden.parameters()))
    objective.eval()
    objective.seen = {}
    objective(model, batch, torch.Generator())
    assert objective.seen == {}  # what is only looked at moves no centre


def test_prototypes_stand_still_in_the_first_hundredth_of_a_stage() -> None:
    model, objective = made(Ibot(modalities=(IMAGE,), **SMALL))
    head = objective.heads["image"]
    for done, moves in ((0.0, False), (0.005, False), (0.02, True)):
        before, layer = head.prototypes.detach().clone(), head.layers[0].weight.detach().clone()
        objective.done.fill_(done)
        a_step(model, objective, 0, done)
        assert torch.equal(head.prototypes, before) is not moves
        assert not torch.equal(head.layers[0].weight, layer)


def test_what_is_hidden_from_the_student_teaches_it_nothing() -> None:
    """A sample that no view of the student's shows has no gradient, although the teacher reads it."""
    model, objective = made(
        Ibot(modalities=(IMAGE,), large=(1.0, 1.0), ratio=0.5, jitter=0.0, smalls=0, prototypes=6, width=16)
    )
    batch = phantom.batch(STANDARDS, {"a": {IMAGE: 1}})
    ragged, encoder = batch.payloads[IMAGE], model.encoder(IMAGE)
    assert isinstance(ragged.values, torch.Tensor)
    seed = int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(2))) + IMAGE.number
    tokens = encoder.embed(ragged)
    views = draw(tokens, ragged.ids, [(1.0, 1.0)] * 2, seed, encoder.position.scale)
    hide = draw(views.of(tokens), ["image-a-0/0", "image-a-0/1"], [(0.5, 0.5)], seed, encoder.position.scale)
    twice = torch.bincount(hide.token % 16, minlength=16) == 2
    ragged.values.requires_grad_()
    terms = objective(model, batch, torch.Generator().manual_seed(2)).terms
    gradient = torch.autograd.grad(terms["ibot/image"], ragged.values)[0]
    by_token = gradient.reshape(4, 8, 4, 8).permute(0, 2, 1, 3).reshape(16, 64).abs().sum(1)
    assert twice.any()
    assert torch.equal(by_token == 0, twice)


def test_words_and_what_a_lead_lacks_are_not_jittered() -> None:
    text, signal = (phantom.ragged(STANDARDS[m], {"a": 1, "b": 1}) for m in (TEXT, SIGNAL))
    assert all(same is text for same in jittered(text, TEXT, 3, 0.5, 0))
    assert all(same is signal for same in jittered(signal, SIGNAL, 2, 0.0, 0))
    looks = jittered(signal, SIGNAL, 2, 0.5, 0)
    assert isinstance(signal.values, torch.Tensor)
    for look in looks:
        assert isinstance(look.values, torch.Tensor)
        assert torch.equal(look.values.isnan(), signal.values.isnan())
        for x, y in zip(signal.values, look.values, strict=True):
            known = x.isfinite()
            one, other = x[known], y[known]  # a line maps one to the other, upwards
            assert float(torch.corrcoef(torch.stack([one, other]))[0, 1]) == pytest.approx(1.0, abs=1e-4)
            assert float((one - other).abs().max()) > 0
    assert not torch.equal(*(look.values.nan_to_num() for look in looks))  # type: ignore[arg-type]


def test_a_share_that_is_none_is_refused() -> None:
    for share in ((0.0, 0.5), (0.6, 0.5), (0.5, 1.1)):
        with pytest.raises(ValidationError, match="shares from"):
            Dino(large=share)


def test_tables_teach_themselves_only_where_they_are_named() -> None:
    model, objective = made(Dino(**SMALL))
    assert set(objective.heads) == {m.value for m in ENCODERS if m is not Modality.TABLE}
    assert set(made(Dino(modalities=(Modality.TABLE,), **SMALL))[1].heads) == {"table"}
    assert "teacher" not in " ".join(model.state_dict())
