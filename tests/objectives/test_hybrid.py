from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch

from polyclinic.fusion import Intermediate, Late
from polyclinic.models import Model, TwoTower, build_model
from polyclinic.objectives import (
    Caption,
    CausalLanguage,
    Contrastive,
    Dino,
    Hybrid,
    Local,
    Masked,
    Retell,
    SegmentationPart,
    Structure,
)
from polyclinic.schema import Modality, Target
from polyclinic.tokens import Gpt, phantom

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


def read(model: Model) -> Counter[Modality]:
    """How often each encoder reads whole records from now on."""
    found = Counter[Modality]()
    for m in model.modalities:
        model.encoder(m).register_forward_hook(lambda *_, m=m: found.update([m]))
    return found


def test_whole_records_are_encoded_once_and_only_where_somebody_reads_them() -> None:
    model, batch = made()
    found = read(model)
    everything = Hybrid(parts=(Contrastive(), Masked(width=16), SegmentationPart(task="structure", channels=2)))
    everything.build(model, {"structure": Structure(Modality.VOLUME, ("one",))})(model, batch, torch.Generator())
    assert found == dict.fromkeys(ENCODERS, 1)
    found.clear()
    Hybrid(parts=(Masked(width=16),)).build(model, {})(model, batch, torch.Generator())
    assert not found
    pair = Contrastive(pairs=((Modality.IMAGE, Modality.TEXT),))
    Hybrid(parts=(pair, Dino(modalities=(Modality.OMICS,)))).build(model, {})(model, batch, torch.Generator())
    assert found == {Modality.IMAGE: 1, Modality.TEXT: 1}


PAIR = Contrastive(pairs=((Modality.IMAGE, Modality.TEXT),))
COCA = Caption(modalities=(Modality.IMAGE,), queries=2, width=16)


@pytest.mark.parametrize(
    "parts", [(PAIR, COCA), (COCA, PAIR), (Retell(width=16), PAIR, COCA), (PAIR, CausalLanguage()), (Local(), COCA)]
)
def test_a_note_is_read_once_for_all_parts_and_they_learn_what_they_did_alone(parts: tuple[Any, ...]) -> None:
    """Contrast, captions and next words of one causal encoder (CoCa, Yu et al. 2022, section 3.2); whoever asks first."""
    encoders = {Modality.IMAGE: ENCODERS[Modality.IMAGE], Modality.TEXT: Gpt(words=12, width=24, depth=2, heads=2)}
    model = build_model(TwoTower(width=16, embedding=16, fusion=Late()), encoders, phantom.fingerprint(), 0)
    batch = phantom.batch(STANDARDS, {p: {Modality.IMAGE: 1, Modality.TEXT: 2} for p in "abc"})
    hybrid: Any = Hybrid(parts=parts).build(model, {})
    learned = [*model.parameters(), *hybrid.parameters()]
    apart = [part(model, batch, draws()) for part in hybrid.parts.values()]
    expected = torch.autograd.grad(sum(losses.total for losses in apart), learned, allow_unused=True)  # type: ignore[arg-type]
    found, together = read(model), hybrid(model, batch, draws())
    for losses in apart:
        for name, term in losses.terms.items():
            if not name.startswith("retell"):  # whose noise is another draw
                assert torch.equal(together.terms[name], term), name
    assert found == {Modality.IMAGE: 1, Modality.TEXT: 1}
    if not any(isinstance(part, Retell) for part in parts):
        for one, other in zip(torch.autograd.grad(together.total, learned, allow_unused=True), expected, strict=True):
            assert (one is None) == (other is None)
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_it_names_what_its_parts_name() -> None:
    spec = Hybrid(parts=(Contrastive(pairs=((Modality.TEXT, Modality.IMAGE),)), Masked(modalities=(Modality.OMICS,))))
    assert spec.named() == {Modality.TEXT, Modality.IMAGE, Modality.OMICS}


