"""One patient's files, as the hospital's departments write them, and the truth that none of them holds."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from ..schema import MissingExtraError
from . import anatomy, ct, dicom, ecg, fhir, labs, mr, omics, optimal, report, ultrasound, xray
from .people import PRIORS, generator, name_of, person
from .sites import SITES, Site

MODALITIES = ("xray", "ct", "mr", "ultrasound", "ecg", "ehr", "omics", "report")
ON_REQUEST = ("earlier_report",)
"""What the hospital has only where it is asked for."""
EPOCH = datetime(2015, 1, 1)
FOLDERS = ("harbour", "hill", "valle")
"""The sites' folders."""
EXPRESSION = "{}/laboratory/expression.csv"
"""A site's table of genes, a row a patient."""


@dataclass(slots=True)
class Written:
    """What a patient's files do not say, or say in a table of many patients.

    Args:
        index: of the patient.
        person: the graph's values.
        truth: what else is known: optimal scores, detectability, places.
        files: (modality, kind, place below the hospital) of each record.
        sentences: of the report.
        counts: (genes,) of the sample; None where there is none.
    """

    index: int
    person: dict[str, Any]
    truth: dict[str, Any] = field(default_factory=dict)
    files: list[tuple[str, str, str]] = field(default_factory=list)
    sentences: list[report.Sentence] = field(default_factory=list)
    counts: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where one patient's files go.

    Args:
        hospital: what will be ingested.
        truth: what will not.
        seed: of the hospital.
        size: voxels a side of the CT.
        written: the patient's.
    """

    hospital: Path
    truth: Path
    seed: int
    size: int
    written: Written

    @property
    def person(self) -> dict[str, Any]:
        """The graph's values."""
        return self.written.person

    @property
    def site(self) -> Site:
        """Where the patient came to."""
        return SITES[self.person["site"]]

    @property
    def folder(self) -> Path:
        """The site's folder."""
        return self.hospital / FOLDERS[self.person["site"]]

    @property
    def name(self) -> str:
        """The patient's number."""
        return name_of(self.written.index)

    @property
    def admitted(self) -> datetime:
        """The moment of admission, to the minute."""
        return EPOCH + timedelta(minutes=round(self.person["admitted"] * 1440))

    @property
    def born(self) -> datetime:
        """The day of birth."""
        return (self.admitted - timedelta(days=self.person["age"] * 365.25)).replace(
            hour=0, minute=0, second=0, microsecond=0
        )

    def draw(self, part: str) -> np.random.Generator:
        """The randomness of one part."""
        return generator(self.seed, self.written.index, part)

    def study(self, code: str, hours: float) -> dicom.Study:
        """A study at some hours after admission."""
        when = self.admitted + timedelta(minutes=round(60 * hours))
        age = (when - self.born).days / 365.25
        sex = "FM"[self.person["sex"]]
        return dicom.Study(
            self.name, sex, age, self.born, when, self.site, f"{code}{self.written.index:06d}", self.seed
        )

    def put(self, place: str, data: bytes | Iterable[bytes], modality: str, kind: str) -> None:
        """Write a file, or the numbered slices of a folder, into the site's folder, and note the record that it is."""
        path = self.folder / place
        if isinstance(data, bytes):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        else:
            path.mkdir(parents=True)
            for number, one in enumerate(data, start=1):
                (path / f"{number:04d}.dcm").write_bytes(one)
        self.written.files.append((modality, kind, path.relative_to(self.hospital).as_posix()))

    def put_mask(self, name: str, data: bytes, modality: str, part: str) -> None:
        """Write a mask of a part of the body: always to the truth, and into the hospital where somebody drew it."""
        (self.truth / "masks").mkdir(parents=True, exist_ok=True)
        (self.truth / "masks" / name).write_bytes(data)
        if self.person["annotated"]:
            self.put(f"radiology/{part}/masks/{name}", data, modality, "mask")


