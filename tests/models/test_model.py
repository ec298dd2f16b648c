from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from polyclinic.fusion import Early, Intermediate, Late
from polyclinic.models import Model, TwoTower, Unified, build_model
from polyclinic.models.model import seeded
from polyclinic.schema import Modality
from polyclinic.tokens import phantom

ENCODERS = phantom.encoders()
STANDARDS = {m: s.standard() for m, s in ENCODERS.items()}
IMAGE, TEXT = Modality.IMAGE, Modality.TEXT
SMALL = Intermediate(depth=1, heads=2)
MEETING: dict[str, Early | Intermediate] = {
    "early": Early(depth=1, heads=2), "self_attention": SMALL, "class_tokens": Intermediate(style="class_tokens", depth=1, heads=2),
    "cross_attention": Intermediate(style="cross_attention", depth=1, heads=2), "bottleneck": Intermediate(style="bottleneck", heads=2),
}  # fmt: skip
"""In which tokens meet before the answer."""
IN_THE_ANSWER: dict[str, Intermediate | Late] = {
    "perceiver": Intermediate(style="perceiver", depth=1, heads=2), "mean": Late(), "gated": Late(style="gated"),
    "product": Late(style="product"), "stacking": Late(style="stacking"),
}  # fmt: skip
"""In which they meet there only."""
FUSIONS = {**MEETING, **IN_THE_ANSWER}


def model_of(spec: TwoTower | Unified, *some: Modality, seed: int = 0) -> Model:
    return build_model(spec, {m: ENCODERS[m] for m in some or ENCODERS}, phantom.fingerprint(), seed).eval()


def two_tower(fusion: Early | Intermediate | Late = SMALL) -> TwoTower:
    return TwoTower(width=16, embedding=8, fusion=fusion)


@pytest.mark.parametrize("fusion", FUSIONS.values(), ids=FUSIONS)
def test_a_parts_weights_depend_on_the_seed_and_its_own_name(fusion: Early | Intermediate | Late) -> None:
    """And not on which other parts there are, or in what order they are named."""
    whole = model_of(two_tower(fusion)).state_dict()
    for some in ((TEXT,), (TEXT, IMAGE), (Modality.OMICS, Modality.VOLUME)):
        fewer = model_of(two_tower(fusion), *some).state_dict()
        assert all(torch.equal(whole[name], value) for name, value in fewer.items())


def test_a_parts_weights_do_not_depend_on_the_fusion() -> None:
    whole = model_of(two_tower()).state_dict()
    assert not torch.equal(whole["bridge.image.weight"], whole["bridge.text.weight"])
    for name, fusion in FUSIONS.items():
        if name != "early":  # whose encoders have no trunks
            other = model_of(two_tower(fusion)).state_dict()
            assert all(torch.equal(other[k], value) for k, value in whole.items() if not k.startswith("fusion.")), name


def test_seeded_puts_the_worlds_state_back() -> None:
    before = torch.get_rng_state()
    with seeded(3, "a"):
        one = torch.rand(4)
    with pytest.raises(RuntimeError), seeded(3, "a"):
        raise RuntimeError
    assert torch.equal(torch.get_rng_state(), before)
    for seed, name, same in ((3, "a", True), (4, "a", False), (3, "b", False)):
        with seeded(seed, name):
            assert torch.equal(torch.rand(4), one) is same


def test_modalities_come_in_their_own_order() -> None:
    model = build_model(two_tower(), dict(reversed(ENCODERS.items())), phantom.fingerprint(), 0)
    assert model.modalities == list(ENCODERS)


def test_what_the_model_does_not_know_is_not_read() -> None:
    batch = phantom.batch(STANDARDS, {"a": {IMAGE: 1, TEXT: 1}, "b": {TEXT: 1}})
    fused = model_of(two_tower(), IMAGE)(batch)
    assert fused.present.tolist() == [True, False]
    assert set(fused.tokens.modality.tolist()) == {IMAGE.number}


def test_encoders_of_different_widths_meet_in_the_fusions() -> None:
    encoders = {IMAGE: ENCODERS[IMAGE].model_copy(update={"width": 24}), TEXT: ENCODERS[TEXT]}
    model = build_model(two_tower(), encoders, phantom.fingerprint(), 0)
    batch = phantom.batch(STANDARDS, {"a": {IMAGE: 1, TEXT: 1}})
    assert model(batch).pooled.shape == (1, 16)
    assert {m: t.vectors.shape[1] for m, t in model.towers(model.encode(batch)).items()} == {IMAGE: 8, TEXT: 8}


