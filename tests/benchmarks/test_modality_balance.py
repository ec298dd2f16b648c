"""The measurement of balanced modalities: its own arithmetic, and from two simulated hospitals to its figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from benchmarks.results.modality_balance import ARMS, READ, RIDGE, auc, recipe, ridge
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

REPOSITORY = Path(__file__).parents[2]


def test_the_probe_and_the_area_are_scikit_learn_s() -> None:
    rng = np.random.default_rng(0)
    x, asked, truth = rng.normal(size=(80, 6)), rng.normal(size=(50, 6)), rng.random((50, 3)) < 0.3
    y = (rng.random((80, 3)) < 0.4).astype(float)
    known = Ridge(RIDGE * len(x)).fit((x - x.mean(0)) / (x.std(0) + 1e-6), y)
    found = ridge(x, y, asked)
    np.testing.assert_allclose(found + y.mean(0), known.predict((asked - x.mean(0)) / (x.std(0) + 1e-6)), rtol=1e-6)
    assert auc(found, truth) == pytest.approx(roc_auc_score(truth, found, average="macro"))


def test_arms_differ_in_the_option_alone() -> None:
    stages = [recipe(arm, 3, 5).stages[0].model_dump() for arm in ARMS]
    differ = {key for stage in stages for key, value in stage.items() if value != stages[0][key]}
    assert differ == {"modality_balance", "modality_dropout"}


@pytest.mark.slow
def test_every_arm_and_modality_has_a_figure() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.results.modality_balance", "--quick"],
        cwd=REPOSITORY, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(done.stdout.splitlines()[-1])
    for m in READ:
        for arm in ARMS:
            found = figures[f"{m}, {arm}"]
            assert found["n"] > 20
            assert 0 <= found["auroc"][1] <= found["auroc"][0] <= found["auroc"][2] <= 1
        assert figures[f"{m}, none"]["minus none"] == [0.0, 0.0, 0.0]
