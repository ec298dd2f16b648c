from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter
from lifelines.utils import concordance_index
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from polyclinic.cohort import Cohort, labels_of
from polyclinic.schema import Modality, Payload, Record
from polyclinic.tasks.segmentation import dice
from polyclinic.training import Run
from polyclinic.trust import EvidenceError
from polyclinic.trust.comparisons import baselines as b

TRAIN, TEST = tuple(f"t{i:03}" for i in range(60)), tuple(f"x{i:03}" for i in range(30))


class World:
    """Patients whose cells, genes, words and pictures are known."""

    def __init__(self, seed: int = 0) -> None:
        self.payloads: dict[str, Payload] = {}
        self.records: list[Record] = []
        self.random = np.random.default_rng(seed)

    def add(self, patient: str, modality: Modality, payload: Payload) -> None:
        name = f"{modality}-{patient}-{len(self.records)}"
        self.payloads[name] = payload
        self.records.append(Record(name, patient, None, modality, "CR chest PA", "", attributes={}))

    def cells(self, patient: str, cells: Mapping[str, float]) -> None:
        self.add(patient, Modality.TABLE, Payload(np.array([[v, 0.0] for v in cells.values()]), names=tuple(cells)))

    def study(self, answers: Mapping[str, Any], **more: Any) -> b.Study:
        load = lambda record: self.payloads[record.id]
        return b.Study(self.records, load, TRAIN, TEST, answers, **more)


@pytest.fixture
def tabled() -> tuple[World, dict[str, int]]:
    """Two columns, of which the first tells the class; some cells are not known."""
    world, answers = World(), {}
    for patient in (*TRAIN, *TEST):
        value = world.random.normal()
        answers[patient] = int(value + 0.5 * world.random.normal() > 0.4)
        world.cells(patient, {"marker": value, "noise": world.random.normal()})
    return world, answers


def test_a_table_s_baseline_is_logistic_regression(tabled: tuple[World, dict[str, int]]) -> None:
    world, answers = tabled
    study = world.study(answers, modalities=(Modality.TABLE,))
    found = b.classify(study, "task")
    rows = {r.patient: world.payloads[r.id].array[:, 0] for r in world.records}
    x = np.array([rows[p] for p in TRAIN])
    scale = lambda values: np.clip((values - x.mean(0)) / x.std(0), -6, 6)
    truth = np.array([answers[p] for p in TRAIN])
    peers = [
        LogisticRegression(C=c, class_weight="balanced")
        .fit(scale(x), truth)
        .predict_proba(scale(np.array([rows[p] for p in TEST])))[:, 1]
        for c in b.PENALTIES
    ]
    assert min(np.abs(found.outputs - peer).max() for peer in peers) < 1e-4
    assert roc_auc_score([answers[p] for p in TEST], found.outputs) > 0.8
    assert found.patients == TEST
    assert found.mask.all()


def test_the_penalty_is_chosen_within_the_training_labels() -> None:
    """Many columns that say nothing want a stronger one than a few that say all."""
    random = np.random.default_rng(0)
    truth = np.arange(80) % 2
    names = [f"p{i}" for i in range(80)]
    noise = random.normal(size=(80, 60)) + 0.15 * truth[:, None]
    clear = random.normal(size=(80, 2)) + 2.0 * truth[:, None]
    strong = b._fit_logistic(noise, truth, np.ones(80), names).C
    weak = b._fit_logistic(clear, truth, np.ones(80), names).C
    assert strong < weak
    few = b._fit_logistic(clear[:10], truth[:10], np.ones(10), names[:10]).C
    assert few == b.PENALTIES[1]


def test_both_classes_count_alike(tabled: tuple[World, dict[str, int]]) -> None:
    random = np.random.default_rng(1)
    truth = (np.arange(200) < 20).astype(int)
    x = random.normal(size=(200, 3)) + truth[:, None]
    names = [str(i) for i in range(200)]
    ours = b._fit_logistic(x, truth, np.ones(200), names)
    peer = LogisticRegression(C=ours.C, class_weight="balanced", max_iter=2000).fit(x, truth)
    np.testing.assert_allclose(ours.coef_, peer.coef_, atol=1e-3)
    np.testing.assert_allclose(ours.intercept_, peer.intercept_, atol=1e-3)


def test_a_patient_of_many_pictures_counts_once(tabled: tuple[World, dict[str, int]]) -> None:
    world, answers = tabled
    one = b.classify(world.study(answers), "task")
    for record in [r for r in world.records if r.patient == TRAIN[0]]:
        for _ in range(30):
            world.add(TRAIN[0], Modality.TABLE, world.payloads[record.id])
    np.testing.assert_allclose(b.classify(world.study(answers), "task").outputs, one.outputs, atol=1e-9)


