from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.harmonise import Fingerprint, VideoStandard, harmonise
from polyclinic.harmonise.geometry import spacing_of
from polyclinic.harmonise.video import chosen, frame_at, points_back, points_forth
from polyclinic.schema import Modality, Payload, Record

SCOPE = Record("v", "P", None, Modality.VIDEO, "video endoscopy", "v")
NOTHING = Fingerprint()


def payload(array: np.ndarray, times_s: np.ndarray | None = None, to_world: np.ndarray | None = None) -> Payload:
    places = np.zeros((len(array), 4))
    places[:, 3] = np.arange(len(array)) / 25 if times_s is None else times_s
    return Payload(array, to_world, places=places)


def noise(frames: int, rows: int = 30, columns: int = 40, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (frames, channels, rows, columns), np.uint8)


def test_a_clip_has_the_rate_the_length_and_its_frames_times() -> None:
    standard = VideoStandard(rate_hz=5, seconds=2, size=16, start_s=3)
    clip = harmonise(payload(noise(250)), SCOPE, standard, NOTHING)
    assert clip.array.shape == (10, 3, 16, 16)
    assert clip.array.dtype == np.float32
    assert clip.places is not None
    assert clip.places[:, 3] == pytest.approx(3 + np.arange(10) / 5)
    assert clip.history[-1].parameters["frames"] == list(range(75, 125, 5))
    middle = harmonise(payload(noise(250)), SCOPE, standard.model_copy(update={"start_s": None}), NOTHING)
    assert middle.places is not None
    assert middle.places[:, 3] == pytest.approx(4 + np.arange(10) / 5)


@settings(max_examples=60, deadline=None)
@given(
    gaps=st.lists(st.floats(0.01, 0.4), min_size=3, max_size=60),
    rate=st.sampled_from([1.0, 4.0, 7.5, 30.0]),
    start=st.floats(0, 3),
)
def test_a_tick_gives_the_frame_that_is_seen_then(gaps: list[float], rate: float, start: float) -> None:
    times = np.cumsum([0.0, *gaps])
    which = chosen(times, VideoStandard(rate_hz=rate, seconds=2, start_s=start))
    step = float(np.median(np.diff(times)))
    ticks = start + np.arange(round(2 * rate)) / rate
    ticks = ticks[ticks < times[-1] + step]  # the last frame is seen for as long as one usually is
    expected = {max(i for i, t in enumerate(times) if t <= tick + 1e-3) for tick in ticks}
    assert which.tolist() == (sorted(set(expected)) or [len(times) - 1])


@pytest.mark.parametrize(("frames", "expected"), [(1, [0]), (12, [0, 5, 10]), (26, [0, 5, 10, 15, 20, 25])])
def test_a_short_video_is_not_filled_up(frames: int, expected: list[int]) -> None:
    clip = harmonise(payload(noise(frames)), SCOPE, VideoStandard(rate_hz=5, seconds=4, size=8), NOTHING)
    assert clip.history[-1].parameters["frames"] == expected
    assert len(clip.array) == len(expected)


def test_a_video_of_fewer_frames_than_the_rate_has_those_it_has() -> None:
    clip = harmonise(payload(noise(6), np.arange(6) / 2), SCOPE, VideoStandard(rate_hz=8, seconds=3, size=8), NOTHING)
    assert clip.history[-1].parameters["frames"] == [0, 1, 2, 3, 4, 5]


def test_of_a_long_video_that_comes_thinned_out_the_clip_is_all_of_it() -> None:
    hour = np.arange(80) * 45.0  # as `load` gives an hour of it
    clip = harmonise(payload(noise(80), hour), SCOPE, VideoStandard(rate_hz=4, seconds=2, size=8), NOTHING)
    assert clip.history[-1].parameters["frames"] == [5, 15, 25, 35, 45, 55, 65, 75]
    assert clip.places is not None
    assert clip.places[:, 3] == pytest.approx(hour[5::10])