def three() -> tuple[Contrastive, SegmentationPart, Masked]:
    return (
        Contrastive(weight=0.5),
        SegmentationPart(task="structure", channels=2, weight=3.0),
        Masked(width=16, weight=2.0),
    )


def draws() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_learned_uncertainties_weigh_the_parts_and_are_terms() -> None:
    model, batch = made()
    hybrid: Any = Hybrid(parts=three(), balance="uncertainty").build(
        model, {"structure": Structure(Modality.VOLUME, ("one",))}
    )
    logs = {"0_contrastive": 1.0, "1_segmentation": -0.5, "2_masked": 0.25}
    for name, value in logs.items():
        hybrid.balance.log_variance[name].data.fill_(value)
    losses = hybrid(model, batch, draws())
    each = {name: part(model, batch, draws()).total for name, part in hybrid.parts.items()}
    expected = sum(math.exp(-logs[n]) * each[n].item() + logs[n] / 2 for n in logs)
    assert losses.total is not None
    assert losses.total.item() == pytest.approx(expected, rel=1e-5)
    losses.total.backward()
    for name, value in logs.items():  # d/ds of exp(-s) L + s / 2
        slope = hybrid.balance.log_variance[name].grad
        assert slope.item() == pytest.approx(0.5 - math.exp(-value) * each[name].item(), rel=1e-4)
    batch.targets = {}
    assert "uncertainty/1_segmentation" not in hybrid(model, batch, draws()).terms


def test_gradnorm_measures_each_part_on_the_bridges_and_keeps_its_weights_between_steps() -> None:
    model, batch = made()
    hybrid: Any = Hybrid(parts=three(), balance="gradnorm", alpha=0.0, rate=0.1).build(
        model, {"structure": Structure(Modality.VOLUME, ("one",))}
    )
    norms, bridges = {}, list[Any](model.bridge.values())
    for name, part in hybrid.parts.items():
        model.zero_grad()
        part(model, batch, draws()).total.backward()
        norms[name] = math.sqrt(sum(float(b.weight.grad.square().sum()) for b in bridges if b.weight.grad is not None))
    fixed: Any = Hybrid(parts=three()).build(model, {"structure": Structure(Modality.VOLUME, ("one",))})
    fixed.parts.load_state_dict(hybrid.parts.state_dict())
    model.zero_grad()
    first = hybrid(model, batch, draws())
    torch.testing.assert_close(
        first.total, fixed(model, batch, draws()).total
    )  # all weights are 1 before the first step
    assert hybrid.balance.measured()[1].tolist() == pytest.approx(list(norms.values()), rel=1e-4)
    first.total.backward()
    assert any(p.grad is not None for p in model.encoder(Modality.IMAGE).parameters())
    hybrid.stepped(model, 0.1)
    weights = hybrid.balance.weights.tolist()
    # Whose gradient is above the mean steps down by the rate, the others up; then the weights are a number's worth of parts again.
    mean = sum(norms.values()) / 3
    stepped = [math.exp(-0.1 if norm > mean else 0.1) for norm in norms.values()]
    assert len(set(stepped)) == 2
    assert weights == pytest.approx([3 * w / sum(stepped) for w in stepped])
    again = hybrid(model, batch, draws())
    for number, name in enumerate(hybrid.parts):
        kind = name.split("_")[1]
        ratio = [again.weights[n] / fixed(model, batch, draws()).weights[n] for n in again.terms if n.startswith(kind)]
        assert ratio == pytest.approx([weights[number]] * len(ratio), rel=1e-5)


def test_its_parts_move_what_they_keep() -> None:
    model, batch = made()
    spec = Hybrid(parts=(Dino(modalities=(Modality.IMAGE,), smalls=1, prototypes=4, width=16), Contrastive()))
    hybrid: Any = spec.build(model, {})
    hybrid(model, batch, draws())
    hybrid.stepped(model, 0.5)
    dino = hybrid.parts["0_dino"]
    assert dino.done.item() == 0.5
    assert dino.get_buffer("centre_image").abs().sum() > 0
