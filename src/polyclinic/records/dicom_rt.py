"""DICOM radiotherapy: a dose as a volume in Gy, a plan as table records. `dicom_contours` reads the structure sets.

Source: DICOM PS3.3 C.8.8.3 (RT dose), C.8.8.9 to C.8.8.14 (RT plan: prescription, fractions, beams).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..schema import Modality, Payload, Record, Rejected, Scalar
from . import dicom_pixels, stack, tables
from .dicom_header import check_whole, first, frames, plane_of, record_of, spacing_of, text
from .source import RecordError, content_id, place_of

_AXIAL = np.array([[1.0, 0, 0], [0, 1, 0]])


def mine(dataset: Any) -> bool:
    """Whether it is a dose or a plan of treatment."""
    return text(dataset, "Modality") in {"RTDOSE", "RTPLAN"}


def read(dataset: Any, path: Path, root: Path) -> Iterator[Record | Rejected]:
    """Of a dose one volume; of a plan one table record for the whole and one a beam."""
    return (_read_dose if text(dataset, "Modality") == "RTDOSE" else _read_plan)(dataset, path, root)


def load(dataset: Any, record: Record) -> Payload:
    """Of a dose array (1 z y x) float32 in Gy (or relative, as `unit` says), to_world → mm; of a plan, a table's row."""
    if text(dataset, "Modality") == "RTPLAN":
        return tables.load(record)
    to_world, _ = _grid(dataset)
    scaling = _scaling(dataset)
    dose = np.stack([pixels.astype(np.float64) * scaling for pixels in dicom_pixels.each(dataset, stored=True)])
    array = dose.astype(np.float32)
    return Payload(array if record.modality is Modality.IMAGE else array[None], to_world)


def _scaling(dataset: Any) -> float:
    scaling = float(dataset.get("DoseGridScaling") or 0)
    if not 0 < scaling < math.inf:
        raise RecordError("a dose without a scale", "DoseGridScaling (PS3.3 C.8.8.3)", "export it again")
    return scaling


def _grid(dataset: Any) -> tuple[np.ndarray, float]:
    """4x4 (x y z 1) → mm in LPS in the order of the frames, and mm from frame to frame, negative where they go down.

    The offsets are from the first frame along the normal, or, if they begin with the first frame's own z, coordinates
    themselves, which only an axial grid may have (C.8.8.3.2).
    """
    spacing, plane = spacing_of(dataset), plane_of(dataset)
    if spacing is None or plane is None:
        raise RecordError(
            "a dose without spacing, position or orientation", "(0028,0030), (0020,0032) and (0020,0037)", "export it again"
        )  # fmt: skip
    position, cosines = plane
    offsets = np.atleast_1d(np.array(dataset.get("GridFrameOffsetVector") or [0.0], float))
    count = frames(dataset)
    offsets = offsets[:1] if count == 1 else offsets  # one cut out of several may have kept the offsets of all
    if len(offsets) != count or not np.isfinite(offsets).all():
        raise RecordError(f"a dose of {count} frames with {len(offsets)} offsets", "one a frame", "export it again")
    along = float(np.cross(*cosines)[2])
    if count > 1 and offsets[0] != 0:
        if abs(offsets[0] - position[2]) > 0.01 or np.abs(np.abs(cosines) - _AXIAL).max() > 1e-3:
            raise RecordError(
                "a dose whose offsets begin neither with 0 nor with its position", "offsets as PS3.3 C.8.8.3.2 has them", "export it again"
            )  # fmt: skip
        offsets = (offsets - offsets[0]) * np.sign(along)
    step = float(offsets[-1] - offsets[0]) / max(count - 1, 1)
    astray = np.abs(offsets - offsets[0] - step * np.arange(count)).max()
    if count > 1 and (abs(step) < 1e-3 or astray > 0.01 * abs(step)):
        raise RecordError("a dose with frames at uneven distances", "one distance", "export it on an even grid")
    to_world = stack.plane(spacing, position, cosines)
    if count > 1:
        to_world[:3, 2] *= step
    return to_world, step


