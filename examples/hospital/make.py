"""Make the embedded hospital from the full data sets: only what may be redistributed, laid out as a hospital would hand it over.

    python examples/hospital/make.py --source ../shared/data

Run twice it writes the same bytes. What is wrong in the result is wrong on purpose and listed in README.md. With `--whole`
it lays out all X-rays, notes, volumes and bundles in the same way, for tests and research on this machine: some of them may
not be redistributed.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import io
import json
import shutil
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ComputedRadiographyImageStorage, JPEGBaseline8Bit

HERE = Path(__file__).parent
HIPPOCAMPUS = 60
NOTES = 240
STUDY_COLUMNS = {
    "accession": "accession", "sex": "sex", "age": "age", "finding": "finding", "survival": "survival", "went_icu": "went_icu",
    "in_icu": "in_icu", "intubated": "intubated", "offset": "offset_days", "temperature": "temperature",
    "pO2_saturation": "po2_saturation", "leukocyte_count": "leukocyte_count", "neutrophil_count": "neutrophil_count",
    "lymphocyte_count": "lymphocyte_count", "view": "view", "date": "date", "location": "location", "license": "licence",
}  # fmt: skip


def uid(text: str) -> UID:
    """A DICOM UID that depends on nothing but the text (PS3.5 B.2: 2.25. and a 128-bit number)."""
    return UID("2.25." + str(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=15).digest(), "big")))


def embeddable(licence: str) -> bool:
    return licence.startswith("CC BY") and "NC" not in licence


def dicom(row: dict[str, str], picture: Image.Image, accession: str) -> bytes:
    """The X-ray as a DICOM DX-like CR object, JPEG baseline, without what the source does not know."""
    grey = picture.convert("L")
    grey.thumbnail((512, 512), Image.Resampling.LANCZOS)
    packed = io.BytesIO()
    grey.save(packed, "JPEG", quality=90)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = uid(accession)
    meta.TransferSyntaxUID = JPEGBaseline8Bit
    meta.ImplementationClassUID = uid("polyclinic examples")
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    ds.StudyInstanceUID, ds.SeriesInstanceUID = uid(accession + " study"), uid(accession + " series")
    ds.PatientID, ds.PatientName, ds.PatientBirthDate = patient(row), "", ""
    ds.PatientSex = row["sex"] if row["sex"] in {"M", "F"} else ""
    if row["age"]:
        ds.PatientAge = f"{round(float(row['age'])):03d}Y"
    ds.StudyDate = ds.StudyTime = ds.ReferringPhysicianName = ds.StudyID = ""
    ds.AccessionNumber, ds.Modality, ds.BodyPartExamined = accession, "CR", "CHEST"
    ds.SeriesNumber, ds.InstanceNumber, ds.Manufacturer = "1", "1", ""
    ds.ViewPosition = {"PA": "PA", "AP": "AP", "AP Supine": "AP", "L": "LL"}.get(row["view"], "")
    ds.PatientOrientation = ["L", "F"] if ds.ViewPosition in {"PA", "AP"} else ""
    ds.InstitutionName = row["location"].split(",")[0].encode("ascii", "replace").decode()
    ds.PatientIdentityRemoved, ds.DeidentificationMethod = "YES", "as published; see ATTRIBUTION.csv"
    ds.BurnedInAnnotation = "NO" if "Hannover" in row["location"] else "YES"
    ds.ImageType = ["DERIVED", "SECONDARY"]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = grey.height, grey.width
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.LossyImageCompression, ds.LossyImageCompressionMethod = "01", "ISO_10918_1"
    ds.PixelData = encapsulate([packed.getvalue()])
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()


def patient(row: dict[str, str]) -> str:
    return "CXR-" + row["patientid"].rjust(4, "0")


def write_csv(path: Path, rows: list[dict[str, Any]], pack: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    data = text.getvalue().encode()
    path.write_bytes(gzip.compress(data, 9, mtime=0) if pack else data)


def radiology(source: Path, out: Path, whole: bool) -> None:
    """The chest X-rays whose own licence allows it, as DICOM, with a table and the notes that exist."""
    listed = [
        r for r in csv.DictReader((source / "metadata.csv").open()) if (source / "images" / r["filename"]).exists()
    ]
    rows = [r for r in listed if embeddable(r["license"]) or (whole and r["modality"] == "X-ray")]
    studies, credits, notes = [], [], Counter[str]()
    for number, row in enumerate(rows):
        accession = f"A{number:05d}"
        data = dicom(row, Image.open(source / "images" / row["filename"]), accession)
        folder = out / "radiology" / patient(row)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{accession}.dcm").write_bytes(data)
        row["accession"] = accession
        studies.append({"patient_id": patient(row)} | {new: row[old] for old, new in STUDY_COLUMNS.items()})
        credits.append({"accession": accession, "licence": row["license"], "doi": row["doi"], "url": row["url"],
                        "place": row["location"], "notes": row["other_notes"].replace("\n", " ")})  # fmt: skip
        if row["clinical_notes"].strip():
            notes[patient(row)] += 1
            head = f"Patient: {patient(row)}\nType: radiology note\n\n"
            place = out / "radiology/notes" / f"{patient(row)}_{notes[patient(row)]}.txt"
            place.parent.mkdir(exist_ok=True)
            place.write_text(head + row["clinical_notes"].strip() + "\n")
        mask = source / "lung_masks" / (Path(row["filename"]).stem + ".png")
        if mask.exists():
            (out / "radiology/masks").mkdir(exist_ok=True)
            lungs = Image.open(mask).convert("L")
            lungs.thumbnail((512, 512), Image.Resampling.NEAREST)
            lungs.save(out / "radiology/masks" / f"{accession}.png", optimize=True)
    write_csv(out / "radiology/studies.csv", studies)
    write_csv(out.parent / "ATTRIBUTION.csv", credits)
    # Wrong on purpose: a transfer that broke off, and a note whose patient nobody knows.
    complete = (out / "radiology" / studies[40]["patient_id"] / f"{studies[40]['accession']}.dcm").read_bytes()
    (out / "radiology/broken").mkdir()
    (out / "radiology/broken/A99999.dcm").write_bytes(complete[: len(complete) // 3])
    (out / "radiology/notes/CXR-9999_1.txt").write_text("Patient: CXR-9999\nType: radiology note\n\nLungs clear.\n")


def neurology(source: Path, out: Path, whole: bool) -> None:
    """Every third hippocampus volume with its mask, and one of the two masks that have no image."""
    images = sorted((source / "images").glob("*.nii.gz"))
    chosen = images if whole else images[:: max(1, len(images) // HIPPOCAMPUS)][:HIPPOCAMPUS]
    target = out / "neurology/hippocampus"
    for part in ("images", "labels"):
        (target / part).mkdir(parents=True)
    for image in chosen:
        shutil.copyfile(image, target / "images" / image.name)
        shutil.copyfile(source / "labels" / image.name, target / "labels" / image.name)
    alone = sorted({p.name for p in (source / "labels").glob("*.nii.gz")} - {p.name for p in images})
    shutil.copyfile(
        source / "labels" / alone[0], target / "labels" / alone[0]
    )  # wrong on purpose: a mask with no image


def oncology(source: Path, out: Path) -> None:
    """The bladder-cancer patients, one row each: expression, copy number and the clinic's table."""
    with zipfile.ZipFile(source / "tcga_blca_all_clean.csv.zip") as archive:
        text = archive.read(archive.namelist()[0]).decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    people = {r["case_id"]: r for r in reversed(rows)}  # a row a slide: the first slide of each patient
    genes = [c for c in rows[0] if c.endswith("_rnaseq")]
    copies = [c for c in rows[0] if c.endswith("_cnv")]
    cases = [people[c] for c in sorted(people)]
    short = lambda v: f"{float(v):.3g}" if v else ""
    for name, columns in (("bladder_expression", genes), ("bladder_copy_number", copies)):
        write_csv(
            out / "oncology" / f"{name}.csv.gz",
            [{"case_id": r["case_id"]} | {c: short(r[c]) for c in columns} for r in cases],
            True,
        )
    keep = ["site", "is_female", "age", "survival_months", "censorship"]
    write_csv(
        out / "oncology/bladder_clinical.csv", [{"case_id": r["case_id"]} | {c: r[c] for c in keep} for r in cases]
    )


