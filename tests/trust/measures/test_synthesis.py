"""What a run makes, measured from its files to the report; the figures themselves are held to the truth in their own tests."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import made
from polyclinic.adaptation import adapt
from polyclinic.cohort import Cohort, ingest
from polyclinic.harmonise.unread import GONE
from polyclinic.inference.synthesis import Maker
from polyclinic.schema import Modality
from polyclinic.training import Run, pretrain
from polyclinic.trust import Evidence, evaluate, gather
from polyclinic.trust.measures.memorisation import memorisation
from polyclinic.trust.measures.realism import Space
from polyclinic.trust.measures.synthesis import Drawn, draw, pairs, picture, pixels
from polyclinic.trust.measures.translated import Units, _same_answers
from polyclinic.trust.measures.written import plain
from polyclinic.trust.pages.sections import whole

PATIENTS = 32


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    place = tmp_path_factory.mktemp("in")
    made.write_heads(place, PATIENTS)
    return ingest(place, tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def run(cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Run:
    recipe = tmp_path_factory.mktemp("recipe") / "heads.yaml"
    recipe.write_text(made.RECIPE.replace("steps: 40", "steps: 12"))
    trained = pretrain(recipe, cohort, into=tmp_path_factory.mktemp("runs"))
    adapt(trained, "box", "probe", cohort=cohort, steps=2)
    adapt(trained, "left", "probe", cohort=cohort)
    return trained


@pytest.fixture(scope="module")
def evidence(run: Run, cohort: Cohort) -> Evidence:
    return evaluate(run, cohort, draws=60)


@pytest.fixture(scope="module")
def drawn(run: Run, cohort: Cohort) -> Drawn:
    return draw(run, cohort, draws=20, steps=4)


def test_evidence_has_what_was_drawn_and_what_was_translated(run: Run, evidence: Evidence) -> None:
    kinds = {e.kind: e for e in evidence.every}
    assert set(kinds) == {"synthesis", "translation"}
    assert all(e.inputs == ("volume",) and e.labels == 0 and e.split == run.split.hash for e in kinds.values())
    names = {f.name for f in kinds["synthesis"].figures}
    for space in ("features", "pixels"):
        assert {f"{n}_{space}" for n in ("frechet", "kernel", "precision", "recall", "density", "coverage")} <= names
        assert {
            f"kernel_{space}_floor",
            f"near_copies_{space}",
            f"copying_z_{space}",
            f"authenticity_{space}_held_out",
            f"own_copies_{space}",
            f"own_copies_{space}_held_out",
        } <= names
    told = {f.name: f for f in kinds["translation"].figures}
    assert {"mae", "psnr", "ssim", "mae_box_box", "mae_of_mean", "ssim_of_mean"} <= set(told)
    assert "ms_ssim" not in told  # of sixteen samples a side one scale fits
    assert "HU" in told["mae"].note
    for e in kinds.values():
        for name in ("same_mask_box-probe", "same_answer_left-probe", "auroc_real_left-probe", "auroc_made_left-probe"):
            assert any(f.name.startswith(name) for f in e.figures), name
        assert all(
            f.note and f.split == run.split.hash and (math.isnan(f.low) or f.low <= f.value <= f.high)
            for f in e.figures
        )
    assert told["mae"].n == sum(p in set(run.split.test) for p in run.split.test)


def test_it_is_written_read_back_and_on_the_card(run: Run, evidence: Evidence) -> None:
    assert plain(asdict(Evidence.open(run.path))) == plain(asdict(evidence))
    assert "NaN" not in (run.path / "evidence/evidence.json").read_text()
    card = (run.path / "card.md").read_text()
    assert "makes volumes (by `translation`) and volumes (by `latent_diffusion`)" in card
    assert "none is a record of any patient" in card
    assert "near copies pixels" in card


def test_errors_are_in_hu_and_the_means_are_those_of_the_mean(run: Run, cohort: Cohort, evidence: Evidence) -> None:
    """By another way: from the loader's own arrays, and HU / 500 as they are harmonised."""
    maker = Maker.of(run, "translation")
    of = lambda side: [
        v for b in run.loader(cohort, side).each(64)
        if (w := maker.spec.wanted(b)) is not None for v in np.asarray(w.values)
    ]  # fmt: skip
    mean, tests = np.mean(of(run.split.train), axis=0), of(run.split.test)
    wanted = np.mean([np.abs(500 * (t - mean)).mean() for t in tests])
    told = next(e for e in evidence.every if e.kind == "translation").figures
    assert next(f for f in told if f.name == "mae_of_mean").value == pytest.approx(float(wanted), rel=1e-4)
    # A box is at 400 HU in one of eight corners, and at -200 elsewhere: the mean is -125 everywhere.
    assert 100 < wanted < 180
    batch = next(run.loader(cohort, run.split.test).each(64))
    at = maker.spec.wanted(batch)
    assert at is not None
    found = maker.make(batch, at, 1, 1.0, torch.Generator())
    errors = [np.abs(500 * (f.numpy() - t.numpy())).mean() for f, t in zip(found, at.values, strict=True)]
    assert next(f for f in told if f.name == "mae").value == pytest.approx(float(np.mean(errors)), rel=1e-3)


