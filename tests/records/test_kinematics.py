from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic import records
from polyclinic.cohort import ingest
from polyclinic.records import kinematics, tables, text
from polyclinic.schema import Events, Modality, Record, Rejected
from reading import load, only, refused

COLUMNS = ("joint_1", "joint_2", "pos_x", "pos_y", "pos_z", "gripper")


def motion(count: int = 50) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(len(COLUMNS), count)).astype(np.float32)


def csv(
    path: Path,
    times: Sequence[object],
    values: np.ndarray,
    time: str = "time",
    names: Sequence[str] = COLUMNS,
    comma: str = ",",
) -> Path:
    rows = [comma.join([time, *names])]
    rows += [comma.join([str(t), *(f"{v:.6g}" for v in column)]) for t, column in zip(times, values.T, strict=True)]
    path.write_text("\n".join(rows) + "\n")
    return path


def read(path: Path) -> list[Record | Rejected]:
    return [item for item in records.read(path) if not isinstance(item, Events)]


def test_even_samples_have_a_step_and_the_columns_names(tmp_path: Path) -> None:
    path = csv(tmp_path / "case12_arm.csv", (np.arange(50) / 40).tolist(), motion())
    record, payload = only(path), load(path)
    assert record.modality is Modality.KINEMATICS
    assert record.patient == "case12"
    assert record.attributes["rate_hz"] == pytest.approx(40)
    assert record.attributes["seconds"] == pytest.approx(50 / 40)
    assert (record.attributes["channels"], record.attributes["samples"], record.attributes["variable_rate"]) == (
        6,
        50,
        False,
    )
    assert payload.names == COLUMNS
    assert payload.array.dtype == np.float32
    assert np.allclose(payload.array, motion(), rtol=1e-5)
    assert payload.to_world is not None
    assert payload.to_world[0, 0] == pytest.approx(1 / 40)
    assert payload.places is None


def test_uneven_samples_keep_their_times(tmp_path: Path) -> None:
    times = np.cumsum(np.random.default_rng(1).uniform(0.01, 0.05, 50))
    payload = load(csv(tmp_path / "a.csv", times.tolist(), motion()))
    assert payload.to_world is None
    assert payload.places is not None
    assert payload.places.shape == (50, 4)
    assert payload.places[:, 3] == pytest.approx(times - times[0])


@pytest.mark.parametrize(
    ("name", "times", "step", "date"),
    [
        ("time_ms", [10 * i for i in range(50)], 0.01, None),
        ("timestamp_us", [5000 * i for i in range(50)], 0.005, None),
        ("time [s]", [0.1 * i for i in range(50)], 0.1, None),
        ("t", [0.1 * i for i in range(50)], 0.1, None),
        ("Elapsed Time (sec)", [0.1 * i for i in range(50)], 0.1, None),
        ("timestamp", [1_600_000_000_000_000_000 + 20_000_000 * i for i in range(50)], 0.02, "2020-09-13 12:26:40"),
        ("timestamp", [1_600_000_000_000 + 20 * i for i in range(50)], 0.02, "2020-09-13 12:26:40"),
        ("%time", [1_600_000_000 + i / 4 for i in range(50)], 0.25, "2020-09-13 12:26:40"),
    ],
)
def test_the_unit_of_time_is_said_or_that_of_a_date(
    tmp_path: Path, name: str, times: list[float], step: float, date: str | None
) -> None:
    path = csv(tmp_path / "a.csv", times, motion(), name)
    world = load(path).to_world
    assert world is not None
    assert world[0, 0] == pytest.approx(step, rel=1e-3)
    assert (str(only(path).time) if date else only(path).time) == date


def test_a_rate_that_no_robot_has_asks_for_the_unit(tmp_path: Path) -> None:
    assert (
        refused(csv(tmp_path / "a.csv", [33 * i for i in range(50)], motion())) == "kinematics with a sample every 33 s"
    )


