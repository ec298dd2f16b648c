"""The expected gain against a case in which it is known: normal signs of a yes-or-no state, whose posteriors are exact."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from polyclinic.adaptation import adapt, open_adapted
from polyclinic.cohort import Cohort, ingest
from polyclinic.harmonise.unread import Unread
from polyclinic.inference import predict
from polyclinic.schema import Modality
from polyclinic.tasks import Baseline
from polyclinic.training import Run, pretrain
from polyclinic.trust import EvidenceError
from polyclinic.trust.modalities.acquisition import FEWEST, acquisition, expected, followed, next_modality, suggested
from polyclinic.trust.modalities.design import Chosen
from polyclinic.trust.modalities.reference import (
    Reference,
    _HeldOut,
    as_probabilities,
    brier,
    entropy,
    logit,
    reference_of,
)  # fmt: skip

IMAGE, TEXT, TABLE = Modality.IMAGE, Modality.TEXT, Modality.TABLE
READS: Chosen = (IMAGE, TEXT, TABLE)
SHARP = {IMAGE: 1.0, TEXT: 2.0, TABLE: 0.0}
"""Each sign is normal with spread one about ± half of this; the table says nothing."""


def hospital(n: int, seed: int, sharp: dict[Modality, float] | None = None, missing: float = 0.0) -> Reference:
    """Patients of whom half are ill. With independent signs the log odds of the posterior are the sum of the signs' own."""
    sharp, random = sharp or SHARP, np.random.default_rng(seed)
    ill = random.integers(0, 2, n)
    odds = {m: d * random.normal(d * (ill - 0.5), 1.0) for m, d in sharp.items()}
    has = [tuple(m for m in READS if m is IMAGE or random.random() >= missing) for _ in range(n)]
    there = {m: np.array([m in mine for mine in has]) for m in READS}

    def answer(seen: Chosen) -> np.ndarray:
        total = sum((np.where(there[m], odds[m], 0.0) for m in seen), np.zeros(n))
        nothing = ~np.any([there[m] for m in seen], axis=0)
        return np.where(nothing, np.nan, 1 / (1 + np.exp(-total)))[:, None]

    return Reference(READS, has, answer, ill[:, None].astype(float), np.ones((n, 1)))


def true_gain(at: float, sharp: float) -> tuple[float, float]:
    """The expected fall of Brier score and entropy where the log odds are `at`, by quadrature over the sign to come."""
    p, x = 1 / (1 + np.exp(-at)), np.linspace(-12, 12, 20001)
    density = lambda middle: np.exp(-0.5 * (x - middle) ** 2) / np.sqrt(2 * np.pi)
    weight = p * density(sharp / 2) + (1 - p) * density(-sharp / 2)
    after = 1 / (1 + np.exp(-(at + sharp * x)))
    mean = lambda v: float(np.trapezoid(weight * v, x))
    h = lambda q: entropy(np.asarray(q)[:, None])
    return p * (1 - p) - mean(after * (1 - after)), float(h(np.array([p]))[0]) - mean(h(after))


@pytest.mark.parametrize("at", [0.0, 1.0, -1.5])
@pytest.mark.parametrize("one", [TEXT, TABLE])
def test_the_expected_gain_is_the_true_one(at: float, one: Modality) -> None:
    near, fell, surer = hospital(20000, 0).gained((IMAGE,), one)
    wanted = true_gain(at, SHARP[one])
    rows = np.random.default_rng(1).permutation(20000)[:4000]
    for gained, value, apart in ((fell, wanted[0], 0.03), (surer, wanted[1], 0.04)):
        found = expected(near[rows], gained[rows], np.array([at]), "s", draws=200)
        assert found.value == pytest.approx(value, abs=apart)
        assert found.low <= found.value <= found.high
        assert found.n == 4000


def test_its_interval_covers_the_truth() -> None:
    """Hospitals of 150 patients drawn anew: about 95 of 100 intervals hold the true expected gain."""
    wanted = true_gain(0.5, SHARP[TEXT])[0]
    inside = []
    for seed in range(100):
        near, fell, _ = hospital(150, seed).gained((IMAGE,), TEXT)
        found = expected(near, fell, np.array([0.5]), "s", draws=200, seed=seed)
        inside.append(found.low <= wanted <= found.high)
    assert 0.85 <= np.mean(inside) <= 1.0


def test_what_tells_most_is_suggested_and_what_tells_nothing_never() -> None:
    found = suggested(hospital(400, 3), np.array([0.2]), (IMAGE,), "s", draws=300)
    assert found.present == ("image",)
    assert found.ask == "text"
    assert "text is expected to lower the Brier score" in found.why
    assert [g.modality for g in found.gains] == ["text", "table"]
    assert [g.worth for g in found.gains] == [True, False]
    assert found.gains[1].brier.value == pytest.approx(0, abs=1e-12)
    assert found.gains[0].brier.split == "s"


def test_none_is_suggested_where_none_is_worth_it() -> None:
    nothing = hospital(200, 0, {IMAGE: 1.0, TEXT: 0.0, TABLE: 0.0})
    found = suggested(nothing, np.array([0.0]), (IMAGE,), "s", draws=200)
    assert found.ask is None
    assert "no missing modality is shown" in found.why