def write(index: int, seed: int, size: int, modalities: Iterable[str], hospital: Path, truth: Path) -> Written:
    """Draw a patient and write the files of the chosen modalities."""
    place = Place(hospital, truth, seed, size, Written(index, person(seed, index)))
    chosen, who = set(modalities), place.person
    wanted = {m for m in chosen if m == "ehr" or who[f"has_{m.removeprefix('earlier_')}"]}
    place.written.truth |= {
        "optimal_fibrillation_ecg": optimal.fibrillation_from_ecg(who) if who["has_ecg"] else None, "optimal_risk": optimal.risk(who),
    }  # fmt: skip
    if wanted & {"xray", "ct"}:
        _chest(place, wanted)
    for name, department in (
        ("mr", _head), ("ultrasound", _heart), ("ecg", _ecg), ("ehr", _record), ("omics", _sample), ("report", _report),
        ("earlier_report", _earlier_report),
    ):  # fmt: skip
        if name in wanted:
            department(place)
    return place.written


def _nifti(labels: np.ndarray, to_world: np.ndarray, name: str) -> bytes:
    """A mask (z y x) with its place, which says what it is of; NIfTI's world is RAS where DICOM's is LPS."""
    try:
        import nibabel
    except ImportError as error:
        raise MissingExtraError("nibabel", "volumes") from error
    image = nibabel.Nifti1Image(labels.transpose(2, 1, 0), np.diag([-1.0, -1.0, 1.0, 1.0]) @ to_world)  # type: ignore[attr-defined]
    image.header["descrip"] = name
    return gzip.compress(image.to_bytes(), 1, mtime=0)


def _chest(place: Place, wanted: set[str]) -> None:
    who, grid, rng = place.person, anatomy.grid_of(place.size), place.draw("anatomy")
    chest = anatomy.body(who, grid, rng)
    found = anatomy.lesions(who, chest, grid, rng)
    has = bool(who["nodule"])
    if "ct" in wanted:
        study = place.study("CT", 20)
        volume = ct.scan(anatomy.painted(chest, found, has), place.site, place.draw("ct"))
        place.put(
            f"radiology/{place.name}/{study.accession}",
            dicom.ct(study, volume, ct.to_world(place.size)),
            "volume",
            "CT chest",
        )
        series = study.uid("chest")
        mask = _nifti(anatomy.mask(chest, found, grid, has), ct.to_world(place.size), series)
        place.put_mask(f"{series}.nii.gz", mask, "volume", "chest")
    if "xray" not in wanted:
        return
    study, name = place.study("XR", 2), f"radiology/{place.name}"
    shown = xray.expose(anatomy.painted(chest, found, False), found, has, grid, place.site, place.draw("xray"))
    pixel = grid.spacing_mm[0]
    place.put(f"{name}/{study.accession}.dcm", dicom.radiograph(study, shown.pixels, pixel), "image", "DX chest PA")
    instance = dicom.instance_of(study, "chest")
    place.put_mask(f"{instance}.png", _png(xray.shadow(chest.lung, found, has, grid), instance), "image", "chest")
    place.written.truth |= {
        "optimal_nodule_xray": optimal.nodule_from_xray(who, shown.log_likelihood_ratio), "nodule_detectability_xray": shown.detectability,
    }  # fmt: skip
    if months := PRIORS[who["prior_months"]]:
        # Then the lungs were clear, and a nodule was smaller: its volume doubles in doubling_days.
        before = anatomy.earlier(who, grid, found, months)
        study = place.study("XP", -24 * 30.44 * months)
        shown = xray.expose(chest.hu, before, has, grid, place.site, place.draw("prior xray"))
        place.put(f"{name}/{study.accession}.dcm", dicom.radiograph(study, shown.pixels, pixel), "image", "DX chest PA")