def test_two_towers_end_before_the_fusion() -> None:
    """By hand: the mean of a patient's bridged tokens, projected, of unit length."""
    model, batch = (
        model_of(two_tower()),
        phantom.batch(STANDARDS, {"a": {IMAGE: 2}, "b": {TEXT: 1}, "c": {IMAGE: 1, TEXT: 1}}),
    )
    tokens = model.encode(batch)
    towers = model.towers(tokens)
    assert {m: t.patient.tolist() for m, t in towers.items()} == {IMAGE: [0, 2], TEXT: [1, 2]}
    mean = torch.stack([tokens[IMAGE].values[tokens[IMAGE].patient == p].mean(0) for p in (0, 2)])
    expected = F.normalize(model.project["image"](mean), dim=1)
    torch.testing.assert_close(towers[IMAGE].vectors, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(towers[TEXT].vectors.norm(dim=1), torch.ones(2))


@pytest.mark.parametrize("fusion", FUSIONS.values(), ids=FUSIONS)
def test_a_unified_models_towers_end_behind_it(fusion: Early | Intermediate | Late) -> None:
    """A tower is the answer about patients of whom only this modality is seen."""
    model = model_of(Unified(width=16, embedding=8, fusion=fusion))
    whole = phantom.batch(STANDARDS, {"a": {IMAGE: 1, TEXT: 1}, "b": {IMAGE: 1}})
    only = phantom.batch(STANDARDS, {"a": {IMAGE: 1}, "b": {IMAGE: 1}})
    expected = F.normalize(model.project["image"](model(only).pooled), dim=1)
    found = model.towers(model.encode(whole))[IMAGE].vectors
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_centred_space_takes_off_what_patients_share() -> None:
    model = model_of(TwoTower(width=16, embedding=8, fusion=SMALL, centre=True))
    plain = model_of(two_tower())
    batch = phantom.batch(STANDARDS, {f"p{i}": {IMAGE: 1} for i in range(12)})
    vectors = lambda: model.towers(model.encode(batch))[IMAGE].vectors
    assert torch.equal(vectors(), plain.towers(plain.encode(batch))[IMAGE].vectors)  # before it has seen anyone
    model.train()
    for _ in range(3):
        vectors()
    model.eval()
    alike = lambda v: float((v @ v.T).detach().mean())
    assert alike(vectors()) < 0.1 < alike(plain.towers(plain.encode(batch))[IMAGE].vectors)
    assert torch.equal(vectors(), vectors())  # an answer changes nothing


def test_centred_or_not_nobody_depends_on_who_else_is_in_a_training_batch() -> None:
    model = model_of(TwoTower(width=16, embedding=8, fusion=SMALL, centre=True)).train()
    many = phantom.batch(STANDARDS, {f"p{i}": {IMAGE: 1, TEXT: 1} for i in range(5)})
    alone = phantom.batch(STANDARDS, {"p0": {IMAGE: 1, TEXT: 1}})
    model.towers(model.encode(many))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = []
    for batch in (many, alone):
        model.load_state_dict(before)
        found.append({m: t.vectors[0] for m, t in model.towers(model.encode(batch)).items()})
    for m in (IMAGE, TEXT):
        torch.testing.assert_close(found[0][m], found[1][m], atol=1e-5, rtol=1e-5)


def test_the_two_differ_in_where_the_bag_is_pooled_and_in_nothing_else() -> None:
    batch = phantom.batch(STANDARDS, {"a": {IMAGE: 1, TEXT: 1}, "b": {IMAGE: 1}})
    one, other = model_of(two_tower()), model_of(Unified(width=16, embedding=8, fusion=SMALL))
    assert torch.equal(one(batch).pooled, other(batch).pooled)
    vectors = [m.towers(m.encode(batch))[IMAGE].vectors for m in (one, other)]
    assert (vectors[0] - vectors[1]).abs().max() > 1e-2


def test_perceiver_and_late_fusion_cannot_relate_what_others_can() -> None:
    """Tokens of an image change with the note where they meet before the answer, and do not where they meet in it."""
    with_note, without = ({"a": {IMAGE: 1, TEXT: n}} for n in (1, 0))
    changed = {}
    for name, fusion in FUSIONS.items():
        model = model_of(two_tower(fusion=fusion))
        one, other = (model(phantom.batch(STANDARDS, has)) for has in (with_note, without))
        moved = one.tokens.values[one.tokens.modality == IMAGE.number] - other.tokens.values
        changed[name] = float(moved.abs().max().detach()) > 1e-4
        assert (one.pooled - other.pooled).abs().max() > 1e-4, name
    assert changed == {name: name in MEETING for name in FUSIONS}