def test_of_too_few_patients_nothing_is_said() -> None:
    found = suggested(hospital(FEWEST - 1, 0), np.array([0.0]), (IMAGE,), "s", draws=50)
    assert found.ask is None
    assert f"{FEWEST - 1} patients have it, {FEWEST} wanted" in found.why
    assert all(np.isnan(g.brier.value) for g in found.gains)


def test_only_patients_who_have_it_are_asked() -> None:
    reference = hospital(300, 5, missing=0.5)
    for one in (TEXT, TABLE):
        near, fell, _ = reference.gained((IMAGE,), one)
        assert len(near) == len(fell) == sum(one in mine for mine in reference.has)
    near, *_ = reference.gained((TEXT, TABLE), IMAGE)
    assert len(near) == sum(set(READS) <= set(mine) for mine in reference.has)


def test_who_has_everything_is_asked_for_nothing() -> None:
    found = suggested(hospital(50, 0), np.array([0.0]), READS, "s")
    assert (found.ask, found.gains) == (None, ())
    assert "missing" in found.why


def test_following_the_suggestion_beats_chance_where_there_is_something_to_choose() -> None:
    """The text tells most of all on average; nobody is ill served by asking for it, and chance is served worse."""
    found = followed(hospital(400, 1), hospital(300, 2), "s", draws=200)
    one = {a.metric: a for a in found}
    assert {a.number for a in found} == {1}
    assert one["brier"].over_random.high < 0
    assert one["accuracy"].over_random.low > 0
    assert one["brier"].suggested.n == 300
    assert one["brier"].over_fixed.value == pytest.approx(0, abs=1e-9)  # always the text is as good here


def test_nothing_to_follow() -> None:
    with pytest.raises(EvidenceError, match="0 labelled test patients"):
        followed(hospital(50, 0), hospital(20, 0, missing=1.0), "s")


def test_answers_of_every_kind_are_probabilities() -> None:
    grades = as_probabilities("grade", np.array([[0.2, 0.3, 0.5]]), None, np.zeros(0))
    assert grades == pytest.approx(np.array([[0.8, 0.5]]))
    assert as_probabilities("classification", np.array([0.3, 0.6]), None, np.zeros(0)).shape == (2, 1)
    times, hazard = np.array([1.0, 2.0]), np.array([0.1, 0.5])
    base = Baseline(times, hazard, np.exp(-hazard), 0.0, times, "months")
    assert as_probabilities("survival", np.array([0.0]), base, times) == pytest.approx(1 - np.exp(-hazard)[None])


def test_brier_and_entropy_by_hand() -> None:
    told, truth = np.array([[0.9, 0.5]]), np.array([[1.0, 0.0]])
    assert brier(told, truth, np.array([[0.5, 0.5]])) == pytest.approx([(0.01 + 0.25) / 2])
    assert brier(told, truth, np.array([[1.0, 0.0]])) == pytest.approx([0.01])
    assert entropy(np.array([[0.5], [1.0]])) == pytest.approx([1.0, 0.0], abs=1e-9)
    assert np.isfinite(logit(np.array([0.0, 1.0]))).all()


RECIPE = """
name: next
cohort: {split: {by: patient, test: 0.35, seed: 0, stratify: ill}}
encoders:
  table: {kind: events, width: 16, depth: 1, heads: 2, fewest: 2}
  text:  {kind: bert, words: 24, vocabulary: 128, width: 16, depth: 1, heads: 2}
model: {kind: two_tower, width: 16, embedding: 16, fusion: {kind: early, depth: 1, heads: 2}}
tasks:
  ill: {kind: classification, column: ill, positive: ["yes"]}
  death: {kind: survival, time: months, event: dead, horizons: [6, 12]}
stages: [{name: first, steps: 4, batch: 8, lr: 1.0e-3, warmup: 1, objective: {kind: masked, modalities: [table, text], ratio: 0.5}}]
precision: fp32
"""


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Cohort, Path]:
    """Patients with a row that tells a little; two in three have a note that tells much."""
    random, folder = np.random.default_rng(0), tmp_path_factory.mktemp("clinic")
    lines = ["patient_id,marker,noise,ill,months,dead"]
    for n in range(140):
        ill = n % 2
        lines.append(
            f"P{n:03},{random.normal(0.7 * ill):.2f},{random.normal():.2f},{'yes' if ill else 'no'},"
            f"{random.exponential(8 if ill else 25) + 0.1:.2f},{int(random.random() < 0.8)}"
        )
        if n % 3:
            seen = "shadow shadow shadow" if ill == (random.random() < 0.9) else "clear clear clear"
            # A note is nobody's copy: copies would bind their patients to one side of the split.
            words = " ".join("".join(random.choice(list("abdegiklmnoprst"), 5)) for _ in range(20))
            (folder / f"P{n:03}_1.txt").write_text(f"{seen} {words}")
    (folder / "visits.csv").write_text("\n".join(lines))
    cohort = ingest(folder, tmp_path_factory.mktemp("cohort"))
    place = tmp_path_factory.mktemp("runs")
    (place / "next.yaml").write_text(RECIPE)
    return pretrain(place / "next.yaml", cohort, into=place), cohort, folder


