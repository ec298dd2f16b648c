from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from polyclinic.fusion import Intermediate
from polyclinic.models import TwoTower, build_model
from polyclinic.objectives import Masked, ObjectiveError, SegmentationPart, Structure
from polyclinic.schema import Batch, Modality, Ragged
from polyclinic.tokens import Encoder, Vit3d, phantom

SPEC = Vit3d(size=(8, 8, 16), patch=(4, 4, 4), scales=(1, 2), width=16, depth=1, heads=2)


def scans() -> Ragged:
    values = torch.randn(2, 1, 8, 8, 16, generator=torch.Generator().manual_seed(0))
    return Ragged(values, torch.tensor([0, 2]), torch.zeros(2), torch.tensor([[2.0, 1.0, 0.5]] * 2), 3, ["a", "c"])


def built(spec: Vit3d = SPEC) -> Encoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return spec.build(phantom.fingerprint())


def test_each_scale_is_what_an_encoder_of_coarser_voxels_sees() -> None:
    """Against the single-scale encoder on a volume whose voxels were averaged by hand."""
    ragged, both = scans(), built()
    tokens = both.embed(ragged)
    assert tokens.lengths.tolist() == [2 * 2 * 4 + 2, 0, 2 * 2 * 4 + 2]
    assert isinstance(ragged.values, torch.Tensor)
    coarse = ragged.values.view(2, 1, 4, 2, 4, 2, 8, 2).mean((3, 5, 7))
    for number, (values, mm, rows) in enumerate(((ragged.values, 1.0, slice(0, 16)), (coarse, 2.0, slice(16, 18)))):
        assert ragged.spacing is not None
        alone = Ragged(values, ragged.patient, ragged.time_h, ragged.spacing * mm, 3, ragged.ids)
        size = values.shape[2], values.shape[3], values.shape[4]
        one = Vit3d(size=size, patch=(4, 4, 4), width=16, depth=1, heads=2).build(phantom.fingerprint())
        known = {k.replace(f"project.{number}.", "project."): v for k, v in both.state_dict().items()}
        one.load_state_dict({k: known[k] for k in one.state_dict()})
        own = one.embed(alone)
        n = rows.stop - rows.start
        torch.testing.assert_close(tokens.values.view(2, 18, -1)[:, rows], own.values.view(2, n, -1))
        torch.testing.assert_close(tokens.position.view(2, 18, 4)[:, rows], own.position.view(2, n, 4))
        torch.testing.assert_close(both.answer(ragged).view(2, 18, -1)[:, rows], one.answer(alone).view(2, n, -1))


def test_boxes_of_two_scales_of_one_volume_see_each_other_and_no_other_volume() -> None:
    ragged, encoder = scans(), built()
    assert isinstance(ragged.values, torch.Tensor)
    before = encoder(ragged).values.view(2, 18, -1)
    ragged.values[0, 0, :4, :4, :4] += torch.randn(4, 4, 4, generator=torch.Generator().manual_seed(1))
    after = encoder(ragged).values.view(2, 18, -1)
    moved = (before - after).abs().amax(2) > 1e-6
    assert moved[0].all()
    assert not moved[1].any()


def test_one_scale_is_the_encoder_as_it_was() -> None:
    assert Vit3d().model_dump(exclude_defaults=True) == {}
    assert sorted(built(SPEC.model_copy(update={"scales": (1,)})).state_dict())[-2:] == [
        "project.bias",
        "project.weight",
    ]


def test_hidden_boxes_of_both_scales_are_asked_for() -> None:
    recipe = TwoTower(width=16, embedding=16, fusion=Intermediate(depth=1, heads=2))
    model = build_model(recipe, {Modality.VOLUME: SPEC}, phantom.fingerprint(), 0)
    batch = Batch({Modality.VOLUME: scans()}, {}, ["a", "b", "c"])
    losses = Masked(width=16).build(model, {})(model, batch, torch.Generator().manual_seed(0))
    assert losses.total is not None
    losses.total.backward()
    assert all(p.grad is not None and p.grad.any() for p in model.encoder(Modality.VOLUME).parameters())
    with pytest.raises(ObjectiveError, match="on no grid"):
        SegmentationPart(task="t").build(model, {"t": Structure(Modality.VOLUME, ("one",))})


@pytest.mark.parametrize("wrong", [(), (0,), (3,), (4,), (1, 1)])
def test_scales_that_do_not_fill_the_volume_are_refused(wrong: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError):
        Vit3d(size=(8, 8, 16), patch=(4, 4, 4), scales=wrong)
