from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation, Slerp

from polyclinic.harmonise import Fingerprint, KinematicsStandard, harmonise
from polyclinic.harmonise.kinematics import (
    harmonise_mask,
    matrices,
    quaternions,
    sample_at,
    source_sample,
    time_of,
    values_back,
)
from polyclinic.records.kinematics import JIGSAWS_CHANNELS
from polyclinic.schema import Modality, Payload, Record

ARM = Record("k", "P", None, Modality.KINEMATICS, "kinematics", "k")


def payload(array: np.ndarray, times: np.ndarray, names: tuple[str, ...], even: bool = True) -> Payload:
    if even:
        return Payload(array.astype(np.float32), np.diag([times[1] - times[0], 1, 1, 1]), names=names)
    places = np.zeros((len(times), 4))
    places[:, 3] = times
    return Payload(array.astype(np.float32), names=names, places=places)


def made(source: Payload, **fields: object) -> Payload:
    return harmonise(source, ARM, KinematicsStandard.model_validate(fields), Fingerprint())


def jittered(rate: float, seconds: float) -> np.ndarray:
    count = round(rate * seconds)
    return (np.arange(count) + np.concatenate([[0], np.random.default_rng(0).uniform(-0.4, 0.4, count - 1)])) / rate


@pytest.mark.parametrize("rate", [30.0, 33.3, 50.0, 100.0, 125.0, 1000.0])
@pytest.mark.parametrize("even", [True, False])
def test_a_slow_movement_is_the_same_at_any_rate_even_or_not(rate: float, even: bool) -> None:
    times = np.arange(round(12 * rate)) / rate if even else jittered(rate, 12)
    wave = lambda t: 0.2 + 0.05 * np.sin(2 * np.pi * 0.7 * t)
    found = made(payload(wave(times)[None], times, ("tip x",), even), rate_hz=25, seconds=8, start_s=2)
    assert found.array.shape == (1, 200)
    expected = wave(2 + np.arange(200) / 25)
    assert np.abs(values_back(found.array, found.history)[0] - expected).max() < 0.01 * 0.05
    assert found.array.std() == pytest.approx(1, abs=1e-3)
    assert np.median(found.array) == pytest.approx(0, abs=1e-5)


def test_a_recording_with_none_of_the_channels_is_empty() -> None:
    times = np.arange(300) / 30
    source = payload(np.stack([np.sin(times), np.cos(times)]), times, ("j1", "j2"))
    assert made(source, channels=("tip x", "tip y", "tip z"), seconds=5).array.shape == (3, 0)
    assert made(source, channels=("tip x", "J2"), seconds=5).array.shape == (2, 150)


@pytest.mark.parametrize("even", [True, False])
def test_what_is_faster_than_the_rate_can_hold_is_gone_and_not_turned_into_something_slow(even: bool) -> None:
    times = np.arange(12_000) / 1000 if even else jittered(1000, 12)
    slow, tremor = (
        np.sin(2 * np.pi * 0.5 * times),
        np.sin(2 * np.pi * 19 * times),
    )  # 19 Hz at 20 a second would be seen as 1 Hz
    found = made(payload((slow + tremor)[None], times, ("j1",), even), rate_hz=20, seconds=8, start_s=2)
    expected = np.sin(2 * np.pi * 0.5 * (2 + np.arange(160) / 20))
    assert np.abs(values_back(found.array, found.history)[0] - expected).max() < 0.03


def spin(times: np.ndarray) -> Rotation:
    return Rotation.from_euler("zyx", np.column_stack([times, 0.4 * times, np.sin(times)]))


