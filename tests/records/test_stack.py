"""Series of slices: put together by where they lie."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from polyclinic import records
from polyclinic.harmonise import Fingerprint, VolumeStandard, harmonise, points_back, points_forth
from polyclinic.schema import Modality, Payload, Record, Rejected

Place = Callable[..., np.ndarray]
SPACING = (0.8, 0.6)  # rows, columns


def write_series(
    folder: Path, write_slice: Any, turn: np.ndarray, gap: float = 2.0, slices: int = 6, **more: Any
) -> np.ndarray:
    """A volume (z y x) of distinct voxels, its slices under names in no order; `turn` has x, y and the normal as columns."""
    folder.mkdir(exist_ok=True)
    volume = np.arange(slices * 5 * 4, dtype=np.uint16).reshape(slices, 5, 4)
    names = random.Random(0).sample(range(1000), slices)
    origin = np.array([10.0, -20.0, 30.0])
    for number, (name, pixels) in enumerate(zip(names, volume, strict=True)):
        write_slice(
            folder / f"{name}.dcm", pixels, PixelSpacing=list(SPACING), InstanceNumber=slices - number,
            ImageOrientationPatient=turn[:, :2].T.reshape(-1).round(12).tolist(),
            ImagePositionPatient=(origin + number * gap * turn[:, 2]).round(9).tolist(), **more,
        )  # fmt: skip
    return volume


def taken(folder: Path) -> tuple[list[Record], list[Rejected]]:
    items = [item for _, item in records.read_patient(sorted(folder.glob("*.dcm")))]
    return [i for i in items if isinstance(i, Record)], [i for i in items if isinstance(i, Rejected)]


def load(record: Record, folder: Path) -> Payload:
    return records.load(record, folder)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(angles=st.tuples(*[st.floats(-180, 180)] * 3), gap=st.floats(0.5, 8))
def test_an_oblique_series_lies_where_itk_puts_it(
    tmp_path: Path, write_slice: Any, angles: tuple[float, float, float], gap: float
) -> None:
    shutil.rmtree(tmp_path / "s", ignore_errors=True)
    volume = write_series(
        tmp_path / "s", write_slice, Rotation.from_euler("xyz", angles, degrees=True).as_matrix(), gap
    )
    (record,), aside = taken(tmp_path / "s")
    assert not aside
    assert record.modality is Modality.VOLUME
    payload = load(record, tmp_path / "s")
    assert np.array_equal(payload.array[0], volume.astype(float) - 1024)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "s")))
    image = reader.Execute()
    assert np.array_equal(SimpleITK.GetArrayFromImage(image), payload.array[0])
    assert payload.to_world is not None
    for index in ((0, 0, 0), (3, 0, 0), (0, 4, 0), (0, 0, 5), (3, 4, 5)):
        expected = image.TransformIndexToPhysicalPoint(index)
        assert np.allclose(payload.to_world[:3] @ [*index, 1.0], expected, atol=1e-3)


def test_a_real_ct_series_is_itks_and_its_organ_map_lies_on_it(shared_data: Path) -> None:
    folder = shared_data / "ct-organs/example_ct_dicom"
    (record,), aside = taken(folder)
    assert not aside
    assert record.attributes["slices"] == 20
    assert record.attributes["spacing_z_mm"] == pytest.approx(2.0)
    payload = load(record, folder)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    assert np.array_equal(SimpleITK.GetArrayFromImage(image), payload.array[0])
    # The map's axes run another way: it lands by geometry. Bone is dense and lung is not, or it is not there.
    organs = records.load(
        next(iter_records(shared_data / "ct-organs/example_seg_dicom.nii.gz")), shared_data / "ct-organs"
    )
    assert organs.to_world is not None
    assert payload.to_world is not None
    z, y, x = np.nonzero(np.isin(organs.array[0], (92, 93, 94, 95, 96, 97, 98)))  # ribs, TotalSegmentator's table
    if len(z) == 0:
        z, y, x = np.nonzero(organs.array[0] > 0)
    mm = organs.to_world @ np.stack([x, y, z, np.ones(len(x))])
    i, j, k = np.rint(np.linalg.inv(payload.to_world) @ mm)[:3].astype(int)
    inside = (i >= 0) & (j >= 0) & (k >= 0) & (i < 512) & (j < 512) & (k < 20)
    assert inside.mean() > 0.99
    there = payload.array[0][k[inside], j[inside], i[inside]]
    assert there.mean() > 100  # HU of bone


def iter_records(path: Path) -> Any:
    return (item for item in records.read(path) if isinstance(item, Record))


def test_file_names_and_instance_numbers_do_not_matter(tmp_path: Path, write_slice: Any) -> None:
    volume = write_series(tmp_path / "s", write_slice, np.eye(3))
    (first,), _ = taken(tmp_path / "s")
    for number, path in enumerate(sorted((tmp_path / "s").glob("*.dcm"), reverse=True)):
        path.rename(tmp_path / "s" / f"IM{number:03d}.dcm")
    (second,), _ = taken(tmp_path / "s")
    assert second == first
    assert np.array_equal(load(second, tmp_path / "s").array[0], volume - 1024.0)


def test_where_slices_are_missing_each_unbroken_run_is_a_volume(tmp_path: Path, write_slice: Any) -> None:
    volume = write_series(tmp_path / "s", write_slice, np.eye(3), slices=8) - 1024.0
    by_place = {place(p)[2]: p for p in (tmp_path / "s").glob("*.dcm")}
    by_place[34].unlink()  # the third
    (low, high), (reason,) = sorted_by_run(taken(tmp_path / "s"))
    assert reason.uri.endswith("#series=1.2.3")
    assert reason.found == f"a series with missing slices: 1 between {by_place[32].name} and {by_place[36].name}"
    assert [r.uri.rpartition("#")[2] for r in (low, high)] == ["series=1.2.3&run=1", "series=1.2.3&run=2"]
    assert low.id != high.id
    for record, expected, z in ((low, volume[:2], 30.0), (high, volume[3:], 36.0)):
        payload = load(record, tmp_path / "s")
        assert np.array_equal(payload.array[0], expected)
        assert payload.to_world is not None
        assert payload.to_world[2, 3] == pytest.approx(z)
        assert payload.to_world[2, 2] == pytest.approx(2.0)
        assert record.attributes["slices"] == len(expected)
        assert record.attributes["runs"] == 2


def sorted_by_run(items: tuple[list[Record], list[Rejected]]) -> tuple[list[Record], list[Rejected]]:
    return sorted(items[0], key=lambda r: str(r.attributes["run"])), items[1]


def test_a_slice_alone_between_missing_ones_is_set_aside_by_name(tmp_path: Path, write_slice: Any) -> None:
    volume = write_series(tmp_path / "s", write_slice, np.eye(3), slices=8) - 1024.0
    by_place = {place(p)[2]: p for p in (tmp_path / "s").glob("*.dcm")}
    by_place[32].unlink()
    (record,), aside = taken(tmp_path / "s")
    assert [(r.uri, r.found) for r in aside] == [
        (by_place[30].name, "a slice alone between missing ones"),
        (record.uri, f"a series with missing slices: 1 between {by_place[30].name} and {by_place[34].name}"),
    ]
    assert "run" not in record.attributes
    assert np.array_equal(load(record, tmp_path / "s").array[0], volume[2:])


def test_a_series_that_is_more_gaps_than_slices_is_refused(tmp_path: Path, write_slice: Any) -> None:
    for z in (0, 2, 10, 12, 20, 22, 30, 32, 40, 42):
        write_slice(tmp_path / f"{z}.dcm", np.zeros((4, 4)), ImagePositionPatient=[0, 0, z])
    found, (reason,) = taken(tmp_path)
    assert not found
    told = "3 between 2.dcm and 10.dcm, 3 between 12.dcm and 20.dcm, 3 between 22.dcm and 30.dcm and 1 more gaps"
    assert reason.found == f"a series with missing slices: {told}"


def packed_series(folder: Path, write_slice: Any, broken: set[int]) -> tuple[np.ndarray, list[Path]]:
    """Eight slices (z y x) in JPEG 2000, lossless, and their files from below; of the broken ones no more than the header is one."""
    from pydicom.uid import JPEG2000Lossless

    volume = np.random.default_rng(0).integers(0, 4000, (8, 64, 64)).astype(np.uint16)
    paths = [folder / f"{name}.dcm" for name in "dbfacehg"]
    for number, (path, pixels) in enumerate(zip(paths, volume, strict=True)):
        dataset = write_slice(path, pixels, ImagePositionPatient=[0, 0, 2 * number])
        dataset.compress(JPEG2000Lossless, generate_instance_uid=False)
        dataset.save_as(path)
        data = path.read_bytes()
        at = data.index(b"\xff\x93")  # start of data, ISO 15444-1 A.4.3
        if number in broken:
            path.write_bytes(data[: at + 2] + b"\xff" * (len(data) - at - 12) + data[-10:])
    return volume - 1024.0, paths


@pytest.mark.parametrize("which", [0, 4, 7])  # the first, the middle and the last speak for a series
def test_a_slice_that_does_not_decode_is_set_aside_by_name(tmp_path: Path, write_slice: Any, which: int) -> None:
    volume, paths = packed_series(tmp_path, write_slice, {which})
    found, aside = taken(tmp_path)
    assert "pixels that do not decode" in next(r.found for r in aside if r.uri == paths[which].name)
    assert sum(int(str(r.attributes["slices"])) for r in found) == 7
    arrays = [load(r, tmp_path).array[0] for r in sorted(found, key=lambda r: str(r.attributes.get("run")))]
    assert np.array_equal(np.concatenate(arrays), np.delete(volume, which, axis=0))


def test_a_series_of_which_no_slice_decodes_is_one_reason(tmp_path: Path, write_slice: Any) -> None:
    packed_series(tmp_path, write_slice, set(range(8)))
    found, (reason,) = taken(tmp_path)
    assert not found
    assert reason.found.startswith("a series of which no slice decodes: pixels that do not decode")


def place(path: Path) -> list[float]:
    import pydicom

    return [float(v) for v in pydicom.dcmread(path).ImagePositionPatient]


def test_a_slice_sent_twice_is_set_aside(tmp_path: Path, write_slice: Any) -> None:
    volume = write_series(tmp_path / "s", write_slice, np.eye(3))
    shutil.copy(next((tmp_path / "s").glob("*.dcm")), tmp_path / "s/zz.dcm")
    (record,), (reason,) = taken(tmp_path / "s")
    assert reason.found == "a slice at the place of another"
    assert reason.uri == "zz.dcm"
    assert np.array_equal(load(record, tmp_path / "s").array[0], volume - 1024.0)


def test_several_images_at_each_place_are_refused_rather_than_mixed(tmp_path: Path, write_slice: Any) -> None:
    write_series(tmp_path / "s", write_slice, np.eye(3))
    for path in list((tmp_path / "s").glob("*.dcm")):  # a second b-value, its names in another order
        shutil.copy(path, tmp_path / "s" / f"{path.stem[::-1]}x.dcm")
    found, (reason,) = taken(tmp_path / "s")
    assert not found
    assert reason.found == "a series with 2 images at each place: phases, echoes or b-values"


def leaning(degrees: float) -> np.ndarray:
    """The table moves along z, the slices lean; x, y and the table's way as columns."""
    tilt = np.deg2rad(degrees)
    return np.array([[1, 0, 0], [0, np.cos(tilt), 0], [0, np.sin(tilt), 1]], float)


