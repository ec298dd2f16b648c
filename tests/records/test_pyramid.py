from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.records import pyramid
from polyclinic.records.pyramid import Level, Pyramid, grid, of_tiles, placed, scattered
from polyclinic.records.source import RecordError

WIDE, TALL = 300, 200
quick = settings(max_examples=25, deadline=None)


def level(array: np.ndarray) -> Level:
    return Level(
        array.shape[1], array.shape[0], lambda left, top, wide, tall: array[top : top + tall, left : left + wide]
    )


def reduced(array: np.ndarray, by: int) -> np.ndarray:
    rows, columns = array.shape[0] // by, array.shape[1] // by
    return array[: rows * by, : columns * by].reshape(rows, by, columns, by, -1).mean(axis=(1, 3)).astype(array.dtype)


def ramp() -> Pyramid:
    """Its value is where it is: x of level 0 along a row, so any patch tells where it lies."""
    x, y = np.meshgrid(np.arange(WIDE) + 0.5, np.arange(TALL) + 0.5)
    whole = np.stack([x, y, x + y], axis=2).astype(np.float32)
    levels = tuple(level(reduced(whole, by)) for by in (1, 4, 8))
    return Pyramid(levels, np.diag([0.0005, 0.0005, 1, 1]), dtype=np.dtype(np.float32), background=0)


@quick
@given(
    x=st.floats(0, WIDE - 64),
    y=st.floats(0, TALL - 64),
    step=st.floats(0.3, 7),
    at_once=st.sampled_from([2**13, 2**22]),
)
def test_a_patch_shows_what_lies_there_at_any_scale_and_in_any_parts(
    x: float, y: float, step: float, at_once: int
) -> None:
    size = (int(min(64, (WIDE - x) / step)), int(min(64, (TALL - y) / step)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pyramid, "_AT_ONCE", at_once)
        seen = ramp().patch(x, y, size, step)
    assert seen.shape == (size[1], size[0], 3)
    inner = (slice(3, -3), slice(3, -3))  # at the slide's edge an average has one side only
    expected = np.meshgrid(x + (np.arange(size[0]) + 0.5) * step, y + (np.arange(size[1]) + 0.5) * step)
    for channel in (0, 1):
        assert np.abs(seen[..., channel] - expected[channel])[inner].max(initial=0) < 0.1 * max(step, 1)  # of a pixel


def test_the_finest_detail_is_averaged_and_not_picked() -> None:
    board = (np.indices((256, 256)).sum(axis=0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, 2)
    slide = Pyramid((level(board),), None)
    for step in (2.0, 2.7, 5.0):
        size = int(256 / step) - 4
        seen = slide.patch(4, 4, (size, size), step)
        assert np.abs(seen.astype(float) - 127.5).max() < 32  # every second pixel would give 0 and 255
    assert set(np.unique(slide.patch(0, 0, (256, 256), 1.0))) == {0, 255}


def test_a_mask_keeps_its_numbers() -> None:
    labels = np.zeros((64, 64, 1), np.uint8)
    labels[20:40, 10:50] = 7
    slide = Pyramid((level(labels),), None, 1, background=0, labels=True)
    assert set(np.unique(slide.patch(0, 0, (23, 23), 64 / 23))) == {0, 7}


def test_beyond_the_slide_is_glass() -> None:
    slide = Pyramid((level(np.full((10, 10, 3), 100, np.uint8)),), None)
    seen = slide.patch(-5, -5, (20, 20), 1.0)
    assert (seen[5:15, 5:15] == 100).all()
    assert (np.delete(seen, np.s_[5:15], axis=0) == 255).all()
    assert (slide.patch(500, 500, (4, 4), 1.0) == 255).all()
    assert (slide.patch(0, 0, (5, 5), 2.0) == 100).all()  # what ends at the edge is not washed out by what is beyond
    assert slide.patch(-4, -4, (9, 9), 2.0)[0, 0, 0] == 255


def test_tiles_are_put_where_they_belong_and_those_that_are_not_there_are_glass() -> None:
    whole = np.random.default_rng(0).integers(0, 200, (50, 70, 3), dtype=np.uint8)
    padded = np.pad(whole, ((0, 14), (0, 26), (0, 0)))
    corners = np.array([(x, y) for y in range(0, 50, 16) for x in range(0, 70, 16)])
    cut = lambda n: padded[corners[n][1] :, corners[n][0] :][:16, :16]
    empty = np.full(3, 255, np.uint8)
    for touching in (grid(70, 50, (16, 16)), scattered(np.arange(len(corners)), corners, (16, 16))):
        one = of_tiles(70, 50, touching, cut, empty)
        for box in ((0, 0, 70, 50), (15, 17, 3, 30), (60, 40, 10, 10)):
            left, top, wide, tall = box
            assert np.array_equal(np.asarray(one.read(*box)), whole[top : top + tall, left : left + wide])
    sparse = of_tiles(70, 50, grid(70, 50, (16, 16)), lambda n: None if n else padded[:16, :16], empty)
    assert sparse.read(40, 20, 20, 20) is None
    seen = sparse.read(8, 8, 16, 16)
    assert seen is not None
    assert np.array_equal(seen[:8, :8], whole[8:16, 8:16])
    assert (seen[8:] == 255).all()


@pytest.mark.parametrize(
    ("sizes", "mpp", "shape", "factor"),
    [
        ((16384, 4096, 1024), 0.5, 1024, 16.0),  # 8 µm a pixel is there
        ((16384, 4096, 819), 0.5, 819, 20.0),  # 10 µm is
        ((16384, 4096), 0.5, 1024, 16.0),  # and if not, it is made
        ((16384, 4096, 1024), None, 4096, 4.0),  # without a scale: the largest that is small
        ((300, 75), 0.5, 300, 1.0),  # a small cut-out is not made a stamp
        ((65536, 16384), 4.0, 4096, 16.0),  # never more than 4096
    ],
)
def test_the_overview_is_of_eight_microns_or_what_comes_near(
    sizes: tuple[int, ...], mpp: float | None, shape: int, factor: float
) -> None:
    blank = lambda n: Level(n, n, lambda left, top, wide, tall: None)
    world = None if mpp is None else np.diag([mpp / 1000, mpp / 1000, 1, 1])
    seen, step = Pyramid(tuple(blank(n) for n in sizes), world).overview()
    assert seen.shape == (shape, shape, 3)
    assert step == pytest.approx((factor, factor))


def test_a_pixel_of_a_patch_lies_in_the_middle_of_those_that_it_is_of() -> None:
    matrix = placed((100.0, 40.0), (4.0, 4.0))
    assert matrix @ [0, 0, 0, 1] == pytest.approx([101.5, 41.5, 0, 1])  # 100, 101, 102 and 103


def test_a_levels_rounded_size_is_a_whole_factor() -> None:
    blank = lambda w, h: Level(w, h, lambda *_: None)
    slide = Pyramid((blank(1003, 777), blank(250, 194), blank(63, 49)), None)
    assert [slide.factor(i) for i in range(3)] == [(1, 1), (4, 4), (16, 16)]


def test_more_than_fits_is_refused() -> None:
    blank = Level(200_000, 200_000, lambda *_: None)
    with pytest.raises(RecordError, match="without a level coarser than 200000"):
        Pyramid((blank,), None).overview()
    with pytest.raises(RecordError, match="GiB"):
        Pyramid((blank,), None).patch(0, 0, (100_000, 100_000), 1.0)
    with pytest.raises(RecordError, match="GiB"):
        Pyramid((blank,), None).patch(0, 0, (2, 2), 100_000.0)
