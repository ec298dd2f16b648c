from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.fusion import Early, Intermediate, Late
from polyclinic.fusion.fusion import FusionFields
from polyclinic.models import Model, TwoTower, build_model
from polyclinic.objectives import Masked, PatchDecoder
from polyclinic.objectives.generative import answer_loss, keep_some
from polyclinic.schema import Batch, Modality
from polyclinic.tokens import phantom, select

ENCODERS = phantom.encoders()
STANDARDS = {m: s.standard() for m, s in ENCODERS.items()}
INTERMEDIATE = Intermediate(depth=1, heads=2)


def model_of(fusion: FusionFields = INTERMEDIATE) -> Model:
    spec = TwoTower.model_validate(
        {
            "width": 16,
            "embedding": 16,
            "fusion": fusion.model_dump() | {"kind": type(fusion).model_fields["kind"].default},
        }
    )
    return build_model(spec, ENCODERS, phantom.fingerprint(), 0)


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def built(spec: Masked, model: Model):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return spec.build(model, {})


@given(st.lists(st.integers(1, 60), min_size=1, max_size=8), st.floats(0.05, 0.95), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_of_each_record_the_share_stays_and_at_least_one(lengths: list[int], ratio: float, seed: int) -> None:
    record = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)) * 3 + 1
    keep = keep_some(record, ratio, draws(seed))
    kept = [int(part.sum()) for part in keep.split(lengths)]
    assert all(
        k >= 1 and (k == 1 or abs(k - (1 - ratio) * n) <= 0.5 + 1e-6) for k, n in zip(kept, lengths, strict=True)
    )


def test_every_token_has_its_turn() -> None:
    record = torch.tensor([0] * 4 + [1] * 10)
    share = torch.stack([keep_some(record, 0.5, draws(seed)).float() for seed in range(400)]).mean(0)
    torch.testing.assert_close(share, torch.full((14,), 0.5), atol=0.1, rtol=0)


def test_no_tokens_at_all() -> None:
    assert keep_some(torch.zeros(0, dtype=torch.int64), 0.5, draws()).tolist() == []


@pytest.mark.parametrize("modality", [Modality.IMAGE, Modality.VOLUME, Modality.SIGNAL, Modality.OMICS])
def test_what_is_kept_does_not_carry_what_is_hidden(modality: Modality) -> None:
    """The gradient of the kept tokens, after the trunk, is zero at all samples that the hidden ones were made of."""
    encoder = model_of().encoder(modality)
    ragged = phantom.ragged(STANDARDS[modality], {"a": 2})
    assert isinstance(ragged.values, torch.Tensor)
    ragged.values.requires_grad_()
    every = encoder.embed(ragged)
    keep = keep_some(every.record, 0.5, draws())
    seen = encoder.trunk(select(every, keep)).values
    of_kept = torch.autograd.grad(seen.square().sum(), ragged.values, retain_graph=True)[0].nan_to_num() != 0
    of_hidden = torch.autograd.grad(every.values[~keep].sum(), ragged.values)[0].nan_to_num() != 0
    assert of_kept.any()
    assert of_hidden.any()
    assert not (of_kept & of_hidden).any()


def hide(model: Model, batch: Batch, spec: Masked, seed: int = 0) -> dict[str, torch.Tensor]:
    return built(spec, model)(model, batch, draws(seed)).terms


def test_the_loss_is_the_mean_square_to_the_standardised_patches() -> None:
    """Decoders that say nothing are off by the mean square of the standardised patch: its variance over itself and 0.01."""
    model = model_of()
    batch = phantom.batch(STANDARDS, {"a": {Modality.IMAGE: 2}})
    objective = built(Masked(width=16), model)
    decoder = objective.decoders[Modality.IMAGE.value]
    assert isinstance(decoder, PatchDecoder)
    for p in decoder.leave.parameters():
        p.requires_grad_(False).zero_()
    term = objective(model, batch, draws()).terms["masked/image"].detach()
    assert float(term) == pytest.approx(1.0, abs=0.05)
    flat = batch.payloads[Modality.IMAGE].values
    assert isinstance(flat, torch.Tensor)
    flat[:] = 7.0  # an image without contrast: nothing to answer
    assert float(objective(model, batch, draws()).terms["masked/image"].detach()) == 0.0


def test_a_gene_that_was_not_measured_asks_nothing() -> None:
    encoder = model_of().encoder(Modality.OMICS)
    wanted = torch.tensor([[1.0, torch.nan], [torch.nan, 3.0]])
    answers = torch.tensor([[0.0, 50.0], [-9.0, 1.0]], requires_grad=True)
    loss = answer_loss(encoder, answers, wanted)
    assert loss.item() == pytest.approx((1 + 4) / 2)
    gradient = torch.autograd.grad(loss, answers)[0]
    assert gradient.tolist() == [[-1.0, 0.0], [0.0, -2.0]]


def test_words_are_asked_for_by_their_number() -> None:
    encoder = model_of().encoder(Modality.TEXT)
    answers = torch.zeros(3, phantom.WORDS)
    assert answer_loss(encoder, answers, torch.tensor([4, 7, 4])).item() == pytest.approx(
        torch.tensor(phantom.WORDS).log().item()
    )