def _png(labels: np.ndarray, name: str) -> bytes:
    """A mask that says what it is of."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    out, about = io.BytesIO(), PngInfo()
    about.add_text("Source", name)
    Image.fromarray(labels).save(out, format="PNG", pnginfo=about)
    return out.getvalue()


def _head(place: Place) -> None:
    study, found = place.study("MR", 30), mr.head(place.person, place.size, place.draw("head"))
    to_world = mr.to_world(found.grid)
    for contrast, times_ms in mr.CONTRASTS.items():
        volume = mr.scan(found, contrast, place.site, place.draw(contrast))
        where = f"radiology/{place.name}/{study.accession}-{contrast}"
        place.put(where, dicom.mr(study, contrast, times_ms, volume, to_world), "volume", "MR head")
    series = study.uid("T2w")
    place.put_mask(f"{series}.nii.gz", _nifti(mr.mask(found), to_world, series), "volume", "head")


def _heart(place: Place) -> None:
    study, frames = place.study("US", 26), ultrasound.clip(place.person, place.site, place.draw("ultrasound"))
    data = dicom.clip(study, frames, ultrasound.FRAME_MS, ultrasound.FIELD_MM / ultrasound.PIXELS)
    place.put(f"cardiology/{place.name}/{study.accession}.dcm", data, "video", "US heart")


def _ecg(place: Place) -> None:
    signal, beats = ecg.record(place.person, place.site, place.draw("ecg"))
    study = place.study("EC", 1)
    about = (f"Patient: {place.name}", f"Age: {int(study.age)}", f"Sex: {study.sex}")
    header, samples = ecg.wfdb(study.accession, signal, place.site.ecg_rate_hz, study.when, about)
    where = f"cardiology/{place.name}/{study.accession}"
    place.put(f"{where}.hea", header, "signal", "ECG 12-lead")
    (place.folder / f"{where}.dat").write_bytes(samples)
    place.written.truth["beats_s"] = [round(float(at), 4) for at in beats]


def _record(place: Place) -> None:
    measured = labs.draw(place.person, place.draw("labs"))
    data = fhir.bundle(place.person, place.written.index, measured, place.born, place.admitted, place.seed)
    place.put(f"records/{place.name}.json", json.dumps(data, separators=(",", ":")).encode(), "table", "EHR events")
    place.written.truth["optimal_pneumonia_labs"] = optimal.pneumonia_from_labs(place.person, measured)


def _sample(place: Place) -> None:
    rng = place.draw("omics")
    active = omics.activities(place.person, rng)
    place.written.counts = omics.counts(active, place.site, rng)
    place.written.files.append(("omics", "RNA-seq", EXPRESSION.format(FOLDERS[place.person["site"]])))
    place.written.truth |= {f"programme_{name}": float(a) for name, a in zip(omics.PROGRAMMES, active, strict=True)}


def _report(place: Place) -> None:
    words, place.written.sentences = report.write(place.person, place.draw("report"))
    _note(place, words, 4, 1)


def _earlier_report(place: Place) -> None:
    """Of the earlier radiograph, two hours after it; its sentences are not among those of the report."""
    if months := PRIORS[place.person["prior_months"]]:
        rng = place.draw("earlier report")
        words, _ = report.write(report.before(place.person, rng), rng)
        _note(place, words, 2 - 24 * 30.44 * months, 0)


def _note(place: Place, words: str, hours: float, number: int) -> None:
    """Put a report that was written some hours after admission."""
    when = place.study("XR", hours).when
    head = [
        f"Patient: {place.name}", f"Date: {when:%Y-%m-%d}", f"Time: {when:%H:%M}", "Type: radiology report", f"Site: {place.site.name}",
        f"Language: {('en', 'es')[place.person['language']]}",
    ]  # fmt: skip
    data = "\n".join([*head, "", words, ""]).encode()
    place.put(f"radiology/notes/{place.name}_{number}.txt", data, "text", "radiology report")
