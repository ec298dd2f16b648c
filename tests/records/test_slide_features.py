from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from polyclinic import records
from polyclinic.schema import Modality, Record
from reading import reasons

GRID = np.stack(np.meshgrid(np.arange(4), np.arange(3)), -1).reshape(-1, 2)
FEATURES = np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32)
TRIDENT = {
    "patch_size": 512,
    "patch_size_level0": 1024,
    "level0_magnification": 40,
    "target_magnification": 20,
    "overlap": 0,
}


def write(path: Path, features: Any = FEATURES, coords: Any = GRID * 1024, about: dict[str, Any] | None = None) -> Path:
    """As TRIDENT does: attributes of the coordinates."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, value in (("features", features), ("coords", coords)):
            if value is not None:
                file.create_dataset(name, data=value)
        if coords is not None:
            file["coords"].attrs.update(TRIDENT if about is None else about)
    return path


def one(path: Path, root: Path) -> Record:
    (record,) = records.read(path, root)
    assert isinstance(record, Record), record
    return record


@pytest.mark.parametrize("rows", [FEATURES, FEATURES[None], FEATURES.astype(np.float64)])
def test_a_file_is_one_slide(tmp_path: Path, rows: np.ndarray) -> None:
    path = write(tmp_path / "trident/20x_512px_0px_overlap/features_conch_v15/S7.h5", rows)
    record = one(path, tmp_path)
    assert (record.modality, record.kind, record.patient) == (Modality.SLIDE, "SLIDE features", "S7")
    said = record.attributes
    assert (said["tiles"], said["features"], said["side_px"], said["side_told"], said["magnification"]) == (
        12,
        6,
        1024,
        True,
        40,
    )
    assert said["mpp"] is None
    payload = records.load(record, tmp_path)
    assert payload.array.dtype == np.float32
    np.testing.assert_array_equal(payload.array, FEATURES)
    np.testing.assert_array_equal(payload.history[0].parameters["corners"], GRID * 1024)
    assert payload.to_world is None


def test_a_scale_that_is_told_is_kept(tmp_path: Path) -> None:
    record = one(write(tmp_path / "S1.h5", about=TRIDENT | {"level0_mpp": 0.25}), tmp_path)
    payload = records.load(record, tmp_path)
    assert payload.to_world is not None
    np.testing.assert_allclose(payload.to_world @ [1000, 0, 0, 1], [0.25, 0, 0, 1])


@pytest.mark.parametrize(
    ("about", "side", "told"),
    [
        ({"patch_size": 256, "patch_level": 1, "downsample": np.array([4.0, 4.0])}, 1024, True),  # CLAM's coordinates
        ({}, 1024, False),  # CLAM's features
        ({"patch_size": 256}, 1024, False),  # of which level is not said: the grid says it
        ({"patch_size_level0": "large"}, 1024, False),
    ],
)
def test_a_tile_s_side_is_told_or_the_commonest_distance(
    tmp_path: Path, about: dict[str, Any], side: float, told: bool
) -> None:
    # A second piece of tissue, whose grid begins elsewhere by a few pixels, as CLAM's do.
    coords = np.concatenate([GRID[:8] * 1024, GRID[:4] * 1024 + [3, 5000]])
    said = one(write(tmp_path / "S1.h5", coords=coords, about=about), tmp_path).attributes
    assert (said["side_px"], said["side_told"]) == (side, told)


def test_whose_it_is_no_folder_of_a_program_says(tmp_path: Path) -> None:
    names = {
        "20x_512px_0px_overlap/features_conch_v15/biopsy.h5": "biopsy",
        "patient9/features_uni_v1/biopsy.h5": "patient9",
        "h5_files/TCGA-AB-1234-01Z-00-DX1.0f.h5": "TCGA-AB-1234",
    }
    assert [one(write(tmp_path / name), tmp_path).patient for name in names] == list(names.values())


NAN = FEATURES.copy()
NAN[3, 2] = np.nan


@pytest.mark.parametrize(
    ("features", "coords", "about", "found"),
    [
        (None, GRID, None, "'features' of a slide's tiles, which is not there"),
        (FEATURES, None, None, "'coords' of a slide's tiles, which is not there"),
        (FEATURES[0], GRID, None, "'features' of a slide's tiles, which is of shape (6,)"),  # one vector a slide
        (FEATURES[:0], GRID, None, "'features' of a slide's tiles, which is of shape (0, 6)"),
        (FEATURES, GRID[:5], None, "12 tiles' features and coordinates of shape (5, 2)"),
        (FEATURES, np.full((12, 2), np.nan), None, "12 tiles' features and coordinates of shape (12, 2)"),
        (NAN, GRID, None, "1 tiles with features that are no numbers"),
        (FEATURES[:1], GRID[:1], {}, "one tile without its size"),
        (FEATURES.astype("S4"), GRID, None, "'features' of a slide's tiles, which is of shape (12, 6)"),
    ],
)
def test_what_is_no_slide_is_set_aside(tmp_path: Path, features: Any, coords: Any, about: Any, found: str) -> None:
    write(tmp_path / "S1.h5", features, coords, about)
    assert reasons(tmp_path / "S1.h5") == [found]


def test_a_link_to_elsewhere_is_not_followed(tmp_path: Path) -> None:
    write(tmp_path / "other/S2.h5")
    with h5py.File(tmp_path / "S1.h5", "w") as file:
        file["coords"] = GRID
        file["features"] = h5py.ExternalLink("other/S2.h5", "features")
    assert reasons(tmp_path / "S1.h5") == ["an HDF5 file with links to elsewhere"]
