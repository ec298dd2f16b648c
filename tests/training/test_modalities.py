"""Slides, videos and kinematics from their files to a pretrained model and its answers."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import tifffile
import torch
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, VLWholeSlideMicroscopyImageStorage, generate_uid

from polyclinic.cohort import Cohort, ingest
from polyclinic.harmonise import Cache
from polyclinic.harmonise.loader import Loader
from polyclinic.inference import embed
from polyclinic.schema import Modality
from polyclinic.training import Recipe, Run, pretrain

PATIENTS, MPP = 6, 0.5
GLASS, TISSUE = 240, (200, 90, 150)
RECIPE = """
name: theatre
cohort: {split: {by: patient, test: 0.34, seed: 0}}
encoders:
  slide: {kind: slide_vit, size: 32, mpp: 1.0, most: 32, patch: 8, width: 16, depth: 1, heads: 2}
  video: {kind: vivit, size: 32, patch: 8, rate_hz: 5, seconds: 2, width: 16, depth: 1, heads: 2}
  kinematics: {kind: motion_vit, seconds: 2, width: 16, depth: 1, heads: 2}
model: {kind: two_tower, width: 16, embedding: 16, fusion: {kind: intermediate, depth: 1, heads: 2}}
stages:
  - {name: hybrid, steps: 2, batch: 4, objective: {kind: hybrid, parts: [{kind: contrastive}, {kind: masked}]}}
precision: fp32
"""


def picture(draw: np.random.Generator) -> np.ndarray:
    """(256 320 3) of a slide with a block of tissue."""
    array = np.full((256, 320, 3), GLASS, np.uint8)
    top, left = draw.integers(0, 96, 2)
    array[top : top + 160, left : left + 224] = np.clip(draw.normal(TISSUE, 15, (160, 224, 3)), 0, 255)
    return array


def write_tiff(path: Path, array: np.ndarray) -> None:
    centimetre: Any = {"resolution": (10_000 / MPP, 10_000 / MPP), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as file:
        for by in (1, 4):
            level = np.ascontiguousarray(array[::by, ::by])
            file.write(level, tile=(64, 64), photometric="rgb", metadata=None, subfiletype=int(by > 1), **centimetre)


def item(**values: object) -> list[Dataset]:
    one = Dataset()
    for keyword, value in values.items():
        setattr(one, keyword, value)
    return [one]


def write_dicom(path: Path, array: np.ndarray, patient: str) -> None:
    """A level of a slide, as PS3.3 A.32.8 wants it and no more."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = VLWholeSlideMicroscopyImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    tiles = array.reshape(4, 64, 5, 64, 3).swapaxes(1, 2)
    told = {
        "SOPClassUID": VLWholeSlideMicroscopyImageStorage, "SOPInstanceUID": meta.MediaStorageSOPInstanceUID, "PatientID": patient,
        "Modality": "SM", "SeriesInstanceUID": generate_uid(), "StudyInstanceUID": generate_uid(),
        "ImageType": ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], "Rows": 64, "Columns": 64, "NumberOfFrames": 20,
        "TotalPixelMatrixRows": 256, "TotalPixelMatrixColumns": 320, "SamplesPerPixel": 3, "PhotometricInterpretation": "RGB",
        "PlanarConfiguration": 0, "BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0,
        "DimensionOrganizationType": "TILED_FULL", "TotalPixelMatrixFocalPlanes": 1, "NumberOfOpticalPaths": 1,
        "ImageOrientationSlide": [0, -1, 0, -1, 0, 0],
        "TotalPixelMatrixOriginSequence": item(XOffsetInSlideCoordinateSystem=20.5, YOffsetInSlideCoordinateSystem=40.25),
        "OpticalPathSequence": item(OpticalPathIdentifier="1", ObjectiveLensPower=20),
        "SharedFunctionalGroupsSequence": item(
            PixelMeasuresSequence=item(PixelSpacing=[MPP / 1000, MPP / 1000], SliceThickness=0.003)
        ),
        "PixelData": np.ascontiguousarray(tiles).tobytes(),
    }  # fmt: skip
    for keyword, value in told.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path, enforce_file_format=True)


def write_video(path: Path, draw: np.random.Generator, frames: int) -> None:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 25)
        for number in range(frames):
            pixels = draw.integers(0, 256, (48, 64, 3), np.uint8)
            pixels[:, : 1 + number % 64] = (180, 40, 40)
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def write_jigsaws(path: Path, draw: np.random.Generator) -> None:
    """Three seconds of the 76 columns, smooth; the rotations are turns about z."""
    times = np.arange(90)[:, None] / 30
    values = np.sin(times * draw.uniform(0.5, 3, 76) + draw.uniform(0, 6, 76))
    for arm in range(4):
        angle = values[:, 19 * arm]
        zero, one = np.zeros_like(angle), np.ones_like(angle)
        turn = [np.cos(angle), -np.sin(angle), zero, np.sin(angle), np.cos(angle), zero, zero, zero, one]
        values[:, 19 * arm + 3 : 19 * arm + 12] = np.stack(turn, 1)
    np.savetxt(path, values, fmt="%.6f", delimiter="  ")