def test_whether_an_answer_survives_is_told_by_its_side_of_one_half_and_by_what_it_is_worth() -> None:
    numbers = np.array([[0.9, 0.8], [0.7, 0.2], [0.1, 0.4], [0.3, 0.1], [0.2, 0.9]])
    truths = np.array([1.0, 1.0, 0.0, 0.0, np.nan])  # of the last nobody knows
    same, real, other = _same_answers("x", numbers, truths, "s", 50)
    assert (same.name, same.value, same.n) == ("same_answer_x", 0.6, 5)
    assert (real.name, real.value, real.n) == ("auroc_real_x", 1.0, 4)
    assert (other.name, other.value) == ("auroc_made_x", 0.75)
    assert len(_same_answers("x", numbers, np.full(5, np.nan), "s", 50)) == 1


def test_units_are_hu_of_a_ct_and_plain_of_an_mr(run: Run, cohort: Cohort) -> None:
    units = Units(Maker.of(run, "translation"))
    ct, mr = (next(r for r in cohort.records() if r.kind.startswith(k)) for k in ("CT", "MR"))
    array = np.array([[[[0.0, 1.0], [-1.0, 0.5]]]])
    (hu,), span, name = units.of(ct, array)
    assert (hu.ravel().tolist(), span, name) == ([0, 500, -500, 250], 2000, "HU")
    (same,), span, name = units.of(mr, array)
    assert same is array
    assert (span, name) == (2, "as harmonised")


def test_what_is_drawn_is_one_for_each_test_patient_and_the_same_again(run: Run, cohort: Cohort, drawn: Drawn) -> None:
    assert len(drawn.values) == 64
    assert len(drawn.held.whose) == len(set(drawn.held.whose))
    assert set(drawn.held.whose) <= set(run.split.test)
    assert set(drawn.train.whose) <= set(run.split.train)
    assert all(r.kind.startswith("CT") for r in (*drawn.train.records, *drawn.held.records))
    again = draw(run, cohort, draws=20, steps=4)
    assert all(torch.equal(a, b) for a, b in zip(drawn.values, again.values, strict=True))
    assert again.memorised[0].figures == drawn.memorised[0].figures
    features = drawn.spaces[0]
    assert (
        "which no stage has trained" not in features.about
    )  # the MR's encoder is the CT's, and the translation trained it