@pytest.mark.parametrize("kind", ["classify", "cox"])
def test_nothing_is_learned_of_the_test_side(kind: str) -> None:
    """Other answers and other records of the test patients change no other test patient's answer."""
    world, answers = World(3), {}
    for patient in (*TRAIN, *TEST):
        value, genes = world.random.normal(), world.random.normal(size=8)
        world.cells(patient, {"age": value, f"sex={'M' if value > 0 else 'F'}": 1.0})
        world.add(patient, Modality.OMICS, Payload(genes, names=tuple(f"G{i}" for i in range(8))))
        world.add(patient, Modality.TEXT, Payload(np.zeros(0), text="fever and cough" if value > 0 else "no complaint"))
        answers[patient] = int(value > 0) if kind == "classify" else (float(np.exp(-value)), 1.0)
    baseline = getattr(b, kind)
    before = baseline(world.study(answers), "task")
    shuffled = answers | dict(zip(TEST, [answers[p] for p in reversed(TEST)], strict=True))
    after = baseline(world.study(shuffled), "task")
    np.testing.assert_array_equal(after.outputs, before.outputs)
    for record in world.records:
        if record.patient in TEST[1:]:
            payload = world.payloads[record.id]
            world.payloads[record.id] = replace(payload, array=payload.array * 7 - 3, text="zyzzyva " * 20)
    disturbed = baseline(world.study(answers), "task")
    assert disturbed.outputs[0] == pytest.approx(before.outputs[0], abs=1e-9)
    assert not np.allclose(disturbed.outputs[1:], before.outputs[1:])


def test_a_column_that_is_a_label_is_not_read(tabled: tuple[World, dict[str, int]]) -> None:
    world, answers = tabled
    for patient, answer in answers.items():
        world.cells(patient, {"label": float(answer)})
    with_it = b.classify(world.study(answers), "task")
    without = b.classify(world.study(answers, exclude=("label",)), "task")
    assert roc_auc_score([answers[p] for p in TEST], with_it.outputs) == 1
    assert roc_auc_score([answers[p] for p in TEST], without.outputs) < 1


def test_a_word_that_one_patient_has_is_no_feature(tabled: tuple[World, dict[str, int]]) -> None:
    world, answers = tabled
    before = b.classify(world.study(answers), "task")
    world.cells(TRAIN[0], {"name=Quasimodo": 1.0})
    np.testing.assert_allclose(b.classify(world.study(answers), "task").outputs, before.outputs, atol=1e-9)


def test_words_are_learned_from_notes() -> None:
    world, answers = World(), {}
    for number, patient in enumerate((*TRAIN, *TEST)):
        answers[patient] = number % 2
        told = "covid was found" if answers[patient] else "nothing was found"
        world.add(patient, Modality.TEXT, Payload(np.zeros(0), text=f"A patient of {20 + number}. {told}."))
    truth = [answers[p] for p in TEST]
    assert roc_auc_score(truth, b.classify(world.study(answers), "task").outputs) == 1
    struck = b.classify(world.study(answers, without=("covid", "nothing")), "task")
    assert roc_auc_score(truth, struck.outputs) < 0.9


def test_pictures_are_learned_from_pixels() -> None:
    world, answers = World(), {}
    for number, patient in enumerate((*TRAIN, *TEST)):
        answers[patient] = number % 2
        picture = world.random.normal(size=(1, 48, 40))
        picture[0, 10:30, 10:30] += 2.0 * answers[patient]
        world.add(patient, Modality.IMAGE, Payload(picture, np.diag([1.0, 1, 1, 1])))
    found = b.classify(world.study(answers), "task")
    assert roc_auc_score([answers[p] for p in TEST], found.outputs) > 0.95


def test_who_has_nothing_gets_no_opinion(tabled: tuple[World, dict[str, int]]) -> None:
    world, answers = tabled
    world.records = [r for r in world.records if r.patient != TEST[3]]
    found = b.classify(world.study(answers), "task")
    assert found.outputs[3] == 0.5
    assert not found.mask[3] or answers[TEST[3]] in (0, 1)


def test_one_class_is_refused(tabled: tuple[World, dict[str, int]]) -> None:
    world, _ = tabled
    with pytest.raises(EvidenceError, match="one class"):
        b.classify(world.study(dict.fromkeys((*TRAIN, *TEST), 1)), "task")


def survival(seed: int = 0, columns: int = 3) -> tuple[World, dict[str, tuple[float, float]], np.ndarray]:
    world, answers, rows = World(seed), {}, []
    for patient in (*TRAIN, *TEST):
        values = world.random.normal(size=columns)
        rows.append(values)
        world.cells(patient, {f"c{i}": v for i, v in enumerate(values)})
        time = world.random.exponential(np.exp(-1.2 * values[0]))
        answers[patient] = (float(time), float(world.random.random() < 0.7))
    return world, answers, np.array(rows)


