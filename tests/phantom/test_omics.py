"""Counts against the moments of their law, programmes against the states that drive them, names against the reader's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from polyclinic.phantom.omics import DISPERSION, GENES, PROGRAMMES, activities, biology, counts, gene_names
from polyclinic.phantom.people import person
from polyclinic.phantom.sites import SITES
from polyclinic.records.omics import FEWEST_GENES, gene_columns


def test_moments_of_the_counts() -> None:
    """Mean m = L share e^(σ²/2); variance m + m²((1 + φ) e^(σ²) - 1), of a negative binomial whose depth is log-normal."""
    rng = np.random.default_rng(0)
    site = replace(SITES[0], library=2e4)
    drawn = np.array([counts(np.zeros(len(PROGRAMMES)), site, rng) for _ in range(6000)])
    base, _ = biology()
    mean = 2e4 * np.exp(base) / np.exp(base).sum() * np.exp(0.02)
    often = mean > 20
    np.testing.assert_allclose(drawn.mean(0)[often], mean[often], rtol=0.05)
    variance = mean + mean**2 * ((1 + DISPERSION) * np.exp(0.04) - 1)
    ratio = drawn.var(0)[often] / variance[often]
    assert np.median(ratio) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize(
    ("programme", "node", "high"), [("sex", "sex", 1), ("proliferation", "malignant", 1), ("smoke", "smoking", 2)]
)
def test_a_programme_shows_its_state(programme: str, node: str, high: int) -> None:
    number, rng = PROGRAMMES.index(programme), np.random.default_rng(1)
    _, loadings = biology()
    score = lambda level: np.array([
        loadings[number] @ np.log1p(counts(activities(person(0, i) | {node: level}, rng), SITES[0], rng)) for i in range(40)
    ])  # fmt: skip
    low, up = score(0), score(high)
    assert (up.mean() - low.mean()) / np.hypot(up.std(), low.std()) > 1


def test_the_reader_takes_the_names_for_genes() -> None:
    assert len(set(gene_names())) == GENES > FEWEST_GENES
    assert gene_columns(["patient_id", "site", *gene_names()], "expression.csv") == list(gene_names())
