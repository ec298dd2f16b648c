"""What several tests share: the embedded hospital, a small part of it, and one tiny run pretrained and adapted once a session."""

from __future__ import annotations

import csv
import gzip
import os
import shutil
import signal
from pathlib import Path

os.environ.setdefault(
    "OMP_WAIT_POLICY", "PASSIVE"
)  # before torch: spinning threads stall each other on a shared machine
if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # as a shell leaves it to what runs behind it; Ctrl-C is tested here
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
import torch
from hypothesis import settings

import shown
from polyclinic.cohort import Cohort
from polyclinic.training import Run

# No test asserts a time. In CI the same examples are tried each time: chance looks for new ones where a person sees what it finds.
settings.register_profile("polyclinic", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("polyclinic")

REPOSITORY = Path(__file__).parents[1]
CHEST = (
    "CXR-0005", "CXR-0102", "CXR-0103", "CXR-0228", "CXR-0255", "CXR-0256",
    "CXR-0222", "CXR-0229", "CXR-0234", "CXR-0266", "CXR-0268", "CXR-0329",
)  # fmt: skip
"""Six with and six without COVID-19, so that both sides of a split have both."""
VOLUMES, BLADDER = 6, 20

TINY_RECIPE = """
name: tiny
cohort: {split: {by: patient, test: 0.4, seed: 0, stratify: finding}}
encoders:
  image:  {kind: vit, size: 64, patch: 16, width: 32, depth: 1, heads: 2}
  volume: {kind: vit3d, size: [32, 48, 32], patch: [8, 8, 8], width: 32, depth: 1, heads: 2}
  text:   {kind: bert, words: 32, vocabulary: 256, width: 32, depth: 1, heads: 2}
  table:
    kind: events
    width: 32
    depth: 1
    heads: 2
    fewest: 2
    exclude: [in_icu, intubated, licence, accession, location, site, date, view, went_icu]
  omics:  {kind: programmes, genes: 256, width: 32, depth: 1, heads: 2}
model: {kind: two_tower, width: 32, embedding: 32, centre: true, fusion: {kind: intermediate, style: self_attention, depth: 1, heads: 2}}
tasks:
  finding:     {kind: classification, column: finding, positive: [COVID-19], inputs: [image, text, table]}
  hippocampus: {kind: segmentation, structure: hippocampus, classes: [anterior, posterior], inputs: [volume]}
  survival:    {kind: survival, time: survival_months, event: censorship, event_value: 0, inputs: [omics, table]}
  xray_to_note: {kind: retrieval, query: image, answer: text}
stages:
  - name: hybrid
    steps: 6
    batch: 6
    lr: 1.0e-3
    warmup: 2
    objective:
      kind: hybrid
      parts:
        - {kind: contrastive, loss: clip, pairs: all}
        - {kind: masked, ratio: 0.6}
        - {kind: segmentation, task: hippocampus, labels: 2}
precision: fp32
"""


@pytest.fixture(scope="session", autouse=True)
def _two_threads() -> None:
    """A test machine is shared; more threads than cores stall each other."""
    torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else min(2, os.cpu_count() or 1))


@pytest.fixture(scope="session")
def hospital() -> Path:
    """The embedded hospital's files."""
    return REPOSITORY / "examples/hospital/data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The full public sets, which are not in the repository."""
    place = Path(os.environ.get("POLYCLINIC_SHARED_DATA", REPOSITORY.parent / "shared/data"))
    if not place.is_dir():
        pytest.skip("the full public sets are not on this machine (POLYCLINIC_SHARED_DATA names their folder)")
    return place