def test_tables_are_not_asked_for_unless_named() -> None:
    model, batch = model_of(), phantom.batch(STANDARDS, {"a": dict.fromkeys(ENCODERS, 2)})
    assert set(hide(model, batch, Masked(width=16))) == {f"masked/{m}" for m in ENCODERS if m is not Modality.TABLE}
    assert set(hide(model, batch, Masked(width=16, modalities=(Modality.TABLE,)))) == {"masked/table"}


def test_terms_share_the_weight() -> None:
    model, batch = model_of(), phantom.batch(STANDARDS, {"a": {Modality.IMAGE: 1, Modality.OMICS: 1}})
    assert built(Masked(width=16, weight=3.0), model)(model, batch, draws()).weights == {
        "masked/image": 1.5,
        "masked/omics": 1.5,
    }


def test_another_draw_hides_other_tokens() -> None:
    model, batch = model_of(), phantom.batch(STANDARDS, {"a": dict.fromkeys(ENCODERS, 2)})
    one, other = (hide(model, batch, Masked(width=16), seed) for seed in (0, 1))
    assert all(not torch.equal(term, other[name]) for name, term in one.items())


def test_a_record_of_one_token_is_not_hidden() -> None:
    model, batch = model_of(), phantom.batch(STANDARDS, {"a": {Modality.TEXT: 1}})
    batch.payloads[Modality.TEXT].values = [torch.tensor([2])]
    assert hide(model, batch, Masked(width=16)) == {}


@pytest.mark.parametrize("dropped", [Modality.IMAGE, Modality.TEXT])
def test_absence_of_a_modality_changes_no_other_term(dropped: Modality) -> None:
    """The draw too: the others hide the same tokens, whatever else a patient has."""
    model, has = model_of(), {p: dict.fromkeys(ENCODERS, 1) for p in "ab"}
    objective, whole = built(Masked(width=16), model), phantom.batch(STANDARDS, has)
    fewer = Batch({m: r for m, r in whole.payloads.items() if m is not dropped}, {}, whole.patients)
    before, after = objective(model, whole, draws()).terms, objective(model, fewer, draws()).terms
    assert set(before) - set(after) == {f"masked/{dropped}"}
    assert all(torch.equal(before[name], term) for name, term in after.items())


def reach(model: Model, spec: Masked) -> dict[Modality, bool]:
    """Whether the term of the images of patient a teaches the encoder of each modality."""
    batch = phantom.batch(STANDARDS, {"a": {Modality.IMAGE: 1, Modality.TEXT: 1, Modality.TABLE: 1}})
    model.zero_grad()
    built(spec, model)(model, batch, draws()).terms["masked/image"].backward()
    return {m: any(p.grad is not None and p.grad.any() for p in model.encoder(m).parameters()) for m in batch.payloads}


def test_within_a_record_other_modalities_do_not_help() -> None:
    found = reach(model_of(), Masked(width=16))
    assert found == {Modality.IMAGE: True, Modality.TEXT: False, Modality.TABLE: False}


@pytest.mark.parametrize(
    ("fusion", "context"),
    [
        (INTERMEDIATE, "patient"),
        (Intermediate(style="class_tokens", depth=1, heads=2), "patient"),
        (Early(depth=1, heads=2), "record"),
    ],
)
def test_within_a_patient_all_modalities_help_and_the_fusion_learns(fusion: FusionFields, context: str) -> None:
    model = model_of(fusion)
    found = reach(model, Masked.model_validate({"kind": "masked", "width": 16, "context": context}))
    assert found == {Modality.IMAGE: True, Modality.TEXT: True, Modality.TABLE: True}
    assert all(p.grad is not None and p.grad.any() for n, p in model.fusion.named_parameters() if n.endswith("weight"))


@pytest.mark.parametrize("fusion", [INTERMEDIATE, Early(depth=1, heads=2), Late()])
def test_the_patients_context_is_isolated_too(fusion: FusionFields) -> None:
    """What is asked of a is not told by b."""
    model, spec = model_of(fusion), Masked(width=16, context="patient", modalities=(Modality.IMAGE,))
    batch = phantom.batch(STANDARDS, {"a": {Modality.IMAGE: 1}, "b": {Modality.VOLUME: 1}})
    box = batch.payloads[Modality.VOLUME].values
    assert isinstance(box, torch.Tensor)
    box.requires_grad_()
    term = built(spec, model)(model, batch, draws()).terms["masked/image"]
    gradient = torch.autograd.grad(term, box, allow_unused=True)[0]
    assert gradient is None or not gradient.any()


def test_it_learns_to_answer() -> None:
    """Of images that are all alike, what is hidden can be known."""
    model, spec = (
        build_model(TwoTower(), {Modality.IMAGE: ENCODERS[Modality.IMAGE]}, phantom.fingerprint(), 0),
        Masked(width=32),
    )
    batch = phantom.batch(STANDARDS, {p: {Modality.IMAGE: 1} for p in "ab"})
    images = batch.payloads[Modality.IMAGE].values
    assert isinstance(images, torch.Tensor)
    images[:] = images[0].clone()
    objective = built(spec, model)
    adam = torch.optim.Adam([*model.parameters(), *objective.parameters()], 1e-2)
    first = last = 0.0
    for step in range(30):
        total = objective(model, batch, draws(step)).total
        assert total is not None
        adam.zero_grad()
        total.backward()
        adam.step()
        last = total.item()
        first = first or last
    assert last < 0.5 * first
