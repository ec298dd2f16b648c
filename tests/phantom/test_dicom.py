"""DICOM objects against the standard's own tables, and the patched slices against what another library reads from them."""

from __future__ import annotations

import io
import json
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from polyclinic.phantom.ct import to_world
from polyclinic.phantom.dicom import Study, clip, ct, mr, radiograph, uid
from polyclinic.phantom.sites import SITES

pydicom = pytest.importorskip("pydicom")
STUDY = Study("P000007", "F", 61.4, datetime(1958, 3, 4), datetime(2019, 8, 1, 14, 5, 6), SITES[1], "XX000007", 0)
VOLUME = np.random.default_rng(0).integers(-1024, 3071, (20, 16, 16)).astype(np.int16)


def _read(data: bytes):
    return pydicom.dcmread(io.BytesIO(data))


OBJECTS = {
    "ct-image": _read(next(ct(STUDY, VOLUME, to_world(16)))),
    "mr-image": _read(next(mr(STUDY, "T1w", (550.0, 12.0), VOLUME.astype(np.uint16), to_world(16)))),
    "digital-x-ray-image": _read(radiograph(STUDY, np.arange(1024, dtype=np.uint16).reshape(32, 32), 3.125)),
    "ultrasound-multi-frame-image": _read(clip(STUDY, np.zeros((4, 24, 24), np.uint8), 50.0, 1.2)),
}


@pytest.mark.parametrize("iod", OBJECTS)
def test_every_attribute_that_the_standard_requires_is_there(iod: str) -> None:
    """Types 1 and 2 of the mandatory modules, as tabulated from PS3.3 by highdicom."""
    highdicom = pytest.importorskip("highdicom")
    tables = Path(highdicom.__file__).parent / "_standard"
    modules = json.loads((tables / "iod_module_map.json").read_text())[iod]
    attributes = json.loads((tables / "module_attribute_map.json").read_text())
    ds = OBJECTS[iod]
    checked = 0
    for module in (m["key"] for m in modules if m["usage"] == "M"):
        for attribute in (a for a in attributes[module] if not a["path"] and a["type"] in ("1", "2")):
            name = attribute["keyword"]
            assert name in ds, f"{module}: {name}"
            if attribute["type"] == "1":
                assert ds.get(name) not in (None, ""), f"{module}: {name} is empty"
            checked += 1
    assert checked > 25


@pytest.mark.parametrize("iod", OBJECTS)
def test_values_are_valid_for_their_representation(iod: str) -> None:
    from pydicom.config import RAISE
    from pydicom.valuerep import validate_value

    for element in OBJECTS[iod].iterall():
        if element.VR in {"DA", "TM", "UI", "DS", "IS", "CS", "LO", "SH", "PN", "AS"} and element.value not in (
            None,
            "",
        ):
            for value in element.value if element.VM > 1 else [element.value]:
                validate_value(element.VR, str(getattr(value, "original_string", value)), RAISE)


def test_the_patched_slices_are_the_volume() -> None:
    slices = [_read(data) for data in ct(STUDY, VOLUME, to_world(16))]
    np.testing.assert_array_equal(np.stack([s.pixel_array for s in slices]), VOLUME)
    assert [int(s.InstanceNumber) for s in slices] == list(range(1, 21))
    assert len({s.SOPInstanceUID for s in slices}) == 20
    assert len({s.SeriesInstanceUID for s in slices}) == len({s.FrameOfReferenceUID for s in slices}) == 1
    assert all(s.file_meta.MediaStorageSOPInstanceUID == s.SOPInstanceUID for s in slices)
    at = np.array([[float(v) for v in s.ImagePositionPatient] for s in slices])
    np.testing.assert_allclose(at, (to_world(16) @ [[0] * 20, [0] * 20, range(20), [1] * 20])[:3].T, atol=1e-5)


def test_every_slice_differs_from_the_first_in_nothing_else() -> None:
    first, *others = [_read(data) for data in mr(STUDY, "T2w", (4500.0, 100.0), VOLUME.astype(np.uint16), to_world(16))]
    for ds in others:
        differing = {e.keyword for e in first if e != ds[e.tag]}
        assert differing == {"SOPInstanceUID", "InstanceNumber", "ImagePositionPatient", "PixelData"}


def test_uids() -> None:
    names = {uid("a", i) for i in range(500)}
    assert len(names) == 500
    assert all(len(name) == 44 and pydicom.uid.UID(name).is_valid for name in names)
    assert uid("a", "b") != uid("ab")
    assert max(int(name[5:]) for name in names) < 2**128  # PS3.5 B.2: of a UUID


def test_the_clip_has_its_scale_and_its_times() -> None:
    ds = OBJECTS["ultrasound-multi-frame-image"]
    assert int(ds.NumberOfFrames) == 4
    assert ds.FrameIncrementPointer == 0x00181063
    assert float(ds.SequenceOfUltrasoundRegions[0].PhysicalDeltaX) == pytest.approx(0.12)
