"""Latent diffusion on pictures of two kinds: samples are of the kinds there are, and of the one that a note asks for."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from polyclinic.fusion import Late
from polyclinic.models import Model, TwoTower, build_model
from polyclinic.objectives import LatentDiffusion, LatentDiffusionObjective, ObjectiveError
from polyclinic.schema import Batch, Modality, Ragged
from polyclinic.tokens import Bert, Vit, Vit3d, phantom

SIZE: dict[str, Any] = {"width": 16, "depth": 1, "heads": 2}
SPEC = LatentDiffusion(target=Modality.IMAGE, channels=4, latent=2, width=32, depth=2, heads=2, share=0.3, drop=0.2)
NOTES = [torch.tensor([2, 10, 11]), torch.tensor([2, 20, 11])]


def model() -> Model:
    encoders = {
        Modality.IMAGE: Vit(size=16, patch=8, **SIZE), Modality.TEXT: Bert(words=8, **SIZE),
        Modality.VOLUME: Vit3d(size=(8, 8, 8), patch=(4, 4, 4), **SIZE),
    }  # fmt: skip
    return build_model(TwoTower(width=16, embedding=16, fusion=Late()), encoders, phantom.fingerprint(), 0)


def built(spec: LatentDiffusion, net: Model) -> LatentDiffusionObjective:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return spec.build(net, {})


def ragged(values: Any, patients: int, kinds: list[str] | None = None, who: list[int] | None = None) -> Ragged:
    n = len(values)
    owner = torch.tensor(who) if who else torch.arange(n)
    return Ragged(values, owner, torch.zeros(n), None, patients, [str(i) for i in range(n)], None, kinds)


def modes() -> Tensor:
    """The left or the right half is bright: (2 1 16 16)."""
    left = torch.full((1, 16, 16), -1.0)
    left[:, :, :8] = 1
    return torch.stack([left, -left])


def batch(kinds: Tensor, draws: torch.Generator, notes: bool = True) -> Batch:
    images = modes()[kinds] + 0.1 * torch.randn(len(kinds), 1, 16, 16, generator=draws)
    payloads = {Modality.IMAGE: ragged(images, len(kinds))}
    if notes:
        payloads[Modality.TEXT] = ragged([NOTES[k] for k in kinds.tolist()], len(kinds))
    return Batch(payloads, {}, [str(n) for n in range(len(kinds))])


STEPS = 200


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    """Convolutions this small take longer by two threads than by one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def trained() -> tuple[Model, LatentDiffusionObjective, list[dict[str, float]], dict[str, Tensor]]:
    """The model, the objective, the terms of each step, and the autoencoder as it was when it came to stand still."""
    net = model()
    objective, draws = built(SPEC, net), torch.Generator().manual_seed(0)
    adam = torch.optim.AdamW([*net.parameters(), *objective.parameters()], 1e-3, fused=True)
    curve, still = [], {}
    for step in range(STEPS):
        losses = objective(net, batch(torch.randint(0, 2, (16,), generator=draws), draws), draws)
        assert losses.total is not None
        adam.zero_grad()
        losses.total.backward()
        adam.step()
        objective.stepped(net, (step + 1) / STEPS)
        curve.append({name: float(term.detach()) for name, term in losses.terms.items()})
        if not still and not objective.learning:
            still = {name: t.clone() for name, t in objective.autoencoder.state_dict().items()}
    return net, objective.eval(), curve, still


def kind_of(found: Tensor) -> tuple[Tensor, Tensor]:
    """Which of the modes each is closest to, and the mean absolute difference."""
    far = (found[:, None] - modes()).abs().mean((2, 3, 4))
    return far.argmin(1), far.min(1).values


def test_it_learns_and_the_autoencoder_comes_to_stand_still() -> None:
    _, objective, curve, still = trained()
    mean = lambda name, rows: sum(row[name] for row in rows) / len(rows)
    learning = [row for row in curve if "reconstruction/image" in row]
    assert len(learning) == round(0.3 * STEPS)
    assert curve[: len(learning)] == learning
    assert mean("reconstruction/image", learning[-10:]) < 0.25 * learning[0]["reconstruction/image"]
    assert mean("denoising/image", curve[-50:]) < 0.6 * mean("denoising/image", curve[:10])
    assert all(torch.equal(tensor, still[name]) for name, tensor in objective.autoencoder.state_dict().items())


