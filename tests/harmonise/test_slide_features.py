from __future__ import annotations

import numpy as np
import pytest

from polyclinic.harmonise import Fingerprint, GridError, SlideFeaturesStandard, SlideStandard, harmonise
from polyclinic.schema import Modality, Payload, Record, Scalar, Step

STANDARD = SlideFeaturesStandard(features=4, side_mm=0.256, most=100)


def record(**about: Scalar) -> Record:
    return Record("r", "p", None, Modality.SLIDE, "SLIDE features", "a.h5", attributes=about)


def payload(
    columns: int = 3, rows: int = 2, side: float = 1024, mpp: float | None = None, first: tuple[int, int] = (0, 0)
) -> Payload:
    corners = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), -1).reshape(-1, 2) * side + first
    features = np.arange(len(corners) * 4, dtype=np.float32).reshape(-1, 4)
    to_world = None if mpp is None else np.diag([mpp / 1000] * 2 + [1, 1])
    return Payload(features, to_world, (Step("tiles", (len(corners),), None, {"corners": corners, "side": side}),))


@pytest.mark.parametrize(
    ("mpp", "about", "side_mm", "nominal"),
    [
        (0.25, {}, 0.256, False),
        (0.5, {"magnification": 40.0}, 0.512, False),  # the scale that is told counts
        (None, {"magnification": 20.0}, 0.512, True),  # 0.5 µm a pixel
        (None, {}, 0.256, True),  # a tile as the recipe's
    ],
)
def test_tiles_lie_where_they_do_in_mm(
    mpp: float | None, about: dict[str, Scalar], side_mm: float, nominal: bool
) -> None:
    found = harmonise(payload(mpp=mpp), record(**about), STANDARD, Fingerprint())
    assert found.nominal == nominal
    assert found.places is not None
    assert found.places.dtype == np.float32
    np.testing.assert_allclose(np.diff(found.places[:3, 0]), side_mm, rtol=1e-5)
    np.testing.assert_allclose(found.places[3] - found.places[0], [0, side_mm, 0, 0], atol=1e-6)
    assert not found.places[:, 2:].any()
    np.testing.assert_array_equal(found.array, payload().array)


def test_a_place_leads_back_to_the_slide() -> None:
    source = payload(mpp=0.25, first=(300, 70))
    found = harmonise(source, record(), STANDARD, Fingerprint())
    assert found.places is not None
    assert found.to_world is not None
    at = np.concatenate([found.places[:, :2], np.tile([0.0, 1.0], (6, 1))], 1) @ np.linalg.inv(found.to_world).T
    side = found.history[0].parameters["side"]
    assert side == 1024
    np.testing.assert_allclose(at[:, :2] + 0.5 - 512, source.history[0].parameters["corners"], atol=0.02)  # type: ignore[arg-type]


def test_more_tiles_are_thinned_evenly() -> None:
    source = payload(40, 40, mpp=0.25)
    found = harmonise(source, record(), STANDARD, Fingerprint())
    assert found.array.shape == (100, 4)
    assert found.places is not None
    order = (found.array[:, 0] / 4).astype(int)  # which of the file's tiles
    assert (np.diff(order) > 0).all()
    quarters = np.bincount(2 * (order // 40 >= 20) + (order % 40 >= 20))
    assert quarters.min() >= 20
    np.testing.assert_allclose(found.places[:, 0], ((order % 40) * 1024 + 511.5) * 0.00025, rtol=1e-5)


def test_what_the_encoder_cannot_read_is_refused() -> None:
    with pytest.raises(GridError, match=r"4 features a tile(.|\n)*encoders.slide.features=4"):
        harmonise(payload(), record(), SlideFeaturesStandard(features=768), Fingerprint())
    with pytest.raises(GridError, match=r"pixels, where the encoder reads features(.|\n)*cohort.where"):
        harmonise(Payload(np.zeros((3, 8, 8))), record(), STANDARD, Fingerprint())
    with pytest.raises(GridError, match="features of a slide's tiles, where the encoder reads pixels"):
        harmonise(payload(), record(), SlideStandard(), Fingerprint())