@pytest.fixture(scope="session")
def small_hospital(hospital: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A part of the embedded hospital, with its wrong things left in: a truncated DICOM, a stray note, a mask alone."""
    place = tmp_path_factory.mktemp("small_hospital")
    _copy_chest(hospital / "radiology", place / "radiology")
    _copy_volumes(hospital / "neurology/hippocampus", place / "neurology/hippocampus")
    _copy_bladder(hospital / "oncology", place / "oncology")
    (place / "cardiology").mkdir()
    for name in ("s0010_re.hea", "s0010_re.dat", "12726.hea"):
        shutil.copy(hospital / "cardiology" / name, place / "cardiology")
    return place


def _copy_chest(source: Path, to: Path) -> None:
    for patient in CHEST:
        shutil.copytree(source / patient, to / patient)
    shutil.copytree(source / "broken", to / "broken")
    (to / "notes").mkdir()
    for note in (source / "notes").glob("*.txt"):
        if note.stem.rsplit("_", 1)[0] in {*CHEST, "CXR-9999"}:
            shutil.copy(note, to / "notes")
    with (source / "studies.csv").open(newline="") as file:
        head, *rows = list(csv.reader(file))
    with (to / "studies.csv").open("w", newline="") as file:
        csv.writer(file).writerows([head, *(row for row in rows if row[0] in CHEST)])


def _copy_volumes(source: Path, to: Path) -> None:
    images = sorted((source / "images").iterdir())[:VOLUMES]
    alone = sorted({p.name for p in (source / "labels").iterdir()} - {p.name for p in (source / "images").iterdir()})
    for folder, names in (("images", [p.name for p in images]), ("labels", [*(p.name for p in images), *alone[:1]])):
        (to / folder).mkdir(parents=True)
        for name in names:
            shutil.copy(source / folder / name, to / folder)


def _copy_bladder(source: Path, to: Path) -> None:
    to.mkdir()
    with (source / "bladder_clinical.csv").open(newline="") as file:
        head, *rows = list(csv.reader(file))
    kept = list(dict.fromkeys(row[0] for row in rows))[:BLADDER]
    with (to / "bladder_clinical.csv").open("w", newline="") as file:
        csv.writer(file).writerows([head, *(row for row in rows if row[0] in kept)])
    for name in ("bladder_expression.csv.gz", "bladder_copy_number.csv.gz"):
        with gzip.open(source / name, "rt", newline="") as file:
            head, *lines = file.read().splitlines(keepends=True)
        with gzip.open(to / name, "wt", newline="", compresslevel=1) as file:
            file.writelines([head, *(line for line in lines if line.split(",", 1)[0] in kept)])


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe of five modalities and four tasks that trains in seconds."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(TINY_RECIPE)
    return path


@pytest.fixture(scope="session")
def tiny_cohort(small_hospital: Path, tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """The catalogue of the small hospital. Read-only: a test that adds to it copies it first."""
    from polyclinic.cohort import ingest

    return ingest(small_hospital, tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="session")
def tiny_run(tiny_cohort: Cohort, tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The tiny recipe, pretrained. Read-only."""
    from polyclinic.training import pretrain

    return pretrain(tiny_recipe, tiny_cohort, into=tmp_path_factory.mktemp("runs"))


@pytest.fixture
def own_hospital(small_hospital: Path, tmp_path: Path) -> Path:
    """The small hospital's files once more, to be damaged."""
    return Path(shutil.copytree(small_hospital, tmp_path / "in"))


@pytest.fixture
def own_cohort(own_hospital: Path, tmp_path: Path) -> Cohort:
    """Their catalogue, made while they were whole."""
    from polyclinic.cohort import ingest

    return ingest(own_hospital, tmp_path / "cohort")


@pytest.fixture
def own_run(tiny_run: Run, tmp_path: Path) -> Run:
    """The pretrained run, which has not harmonised anything yet: what it has it need not read."""
    shutil.copytree(tiny_run.path, tmp_path / "run", ignore=shutil.ignore_patterns("adapted", "cache"))
    return Run.open(tmp_path / "run")


@pytest.fixture(scope="session")
def tiny_finding_run(tiny_run: Run) -> Run:
    """Adapted to the finding by a probe."""
    from polyclinic.adaptation import adapt

    return adapt(tiny_run, "finding", "probe")


@pytest.fixture(scope="session")
def tiny_segmentation_run(tiny_run: Run) -> Run:
    """Adapted to the hippocampus with the two masks that it may use."""
    from polyclinic.adaptation import adapt

    return adapt(tiny_run, "hippocampus", "full", labels=2, steps=80)


@pytest.fixture(scope="session")
def tiny_asked_run(tiny_cohort: Cohort, tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that learned to answer: the finding in words, survival by a head of its own. Read-only."""
    import yaml

    from polyclinic.training import Recipe, pretrain

    recipe = yaml.safe_load(tiny_recipe.read_text())
    recipe["encoders"].pop("volume")
    recipe["encoders"]["table"]["exclude"].remove("went_icu")
    recipe["tasks"] = {
        "finding": {**recipe["tasks"]["finding"], "questions": ["Is there COVID-19?", "Is it the corona virus?"]},
        "icu": {"kind": "classification", "column": "went_icu", "positive": ["Y"], "inputs": ["image"]},
        "survival": recipe["tasks"]["survival"],
    }
    parts = [{"kind": "question", "tasks": ["finding"]}, {"kind": "supervised", "tasks": ["survival"], "labels": 8}]
    recipe["stages"] = [{"name": "asked", "steps": 6, "batch": 12, "objective": {"kind": "hybrid", "parts": parts}}]
    return pretrain(
        Recipe.model_validate(recipe | {"name": "asked"}), tiny_cohort, into=tmp_path_factory.mktemp("asked")
    )


@pytest.fixture(scope="session")
def discs_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Pretrained to draw the one of two discs that it is shown."""
    place = tmp_path_factory.mktemp("discs")
    return shown.pretrained(shown.discs(place / "data"), shown.DISCS, place)


@pytest.fixture(scope="session")
def balls_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Pretrained to draw the one of two balls that it is shown, in a turned volume with oblong voxels."""
    pytest.importorskip("nibabel")
    place = tmp_path_factory.mktemp("balls")
    return shown.pretrained(shown.balls(place / "data"), shown.BALLS, place)