def test_a_column_of_words_is_left_out_and_an_empty_cell_is_not_a_number(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    rows = [
        "time;pos_x;pos_y;pos_z;vel_x;gesture",
        *(f"{i / 10:.1f};1;{'' if i == 3 else 2};3;4;grasp" for i in range(9)),
    ]
    path.write_text("\n".join(rows).replace(".", ","))
    payload = load(path)
    assert payload.names == ("pos_x", "pos_y", "pos_z", "vel_x")
    assert np.isnan(payload.array[1, 3])
    assert np.isfinite(payload.array).sum() == 35


def test_a_number_that_float32_cannot_hold_is_not_known(tmp_path: Path) -> None:
    values = motion().astype(np.float64)
    values[2, 7] = 1e300
    payload = load(csv(tmp_path / "a.csv", (np.arange(50) / 40).tolist(), values))
    assert np.isnan(payload.array[2, 7])
    assert np.isfinite(payload.array).sum() == payload.array.size - 1


def test_rows_out_of_time_are_set_aside_with_their_numbers(tmp_path: Path) -> None:
    times: list[object] = [f"{i / 10:.1f}" for i in range(50)]
    values = motion()
    times[20], times[30] = "0.3", "late"
    (tmp_path / "a.csv").write_text("x")
    path = csv(tmp_path / "a.csv", times, values)
    reason, record = read(path)
    assert isinstance(reason, Rejected)
    assert reason.found == "2 rows whose time is no number or does not grow: 21, 31"
    assert isinstance(record, Record)
    payload = records.load(record, tmp_path)
    assert payload.array.shape == (6, 48)
    assert payload.places is not None
    worse = csv(tmp_path / "b.csv", [0.0, 0.1, 0.2, *[0.0] * 400], np.ones((6, 403)), names=[n * 99 for n in "jxyzpq"])
    assert isinstance(read(worse)[0], Rejected)


@pytest.mark.parametrize(
    "content",
    [
        "patient_id,time,pos_x,pos_y,pos_z\nP1,0.1,1,2,3\nP1,0.2,1,2,3\n",  # it names patients
        "time,heart_rate,spo2,temperature,lactate\n0,80,98,37,1\n1,81,97,37,1\n",  # a monitor's
        "time,I,II,III,aVR\n0,1,2,3,4\n1,1,2,3,4\n",  # an ECG's
        "date,pos_x,pos_y,pos_z\n2020-01-01,1,2,3\n2020-01-02,1,2,3\n",
        "time,pos_x,pos_y,pos_z\n0.2,1,2,3\n0.1,1,2,3\n",  # it does not grow
        "time,pos_x,pos_y,age,sex,height\n0,1,2,40,M,1\n1,2,3,41,F,1\n",
        "time,pos_x,pos_y,pos_z\n",
        "sample,gene_x,gene_y,gene_z\n1,2,3,4\n2,3,4,5\n",
    ],
)
def test_other_tables_are_left_to_their_readers(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(content)
    assert not kinematics.recognises(path, content.encode())
    assert tables.recognises(path, content.encode())


def test_no_table_of_the_hospital_and_no_note_is_taken_for_motion(hospital: Path) -> None:
    found = [p for p in hospital.rglob("*") if p.suffix in {".csv", ".txt", ".tsv"}]
    assert len(found) > 20
    for path in found:
        with path.open("rb") as file:
            assert not kinematics.recognises(path, file.read(4096)), path


def trial(path: Path, count: int = 90) -> np.ndarray:
    """A trial as JIGSAWS has it: 76 columns, each number its column and row."""
    values = np.arange(76)[None] + np.arange(count)[:, None] / 1000
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join("   ".join(f"{v:.6f}" for v in row) + "    " for row in values) + "\n")
    return values


def test_a_jigsaws_trial_has_its_four_arms(tmp_path: Path) -> None:
    path = tmp_path / "Suturing_B001.txt"
    values = trial(path)
    record, payload = only(path), load(path)
    assert (record.patient, record.kind) == ("surgeon B", "kinematics da Vinci")
    assert (record.attributes["task"], record.attributes["trial"]) == ("suturing", 1)
    assert record.attributes["rate_hz"] == pytest.approx(30)
    assert np.allclose(payload.array, values.T, atol=1e-5)
    # By the readme, counted from 1: 1-3 and 20-22 the masters' tooltips, 39-41 and 58-60 the slaves', 76 the last gripper.
    at = {name: number for number, name in enumerate(payload.names, start=1)}
    assert len(at) == 76
    assert [at[f"{arm} position x"] for arm in ("master left", "master right", "slave left", "slave right")] == [
        1,
        20,
        39,
        58,
    ]
    assert (at["master left rotation 11"], at["master left rotation 33"]) == (4, 12)
    assert (at["slave left velocity x"], at["slave left angular velocity x"]) == (51, 54)
    assert (at["master left gripper angle"], at["slave right gripper angle"]) == (19, 76)


def test_a_transcription_labels_its_trial_as_a_mask_does(tmp_path: Path) -> None:
    trial(tmp_path / "in/Suturing/kinematics/AllGestures/Suturing_B001.txt")
    trial(tmp_path / "in/Suturing/kinematics/AllGestures/Suturing_C002.txt")
    labels = tmp_path / "in/Suturing/transcriptions/Suturing_B001.txt"
    labels.parent.mkdir()
    labels.write_text("11 40 G1 \n41 60 G5 \n61 80 G11 \n")
    record = only(labels)
    assert (record.kind, record.attributes["segment_11"], record.attributes["gestures"]) == ("MASK gestures", "G11", 3)
    array = records.load(record, labels.parent).array
    assert array.shape == (1, 80)
    expected = np.zeros(80)
    expected[10:40], expected[40:60], expected[60:] = 1, 5, 11
    assert array[0].tolist() == expected.tolist()
    cohort = ingest(tmp_path / "in", tmp_path / "out")
    (mask,) = [r for r in cohort.records() if r.attributes.get("mask")]
    (labelled,) = [r for r in cohort.records() if r.id == mask.attributes["mask_of"]]
    assert labelled.uri.endswith("kinematics/AllGestures/Suturing_B001.txt")
    assert mask.patient == labelled.patient == "surgeon B"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("1 20 G1\n10 30 G2\n", "a transcription whose gestures are not one after the other"),
        ("20 1 G1\n", "a transcription whose gestures are not one after the other"),
        ("1 99999999999 G1\n", "a transcription whose gestures are not one after the other"),
        ("1 20 G1\n" * 600 + "and so on\n", "a transcription whose gestures are not"),
        ("1 20 G1\n" + "\n" * 5000 + "and so on\n", "a transcription with a line that is no gesture"),
    ],
)
def test_a_transcription_that_is_none_is_refused(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / "Suturing_B001.txt").write_text(content)
    assert refused(tmp_path / "Suturing_B001.txt").startswith(reason)


