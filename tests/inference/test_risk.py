"""The baseline hazard of an adapted run: fitted to its training patients, kept in its file, and told in its answers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file

from polyclinic.adaptation import adapt
from polyclinic.adaptation.adapted import FILE, open_adapted
from polyclinic.adaptation.plan import AdaptError
from polyclinic.cohort import Cohort
from polyclinic.inference import predict
from polyclinic.inference.answers import answer_cohort
from polyclinic.tasks import SurvivalTask
from polyclinic.training import Run


@pytest.fixture(scope="module", params=["probe", "lora"])
def adapted(
    request: pytest.FixtureRequest, tiny_run: Run, tiny_cohort: Cohort, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    place = tmp_path_factory.mktemp("risk") / request.param
    return adapt(tiny_run, "survival", request.param, cohort=tiny_cohort, into=place)


def test_the_training_patients_hazards_add_up_to_their_events(adapted: Run, tiny_cohort: Cohort) -> None:
    """What Breslow's estimate is made for: the sum of H₀(tᵢ) exp(ηᵢ) is the number of events (martingale residuals add up to 0)."""
    known = predict(adapted, tiny_cohort, patients=adapted.adapter["labelled"]).labelled()
    assert known.baseline is not None
    assert len(known.patients) == adapted.adapter["labels"]
    time, event = known.targets.T
    risk = np.diagonal(known.baseline.risk(known.outputs, time))
    assert risk.max() < 1
    assert -np.log1p(-risk).sum() == pytest.approx(event.sum(), rel=1e-3)
    assert known.baseline.until == time.max()


def test_answers_tell_the_risk_by_each_horizon(adapted: Run, tiny_cohort: Cohort, tmp_path: Path) -> None:
    known = predict(adapted, tiny_cohort).labelled()
    assert known.baseline is not None
    who = known.patients[:3]
    place = answer_cohort(adapted, tiny_cohort, patients=who, into=tmp_path)
    rows = pq.read_table(place / "answers-00000.parquet").to_pylist()
    assert [row["patient"] for row in rows] == sorted(who)
    horizons = known.baseline.horizons
    assert len(horizons)
    wanted = dict(zip(known.patients, known.baseline.risk(known.outputs, horizons), strict=True))
    for row in rows:
        values = dict(row["values"])
        for at, risk in zip(horizons, wanted[row["patient"]], strict=True):
            assert float(values[f"risk_at_{at:g}_months"]) == pytest.approx(risk, abs=2e-3)
            assert f"at {at:g} months" in row["headline"]


def test_it_travels_in_the_file(adapted: Run) -> None:
    one, other = open_adapted(adapted).task, open_adapted(adapted.path).task
    assert isinstance(one, SurvivalTask)
    assert isinstance(other, SurvivalTask)
    assert one.baseline().until == other.baseline().until > 0
    kept = load_file(adapted.path / FILE)
    assert np.array_equal(kept["head.curve"].double().numpy()[1], one.baseline().hazard)


def test_a_file_of_before_there_was_one_is_refused(adapted: Run, tmp_path: Path) -> None:
    from safetensors import safe_open

    place = adapted.path / FILE
    with safe_open(place, framework="pt") as file:
        about = file.metadata()
    whole = place.read_bytes()
    try:
        save_file({k: v for k, v in load_file(place).items() if k != "head.curve"}, place, about)
        with pytest.raises(AdaptError, match="adapt again"):
            open_adapted(adapted)
    finally:
        place.write_bytes(whole)
    assert json.loads(about["about"])["task"] == "survival"