def test_the_clip_is_standardised_as_a_whole() -> None:
    array = noise(20)
    array[10:] //= 4  # the light goes out
    clip = harmonise(payload(array), SCOPE, VideoStandard(rate_hz=25, seconds=1, size=40), NOTHING)
    seen = clip.array[:, :, 5:35]  # inside the letterbox
    assert abs(seen.mean()) < 1e-3
    assert abs(seen.std() - 1) < 1e-3
    assert seen[10:].mean() < seen[:10].mean() - 1
    assert (clip.array[:, :, :5] == clip.array.min()).all()
    red = np.zeros((5, 3, 20, 20), np.uint8)
    red[:, 0] = 200
    of_red = harmonise(payload(red), SCOPE, VideoStandard(size=8), NOTHING).array
    assert (of_red[:, 0] > of_red[:, 1]).all()
    assert np.allclose(of_red[:, 1], of_red[:, 2])


def test_grey_and_colour_come_as_is_asked() -> None:
    grey, colour = noise(5, channels=1), noise(5)
    three = harmonise(payload(grey), SCOPE, VideoStandard(size=8), NOTHING).array
    assert three.shape[1] == 3
    assert np.array_equal(three[:, 0], three[:, 2])
    one = harmonise(payload(colour), SCOPE, VideoStandard(size=8, colour=False), NOTHING).array
    luminance = (colour * np.array([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdims=True)  # ITU-R BT.601
    assert np.allclose(
        one, harmonise(payload(luminance), SCOPE, VideoStandard(size=8, colour=False), NOTHING).array, atol=1e-3
    )


def test_a_place_and_a_moment_go_forth_and_back() -> None:
    array = np.zeros((50, 1, 60, 120), np.uint8)
    array[30, 0, 39:42, 99:102] = 255
    standard = VideoStandard(rate_hz=12.5, seconds=1.6, size=60, start_s=0, colour=False)
    clip = harmonise(payload(array), SCOPE, standard, NOTHING)
    dot = np.array([[100.0, 40.0, 30.0]])
    x, y, frame = points_forth(dot, clip.history)[0]
    brightest = np.unravel_index(clip.array[:, 0].argmax(), clip.array[:, 0].shape)
    assert brightest == (frame, pytest.approx(y, abs=1), pytest.approx(x, abs=1))
    assert points_back(np.array([[x, y, frame]]), clip.history)[0] == pytest.approx(dot[0])
    assert np.isnan(points_forth(np.array([[0.0, 0.0, 31.0]]), clip.history)[0, 2])  # a frame that the clip has not
    assert clip.places is not None
    assert frame_at(30 / 25, clip.history) == frame
    assert frame_at(31 / 25 - 1e-6, clip.history) == frame
    assert frame_at(0.0, clip.history) == 0


def test_pixels_that_are_not_square_are_made_so() -> None:
    y, x = np.mgrid[:60, :60]
    oval = (((x - 30) * 2) ** 2 + (y - 30) ** 2 < 24**2).astype(
        np.uint8
    ) * 255  # a circle, seen by pixels twice as wide as high
    wide = Record("v", "P", None, Modality.VIDEO, "video", "v", attributes={"pixel_aspect": 2.0})
    clip = harmonise(payload(np.tile(oval, (3, 1, 1, 1))), wide, VideoStandard(size=120, colour=False), NOTHING)
    rows, columns = np.nonzero(clip.array[0, 0] > clip.array[0, 0].mean() + 1)
    assert np.ptp(rows) == pytest.approx(np.ptp(columns), abs=3)
    assert clip.nominal
    assert clip.to_world is not None
    assert np.allclose(spacing_of(clip.to_world)[:2], 200 / 120)


def test_a_known_scale_is_kept() -> None:
    world = np.diag([0.5, 0.25, 1, 1])
    clip = harmonise(payload(noise(5), to_world=world), SCOPE, VideoStandard(size=40), NOTHING)
    assert not clip.nominal
    assert clip.to_world is not None
    assert np.allclose(spacing_of(clip.to_world)[:2], 40 * 0.5 / 40)


def test_a_still_picture_and_missing_numbers_do_not_break_it() -> None:
    still = np.full((4, 1, 9, 9), 7.0, np.float32)
    still[0, 0, 0, 0] = np.nan
    assert np.isfinite(harmonise(payload(still), SCOPE, VideoStandard(size=8), NOTHING).array).all()
