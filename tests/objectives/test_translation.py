"""Translation: a record comes back from the patient's others, in its own intensities; which is shown and which asked for is by kind."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from polyclinic.fusion import Late
from polyclinic.models import Model, TwoTower, build_model
from polyclinic.objectives import ObjectiveError, Translation, TranslationObjective
from polyclinic.objectives.between import of_kind
from polyclinic.schema import Batch, Modality, Ragged
from polyclinic.tokens import SlideVit, Vit, Vit3d, phantom

SIZE: dict[str, Any] = {"width": 32, "depth": 1, "heads": 2}
MR_TO_CT = Translation(target=Modality.VOLUME, target_kind="CT", source_kind="MR", width=32, depth=1, heads=2)
NAMES = ["MR brain T1", "CT brain"]


def model() -> Model:
    encoders = {
        Modality.IMAGE: Vit(size=16, patch=8, **SIZE), Modality.VOLUME: Vit3d(size=(8, 8, 8), patch=(4, 4, 4), **SIZE),
        Modality.SLIDE: SlideVit(size=16, mpp=8, most=4, patch=8, **SIZE),
    }  # fmt: skip
    return build_model(TwoTower(width=32, embedding=16, fusion=Late()), encoders, phantom.fingerprint(), 0)


def built(spec: Translation, net: Model) -> TranslationObjective:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return spec.build(net, {})


def ragged(values: Tensor, patient: list[int], patients: int, kinds: list[str] | None) -> Ragged:
    n, axes = len(patient), values.ndim - 2
    ids = [str(i) for i in range(n)]
    return Ragged(values, torch.tensor(patient), torch.zeros(n), torch.ones(n, axes), patients, ids, None, kinds)


def heads(patients: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """A bright box in one of eight corners on some level; bone is dark in MR and bright in CT, and twice as far from the air."""
    level = torch.rand(patients, 1, 1, 1, 1, generator=draws)
    mr = level.expand(-1, 1, 8, 8, 8).clone()
    for head, corner in zip(mr, torch.randint(0, 8, (patients,), generator=draws).tolist(), strict=True):
        z, y, x = (slice(4 * (corner >> n & 1), 4 * (corner >> n & 1) + 4) for n in range(3))
        head[0, z, y, x] += 1
    return mr, 1 - 2 * mr


def pairs(mr: Tensor, ct: Tensor | None, patients: list[int] | None = None) -> Batch:
    """Each patient's MR and, unless there is none, CT after it."""
    n = len(mr)
    who = patients or list(range(n))
    if ct is None:
        volumes = ragged(mr, who, max(who) + 1, NAMES[:1] * n)
    else:
        both = torch.stack([mr, ct], 1).flatten(0, 1)
        volumes = ragged(both, [p for p in who for _ in range(2)], max(who) + 1, NAMES * n)
    return Batch({Modality.VOLUME: volumes}, {}, [str(p) for p in range(max(who) + 1)])


def test_ct_comes_of_mr_in_its_own_intensities() -> None:
    net = model()
    objective = built(MR_TO_CT, net)
    adam = torch.optim.AdamW([*net.parameters(), *objective.parameters()], 3e-3)
    draws = torch.Generator().manual_seed(0)
    for _ in range(150):
        total = objective(net, pairs(*heads(16, draws)), draws).total
        assert total is not None
        adam.zero_grad()
        total.backward()
        adam.step()
    mr, ct = heads(64, draws)
    at, found = objective.translate(net, pairs(mr, None))  # patients who have no CT at all
    assert at.patient.tolist() == list(range(64))
    assert isinstance(found, Tensor)
    assert found.shape == ct.shape
    guess = (ct - ct.mean(0)).square().mean()
    assert float((found - ct).square().mean()) < 0.05 * float(guess)
    # A patient's mean is of one number, the level: standardised pieces would have lost it.
    levels = torch.stack([found.mean((1, 2, 3, 4)), ct.mean((1, 2, 3, 4))])
    assert float(torch.corrcoef(levels)[0, 1]) > 0.95


