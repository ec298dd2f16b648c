from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from sklearn.decomposition import PCA

from polyclinic.cohort import Cohort
from polyclinic.inference import embed
from polyclinic.training import Run
from polyclinic.trust.pages.embeddings import embedding_map, findings, flatten


def test_the_plane_is_that_of_the_principal_components() -> None:
    vectors = np.random.default_rng(0).normal(size=(40, 6)) @ np.diag([5.0, 3.0, 1.0, 1.0, 0.5, 0.1])
    reference = PCA(2).fit(vectors)
    plane, kept = flatten(vectors)
    assert np.allclose(np.abs(plane), np.abs(reference.transform(vectors)))
    assert kept == pytest.approx(reference.explained_variance_ratio_.sum())


def test_the_plane_does_not_depend_on_the_order_of_the_patients() -> None:
    vectors = np.random.default_rng(1).normal(size=(20, 5))
    order = np.random.default_rng(2).permutation(20)
    assert np.allclose(flatten(vectors)[0][order], flatten(vectors[order])[0])


@pytest.mark.parametrize("shape", [(0, 4), (1, 4), (2, 4), (5, 1)])
def test_few_points_still_lie_on_a_plane(shape: tuple[int, int], recwarn: pytest.WarningsRecorder) -> None:
    plane, _ = flatten(np.random.default_rng(0).normal(size=shape))
    assert plane.shape == (shape[0], 2)
    assert np.isfinite(plane).all()
    assert not list(recwarn)


def test_points_that_are_all_alike_keep_no_share() -> None:
    plane, kept = flatten(np.ones((4, 3)))
    assert np.allclose(plane, 0)
    assert np.isnan(kept)


def test_tsne_keeps_neighbours_and_is_the_same_each_time() -> None:
    random = np.random.default_rng(0)
    vectors = np.concatenate([random.normal(m, 0.1, size=(10, 5)) for m in (0.0, 6.0)])
    plane, kept = flatten(vectors, "tsne")
    assert np.isnan(kept)
    assert np.array_equal(plane, flatten(vectors, "tsne")[0])
    distance = np.linalg.norm(plane[:, None] - plane[None], axis=2) + 1e9 * np.eye(20)
    assert ((distance.argmin(1) < 10) == (np.arange(20) < 10)).all()


def test_the_map_has_a_point_for_each_record_kind_of_each_test_patient(tiny_run: Run, tiny_cohort: Cohort) -> None:
    made = embedding_map(tiny_run, tiny_cohort)
    found = embed(tiny_run, tiny_cohort)
    assert Counter(made.modality) == {m.value: len(names) for m, (names, _) in found.items()}
    assert set(made.patient) <= set(tiny_run.split.test)
    assert made.points.shape == (len(made.patient), 2)
    assert made.split == tiny_run.split.hash
    assert made.asked == len(tiny_run.split.test)


def test_the_findings_are_those_of_the_table(tiny_run: Run, tiny_cohort: Cohort) -> None:
    found = findings(tiny_run, tiny_cohort)
    rows = tiny_cohort.query("select patient, attributes->>'finding' as finding from records where modality = 'table'")
    told = {r["patient"]: r["finding"] for r in rows.to_pylist() if r["finding"]}
    assert found == {p: "COVID-19" if f == "COVID-19" else "not COVID-19" for p, f in told.items()}
    made = embedding_map(tiny_run, tiny_cohort)
    assert all(f == found.get(p, "unlabelled") for p, f in zip(made.patient, made.finding, strict=True))
    assert "unlabelled" in made.finding


def test_a_map_of_many_is_a_drawn_part_of_them(tiny_run: Run, tiny_cohort: Cohort) -> None:
    made = embedding_map(tiny_run, tiny_cohort, most=4)
    assert len(set(made.patient)) == 4
    assert made.asked == len(tiny_run.split.test)
    assert made.patient == embedding_map(tiny_run, tiny_cohort, most=4).patient
    assert set(embedding_map(tiny_run, tiny_cohort, most=4, seed=1).patient) != set(made.patient)


def test_centred_every_modality_lies_about_its_own_mean(tiny_run: Run, tiny_cohort: Cohort) -> None:
    plain, centred = (embedding_map(tiny_run, tiny_cohort, centred=c) for c in (False, True))
    assert (plain.patient, plain.modality) == (centred.patient, centred.modality)
    means = lambda found: np.array(
        [found.points[np.array(found.modality) == m].mean(0) for m in sorted(set(found.modality))]
    )
    assert np.abs(means(centred)).max() < 1e-6
    assert np.abs(means(plain)).max() > 1e-2