@pytest.mark.parametrize("even", [True, False])
def test_a_rotation_stays_one_whatever_the_signs_of_its_quaternions(even: bool) -> None:
    times = np.arange(600) / 50 if even else jittered(50, 12)
    quaternion = spin(times).as_quat().T * np.random.default_rng(0).choice([-1, 1], len(times))
    matrix = spin(times).as_matrix().reshape(-1, 9).T
    names = (*(f"pose orientation {a}" for a in "xyzw"), *(f"slave left rotation {i}{j}" for i in "123" for j in "123"))
    found = made(payload(np.concatenate([quaternion, matrix]), times, names, even), rate_hz=30, seconds=10, start_s=1)
    expected = Slerp(times, spin(times))(1 + np.arange(300) / 30)
    turned = found.array[:4]
    assert np.linalg.norm(turned, axis=0) == pytest.approx(np.ones(300), abs=1e-6)
    assert (np.sum(turned[:, 1:] * turned[:, :-1], axis=0) > 0.9).all()  # no jump from q to -q
    assert (Rotation.from_quat(turned.T) * expected.inv()).magnitude().max() < 0.002
    matrices_found = found.array[4:].T.reshape(-1, 3, 3)
    assert np.abs(matrices_found @ matrices_found.transpose(0, 2, 1) - np.eye(3)).max() < 1e-5
    assert (Rotation.from_matrix(matrices_found) * expected.inv()).magnitude().max() < 0.002


def test_rotations_are_told_by_their_names() -> None:
    assert quaternions(("x", "y", "z", "w")) == []  # a place and a width
    assert quaternions(("qw", "qx", "qy", "qz")) == [(1, 2, 3, 0)]
    assert quaternions(("PSM1 orientation x", "PSM1 orientation y", "PSM1 orientation z", "PSM1 orientation w")) == [
        (0, 1, 2, 3)
    ]
    groups = matrices(JIGSAWS_CHANNELS)
    assert [group[0] for group in groups] == [3, 22, 41, 60]
    assert groups[0] == tuple(range(3, 12))


def test_channels_go_by_name_and_what_is_not_there_is_nan() -> None:
    times = np.arange(300) / 50
    source = payload(np.stack([np.sin(times), np.cos(times)]), times, ("Left X", "left y"))
    found = made(source, rate_hz=50, seconds=6, channels=("left y", "right y", "left x"))
    assert found.names == ("left y", "right y", "left x")
    assert np.isnan(found.array[1]).all()
    own = made(source, rate_hz=50, seconds=6)
    assert own.names == ("Left X", "left y")
    assert np.array_equal(found.array[[2, 0]], own.array)


def test_a_short_recording_ends_and_a_gap_is_not_bridged() -> None:
    times = np.arange(400) / 50
    values = np.sin(times)
    values[100:150] = np.nan  # a second
    values[200:203] = np.nan  # a hiccup
    found = made(payload(values[None], times, ("j1",)), rate_hz=25, seconds=10, start_s=0).array[0]
    known = np.isfinite(found)
    assert known[:50].all()
    assert not known[51:74].any()
    assert known[76:199].all()
    assert not known[202:].any()
    assert np.isnan(made(payload(values[None], times, ("j1",)), seconds=1, start_s=20).array).all()


def test_the_way_back_in_time() -> None:
    times = jittered(40, 30)
    found = made(payload(np.sin(times)[None], times, ("j1",), even=False), rate_hz=10, seconds=10)
    moments = time_of(np.arange(100), found.history)
    assert moments[0] == pytest.approx((times[-1] + np.median(np.diff(times)) - 10) / 2)  # its middle
    assert sample_at(moments, found.history) == pytest.approx(np.arange(100))
    nearest = source_sample(np.arange(100), found.history)
    assert nearest.tolist() == [int(np.abs(times - moment).argmin()) for moment in moments]
    assert found.history[-1].shape == (len(times),)


def test_labels_of_time_follow_their_recording() -> None:
    times = np.arange(900) / 30
    found = made(payload(np.sin(times)[None], times, ("j1",)), rate_hz=10, seconds=20, start_s=5)
    labels = np.zeros((1, 700), np.float32)
    labels[0, 300:600] = 4
    mask = Payload(labels, np.diag([1 / 30, 1, 1, 1]), names=("gesture",))
    moved = harmonise_mask(mask, found.history, found.array.shape[1])
    assert moved.dtype == np.int64
    assert np.array_equal(moved, np.where((np.arange(200) >= 50) & (np.arange(200) < 150), 4, 0))
