from __future__ import annotations

import pytest
import torch

from polyclinic.fusion import Intermediate
from polyclinic.models import TwoTower, build_model
from polyclinic.objectives import Contrastive, Hybrid, Masked, SegmentationPart, Structure
from polyclinic.schema import Modality, Target
from polyclinic.tokens import phantom

ENCODERS = phantom.encoders()
STANDARDS = {m: s.standard() for m, s in ENCODERS.items()}


def made():
    model = build_model(
        TwoTower(width=16, embedding=16, fusion=Intermediate(depth=1, heads=2)), ENCODERS, phantom.fingerprint(), 0
    )
    batch = phantom.batch(STANDARDS, {p: dict.fromkeys(ENCODERS, 1) for p in "ab"})
    masks = [torch.randint(0, 2, (16, 16, 24), generator=torch.Generator().manual_seed(n)) for n in range(2)]
    batch.targets["structure"] = Target(masks, torch.tensor([True, True]))
    return model, batch


def test_it_is_the_weighted_sum_of_its_parts() -> None:
    model, batch = made()
    parts = (
        Contrastive(weight=0.5),
        SegmentationPart(task="structure", channels=2, weight=3.0),
        Masked(width=16, weight=2.0),
    )
    hybrid = Hybrid(parts=parts).build(model, {"structure": Structure(Modality.VOLUME, ("one",))})
    total = hybrid(model, batch, torch.Generator().manual_seed(0)).total
    each = [part(model, batch, torch.Generator().manual_seed(0)) for part in hybrid.parts.values()]
    assert total is not None
    assert float(total.detach()) == pytest.approx(sum(float(losses.total.detach()) for losses in each), rel=1e-5)
    heavier = Hybrid(parts=(parts[0].model_copy(update={"weight": 1.5}),)).build(model, {})
    lighter = Hybrid(parts=(parts[0],)).build(model, {})
    one, other = (h(model, batch, torch.Generator()).total for h in (heavier, lighter))
    torch.testing.assert_close(one, 3 * other)


def test_two_parts_of_one_kind_both_count() -> None:
    """They have terms of the same names; one used to overwrite the other."""
    model, batch = made()
    hybrid = Hybrid(parts=(Contrastive(temperature=0.07), Contrastive(temperature=1.0))).build(model, {})
    losses = hybrid(model, batch, torch.Generator())
    assert len(losses.terms) == 2 * 36  # pairs of nine modalities
    assert not torch.equal(losses.terms["contrastive/image-text"], losses.terms["contrastive/image-text (1)"])
    assert losses.terms.keys() == losses.weights.keys()


def test_whole_records_are_encoded_once_and_only_where_somebody_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = made()
    calls, encode = [], model.encode
    monkeypatch.setattr(model, "encode", lambda b: calls.append(1) or encode(b))
    everything = Hybrid(parts=(Contrastive(), Masked(width=16), SegmentationPart(task="structure", channels=2)))
    everything.build(model, {"structure": Structure(Modality.VOLUME, ("one",))})(model, batch, torch.Generator())
    assert len(calls) == 1
    Hybrid(parts=(Masked(width=16),)).build(model, {})(model, batch, torch.Generator())
    assert len(calls) == 1


def test_it_names_what_its_parts_name() -> None:
    spec = Hybrid(parts=(Contrastive(pairs=((Modality.TEXT, Modality.IMAGE),)), Masked(modalities=(Modality.OMICS,))))
    assert spec.named() == {Modality.TEXT, Modality.IMAGE, Modality.OMICS}