def _read_dose(dataset: Any, path: Path, root: Path) -> Iterator[Record | Rejected]:
    dicom_pixels.check(dataset)
    if int(dataset.get("SamplesPerPixel") or 1) != 1:
        raise RecordError("a dose in colours", "one number a voxel", "export it again")
    _, step = _grid(dataset)
    _scaling(dataset)
    for _ in dicom_pixels.each(dataset, stored=True):  # a truncated file shows itself now
        pass
    whole, count = record_of(dataset, path, root), frames(dataset)
    words = (text(dataset, k).lower() for k in ("DoseType", "DoseSummationType"))
    unit = text(dataset, "DoseUnits")
    about: dict[str, Scalar] = {
        "unit": "Gy" if unit == "GY" else unit.lower() or None,
        "plan": text(first(dataset, "ReferencedRTPlanSequence"), "ReferencedSOPInstanceUID") or None,
        **({"slices": count, "spacing_z_mm": abs(step)} if count > 1 else {}),
    }
    yield replace(
        whole,
        modality=Modality.VOLUME if count > 1 else Modality.IMAGE,
        kind=" ".join(filter(None, ("RTDOSE", *words))),
        attributes={**whole.attributes, **about},
    )


def _number(item: Any, keyword: str) -> float | None:
    try:
        value = float(item.get(keyword))
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def _read_plan(dataset: Any, path: Path, root: Path) -> Iterator[Record | Rejected]:
    check_whole(dataset)
    beams = [*(dataset.get("BeamSequence") or ()), *(dataset.get("IonBeamSequence") or ())]
    group = first(dataset, "FractionGroupSequence")
    if not beams and not group:
        raise RecordError("a plan without beams or fractions", "at least one", "leave it out")
    metersets = {
        int(item.ReferencedBeamNumber): _number(item, "BeamMeterset")
        for part in dataset.get("FractionGroupSequence") or ()
        for item in part.get("ReferencedBeamSequence") or ()
    }
    rows = [("RTPLAN plan", _of_plan(dataset, group, beams, metersets))]
    rows += [("RTPLAN beam", _of_beam(beam, metersets)) for beam in beams]
    whole, place = record_of(dataset, path, root), place_of(path, root)
    for number, (kind, cells) in enumerate(rows, start=1):
        yield replace(
            whole,
            id=content_id(path, f"group={number}"),
            modality=Modality.TABLE,
            kind=kind,
            uri=f"{place}#group={number}",
            attributes={name: value for name, value in cells.items() if value is not None},
        )


def _of_plan(dataset: Any, group: Any, beams: list[Any], metersets: dict[int, float | None]) -> dict[str, Scalar]:
    """What is planned as a whole; of several targets the highest dose."""
    doses = [_number(r, "TargetPrescriptionDose") for r in dataset.get("DoseReferenceSequence") or ()]
    known = [dose for dose in doses if dose is not None]
    measured = [value for value in metersets.values() if value is not None]
    return {
        "fractions": _number(group, "NumberOfFractionsPlanned"),
        "beams": float(len(beams)),
        "brachytherapy setups": _number(group, "NumberOfBrachyApplicationSetups"),
        "target dose (Gy)": max(known) if known else None,
        "meterset a fraction": sum(measured) if measured else None,
        "intent": text(dataset, "PlanIntent").lower() or None,
        "position": text(first(dataset, "PatientSetupSequence"), "PatientPosition") or None,
    }


def _of_beam(beam: Any, metersets: dict[int, float | None]) -> dict[str, Scalar]:
    """A beam; where a value changes on the way, what it begins and ends with (C.8.8.14.5: it stands where it changes)."""
    points = [*(beam.get("ControlPointSequence") or ()), *(beam.get("IonControlPointSequence") or ())]
    told = lambda keyword: [v for point in points if (v := _number(point, keyword)) is not None]
    cells: dict[str, Scalar] = {
        "type": text(beam, "BeamType").lower() or None,
        "radiation": text(beam, "RadiationType").lower() or None,
        "delivery": text(beam, "TreatmentDeliveryType").lower() or None,
        "control points": float(len(points)),
        "meterset": metersets.get(int(beam.get("BeamNumber") or 0)),
        "meterset unit": text(beam, "PrimaryDosimeterUnit") or None,
    }
    angles = {
        "gantry": "GantryAngle", "collimator": "BeamLimitingDeviceAngle", "couch": "PatientSupportAngle"
    }  # fmt: skip
    for name, keyword in angles.items():
        values = told(keyword)
        cells[f"{name} (deg)"] = values[0] if values else None
        if values and values[-1] != values[0]:
            cells[f"{name} to (deg)"] = values[-1]
    energies = told("NominalBeamEnergy")
    cells["energy (MV or MeV)"] = energies[0] if energies else None
    return cells
