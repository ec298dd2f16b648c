"""The kinds of files that can be cleaned: how each is told, whose it is, and what cleans it. A new kind is a row here and a module."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .. import annotation as annotation_reader
from .. import cda as cda_reader
from .. import dicom as dicom_reader
from .. import edf as edf_reader
from .. import excel, raster, slide, slide_features, waveform
from .. import gct as gct_reader
from .. import h5ad as h5ad_reader
from .. import hl7v2 as hl7v2_reader
from .. import maf as maf_reader
from .. import parquet as parquet_reader
from .. import rosbag as rosbag_reader
from .. import tables as tables_reader
from .. import vcf as vcf_reader
from .. import video as video_reader
from ..source import RecordError
from . import (
    annotation,
    cda,
    dicom,
    edf,
    fhir,
    gct,
    h5ad,
    hdf5,
    hl7v2,
    kinematics,
    maf,
    parquet,
    pixel_text,
    rosbag,
    signals,
    slides,
    tables,
    text,
    vcf,
    video,
    volumes,
    workbook,
)
from .cleaning import Cleaning
from .known import Known
from .naming import pictured

Recognises = Callable[[Path, bytes], bool]
Survey = Callable[[Path, str, Known], str | None]
Clean = Callable[[Path, Path, Cleaning], None]


def _nobody(path: Path, place: str, known: Known) -> str | None:
    """A file that says nothing of whose it is: its name and folders do."""
    return None


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of file.

    Args:
        name: for the report.
        recognises: by path and first bytes.
        clean: writes the file anew, or raises `RecordError` and leaves it out.
        survey: notes who is in it, and gives whose the file is; None where its name says that, nothing where it has many.
        ending: what its new name ends in, where that is another.
    """

    name: str
    recognises: Recognises
    clean: Clean
    survey: Survey = _nobody
    ending: str | None = None


def _noted(clean: Callable[[Path, Path], list[tuple[str, str]]]) -> Clean:
    """What cleans without knowing whose it is; what it did is noted."""

    def noting(path: Path, to: Path, cleaning: Cleaning) -> None:
        for place, action in clean(path, to):
            cleaning.did(place, action)

    return noting


def _pictured(path: Path, place: str, known: Known) -> str:
    return pictured(place)


def _scanned(path: Path, place: str, known: Known) -> str | None:
    bids = re.match(r"sub-[A-Za-z0-9]+", path.name)  # BIDS 1.10, entities: the first is the subject
    return bids[0] if bids else None


def _is_samples(path: Path, head: bytes) -> bool:
    header = waveform.header_of(path)
    return header is not None and header.is_file() and path.name in signals.signal_files(header)


def _is_annotations(path: Path, head: bytes) -> bool:
    header = waveform.header_of(path)
    return header is not None and header.is_file()


def _set_aside(what: str, remedy: str) -> Clean:
    """What is told apart and cannot be cleaned soundly."""

    def refuse(path: Path, to: Path, cleaning: Cleaning) -> None:
        raise RecordError(what, "a kind that can be looked into", remedy)

    return refuse


KINDS = (
    Kind("data of an MRXS slide", lambda path, head: slide.header_of(path) is not None, slides.refuse_data),
    Kind("slide", slide.recognises, slides.deidentify, slides.survey),
    Kind("dicom", dicom_reader.recognises, dicom.deidentify, dicom.survey),
    Kind("nifti", volumes.recognises, _noted(volumes.deidentify), _scanned),
    Kind("picture", raster.recognises, pixel_text.picture, _pictured),
    Kind("video", video_reader.recognises, video.deidentify, video.survey),
    Kind(
        "description of a rosbag",
        lambda path, head: path.name == "metadata.yaml" and rosbag_reader.recognises(path, head),
        _set_aside("the description of a ROS recording", "write it again from the recording (ros2 bag reindex)"),
    ),
    Kind("rosbag", rosbag_reader.recognises, rosbag.deidentify, rosbag.survey),
    Kind("annotations of pictures", annotation_reader.recognises, annotation.deidentify, annotation.survey),
    Kind("kinematics", kinematics.recognises, kinematics.deidentify, kinematics.survey),
    Kind("edf", edf_reader.recognises, edf.deidentify, edf.survey),
    Kind("signal header", waveform.recognises, signals.deidentify_header, signals.survey),
    Kind("fhir", fhir.recognises, fhir.deidentify, fhir.survey),
    Kind("hl7v2", hl7v2_reader.recognises, hl7v2.deidentify, hl7v2.survey),
    Kind("cda", cda_reader.recognises, cda.deidentify, cda.survey),
    Kind("gct", gct_reader.recognises, gct.deidentify, gct.survey),
    Kind("features of tiles", slide_features.recognises, hdf5.deidentify_tiles, hdf5.survey_tiles),
    Kind("10x", hdf5.is_tenx, hdf5.deidentify_tenx, hdf5.survey_tenx),
    Kind("h5ad", h5ad_reader.recognises, h5ad.deidentify, h5ad.survey),
    Kind("vcf", vcf_reader.recognises, vcf.deidentify, vcf.survey),
    Kind("maf", maf_reader.recognises, maf.deidentify, maf.survey),
    Kind("parquet", parquet_reader.recognises, parquet.deidentify, parquet.survey),
    Kind("workbook", excel.recognises, workbook.deidentify, workbook.survey, ending=".xlsx"),
    Kind("table", tables_reader.recognises, tables.deidentify, tables.survey),
    Kind("note", text.recognises, text.deidentify, text.survey),
    Kind("signal samples", _is_samples, _noted(signals.deidentify_samples), signals.survey),
    Kind("annotations", _is_annotations, _noted(signals.deidentify_annotations), signals.survey),
)
"""By content first: a table or a text can be anything, so they come last."""


def kind_of(path: Path, root: Path) -> Kind:
    """What a file is.

    Raises:
        RecordError: nothing that is known here.
    """
    if path.is_symlink():
        raise RecordError("a link", "a file", "copy its target here")
    if not path.is_file():
        raise RecordError("neither a file nor a folder", "a file", "leave it out")
    if any(part.startswith(".") for part in path.relative_to(root).parts):
        raise RecordError("a hidden file", "a record", "leave it out")
    with path.open("rb") as file:
        head = file.read(4096)
    if not head:
        raise RecordError("an empty file", "a file with content", "export it again")
    found = next((kind for kind in KINDS if kind.recognises(path, head)), None)
    if found is None:
        raise RecordError(
            "a file of a kind that is not known here", "a kind that can be looked into", "convert it, or leave it out"
        )
    return found