def test_samples_are_of_the_kind_that_is_asked_for() -> None:
    net, objective, _, _ = trained()
    draws = torch.Generator().manual_seed(1)
    kinds = torch.randint(0, 2, (64,), generator=draws)
    data = batch(1 - kinds, draws)  # what images there are says the opposite, and is not read
    data.payloads[Modality.TEXT] = ragged([NOTES[k] for k in kinds.tolist()], 64)
    _, found = objective.sample(net, data, 25, 2.0, draws)
    assert found.shape == (64, 1, 16, 16)
    which, far = kind_of(found)
    assert float((which == kinds).float().mean()) > 0.95
    assert float(far.median()) < 0.3  # the modes are 2 apart
    _, one = objective.sample(net, data, 5, 2.0, torch.Generator().manual_seed(2))
    _, same = objective.sample(net, data, 5, 2.0, torch.Generator().manual_seed(2))
    assert torch.equal(one, same)


def test_of_whom_nothing_is_known_there_are_both_kinds() -> None:
    net, objective, _, _ = trained()
    draws = torch.Generator().manual_seed(1)
    data = batch(torch.zeros(64, dtype=torch.int64), draws, notes=False)
    which, far = kind_of(objective.sample(net, data, 25, 2.0, draws)[1])
    assert 0.2 < float(which.float().mean()) < 0.8
    assert float(far.median()) < 0.3
    # With a guidance of 0 what is known is left out.
    told = batch(torch.zeros(64, dtype=torch.int64), draws)
    a, b = (objective.sample(net, d, 5, 0.0, torch.Generator().manual_seed(2))[1] for d in (data, told))
    assert torch.equal(a, b)


def test_guidance_weighs_what_is_known_against_nothing() -> None:
    net, objective, _, _ = trained()
    data = batch(torch.tensor([0, 1, 1]), torch.Generator().manual_seed(0))
    at = data.payloads[Modality.IMAGE]
    z, seen = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(3)), SPEC.shown(net, data)
    with torch.no_grad():
        known, alone = (objective._velocity(at, z, torch.full((3,), 999), s) for s in (seen, None))
        v = alone + 3 * (known - alone)
        left = objective.left[999]
        x = (left.sqrt() * z - (1 - left).sqrt() * v).float()
        expected = objective.autoencoder.decode(x * objective.spread + objective.centre)
        _, found = objective.sample(net, data, 1, 3.0, torch.Generator().manual_seed(3))
    assert not torch.allclose(known, alone, atol=1e-3)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_the_records_that_are_shown_are_taught_and_the_target_is_not_read() -> None:
    net, _, _, _ = trained()
    fresh = model()
    taught = lambda m: (
        not all(
            torch.equal(a, b) for a, b in zip(net.encoder(m).parameters(), fresh.encoder(m).parameters(), strict=True)
        )
    )
    assert taught(Modality.TEXT)
    moved = dict(net.encoder(Modality.IMAGE).named_parameters())
    for name, p in fresh.encoder(Modality.IMAGE).named_parameters():
        assert torch.equal(moved[name], p), name


def test_volumes_of_a_kind_from_those_of_another() -> None:
    spec = LatentDiffusion(
        target=Modality.VOLUME, target_kind="CT", source_kind="MR", channels=4, latent=2, width=16, depth=1, heads=2
    )
    net, draws = model(), torch.Generator().manual_seed(0)
    objective = built(spec, net)
    volumes = torch.randn(3, 1, 8, 8, 8, generator=draws)
    data = Batch({Modality.VOLUME: ragged(volumes, 3, ["MR", "CT", "CT"], [0, 0, 2])}, {}, list("abc"))
    assert set(objective(net, data, draws).terms) == {"denoising/volume", "reconstruction/volume", "kl/volume"}
    at, found = objective.sample(net, data, 2, 2.0, draws)
    assert at.ids == ["0"]  # the MR says where the CT would lie
    assert found.shape == (1, 1, 8, 8, 8)
    at, found = objective.sample(net, data, 2, 2.0, draws, data.payloads[Modality.VOLUME].only([0, 2]))
    assert found.shape == (2, 1, 8, 8, 8)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValidationError, match="no grid to be generated on"):
        LatentDiffusion(target=Modality.TEXT)
    with pytest.raises(ValidationError, match="3 heads do not divide"):
        LatentDiffusion(target=Modality.IMAGE, heads=3)
    net, draws = model(), torch.Generator()
    objective = built(SPEC.model_copy(update={"patch": 8}), net)
    with pytest.raises(ObjectiveError, match="16 x 16 samples, which places of 32 along"):
        objective(net, batch(torch.tensor([0]), draws), draws)
    with pytest.raises(ObjectiveError, match="says where it lies"):
        objective.sample(net, Batch({Modality.TEXT: ragged(NOTES[:1], 1)}, {}, ["a"]))
