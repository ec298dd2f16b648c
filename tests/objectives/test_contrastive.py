from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.fusion import Early, Intermediate, Late, Tower
from polyclinic.models import TwoTower, Unified, build_model
from polyclinic.objectives import Contrastive, clip_loss, siglip_loss, supcon_loss
from polyclinic.objectives.embeddings import embeddings
from polyclinic.schema import Modality
from polyclinic.tokens import phantom

ENCODERS = phantom.encoders()
STANDARDS = {m: s.standard() for m, s in ENCODERS.items()}


def unit(p: int, e: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(p, e, generator=torch.Generator().manual_seed(seed)), dim=1)


def model_of():
    return build_model(TwoTower(width=16, embedding=16, fusion=Late()), ENCODERS, phantom.fingerprint(), 0)


@given(st.integers(2, 9), st.floats(0.1, 100), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_it_is_clips_loss(p: int, scale: float, seed: int) -> None:
    from transformers.models.clip.modeling_clip import image_text_contrastive_loss

    one, other = unit(p, 8, seed), unit(p, 8, seed + 1)
    theirs = image_text_contrastive_loss(scale * one @ other.T)
    torch.testing.assert_close(clip_loss(one, other, torch.tensor(scale)), theirs, atol=1e-5, rtol=1e-5)


def reference(kind: str, **learned: float):
    """The published model, small, with these logit parameters: its loss, and the vectors that it compared."""
    import transformers

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    text, vision = sizes | {"vocab_size": 20, "max_position_embeddings": 8}, sizes | {"image_size": 8, "patch_size": 4}
    own = {"projection_dim": 16} if kind == "CLIP" else {}
    config = getattr(transformers, f"{kind}Config")(text_config=text, vision_config=vision, **own)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, f"{kind}Model")(config).eval()
        words, pixels = torch.randint(3, 19, (5, 8)), torch.randn(5, 3, 8, 8)
    for name, value in learned.items():
        getattr(model, name).data.fill_(value)
    with torch.no_grad():
        out = model(input_ids=words, pixel_values=pixels, return_loss=True)
    return out.loss, out.image_embeds, out.text_embeds