def copied(run: Run, cohort: Cohort, drawn: Drawn) -> Drawn:
    """As if it had handed out its training records."""
    loader = run.loader(cohort, run.split.train)
    values = [torch.from_numpy(loader.payload(r).array) for r in drawn.train.records]
    of_values = pixels(values, Modality.VOLUME)
    space = Space("pixels", drawn.train.pixels, drawn.held.pixels, of_values, "the pixels")
    found = memorisation(space, drawn.train.whose, run.split.hash, draws=20)
    return replace(drawn, values=values, spaces=(drawn.spaces[0], space), memorised=(drawn.memorised[0], found))


def test_a_copier_is_shown_beside_whom_it_copied(run: Run, cohort: Cohort, drawn: Drawn) -> None:
    thief = copied(run, cohort, drawn)
    told = {f.name: f for f in thief.memorised[1].figures}
    assert told["near_copies_pixels"].value == 1
    assert told["copying_z_pixels"].value < -3
    shown = pairs(run, cohort, found=thief)
    assert len(shown) == 3
    for pair in shown:
        assert pair.copy
        assert pair.distance == pytest.approx(0, abs=1e-5)
        assert pair.drawn is not None
        assert pair.real is not None
        assert np.allclose(pair.drawn, pair.real, atol=1e-5)
        assert not any(r.id in pair.name or r.patient in pair.name for r in drawn.train.records)
    for pair in pairs(run, cohort, found=thief, redact=True):  # and the copy of what is not shown is not shown
        assert (pair.drawn, pair.real) == (None, None)
        assert pair.why


@pytest.mark.parametrize(
    ("licence", "seen"),
    [
        ("CC BY-NC-SA 4.0", False),
        ("all rights reserved", False),
        ("CC BY 4.0", True),
        ("CC0", True),
        (None, True),
        ("cc-by-sa", True),
    ],
)
def test_a_licence_decides_who_sees_a_training_record(
    run: Run, cohort: Cohort, drawn: Drawn, licence: str | None, seen: bool
) -> None:
    records = [replace(r, attributes={**r.attributes, "licence": licence}) for r in drawn.train.records]
    found = pairs(run, cohort, found=replace(drawn, train=replace(drawn.train, records=records)), count=1)[0]
    assert (found.real is not None) is seen
    assert (licence or "") in found.why or seen


def test_a_training_record_that_is_gone_is_not_shown(run: Run, cohort: Cohort, drawn: Drawn, tmp_path: Path) -> None:
    records = [replace(r, uri=str(tmp_path / "gone.nii.gz"), id=f"{r.id}-gone") for r in drawn.train.records]
    found = pairs(run, cohort, found=replace(drawn, train=replace(drawn.train, records=records)))
    assert [(pair.real, pair.why) for pair in found] == [(None, GONE)] * 3
    assert all(pair.drawn is not None for pair in found)


def test_a_picture_is_the_middle_between_black_and_white() -> None:
    volume = np.zeros((1, 5, 4, 4))
    volume[0, 2, :2] = 7
    assert picture(volume).tolist() == [[1] * 4] * 2 + [[0] * 4] * 2


def test_the_report_shows_them(run: Run, cohort: Cohort, evidence: Evidence) -> None:
    inputs = gather(run, cohort, evidence=evidence.every)
    assert len(inputs.pairs) == 3
    text, summary = whole(inputs)
    assert 'id="synthesis"' in text
    assert "Records that the model makes" in text
    assert "Closest to a training record" in text
    assert text.count("data:image/png") >= 6
    told = json.loads(summary.json())
    assert any(k.endswith("kernel_pixels_floor") for k in told["figures"])
    assert any(k == "pairs.1.distance" for k in told["counts"])
    assert not any(r.id in text for r in cohort.records() if r.patient in run.split.train)


def test_a_run_that_makes_nothing_has_nothing_of_this(tiny_run: Run, tiny_cohort: Cohort) -> None:
    from polyclinic.trust import synthesised

    assert synthesised(tiny_run, tiny_cohort) == []
    assert pairs(tiny_run, tiny_cohort) == ()