def test_the_values_that_are_asked_for_are_not_read_and_the_sources_are() -> None:
    net, draws = model(), torch.Generator().manual_seed(0)
    objective = built(MR_TO_CT, net)
    mr, ct = heads(2, draws)
    _, found = objective.translate(net, pairs(mr, ct))
    _, same = objective.translate(net, pairs(mr, ct + 5))
    _, other = objective.translate(net, pairs(mr + torch.tensor([0.0, 3.0])[:, None, None, None, None], ct))
    assert isinstance(found, Tensor)
    assert torch.equal(torch.as_tensor(same), found)
    assert not torch.allclose(torch.as_tensor(other)[1], found[1])
    torch.testing.assert_close(torch.as_tensor(other)[0], found[0])  # a patient's answer is of that patient
    term = objective(net, pairs(mr, ct), draws).terms["translation/volume"]
    torch.testing.assert_close(term.detach(), (found - ct).square().mean())


def test_across_modalities_it_answers_who_is_shown_anything() -> None:
    net, draws = model(), torch.Generator().manual_seed(0)
    objective = built(Translation(target=Modality.IMAGE, source=(Modality.VOLUME,), width=16, heads=2), net)
    volumes, images = torch.randn(2, 1, 8, 8, 8, generator=draws), torch.randn(3, 1, 16, 16, generator=draws)
    shown = ragged(volumes, [0, 2], 4, None)
    data = Batch({Modality.VOLUME: shown, Modality.IMAGE: ragged(images, [0, 1, 2], 4, None)}, {}, list("abcd"))
    at, found = objective.translate(net, data)
    assert isinstance(found, Tensor)
    assert found.isfinite().flatten(1).all(1).tolist() == [True, False, True]
    assert found[1].isnan().all()
    assert at.patient.tolist() == [0, 1, 2]
    term = objective(net, data, draws).terms["translation/image"]
    torch.testing.assert_close(term.detach(), (found - images)[[0, 2]].square().mean())
    # Where nobody has an image, the caller says where it would lie.
    blank = ragged(torch.zeros(1, 1, 16, 16), [2], 4, None)
    without = Batch({Modality.VOLUME: shown}, {}, list("abcd"))
    torch.testing.assert_close(torch.as_tensor(objective.translate(net, without, blank)[1]), found[2:])
    with pytest.raises(ObjectiveError, match="says where"):
        objective.translate(net, without)


def test_a_gene_that_was_not_measured_is_not_asked_for() -> None:
    encoders = {m: s for m, s in phantom.encoders().items() if m in (Modality.IMAGE, Modality.OMICS)}
    net = build_model(TwoTower(width=16, embedding=16, fusion=Late()), encoders, phantom.fingerprint(), 0)
    objective = built(Translation(target=Modality.OMICS, width=16, heads=2), net)
    data = phantom.batch({m: s.standard() for m, s in encoders.items()}, {"a": dict.fromkeys(encoders, 1)})
    genes = data.payloads[Modality.OMICS].values
    assert isinstance(genes, Tensor)
    _, found = objective.translate(net, data)
    assert torch.equal(torch.as_tensor(found).isnan(), genes.isnan())
    term = objective(net, data, torch.Generator()).terms["translation/omics"]
    torch.testing.assert_close(term.detach(), (torch.as_tensor(found) - genes)[genes.isfinite()].square().mean())


def test_kinds_are_whole_words() -> None:
    some = ragged(torch.zeros(5, 1, 8, 8), [0] * 5, 1, ["CT head", "SPECT", "Dual CT", "fact", "MR T1 post"])
    assert of_kind(some, "ct").tolist() == [True, False, True, False, False]
    assert of_kind(some, "T1 post").tolist() == [False, False, False, False, True]
    assert of_kind(some, None).all()
    with pytest.raises(ObjectiveError, match="whose kinds nobody knows"):
        of_kind(replace(some, kinds=None), "CT")


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValidationError, match="say which with `target_kind`"):
        Translation(target=Modality.VOLUME, source=(Modality.VOLUME,))
    with pytest.raises(ValidationError, match="none would be left to show"):
        Translation(target=Modality.VOLUME, target_kind="CT", source_kind="CT")
    with pytest.raises(ValidationError, match="use `caption`"):
        Translation(target=Modality.TEXT)
    with pytest.raises(ValidationError, match="3 heads do not divide"):
        Translation(target=Modality.IMAGE, heads=3)
    with pytest.raises(ObjectiveError, match="cannot put a record together"):
        built(Translation(target=Modality.SLIDE), model())
