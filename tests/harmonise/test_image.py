from __future__ import annotations

from typing import Literal

import numpy as np
import pytest

from polyclinic.harmonise import Fingerprint, GridError, ImageStandard, harmonise
from polyclinic.harmonise.geometry import spacing_of
from polyclinic.harmonise.image import harmonise_mask
from polyclinic.schema import Modality, Payload, Record

CHEST = Record("i", "P", None, Modality.IMAGE, "CR chest PA", "i")
OTHER = Record("i", "P", None, Modality.IMAGE, "image", "i")
STANDARD = ImageStandard(size=64)
NOTHING = Fingerprint()


def noise(rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(1, rows, columns)).astype(np.float32) * 300 + 1000


@pytest.mark.parametrize(("record", "side_mm"), [(CHEST, 350.0), (OTHER, 200.0)])
def test_without_a_scale_a_nominal_one_is_taken_by_kind_and_marked(record: Record, side_mm: float) -> None:
    image = harmonise(Payload(noise(80, 100)), record, STANDARD, NOTHING)
    assert image.nominal
    assert image.to_world is not None
    assert np.allclose(spacing_of(image.to_world)[:2], side_mm / 64)


def test_a_known_scale_is_kept_and_not_marked() -> None:
    image = harmonise(Payload(noise(80, 100), np.diag([0.5, 0.5, 1, 1])), CHEST, STANDARD, NOTHING)
    assert not image.nominal
    assert image.to_world is not None
    assert np.allclose(spacing_of(image.to_world)[:2], 100 * 0.5 / 64)


def test_pixels_are_standardised_and_outliers_do_not_count() -> None:
    array = noise(64, 64)
    plain = harmonise(Payload(array), OTHER, STANDARD, NOTHING).array
    assert plain.shape == (1, 64, 64)
    assert plain.dtype == np.float32
    assert abs(plain.mean()) < 1e-3
    assert abs(plain.std() - 1) < 1e-3
    array[0, 0, 0] = 1e7  # a burnt-in mark
    assert np.allclose(harmonise(Payload(array), OTHER, STANDARD, NOTHING).array[0, 1:], plain[0, 1:], atol=0.02)
    assert np.allclose(
        harmonise(Payload(array * 3 + 500), OTHER, STANDARD, NOTHING).array,
        harmonise(Payload(array), OTHER, STANDARD, NOTHING).array,
        atol=1e-3,
    )


def test_the_aspect_is_kept_by_a_border() -> None:
    square = np.zeros((1, 60, 120), np.float32)
    square[0, 20:40, 50:70] = 1.0  # a square of 20 × 20 pixels
    image = harmonise(Payload(square), OTHER, ImageStandard(size=120), NOTHING).array[0]
    rows, columns = np.nonzero(image > image.mean())
    assert np.ptp(rows) == np.ptp(columns) == 19
    assert (image[:30] == image.min()).all()
    assert (image[90:] == image.min()).all()
    # Pixels that are not square are made so.
    tall = harmonise(Payload(square, np.diag([1.0, 2.0, 1, 1])), OTHER, ImageStandard(size=120), NOTHING).array[0]
    rows, columns = np.nonzero(tall > tall.mean())
    assert abs((np.ptp(rows) + 1) / (np.ptp(columns) + 1) - 2) < 0.15


def colours(rows: int = 64, columns: int = 64) -> np.ndarray:
    """(3 y x) of a retina's colours: more red than green, more green than blue."""
    draw = np.random.default_rng(1)
    light = draw.uniform(60, 120, (1, rows, columns))
    return (light * np.array([2.0, 1.0, 0.5])[:, None, None] + draw.normal(0, 3, (3, rows, columns))).astype(np.float32)


def test_a_standard_of_one_channel_takes_the_luminance_of_colours() -> None:
    """As every image was taken when readers gave luminance."""
    grey = np.tensordot(np.array([0.299, 0.587, 0.114], np.float32), colours(), 1)[None]  # ITU-R BT.601
    expected = harmonise(Payload(grey), OTHER, STANDARD, NOTHING).array
    found = harmonise(Payload(colours()), OTHER, STANDARD, NOTHING).array
    assert found.shape == (1, 64, 64)
    assert np.allclose(found, expected, atol=1e-4)


def test_a_standard_of_three_channels_keeps_hue_whatever_the_light() -> None:
    standard = ImageStandard(size=64, channels=3)
    found = harmonise(Payload(colours()), OTHER, standard, NOTHING).array
    assert found.shape == (3, 64, 64)
    assert abs(found.mean()) < 1e-3
    assert abs(found.std() - 1) < 1e-3
    red, green, blue = found.mean(axis=(1, 2))
    assert red - green > 2 * (green - blue) > 0.5  # 2, 1 and a half of the light
    dim = harmonise(Payload(colours() * 0.4 + 10), OTHER, standard, NOTHING).array
    assert np.allclose(dim, found, atol=1e-3)
    warm = colours() * np.array([1.0, 1.0, 0.2], np.float32)[:, None, None]
    assert (
        harmonise(Payload(warm), OTHER, standard, NOTHING).array[2].mean() < blue - 0.1
    )  # and what is yellower stays so


def test_a_grey_image_is_its_one_channel_three_times() -> None:
    one = harmonise(Payload(noise(80, 100)), OTHER, STANDARD, NOTHING)
    three = harmonise(Payload(noise(80, 100)), OTHER, ImageStandard(size=64, channels=3), NOTHING)
    assert np.array_equal(three.array, np.repeat(one.array, 3, axis=0))
    assert np.array_equal(three.to_world, one.to_world)  # type: ignore[arg-type]
    assert three.history == one.history


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "array", [np.zeros((1, 30, 20)), np.full((1, 30, 20), np.nan), np.full((1, 1, 1), 5.0), np.zeros((3, 9, 9))]
)
def test_odd_images_give_numbers(array: np.ndarray, channels: Literal[1, 3]) -> None:
    image = harmonise(Payload(array), OTHER, ImageStandard(size=64, channels=channels), NOTHING)
    assert image.array.shape == (channels, 64, 64)
    assert np.isfinite(image.array).all()


def test_a_mask_of_another_resolution_lands_and_of_another_aspect_is_refused() -> None:
    labels = np.zeros((1, 40, 50), np.float32)
    labels[0, 10:30, 20:30] = 1
    image = harmonise(Payload(noise(80, 100)), OTHER, STANDARD, NOTHING)
    fine = np.kron(labels[0], np.ones((2, 2)))[None]
    assert np.array_equal(
        harmonise_mask(Payload(labels), image, STANDARD), harmonise_mask(Payload(fine), image, STANDARD)
    )
    with pytest.raises(GridError, match="a mask of 40 × 40 on an image of 80 × 100"):
        harmonise_mask(Payload(labels[:, :, :40]), image, STANDARD)
