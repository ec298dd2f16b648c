"""Gene expression: latent programmes, each moved by the person's states, mixed by fixed loadings, counted by a sequencer.

Counts are negative binomial (Robinson & Smyth 2007), a gamma mixture of Poissons, whose depth is the site's.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from .sites import Site

GENES = 320
PROGRAMMES = ("inflammation", "hypoxia", "proliferation", "sex", "smoke", "metabolism", "ageing", "stroma")
DISPERSION = 0.15


def gene_names() -> tuple[str, ...]:
    """Names that no real gene has: `PHG001_rnaseq` …"""
    return tuple(f"PHG{i:03d}_rnaseq" for i in range(1, GENES + 1))


@lru_cache(maxsize=1)
def biology() -> tuple[np.ndarray, np.ndarray]:
    """The phantom's biology, the same for every seed: (genes,) log abundance, (programmes genes) loadings, a fifth of them not 0."""
    rng = np.random.default_rng(20260101)
    base = rng.normal(0.0, 1.2, GENES)
    loadings = rng.gamma(2.0, 0.25, (len(PROGRAMMES), GENES)) * rng.choice([-1, 1], (len(PROGRAMMES), GENES))
    return base, loadings * (rng.random(loadings.shape) < 0.2)


def activities(person: Mapping[str, Any], rng: np.random.Generator) -> np.ndarray:
    """(programmes,) how active each is: what the states do to it, and a standard normal deviation of half that size."""
    by_state = [
        0.5 * person["severity"] + 0.8 * person["pneumonia"] - 1,
        0.9 * person["emphysema"] + 0.6 * person["heart_failure"] - 0.3,
        2.0 * person["malignant"] - 0.3,
        1.5 * person["sex"] - 0.75,
        0.9 * person["smoking"] - 0.7,
        1.4 * person["diabetes"] + 0.04 * (person["bmi"] - 26) - 0.3,
        0.4 * (person["age"] - 60) / 10,
        0.0,
    ]
    return np.array(by_state) + 0.5 * rng.standard_normal(len(PROGRAMMES))


def counts(activity: np.ndarray, site: Site, rng: np.random.Generator) -> np.ndarray:
    """(genes,) reads.

    Args:
        activity: (programmes,).
        site: its sequencer's depth.
        rng: of the patient's sample.
    """
    base, loadings = biology()
    share = np.exp(base + activity @ loadings)
    mean = site.library * rng.lognormal(0, 0.2) * share / share.sum()
    return rng.poisson(mean * rng.gamma(1 / DISPERSION, DISPERSION, GENES))