def cardiology(source: Path, out: Path) -> None:
    """Ten seconds of the 15-lead record, one minute of the arrhythmia record, and a header whose signal is missing."""
    import wfdb

    target = out / "cardiology"
    target.mkdir(parents=True)
    for name, seconds in (("s0010_re", 20), ("100", 60)):
        record: Any = wfdb.rdrecord(str(source / name), sampto=None, physical=False)
        length = int(seconds * record.fs)
        wfdb.wrsamp(
            name, fs=record.fs, units=record.units, sig_name=record.sig_name, d_signal=record.d_signal[:length],
            fmt=record.fmt, adc_gain=record.adc_gain, baseline=record.baseline,
            comments=[f"patient: ECG-{name.split('_')[0].upper()}"], write_dir=str(target),
        )  # fmt: skip
    shutil.copyfile(source / "12726.hea", target / "12726.hea")  # wrong on purpose: a header without its signal


def ehr(source: Path, out: Path, whole: bool) -> None:
    """Seven synthetic people and the bundle that is not a person, without the billing resources."""
    target = out / "ehr"
    target.mkdir(parents=True)
    with zipfile.ZipFile(source / "bundles.zip") as archive:
        members = sorted(archive.infolist(), key=lambda m: (m.file_size, m.filename))[: None if whole else 8]
        for member in members:
            bundle = json.loads(archive.read(member))
            drop = {"Claim", "ExplanationOfBenefit", "Organization", "Practitioner", "CarePlan", "ImagingStudy"}
            bundle["entry"] = [e for e in bundle["entry"] if e["resource"]["resourceType"] not in drop]
            (target / member.filename.rsplit("_", 1)[-1]).write_text(json.dumps(bundle, separators=(",", ":")))