@pytest.mark.parametrize("scale", [1.0, 14.0, 100.0])
def test_clip_model_has_this_loss(scale: float) -> None:
    loss, images, texts = reference("CLIP", logit_scale=math.log(scale))
    torch.testing.assert_close(clip_loss(images, texts, torch.tensor(scale)), loss, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(("scale", "bias"), [(10.0, -10.0), (1.0, 0.0), (100.0, 3.0)])
def test_siglip_model_has_this_loss(scale: float, bias: float) -> None:
    loss, images, texts = reference("Siglip", logit_scale=math.log(scale), logit_bias=bias)
    found = siglip_loss(images, texts, torch.tensor(scale), torch.tensor(bias))
    torch.testing.assert_close(found, loss, atol=1e-4, rtol=1e-5)


def test_siglip_by_hand() -> None:
    one, other = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    z = [[2.0 - 1, 2.0 - 1], [0.0 - 1, 0.0 - 1]]  # scale 2, bias -1
    log_sigmoid = lambda x: -math.log1p(math.exp(-x))
    expected = -(log_sigmoid(z[0][0]) + log_sigmoid(-z[0][1]) + log_sigmoid(-z[1][0]) + log_sigmoid(z[1][1])) / 2
    assert float(siglip_loss(one, other, torch.tensor(2.0), torch.tensor(-1.0))) == pytest.approx(expected, rel=1e-5)


def supcon_by_loops(one: np.ndarray, mine: list[int], other: np.ndarray, theirs: list[int], scale: float, same: bool):
    """Equation 2 of Khosla et al.: for each anchor that has one, the mean over its positives of -log of their share."""
    losses = []
    for i, whose in enumerate(mine):
        rows = [j for j in range(len(theirs)) if not (same and i == j)]
        share = {j: math.exp(scale * one[i] @ other[j]) for j in rows}
        positives = [j for j in rows if theirs[j] == whose]
        if positives:
            losses.append(-np.mean([math.log(share[j] / sum(share.values())) for j in positives]))
    return np.mean(losses)


def test_supcon_is_the_papers_formula_with_records_as_units() -> None:
    mine, theirs = [0, 0, 1, 2, 2, 2], [0, 1, 1, 2]
    one, other, scale = unit(6, 5, 0), unit(4, 5, 1), 4.0
    a, b = one.double().numpy(), other.double().numpy()
    both = supcon_by_loops(a, mine, b, theirs, scale, False) + supcon_by_loops(b, theirs, a, mine, scale, False)
    found = supcon_loss(Tower(one, torch.tensor(mine)), Tower(other, torch.tensor(theirs)), torch.tensor(scale))
    assert float(found) == pytest.approx(both / 2, rel=1e-5)


def test_supcon_within_a_modality_does_not_compare_a_record_with_itself() -> None:
    whose, one = [0, 0, 1, 2, 2, 2], unit(6, 5, 0)
    a = one.double().numpy()
    tower = Tower(one, torch.tensor(whose))
    expected = supcon_by_loops(a, whose, a, whose, 4.0, True)
    assert float(supcon_loss(tower, tower, torch.tensor(4.0))) == pytest.approx(expected, rel=1e-5)


@given(st.integers(2, 7), st.floats(0.1, 100), st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_supcon_of_one_record_a_patient_is_clips_loss(p: int, scale: float, seed: int) -> None:
    one, other = (Tower(unit(p, 6, seed + n), torch.arange(p)) for n in range(2))
    torch.testing.assert_close(
        supcon_loss(one, other, torch.tensor(scale)),
        clip_loss(one.vectors, other.vectors, torch.tensor(scale)),
        atol=1e-4, rtol=1e-4,
    )  # fmt: skip


@pytest.mark.parametrize("loss", ["clip", "siglip", "supcon"])
@pytest.mark.parametrize("scale", [0.01, 100.0])
def test_the_coldest_and_the_hottest_are_finite(loss: str, scale: float) -> None:
    """The vectors are all alike, all opposite, or a patient's own are the farthest of all."""
    ahead = F.normalize(torch.ones(4, 3), dim=1)
    for one, other in ((ahead, ahead), (ahead, -ahead), (unit(4, 3, 0), -unit(4, 3, 0))):
        vectors = (one.clone().requires_grad_(), other.clone().requires_grad_())
        learned = torch.tensor(scale, requires_grad=True)
        if loss == "supcon":
            whose = torch.tensor([0, 0, 1, 2])
            total = supcon_loss(Tower(vectors[0], whose), Tower(vectors[1], whose), learned)
        elif loss == "siglip":
            total = siglip_loss(*vectors, learned, torch.tensor(-10.0))
        else:
            total = clip_loss(*vectors, learned)
        total.backward()
        assert total.isfinite()
        assert all(x.grad is not None and x.grad.isfinite().all() for x in (*vectors, learned))


def test_cases_by_hand() -> None:
    same, scale = torch.eye(3), torch.tensor(2.0)
    expected = math.log(math.exp(2) + 2) - 2  # each row: its own at 1, two others at 0
    assert float(clip_loss(same, same, scale)) == pytest.approx(expected, rel=1e-5)
    alike = torch.ones(4, 1)
    assert float(clip_loss(alike, alike, scale)) == pytest.approx(math.log(4), rel=1e-5)  # nobody is told apart


def test_its_gradient_is_the_differences() -> None:
    one, other = (unit(4, 3, s).double().requires_grad_() for s in (0, 1))
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(clip_loss, (one, other, scale))


def test_bfloat16_does_not_round_the_similarities() -> None:
    one, other, scale = unit(16, 64, 0), unit(16, 64, 1), torch.tensor(100.0)
    exact = clip_loss(one, other, scale)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(clip_loss(one, other, scale), exact)


def test_only_pairs_that_two_patients_have_are_compared() -> None:
    image, text, table = Modality.IMAGE, Modality.TEXT, Modality.TABLE
    has = {"a": {image: 1, text: 1, table: 1}, "b": {image: 1, table: 1}, "c": {text: 2, image: 1}, "d": {}}
    model, batch = model_of(), phantom.batch(STANDARDS, has)
    losses = Contrastive(weight=3.0).build(model, {})(model, batch, torch.Generator())
    assert losses.weights == {
        "contrastive/image-text": 1.5,
        "contrastive/image-table": 1.5,
    }  # a alone has text and table
    towers = model.towers(model.encode(batch))
    expected = clip_loss(towers[image].vectors[[0, 2]], towers[text].vectors, torch.tensor(1 / 0.07))
    torch.testing.assert_close(losses.terms["contrastive/image-text"], expected)


def test_patients_without_a_partner_get_no_gradient() -> None:
    image, text = Modality.IMAGE, Modality.TEXT
    model = model_of()
    batch = phantom.batch(STANDARDS, {"a": {image: 1, text: 1}, "b": {image: 1}, "c": {image: 1, text: 1}})
    pictures = batch.payloads[image].values
    assert isinstance(pictures, torch.Tensor)
    pictures.requires_grad_()
    total = Contrastive().build(model, {})(model, batch, torch.Generator()).total
    assert total is not None
    gradient = torch.autograd.grad(total, pictures)[0].flatten(1).abs().sum(1)
    assert (gradient > 0).tolist() == [True, False, True]


def test_pairs_that_are_named() -> None:
    spec = Contrastive.model_validate({"kind": "contrastive", "pairs": [["omics", "table"]]})
    assert spec.named() == {Modality.OMICS, Modality.TABLE}
    model, batch = model_of(), phantom.batch(STANDARDS, {p: dict.fromkeys(ENCODERS, 1) for p in "ab"})
    assert list(spec.build(model, {})(model, batch, torch.Generator()).terms) == ["contrastive/omics-table"]


def test_the_temperature_is_learned_and_its_inverse_stays_below_a_hundred() -> None:
    model, batch = model_of(), phantom.batch(STANDARDS, {p: {Modality.IMAGE: 1, Modality.TEXT: 1} for p in "abc"})
    objective = Contrastive(temperature=0.5).build(model, {})
    assert objective.log_scale.exp().item() == pytest.approx(2.0)
    total = objective(model, batch, torch.Generator()).total
    assert total is not None
    total.backward()
    assert objective.log_scale.grad is not None
    assert objective.log_scale.grad.item() != 0
    largest, beyond = (
        Contrastive(temperature=t).build(model, {})(model, batch, torch.Generator()).total for t in (0.01, 1e-4)
    )
    torch.testing.assert_close(largest, beyond)


def test_losses_start_where_their_papers_do() -> None:
    model = model_of()
    starts = {
        loss: Contrastive.model_validate({"loss": loss}).build(model, {}) for loss in ("clip", "siglip", "supcon")
    }
    scales = {loss: objective.log_scale.exp().item() for loss, objective in starts.items()}
    assert scales == pytest.approx({"clip": 1 / 0.07, "siglip": 10.0, "supcon": 10.0})
    assert [o.bias is None for o in starts.values()] == [True, False, True]
    bias = starts["siglip"].bias
    assert bias is not None
    assert bias.item() == -10.0


def test_siglip_learns_its_bias_and_its_temperature() -> None:
    model, batch = model_of(), phantom.batch(STANDARDS, {p: {Modality.IMAGE: 1, Modality.TEXT: 1} for p in "abc"})
    objective = Contrastive(loss="siglip").build(model, {})
    total = objective(model, batch, torch.Generator()).total
    assert total is not None
    total.backward()
    assert all(p.grad is not None and p.grad.item() != 0 for p in objective.parameters())
    assert len(list(objective.parameters())) == 2
    towers = model.towers(model.encode(batch))
    one, other = towers[Modality.IMAGE].vectors, towers[Modality.TEXT].vectors
    torch.testing.assert_close(total, siglip_loss(one, other, torch.tensor(10.0), torch.tensor(-10.0)))


def test_one_modality_is_compared_with_every_other() -> None:
    model, batch = model_of(), phantom.batch(STANDARDS, {p: dict.fromkeys(ENCODERS, 1) for p in "ab"})
    spec = Contrastive.model_validate({"pairs": "table"})
    assert spec.named() == {Modality.TABLE}
    terms = spec.build(model, {})(model, batch, torch.Generator()).terms
    assert set(terms) == {f"contrastive/table-{m}" for m in ENCODERS if m is not Modality.TABLE}
    without = phantom.batch(STANDARDS, {p: {Modality.IMAGE: 1, Modality.TEXT: 1} for p in "ab"})
    assert spec.build(model, {})(model, without, torch.Generator()).terms == {}


@pytest.mark.parametrize("kind", [TwoTower, Unified])
@pytest.mark.parametrize(
    "fusion",
    [Intermediate(depth=1, heads=2), Intermediate(style="class_tokens", depth=1, heads=2), Early(depth=1, heads=2)],
)
def test_a_vector_a_record_is_that_of_a_patient_with_no_other(
    kind: type[TwoTower | Unified], fusion: Intermediate
) -> None:
    image, text = Modality.IMAGE, Modality.TEXT
    model = build_model(kind(width=16, embedding=8, fusion=fusion), ENCODERS, phantom.fingerprint(), 0)
    batch = phantom.batch(STANDARDS, {"a": {image: 2, text: 1}, "b": {text: 1}, "c": {image: 3}})
    found = embeddings(model, batch, None, "record")
    assert (found[image].patient.tolist(), found[text].patient.tolist()) == ([0, 0, 2, 2, 2], [0, 1])
    for row, name in enumerate(batch.payloads[image].ids):
        _, patient, number = name.split("-")
        alone = phantom.batch(STANDARDS, {patient: {image: int(number) + 1}})
        last = alone.payloads[image]
        assert isinstance(last.values, torch.Tensor)
        last.values, last.patient, last.time_h = last.values[-1:], last.patient[-1:], last.time_h[-1:]
        last.spacing = last.spacing[-1:] if last.spacing is not None else None
        last.ids = last.ids[-1:]
        torch.testing.assert_close(
            found[image].vectors[row], embeddings(model, alone, None)[image].vectors[0], atol=1e-5, rtol=1e-4
        )


def test_several_records_of_one_patient_are_no_negatives_of_each_other() -> None:
    """As patients pooled, they would be one vector; as units under CLIP's loss, each other's negatives."""
    image, text = Modality.IMAGE, Modality.TEXT
    model, batch = (
        model_of(),
        phantom.batch(STANDARDS, {"a": {image: 3, text: 1}, "b": {image: 1, text: 2}, "c": {image: 1}}),
    )
    spec = Contrastive(loss="supcon", pairs=((image, text), (image, image)))
    losses = spec.build(model, {})(model, batch, torch.Generator())
    towers = embeddings(model, batch, None, "record")
    scale, both = torch.tensor(10.0), Tower(towers[image].vectors[:4], towers[image].patient[:4])
    torch.testing.assert_close(losses.terms["contrastive/image-text"], supcon_loss(both, towers[text], scale))
    torch.testing.assert_close(
        losses.terms["contrastive/image-image"], supcon_loss(towers[image], towers[image], scale)
    )
    nobody_twice = phantom.batch(STANDARDS, {p: {image: 1, text: 1} for p in "ab"})
    assert set(spec.build(model, {})(model, nobody_twice, torch.Generator()).terms) == {"contrastive/image-text"}
    one_patient = phantom.batch(STANDARDS, {"a": {image: 3, text: 2}})
    assert spec.build(model, {})(model, one_patient, torch.Generator()).terms == {}