def test_survival_is_lifelines_cox_model() -> None:
    world, answers, rows = survival()
    found = b.cox(world.study(answers, modalities=(Modality.TABLE,)), "task")
    train, test = rows[: len(TRAIN)], rows[len(TRAIN) :]
    scale = lambda values: pd.DataFrame(np.clip((values - train.mean(0)) / train.std(0), -6, 6)).add_prefix("x")
    known = scale(train).assign(time=[answers[p][0] for p in TRAIN], event=[answers[p][1] for p in TRAIN])
    peers = [
        CoxPHFitter(penalizer=penalty).fit(known, "time", "event").predict_log_partial_hazard(scale(test)).to_numpy()
        for penalty in b.PENALTIES
    ]
    assert min(np.abs(found.outputs - peer).max() for peer in peers) < 1e-4
    np.testing.assert_array_equal(found.targets, [answers[p] for p in TEST])


def test_the_penalty_of_cox_is_chosen_by_who_is_left_out() -> None:
    clear, many = survival(1, columns=2), survival(2, columns=30)
    chosen = []
    for world, answers, rows in (clear, many):
        train = rows[: len(TRAIN)]
        times = np.array([answers[p] for p in TRAIN])
        hazards = b.cox_hazards(train, np.ones(len(TRAIN), dtype=bool), times, "survival")
        frame = pd.DataFrame(train).add_prefix("x").assign(time=times[:, 0], event=times[:, 1])
        of = {
            p: CoxPHFitter(penalizer=p).fit(frame, "time", "event").predict_log_partial_hazard(frame).to_numpy()
            for p in b.PENALTIES
        }
        chosen.append(min(of, key=lambda p: np.abs(of[p] - hazards).max()))
        assert world.records
    assert chosen[0] < chosen[1]


def test_genes_are_read_by_their_leading_components() -> None:
    world, answers = World(5), {}
    for patient in (*TRAIN, *TEST):
        factor = world.random.normal()
        genes = factor * np.linspace(1, 2, 40) + 0.3 * world.random.normal(size=40)
        world.add(patient, Modality.OMICS, Payload(genes, names=tuple(f"G{i:02}" for i in range(40))))
        answers[patient] = (float(world.random.exponential(np.exp(-factor))), 1.0)
    found = b.cox(world.study(answers, modalities=(Modality.OMICS,)), "task")
    assert concordance_index([answers[p][0] for p in TEST], -found.outputs) > 0.65


def test_survival_without_an_event_or_a_column_is_refused() -> None:
    world, answers, _ = survival()
    with pytest.raises(EvidenceError, match="0 events"):
        b.cox(world.study({p: (t, 0.0) for p, (t, _) in answers.items()}), "task")
    with pytest.raises(EvidenceError, match="0 features"):
        b.cox(world.study(answers, modalities=(Modality.TEXT,)), "task")


def test_the_atlas_is_the_mean_mask(tiny_run: Run, tiny_cohort: Cohort) -> None:
    label = tiny_run.recipe.tasks["hippocampus"].label("hippocampus")
    assert label is not None
    masks = labels_of(tiny_cohort.records(), label)
    patients = sorted({m.patient for m in masks.values()})
    train, test = tuple(patients[:1]), tuple(patients[1:])
    loader = tiny_run.loader(tiny_cohort, tuple(patients), ("hippocampus",))
    found = b.atlas(loader, "hippocampus", train, test, 2, Modality.VOLUME)
    grids = dict(b._true_masks(loader, "hippocampus", patients, Modality.VOLUME))
    np.testing.assert_allclose(found.outputs, [dice(grids[train[0]], grids[p], 3) for p in test])  # of one, itself
    several = b.atlas(loader, "hippocampus", tuple(patients[:4]), test, 2, Modality.VOLUME)
    assert several.outputs.mean() > found.outputs.mean() - 0.05
    assert several.patients == test
    with pytest.raises(EvidenceError, match="without a training mask"):
        b.atlas(loader, "hippocampus", (), test, 2, Modality.VOLUME)


def test_the_atlas_learns_of_training_masks_alone(tiny_run: Run, tiny_cohort: Cohort) -> None:
    loader = tiny_run.loader(tiny_cohort, tiny_run.split.train + tiny_run.split.test, ("hippocampus",))
    masked = sorted(loader.labelled("hippocampus"))
    train, test = tuple(masked[:3]), tuple(masked[3:])
    together = b.atlas(loader, "hippocampus", train, test, 2, Modality.VOLUME)
    alone = b.atlas(loader, "hippocampus", train, test[:1], 2, Modality.VOLUME)
    np.testing.assert_array_equal(alone.outputs[0], together.outputs[0])