@pytest.mark.parametrize(
    "spoil", [lambda s: s[:-30], lambda s: re.sub(r"\n.*\n$", "\nnan " + "1 " * 75 + "\n", s), lambda s: s + "1 2 3\n"]
)
def test_a_trial_that_is_not_whole_is_refused(tmp_path: Path, spoil: Callable[[str], str]) -> None:
    path = tmp_path / "Suturing_B001.txt"
    trial(path)
    path.write_text(spoil(path.read_text()))
    assert refused(path).startswith("a JIGSAWS trial")


def test_a_note_of_numbers_is_a_note(tmp_path: Path) -> None:
    path = tmp_path / "n.txt"
    path.write_text("12 30 mg twice\n")
    assert not kinematics.recognises(path, path.read_bytes())
    assert text.recognises(path, path.read_bytes())


@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(3, 40),
    rate=st.floats(1, 1000),
    jitter=st.floats(0, 0.4),
    seed=st.integers(0, 99),
)
def test_times_survive_the_file(
    count: int, rate: float, jitter: float, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    random = np.random.default_rng(seed)
    times = (np.arange(count) + random.uniform(-jitter, jitter, count)) / rate
    payload = load(csv(tmp_path_factory.mktemp("a") / "a.csv", [f"{t:.9f}" for t in times], motion(count)))
    if payload.to_world is not None:
        step = payload.to_world[0, 0]
        assert np.abs(times - times[0] - step * np.arange(count)).max() <= kinematics.EVEN * step + 1e-8
    else:
        assert payload.places is not None
        assert payload.places[:, 3] == pytest.approx(times - times[0], abs=1e-8)
