from __future__ import annotations

import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from polyclinic.cohort import Cohort
from polyclinic.training import Recipe, Run, RunError, pretrain
from polyclinic.training.curves import Board
from polyclinic.training.energy import Meter, together


@pytest.mark.skipif(find_spec("tensorboard") is not None, reason="tensorboard is installed")
def test_without_tensorboard_one_is_told_before_the_first_step(
    light: Recipe, tiny_cohort: Cohort, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match="TensorBoard, which is not installed") as caught:
        pretrain(
            light, tiny_cohort, into=tmp_path, tensorboard=True, progress=lambda *_: pytest.fail("a step was made")
        )
    assert "polyclinic[tensorboard]" in caught.value.remedy


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard_has_the_curves(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-not-found]

    for first in (0, 2):  # the second session strikes out what the first wrote from its step on
        board = Board(tmp_path, first)
        for step in range(first, 4):
            board.add(step, {"loss": float(10 * first + step)})
        board.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(0, 0.0), (1, 1.0), (2, 22.0), (3, 23.0)]


def test_processor_time_is_counted_where_there_is_no_energy() -> None:
    meter = Meter()
    until = time.process_time() + 0.3
    while time.process_time() < until:
        pass
    read = meter.read()
    assert 0.3 <= read["processor_s"] < 5
    assert read["wall_s"] >= 0.3
    if find_spec("codecarbon") is None:
        assert read["energy_kwh"] is None
        assert "no energy" in read["measured"]
    else:
        assert read["energy_kwh"] is None or read["energy_kwh"] >= 0


def test_ranks_together() -> None:
    one = {"wall_s": 3.0, "processor_s": 2.0, "energy_kwh": 0.5, "measured": "m"}
    other = {"wall_s": 4.0, "processor_s": 1.5, "energy_kwh": 0.25, "measured": "m"}
    assert together([one, other]) == {"wall_s": 4.0, "processor_s": 3.5, "energy_kwh": 0.75, "measured": "m"}
    assert together([one, {**other, "energy_kwh": None}])["energy_kwh"] is None


def test_what_a_run_took_is_written_a_session_at_a_time(light: Recipe, tiny_cohort: Cohort, tmp_path: Path) -> None:
    run = pretrain(light, tiny_cohort, into=tmp_path)
    (session,) = run.training["sessions"]
    assert session["steps"] == [0, 9]
    assert session["ranks"] == 1
    assert session["strategy"] is None
    assert [words.split(":")[0] for words in session["memory"]] == ["align", "hybrid"]
    assert session["processor_s"] > 0
    (run.path / "training.json").unlink()  # of a run from before this was written
    assert Run.open(run.path).training == {"sessions": []}