@pytest.fixture(scope="module")
def theatre(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six patients: all have a slide, in turn TIFF and DICOM, all but one a video, all but another kinematics."""
    place = tmp_path_factory.mktemp("theatre")
    for number in range(PATIENTS):
        name, draw = f"case{number:02}", np.random.default_rng(number)
        (place / name).mkdir()
        if number % 2:
            write_dicom(place / name / "slide.dcm", picture(draw), name)
        else:
            write_tiff(place / name / "slide.tif", picture(draw))
        if number != 1:
            write_video(place / name / "scope.mp4", draw, 10 + 30 * number)
        if number % 2 == 0:
            write_jigsaws(place / name / "arms.txt", draw)
        elif number != 3:
            rows = np.column_stack([np.arange(120) / 40, draw.normal(size=(120, 3)).cumsum(axis=0)])
            head = "time,slave left position x,slave left velocity x,slave left gripper angle"
            np.savetxt(place / name / "arm.csv", rows, "%.5f", ",", header=head, comments="")
    return place


@pytest.fixture(scope="module")
def cohort(theatre: Path, tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return ingest(theatre, tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    path = tmp_path_factory.mktemp("recipe") / "theatre.yaml"
    path.write_text(RECIPE)
    return Recipe.load(path)


@pytest.fixture(scope="module")
def run(recipe: Recipe, cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return pretrain(recipe, cohort, into=tmp_path_factory.mktemp("runs"))


def test_everything_is_read(cohort: Cohort) -> None:
    assert cohort.rejected() == []
    has = {m: sorted(r.patient for r in cohort.records() if r.modality is m) for m in Modality}
    assert has[Modality.SLIDE] == [f"case{n:02}" for n in range(PATIENTS)]
    assert has[Modality.VIDEO] == [f"case{n:02}" for n in range(PATIENTS) if n != 1]
    assert has[Modality.KINEMATICS] == [f"case{n:02}" for n in range(PATIENTS) if n != 3]


def test_the_loader_s_batch_becomes_tokens_that_know_where_and_when(run: Run, cohort: Cohort) -> None:
    (whole,) = run.loader(cohort, tuple(sorted({r.patient for r in cohort.records()}))).each()
    tokens = {m: run.model().encoder(m)(ragged) for m, ragged in whole.payloads.items()}
    slide, video, motion = tokens[Modality.SLIDE], tokens[Modality.VIDEO], tokens[Modality.KINEMATICS]
    for number in range(PATIENTS):  # TIFF and DICOM alike: tiles lie 32 µm apart
        mine = slide.position[slide.patient == number, :2]
        apart = torch.cdist(mine, mine).fill_diagonal_(9).min(1).values
        assert 6 <= len(mine) <= 12
        assert apart.tolist() == pytest.approx([0.032] * len(mine), abs=1e-5)
    # Ten frames a clip make five tubelets, and a short one of 0.4 s a single one.
    assert video.lengths.tolist() == [16, 0, 5 * 16, 5 * 16, 5 * 16, 5 * 16]
    last = video.position[video.patient == 5, 3].unique()
    assert last.tolist() == pytest.approx([2.3, 2.7, 3.1, 3.5, 3.9], abs=0.05)  # in the middle of 6.4 s
    # Four arms for two seconds of half-second windows; of the CSV one arm.
    assert motion.lengths.tolist() == [16, 4, 16, 0, 16, 4]
    assert motion.position[motion.patient == 1, 0].unique().tolist() == [2.0]
    assert motion.position[motion.patient == 0, 3].unique().tolist() == pytest.approx([0.25, 0.75, 1.25, 1.75])


def test_two_steps_of_pretraining_ask_every_modality(run: Run) -> None:
    wanted = {f"masked/{m}" for m in ("slide", "video", "kinematics")}
    wanted |= {f"contrastive/{pair}" for pair in ("slide-video", "slide-kinematics", "video-kinematics")}
    found = {row["name"]: row["value"] for row in run.metrics().to_pylist()}
    assert wanted <= set(found)
    assert all(np.isfinite(found[term]) for term in wanted)


def test_everybody_has_a_vector_of_what_they_have(run: Run, cohort: Cohort) -> None:
    everybody = run.split.train + run.split.test
    found = embed(run, cohort, patients=everybody)
    has = {m: {r.patient for r in cohort.records() if r.modality is m} for m in found}
    assert set(found) == {Modality.SLIDE, Modality.VIDEO, Modality.KINEMATICS}
    for modality, (names, vectors) in found.items():
        assert set(names) == has[modality]
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    one, (names, vectors) = everybody[0], found[Modality.SLIDE]
    alone = embed(run, cohort, patients=[one])[Modality.SLIDE][1]
    assert np.allclose(alone[0], vectors[names.index(one)], atol=1e-5)


def test_what_was_harmonised_is_read_back_the_same(recipe: Recipe, cohort: Cohort, tmp_path: Path, run: Run) -> None:
    who = tuple(sorted({r.patient for r in cohort.records()}))
    first, again = (
        Loader(cohort.records(), who, recipe.standards(), run.fingerprint, cohort.load, cache=Cache(tmp_path))
        for _ in range(2)
    )
    batch = first.of(who)
    first.cache.flush()
    again.load = lambda record: pytest.fail(f"{record.uri} was read again")
    for modality, ragged in again.of(who).payloads.items():
        other = batch.payloads[modality]
        for one, two in zip(ragged.values, other.values, strict=True):
            assert torch.equal(one.nan_to_num(-9), two.nan_to_num(-9))
        for one, two in zip(ragged.places or [], other.places or [], strict=True):
            assert torch.equal(one, two)