@pytest.mark.parametrize("degrees", [-25, -3, 0, 15, 30])
def test_of_a_tilted_gantry_every_voxel_keeps_its_value_and_its_place(
    tmp_path: Path, write_slice: Any, degrees: float
) -> None:
    turn = leaning(degrees)
    volume = write_series(tmp_path / "s", write_slice, turn)
    (record,), aside = taken(tmp_path / "s")
    assert not aside
    assert record.attributes.get("tilt_deg", 0) == pytest.approx(abs(degrees), abs=1e-6)
    payload = load(record, tmp_path / "s")
    assert np.array_equal(np.sort(payload.array, axis=None), np.sort(volume.astype(np.float32) - 1024, axis=None))
    assert payload.to_world is not None
    index = np.array(list(np.ndindex(4, 5, 6)))  # x y z
    origin = np.array([10.0, -20.0, 30.0])
    placed = (
        origin + index[:, :1] * 0.6 * turn[:, 0] + index[:, 1:2] * 0.8 * turn[:, 1] + index[:, 2:] * 2.0 * turn[:, 2]
    )
    written = {tuple(np.round(p, 3)): float(volume[z, y, x]) - 1024 for p, (x, y, z) in zip(placed, index, strict=True)}
    found = index @ payload.to_world[:3, :3].T + payload.to_world[:3, 3]
    assert {
        tuple(np.round(p, 3)): float(payload.array[0, z, y, x]) for p, (x, y, z) in zip(found, index, strict=True)
    } == written