def test_of_a_run_the_note_is_asked_for(clinic: tuple[Run, Cohort, Path], tmp_path: Path) -> None:
    run, cohort, folder = clinic
    adapted = adapt(run, "ill", "probe", cohort=cohort)
    lacking = next(p for p in run.split.test if int(p[1:]) % 3 == 0)
    found = next_modality(adapted, patient=lacking, cohort=cohort, draws=200)
    assert found.present == ("table",)
    (gain,) = found.gains
    with_note = sum(int(p[1:]) % 3 > 0 for p in run.split.train)
    assert (gain.modality, gain.brier.n, gain.entropy.n) == ("text", with_note, with_note)
    assert gain.brier.value > 0
    assert found.ask == ("text" if gain.worth else None)
    head, *rest = (folder / "visits.csv").read_text().splitlines()
    mine = next(line for line in rest if line.startswith(lacking))
    (tmp_path / "row.csv").write_text(f"{head}\n{mine}\n")
    by_file = next_modality(adapted, [tmp_path / "row.csv"], cohort=cohort, draws=200)
    assert by_file.present == found.present
    assert by_file.gains[0].brier.value == pytest.approx(gain.brier.value, abs=1e-6)
    with pytest.raises(EvidenceError, match="or neither"):
        next_modality(adapted, cohort=cohort)


def test_whom_the_head_learned_from_is_answered_by_heads_that_did_not(clinic: tuple[Run, Cohort, Path]) -> None:
    """With random labels nothing can be learned: held out, answers are no better than chance, though the head knows its own."""
    run, cohort, _ = clinic
    adapted = open_adapted(adapt(run, "ill", {"kind": "probe", "ridge": 1e-4}, 30, cohort=cohort))
    reference = reference_of(adapted, cohort)
    held = reference.answers((TEXT, TABLE))
    own = predict(adapted, cohort, patients=run.split.train)
    assert len(held) == len(own.patients) == len(run.split.train)
    learned = np.array([p in set(adapted.run.adapter["labelled"]) for p in own.patients])
    assert learned.sum() == 30
    assert held[~learned, 0] == pytest.approx(own.outputs[~learned], abs=1e-6)
    of_own = brier(own.outputs[learned][:, None], reference.truth[learned], reference.weight[learned]).mean()
    assert brier(held[learned], reference.truth[learned], reference.weight[learned]).mean() > of_own


def test_a_prototype_is_held_out_as_a_prototype_and_who_is_gone_has_no_answer(
    clinic: tuple[Run, Cohort, Path], tmp_path: Path
) -> None:
    run, cohort, _ = clinic
    adapted = open_adapted(adapt(run, "ill", "prototype", 30, cohort=cohort, into=tmp_path / "all"))
    loader, learned = run.loader(cohort, run.split.train, ("ill",)), adapted.run.adapter["labelled"]
    held = _HeldOut(adapted, cohort, loader, learned)
    out, rest = ([p for p in learned if (held.fold[p] == 0) is left] for left in (True, False))
    without = predict(adapt(run, "ill", "prototype", rest, cohort=cohort, into=tmp_path / "rest"), cohort, patients=out)
    told = held.told(out, (TEXT, TABLE), "classification", np.zeros(0))
    assert list(without.patients) == out
    np.testing.assert_allclose(told[:, 0], without.outputs, atol=1e-6)
    loader.note(Unread(out[0], "r", "a file that is gone"))
    fewer = held.told(out, (TEXT, TABLE), "classification", np.zeros(0))
    np.testing.assert_allclose(fewer[:, 0], [np.nan, *told[1:, 0]], atol=1e-6)


def test_a_survival_has_a_next_modality_too(clinic: tuple[Run, Cohort, Path]) -> None:
    run, cohort, _ = clinic
    adapted = open_adapted(adapt(run, "death", "probe", cohort=cohort))
    reference = reference_of(adapted, cohort)
    assert reference.truth.shape == (len(run.split.train), 2)
    assert ((reference.weight == 0) | (reference.weight > 0.49)).all()
    lacking = next(p for p in run.split.test if int(p[1:]) % 3 == 0)
    found = next_modality(adapted, patient=lacking, cohort=cohort, draws=50)
    assert np.isfinite(found.gains[0].brier.value)


def test_of_two_modalities_there_is_nothing_to_choose(clinic: tuple[Run, Cohort, Path]) -> None:
    run, cohort, _ = clinic
    with pytest.raises(EvidenceError, match="three modalities"):
        acquisition(adapt(run, "ill", "probe", cohort=cohort), cohort)


def test_masks_have_no_next_modality(tiny_segmentation_run: Run, tiny_cohort: Cohort) -> None:
    with pytest.raises(EvidenceError, match="a segmentation"):
        next_modality(tiny_segmentation_run, patient="anybody", cohort=tiny_cohort)
