from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from polyclinic import records
from polyclinic.harmonise import Fingerprint, GridError, SlideStandard, harmonise, slide
from polyclinic.schema import Payload, Record

MPP = 0.5
GLASS, PINK, PURPLE = (242, 241, 243), (225, 150, 190), (110, 70, 150)
ROWS, COLUMNS = 1024, 1536
TISSUE = (150, 850, 250, 1050)
"""Top, bottom, left, right of a block of tissue, in pixels of level 0."""


@cache
def block() -> np.ndarray:
    """A slide with one block of tissue, nuclei in it, noise on the glass, and a speck of dust."""
    random = np.random.default_rng(0)
    array = np.broadcast_to(np.array(GLASS), (ROWS, COLUMNS, 3)).copy()
    top, bottom, left, right = TISSUE
    array[top:bottom, left:right] = PINK
    for y, x in random.integers((top + 10, left + 10), (bottom - 10, right - 10), (400, 2)):
        array[y - 6 : y + 6, x - 6 : x + 6] = PURPLE
    array[950:965, 1450:1465] = PURPLE
    return np.clip(array + random.integers(-4, 5, array.shape), 0, 255).astype(np.uint8)


def write(path: Path, array: np.ndarray, factors: tuple[int, ...] = (4, 16), scale: bool = True) -> None:
    options: dict[str, Any] = {"tile": (256, 256), "metadata": None}
    options["photometric"] = "rgb" if array.shape[2] == 3 else "minisblack"
    if scale:
        options |= {"resolution": (10000 / MPP, 10000 / MPP), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as file:
        file.write(np.squeeze(array), **options)
        for by in factors:
            rows, columns = array.shape[0] // by, array.shape[1] // by
            level = array[: rows * by, : columns * by].reshape(rows, by, columns, by, -1).mean(axis=(1, 3))
            file.write(np.squeeze(level.astype(array.dtype)), subfiletype=1, **options)


def given_slide(path: Path) -> tuple[Record, Payload]:
    (record,) = records.read(path)
    assert isinstance(record, Record), record
    return record, records.load(record, path.parent)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[Record, Payload]:
    path = tmp_path_factory.mktemp("slide") / "P1.tif"
    write(path, block())
    return given_slide(path)


def tiled(source: tuple[Record, Payload], **options: Any) -> Payload:
    return harmonise(source[1], source[0], SlideStandard(**options), Fingerprint())


def test_tissue_is_found_to_a_pixel_and_dust_is_not(source: tuple[Record, Payload]) -> None:
    to_source: Any = source[1].history[0].parameters["to_source"]
    step = to_source[0][0]
    found = slide.tissue_of(source[1].array, step * MPP / 1000)
    expected = np.zeros_like(found)
    top, bottom, left, right = (round(v / step) for v in TISSUE)
    expected[top:bottom, left:right] = True
    assert (found & expected).sum() / (found | expected).sum() > 0.98


@pytest.mark.parametrize("colour", [GLASS, (255, 255, 255), (0, 0, 0), (180, 180, 178)])
def test_glass_alone_has_no_tissue(colour: tuple[int, int, int]) -> None:
    noise = np.random.default_rng(0).integers(-3, 4, (3, 200, 200))
    empty = np.clip(np.array(colour)[:, None, None] + noise, 0, 255).astype(np.float32)
    assert not slide.tissue_of(empty, 0.008).any()


def test_a_picture_of_tissue_only_is_all_tissue() -> None:
    random = np.random.default_rng(0)
    full = np.clip(np.array(PINK)[:, None, None] + random.normal(0, 12, (3, 200, 200)), 0, 255).astype(np.float32)
    assert slide.tissue_of(full, 0.008).mean() > 0.98


def test_a_lumen_is_closed_and_a_hole_is_not() -> None:
    overview = np.broadcast_to(np.array(PINK, np.float32)[:, None, None], (3, 300, 300)).copy()
    overview[:, 100:105, 100:105] = np.array(GLASS)[:, None, None]  # 40 µm
    overview[:, 180:260, 180:260] = np.array(GLASS)[:, None, None]  # 640 µm
    found = slide.tissue_of(overview, 0.008)
    assert found[95:110, 95:110].all()
    assert not found[190:250, 190:250].any()


def test_fluorescence_is_found_by_its_brightness() -> None:
    overview = np.full((1, 200, 200), 300.0, np.float32)
    overview[:, 50:120, 60:150] = 9000
    found = slide.tissue_of(overview, 0.008)
    assert found[60:110, 70:140].all()
    assert not found[:40].any()


def test_the_tissue_of_a_real_section_is_where_its_spots_are(shared_data: Path) -> None:
    """Of 10x's Visium section: `in_tissue` was drawn by its maker's software, spot by spot."""
    place = shared_data / "visium/1.0.0/spatial"
    picture = np.asarray(Image.open(place / "tissue_lowres_image.png").convert("RGB"), np.float32).transpose(2, 0, 1)
    found = slide.tissue_of(picture, 0.016)
    spots = np.genfromtxt(place / "tissue_positions_list.csv", delimiter=",", usecols=(1, 4, 5))
    rows, columns = np.rint(spots[:, 1:].T * 0.045004502).astype(int)
    said = spots[:, 0] == 1
    assert (found[rows, columns] == said).mean() > 0.9  # a spot in a wide lumen counts as tissue there and not here
    assert found[rows, columns][~said].mean() < 0.02


def test_otsu_divides_two_heaps_where_they_part() -> None:
    heaps = np.concatenate([np.random.default_rng(0).normal(m, 0.03, 5000) for m in (0.2, 0.7)])
    assert 0.3 < slide.otsu(heaps) < 0.6


def test_tiles_are_of_tissue_at_the_asked_magnification_and_say_where_they_lie(source: tuple[Record, Payload]) -> None:
    payload = tiled(source, mpp=0.5, size=128, most=1000, tissue=0.99)
    array = tifffile.imread(str(source[1].history[0].parameters["source"]))
    assert payload.array.dtype == np.uint8
    assert len(payload.array) > 15
    assert payload.places is not None
    assert payload.places.shape == (len(payload.array), 4)
    assert not payload.nominal
    for tile, place in zip(payload.array, payload.places, strict=True):
        x, y = place[:2] / (MPP / 1000) - 63.5  # its centre lies between its pixels 63 and 64
        assert (x + 0.001) % 128 < 0.01  # on the grid
        left, top = round(float(x)), round(float(y))
        assert np.array_equal(tile.transpose(1, 2, 0), array[top : top + 128, left : left + 128])
        inside = TISSUE[2] - 16 <= left and left + 128 <= TISSUE[3] + 16 and TISSUE[0] - 16 <= top
        assert inside
        assert top + 128 <= TISSUE[1] + 16


def test_a_magnification_that_has_no_level_is_averaged(source: tuple[Record, Payload]) -> None:
    payload = tiled(source, mpp=1.6, size=64, most=1000, tissue=0.99)  # 3.2 pixels of level 0: between its 1 and 4
    array = tifffile.imread(str(source[1].history[0].parameters["source"])).astype(float)
    grid = payload.history[-1].parameters
    assert len(payload.array)
    for number in (0, len(payload.array) // 2):
        column, row = grid["columns"][number], grid["rows"][number]  # type: ignore[index]
        left, top = column * 204.8, row * 204.8
        inner = array[round(top) : round(top + 204.8), round(left) : round(left + 204.8)]
        assert payload.array[number].mean(axis=(1, 2)) == pytest.approx(inner.mean(axis=(0, 1)), abs=1.5)
        # Noise of 81 / 12 grey levels, averaged over ten pixels or so, is not what every third pixel would have.
        assert payload.array[number].std() < inner.std()


def test_tiles_are_spread_evenly_and_always_the_same(source: tuple[Record, Payload]) -> None:
    every = tiled(source, size=64, most=10_000, tissue=0.9)
    some = tiled(source, size=64, most=40, tissue=0.9)
    assert len(some.array) == 40
    assert np.array_equal(some.array, tiled(source, size=64, most=40, tissue=0.9).array)
    assert every.places is not None
    assert some.places is not None
    quarters = lambda places: np.histogram2d(places[:, 0], places[:, 1], 2)[0] / len(places)
    assert np.abs(quarters(some.places) - quarters(every.places)).max() < 0.1
    nearest = np.linalg.norm(every.places[:, None, :2] - some.places[None, :, :2], axis=2).min(axis=1)
    assert nearest.max() < 5 * 64 * MPP / 1000  # no part of the tissue is far from a tile


def test_a_point_of_a_tile_goes_to_the_slide_and_back(source: tuple[Record, Payload]) -> None:
    payload = tiled(source, mpp=0.8, size=96, most=50)
    random = np.random.default_rng(0)
    numbers = random.integers(0, len(payload.array), 200)
    points = np.column_stack([random.uniform(-0.4, 95.4, (200, 2)), numbers])
    back = slide.points_back(points, payload.history)
    assert np.abs(slide.points_forth(back, payload.history) - points).max() < 1e-6
    assert payload.places is not None
    # A place by the tile's own to_world, about its centre, is the place by the slide's.
    assert payload.to_world is not None
    flat = np.column_stack([points[:, :2], np.zeros(200), np.ones(200)])
    assert (flat @ payload.to_world.T)[:, :2] + payload.places[numbers, :2] == pytest.approx(
        back * MPP / 1000, abs=1e-5
    )
    assert np.isnan(slide.points_forth(np.array([[5.0, 5.0], [-9.0, 1e7]]), payload.history)).all()


def test_a_nucleus_in_a_tile_lies_where_it_is_on_the_slide(tmp_path: Path) -> None:
    array = np.full((1024, 1024, 3), PINK, np.uint8)
    array[700:716, 300:316] = (20, 10, 60)
    write(tmp_path / "a.tif", array)
    source = given_slide(tmp_path / "a.tif")
    for mpp in (0.5, 0.7, 1.3, 2.0, 5.0):
        payload = tiled(source, mpp=mpp, size=64, tissue=0.1, most=500)
        dark = np.clip(np.median(payload.array.mean(axis=1)) - payload.array.mean(axis=1) - 12, 0, None)
        number, y, x = np.nonzero(dark)
        places = slide.points_back(np.column_stack([x, y, number]), payload.history)
        found = (places * dark[number, y, x][:, None]).sum(axis=0) / dark.sum()
        assert np.abs(found - [307.5, 707.5]).max() < 0.5 * max(mpp / MPP, 1)  # half a pixel of the tile


def test_scores_of_tiles_become_a_map_on_the_overview(source: tuple[Record, Payload]) -> None:
    payload = tiled(source, mpp=0.5, size=200, most=60, tissue=0.3)
    assert payload.places is not None
    scores = payload.places[:, 0]  # mm along x
    found = slide.heat_map(scores, payload.history)
    assert found.shape == source[1].array.shape[1:]
    assert source[1].to_world is not None
    x = source[1].to_world[0, 0] * np.arange(found.shape[1]) + source[1].to_world[0, 3]
    known = np.isfinite(found)
    assert np.abs(found - x)[known].max() <= 100 * MPP / 1000 + 1e-3  # half a tile
    area = len(scores) * (200 * MPP / 1000) ** 2 / (source[1].to_world[0, 0]) ** 2
    assert known.sum() == pytest.approx(area, rel=0.05)
    for place, score in zip(payload.places, scores, strict=True):
        column, row = np.rint(np.linalg.solve(source[1].to_world, [*place[:2], 0, 1])[:2]).astype(int)
        assert found[row, column] == score


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_the_share_of_tissue_is_what_counting_gives(data: st.DataObject) -> None:
    mask = np.random.default_rng(data.draw(st.integers(0, 99))).random((24, 36)) < 0.5
    wide, tall = data.draw(st.sampled_from([(6, 4), (9, 8), (12, 24), (36, 24)]))
    shares = slide._shares(mask, wide, tall, 36 // wide, 24 // tall)
    assert shares == pytest.approx(mask.reshape(24 // tall, tall, 36 // wide, wide).mean(axis=(1, 3)))
    halves = slide._shares(np.repeat(np.repeat(mask, 2, 0), 2, 1), 2.5, 2.5, 29, 20)
    fine = np.repeat(np.repeat(mask, 4, 0), 4, 1)[:95, :140].reshape(19, 5, 28, 5).mean(axis=(1, 3))
    assert halves[:19, :28] == pytest.approx(fine)


def test_a_slide_without_a_scale_gets_a_nominal_one(tmp_path: Path) -> None:
    write(tmp_path / "a.tif", block()[:512, :512], scale=False)
    payload = tiled(given_slide(tmp_path / "a.tif"), size=64, tissue=0.1)
    assert payload.nominal
    assert payload.history[-1].parameters["step"] == 1.0  # 0.5 µm a pixel is what it is taken for
    record, source = given_slide(tmp_path / "a.tif")
    record.attributes["magnification"] = 40.0  # type: ignore[index]
    assert harmonise(source, record, SlideStandard(), Fingerprint()).history[-1].parameters["step"] == 2.0


def test_a_small_biopsy_has_its_best_tile_and_glass_has_none(tmp_path: Path) -> None:
    array = np.full((1024, 1024, 3), GLASS, np.uint8)
    write(tmp_path / "glass.tif", array)
    assert tiled(given_slide(tmp_path / "glass.tif")).array.shape == (0, 3, 224, 224)
    array[400:560, 400:560] = PINK
    write(tmp_path / "a.tif", array)
    payload = tiled(given_slide(tmp_path / "a.tif"), tissue=0.9)
    assert len(payload.array) == 1
    assert (np.abs(payload.array[0].astype(int) - np.array(PINK)[:, None, None]).max(axis=0) < 3).any()


def test_a_slide_smaller_than_a_tile_is_one_tile_on_glass(shared_data: Path) -> None:
    path = shared_data / "dicom-objects/sm_image_numbers.dcm"
    source = given_slide(path)
    payload = tiled(source)
    step = MPP / 0.499
    assert payload.array.shape == (1, 3, 224, 224)
    assert (payload.array[0, :, 60:, :] == 255).all()
    assert payload.places is not None
    assert source[1].to_world is not None
    # In the slide's own coordinates, in which this one's rows run along -x.
    assert payload.places[0, :2] == pytest.approx(
        (source[1].to_world @ [112 * step - 0.5, 112 * step - 0.5, 0, 1])[:2], abs=1e-4
    )


def test_deep_grey_becomes_eight_bits_by_the_slides_own_range(tmp_path: Path) -> None:
    grey = np.full((1024, 1024, 1), 200, np.uint16)
    grey[256:768, 256:768] = np.linspace(5000, 20000, 512, dtype=np.uint16)[None, :, None]
    write(tmp_path / "a.tif", grey)
    payload = tiled(given_slide(tmp_path / "a.tif"), size=128, most=100)
    assert payload.array.max() > 250
    assert np.array_equal(payload.array[:, 0], payload.array[:, 2])
    assert len(np.unique(payload.array)) > 100


@pytest.mark.parametrize("stain", ["macenko", "reinhard"])
def test_two_stainings_of_one_section_come_nearer(tmp_path: Path, stain: str) -> None:
    array = block()[:, :768].astype(float)
    write(tmp_path / "a.tif", array.astype(np.uint8))
    shifted = 235 * (array / 245) ** np.array([1.3, 0.8, 1.15])  # another density of each colour
    write(tmp_path / "b.tif", np.clip(shifted, 0, 255).astype(np.uint8))
    sources = [given_slide(tmp_path / name) for name in ("a.tif", "b.tif")]
    apart = lambda payloads: np.abs(payloads[0].array.astype(float) - payloads[1].array).mean()
    options = {"size": 128, "tissue": 0.9}
    before, after = ([tiled(s, stain=how, **options) for s in sources] for how in ("none", stain))
    assert before[0].array.shape == before[1].array.shape
    assert apart(after) < 0.6 * apart(before)


def test_a_payload_without_its_source_is_refused(source: tuple[Record, Payload]) -> None:
    with pytest.raises(GridError, match="without its source"):
        harmonise(Payload(source[1].array), source[0], SlideStandard(), Fingerprint())


def test_the_place_of_the_source_does_not_travel_on(source: tuple[Record, Payload]) -> None:
    assert "source" in source[1].history[0].parameters
    assert not any("source" in step.parameters for step in tiled(source).history)