def clinic(source: Path, out: Path, whole: bool) -> None:
    """Sections of clinic notes, each with its visit in a table."""
    rows = list(csv.DictReader((source / "MTS-Dialog-TrainingSet.csv").open()))
    long = sorted((r for r in rows if len(r["section_text"].split()) >= 20), key=lambda r: int(r["ID"]))[
        : None if whole else NOTES
    ]
    visits = []
    (out / "clinic/notes").mkdir(parents=True)
    for row in long:
        name = f"MTS-{int(row['ID']):04d}"
        visits.append({"patient_id": name, "section": row["section_header"].strip()})
        (out / "clinic/notes" / f"{name}_1.txt").write_text(
            f"Patient: {name}\nType: clinic note\n\n{row['section_text'].strip()}\n"
        )
    write_csv(out / "clinic/visits.csv", visits)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=HERE.parents[1].parent / "shared/data")
    parser.add_argument("--out", type=Path, default=HERE / "data")
    parser.add_argument("--whole", action="store_true", help="all records; give another --out, and do not publish it")
    arguments = parser.parse_args()
    source, out, whole = arguments.source, arguments.out, arguments.whole
    if not (source / "covid-chestxray").is_dir():
        raise SystemExit(
            f"Found: no data sets in {source}\nExpected: covid-chestxray and its neighbours\nDo: name them with --source"
        )
    if whole and out == HERE / "data":
        raise SystemExit("Found: --whole into the embedded hospital\nExpected: another folder\nDo: name it with --out")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    radiology(source / "covid-chestxray", out, whole)
    neurology(source / "hippocampus-mri", out, whole)
    oncology(source / "tcga-omics", out)
    cardiology(source / "wfdb-samples", out)
    ehr(source / "synthea-fhir-r4", out, whole)
    clinic(source / "mts-dialog", out, whole)
    files = [p for p in out.rglob("*") if p.is_file()]
    print(f"{len(files)} files, {sum(p.stat().st_size for p in files) / 2**20:.1f} MiB in {out}")


if __name__ == "__main__":
    main()