def test_a_place_in_a_tilted_volume_goes_through_the_standard_grid_and_back(tmp_path: Path, write_slice: Any) -> None:
    write_series(tmp_path / "s", write_slice, leaning(20), slices=12)
    (record,), _ = taken(tmp_path / "s")
    source = load(record, tmp_path / "s")
    standard = VolumeStandard(size=(12, 8, 8), spacing_mm=(2.0, 0.7, 0.7))
    image = harmonise(source, record, standard, Fingerprint())
    points = np.array([[1.0, 2.0, 3.0], [3.0, 4.0, 11.0], [0.0, 0.0, 0.0]])
    there = points_forth(points, image.history)
    assert np.abs(points_back(there, image.history) - points).max() < 1e-9
    assert source.to_world is not None
    assert image.to_world is not None
    mm = lambda world, at: at @ world[:3, :3].T + world[:3, 3]
    assert np.abs(mm(image.to_world, there) - mm(source.to_world, points)).max() < 1e-6


def test_slices_that_lie_askew_are_refused(tmp_path: Path, write_slice: Any) -> None:
    write_series(tmp_path / "s", write_slice, leaning(45))
    found, (reason,) = taken(tmp_path / "s")
    assert not found
    assert reason.found == "slices that lie askew: 45° off their normal"


