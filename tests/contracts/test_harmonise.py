"""What every standard promises. One that joins the union `Standard` is tested by it, on records of the embedded hospital."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import tifffile
from pydantic import TypeAdapter, ValidationError

from polyclinic import records
from polyclinic.cohort import Cohort
from polyclinic.cohort.catalogue import inputs
from polyclinic.harmonise import Cache, Fingerprint, Standard, fit, harmonise, points_back, points_forth
from polyclinic.schema import Modality, Payload, Record

STANDARDS: tuple[type[Any], ...] = get_args(get_args(Standard)[0])
SAME_SHAPE = {Modality.IMAGE, Modality.VOLUME, Modality.SIGNAL, Modality.OMICS}
MAY_MISS = {Modality.SIGNAL, Modality.OMICS}
WRITTEN = tempfile.TemporaryDirectory()
every_standard = pytest.mark.parametrize("standard", [kind() for kind in STANDARDS], ids=lambda s: s.kind)


@pytest.fixture(scope="module")
def fingerprint(tiny_cohort: Cohort) -> Fingerprint:
    return fit(inputs(tiny_cohort.records()), tiny_cohort.load, {Modality(kind().kind): kind() for kind in STANDARDS})


def slide() -> Payload:
    """A slide that is one block of tissue, read where it was written."""
    path = Path(WRITTEN.name) / "slide.tif"
    level = np.full((512, 512, 3), 245, np.uint8)
    level[100:400, 100:400] = (220, 120, 180)
    with tifffile.TiffWriter(path) as file:
        for by in (1, 4):
            small = np.ascontiguousarray(level[::by, ::by])
            file.write(small, tile=(128, 128), photometric="rgb", subfiletype=int(by > 1), metadata=None)
    (record,) = records.read(path)
    assert isinstance(record, Record)
    return records.load(record, path.parent)


def video() -> Payload:
    """Two seconds of noise in colours, for the hospital has no film."""
    places = np.zeros((50, 4))
    places[:, 3] = np.arange(50) / 25
    return Payload(np.random.default_rng(0).integers(0, 256, (50, 3, 24, 32), np.uint8), places=places)


def kinematics() -> Payload:
    """A minute of four joints at 50 Hz."""
    joints = np.random.default_rng(0).normal(size=(4, 3000)).cumsum(axis=1).astype(np.float32)
    return Payload(joints, np.diag([0.02, 1, 1, 1]), names=("j1", "j2", "j3", "j4"))


MADE = {"slide": slide, "video": video, "kinematics": kinematics}


def some(cohort: Cohort, standard: Any) -> list[tuple[Record, Payload]]:
    if standard.kind in MADE:
        return [(Record("0" * 32, "P", None, Modality(standard.kind), standard.kind, "a"), MADE[standard.kind]())]
    mine = [r for r in inputs(cohort.records()) if r.modality.value == standard.kind]
    assert mine, f"give the embedded hospital a record of modality {standard.kind}"
    return [(r, cohort.load(r)) for r in mine[:: max(1, len(mine) // 6)]]


@every_standard
def test_it_is_written_in_a_recipe_and_read_back(standard: Any) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(Standard)
    assert adapter.validate_json(standard.model_dump_json()) == standard
    assert hash(standard) == hash(adapter.validate_python(standard.model_dump()))
    with pytest.raises(ValidationError):
        type(standard)(sise=3)
    with pytest.raises(ValidationError):
        standard.kind = "other"


@every_standard
def test_the_same_record_gives_the_same_payload_and_the_source_stays_as_it_was(
    standard: Any, tiny_cohort: Cohort, fingerprint: Fingerprint
) -> None:
    for record, source in some(tiny_cohort, standard):
        before = source.array.copy()
        one, other = (harmonise(source, record, standard, fingerprint) for _ in range(2))
        assert np.array_equal(one.array, other.array, equal_nan=one.array.dtype.kind == "f")
        assert np.array_equal(source.array, before, equal_nan=before.dtype.kind == "f")
        assert one.history == other.history


@every_standard
def test_the_payload_is_standard(standard: Any, tiny_cohort: Cohort, fingerprint: Fingerprint) -> None:
    found = [harmonise(source, record, standard, fingerprint) for record, source in some(tiny_cohort, standard)]
    modality = Modality(standard.kind)
    if modality in SAME_SHAPE:
        assert len({p.array.shape for p in found}) == 1
    for payload in found:
        assert payload.array.dtype in (np.float32, np.int64, np.uint8)
        assert modality in MAY_MISS or np.isfinite(payload.array).all()
        assert np.abs(np.nan_to_num(payload.array)).max(initial=0) < 1e5
        if payload.names:
            assert len(payload.names) == len(payload.array)


@every_standard
def test_a_place_on_its_grid_is_a_place_on_the_sources(
    standard: Any, tiny_cohort: Cohort, fingerprint: Fingerprint
) -> None:
    for record, source in some(tiny_cohort, standard):
        payload = harmonise(source, record, standard, fingerprint)
        if not payload.history or "to_source" not in payload.history[-1].parameters:
            continue
        points = np.random.default_rng(0).uniform(0, 9, (20, 3))
        assert np.abs(points_back(points_forth(points, payload.history), payload.history) - points).max() < 1e-6
        assert payload.history[-1].shape == tuple(source.array.shape[1:])


@every_standard
def test_a_cache_keeps_it_whole(standard: Any, tiny_cohort: Cohort, fingerprint: Fingerprint, tmp_path: Path) -> None:
    record, source = some(tiny_cohort, standard)[0]
    made = harmonise(source, record, standard, fingerprint)
    Cache(tmp_path).get(record.id, standard, "", lambda: made)
    kept = Cache(tmp_path).get(record.id, standard, "", lambda: made)
    assert np.array_equal(kept.array, made.array, equal_nan=made.array.dtype.kind == "f")
    assert (kept.history, kept.nominal, kept.names) == (made.history, made.nominal, made.names)


@every_standard
def test_a_fingerprint_of_nobody_does_not_break_it(standard: Any, tiny_cohort: Cohort) -> None:
    for record, source in some(tiny_cohort, standard):
        assert harmonise(source, record, standard, Fingerprint()).array.ndim > 0