def test_uneven_distances_are_refused(tmp_path: Path, write_slice: Any) -> None:
    for number, z in enumerate((0.0, 2.0, 4.0, 6.8, 9.0)):
        write_slice(tmp_path / f"{number}.dcm", np.zeros((4, 4)), ImagePositionPatient=[0, 0, z])
    found, (reason,) = taken(tmp_path)
    assert not found
    assert "off an even stack" in reason.found


def test_a_scout_across_is_set_aside_and_planes_of_three_ways_are_refused(tmp_path: Path, write_slice: Any) -> None:
    volume = write_series(tmp_path / "s", write_slice, np.eye(3))
    write_slice(tmp_path / "s/scout.dcm", np.zeros((5, 4)), ImageOrientationPatient=[0, 1, 0, 0, 0, -1])
    write_slice(tmp_path / "s/small.dcm", np.zeros((3, 3)), ImagePositionPatient=[0, 0, 99])
    (record,), aside = taken(tmp_path / "s")
    assert {r.uri for r in aside} == {"scout.dcm", "small.dcm"}
    assert all("another size, spacing or orientation" in r.found for r in aside)
    assert load(record, tmp_path / "s").array.shape == (1, *volume.shape)
    for name, cosines in (("a", [1, 0, 0, 0, 1, 0]), ("b", [0, 1, 0, 0, 0, -1]), ("c", [1, 0, 0, 0, 0, -1])):
        write_slice(tmp_path / f"{name}.dcm", np.zeros((5, 4)), ImageOrientationPatient=cosines)
    found, (reason,) = taken(tmp_path)
    assert not found
    assert reason.found == "a series of 3 slices, no two of them parallel"


def test_a_broken_slice_is_set_aside_and_the_rest_stands_if_it_is_whole(tmp_path: Path, write_slice: Any) -> None:
    write_series(tmp_path / "s", write_slice, np.eye(3))
    last = max((tmp_path / "s").glob("*.dcm"), key=lambda p: place(p)[2])
    last.write_bytes(last.read_bytes()[:-20])
    (record,), (reason,) = taken(tmp_path / "s")
    assert reason.uri == last.name
    assert "cut short" in reason.found
    assert record.attributes["slices"] == 5
    assert load(record, tmp_path / "s").array.shape[1] == 5


def test_a_slice_without_a_place_is_set_aside(tmp_path: Path, write_slice: Any) -> None:
    write_series(tmp_path / "s", write_slice, np.eye(3))
    dataset = write_slice(tmp_path / "s/zz.dcm", np.zeros((5, 4)))
    del dataset.ImagePositionPatient
    dataset.save_as(tmp_path / "s/zz.dcm")
    (record,), (reason,) = taken(tmp_path / "s")
    assert reason.uri == "zz.dcm"
    assert "position" in reason.found
    assert record.attributes["slices"] == 6


def test_a_single_slice_is_an_image_and_two_series_are_two_volumes(tmp_path: Path, write_slice: Any) -> None:
    write_slice(tmp_path / "a.dcm", np.zeros((5, 4)), SeriesInstanceUID="9.9")
    (record,), _ = taken(tmp_path)
    assert record.modality is Modality.IMAGE
    write_series(tmp_path, write_slice, np.eye(3), SeriesInstanceUID="1.1")
    write_slice(tmp_path / "x0.dcm", np.ones((5, 4)), ImagePositionPatient=[0, 0, 0], SeriesInstanceUID="1.5")
    write_slice(tmp_path / "x1.dcm", np.ones((5, 4)), ImagePositionPatient=[0, 0, 3], SeriesInstanceUID="1.5")
    found, aside = taken(tmp_path)
    assert not aside
    assert {r.attributes.get("slices", 1) for r in found} == {1, 2, 6}
    small = next(r for r in found if r.attributes.get("slices") == 2)
    assert (load(small, tmp_path).array == -1023).all()


def test_a_series_that_lost_a_slice_since_says_so(tmp_path: Path, write_slice: Any) -> None:
    write_series(tmp_path / "s", write_slice, np.eye(3))
    (record,), _ = taken(tmp_path / "s")
    max((tmp_path / "s").glob("*.dcm"), key=lambda p: place(p)[2]).unlink()
    with pytest.raises(records.RecordError, match="a series of 5 slices that had 6"):
        load(record, tmp_path / "s")


def test_a_hostile_header_in_a_series_does_not_end_the_reading(tmp_path: Path, write_slice: Any) -> None:
    write_series(tmp_path / "s", write_slice, np.eye(3))
    path = next((tmp_path / "s").glob("*.dcm"))
    data = path.read_bytes()
    at = data.index(b"10.0\\-20.0")
    path.write_bytes(data[:at] + b"ten.\\-20.0" + data[at + 10 :])
    _, aside = taken(tmp_path / "s")
    assert aside
