from __future__ import annotations

import json
import re
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from polyclinic.cohort import Cohort
from polyclinic.schema import Modality, Record
from polyclinic.training import Run, RunError
from polyclinic.training.run import file_hash
from polyclinic.trust import Evidence, ReportInputs, curves_of, evaluate, gather, write_report
from polyclinic.trust.measures.synthesis import Pair
from polyclinic.trust.pages.report import modality_words, patients_by_site


@pytest.fixture(scope="module")
def evidence(
    tiny_finding_run: Run,
    tiny_segmentation_run: Run,
    tiny_run: Run,
    tiny_cohort: Cohort,
    tmp_path_factory: pytest.TempPathFactory,
) -> list[Evidence]:
    """Of copies: other tests want runs that nobody has examined."""
    backbone = tiny_run.path.resolve()
    copy = tmp_path_factory.mktemp("reported") / backbone.name
    shutil.copytree(backbone, copy, ignore=shutil.ignore_patterns("cache"))
    every = (r.path.resolve().relative_to(backbone) for r in (tiny_finding_run, tiny_segmentation_run, tiny_run))
    return [evaluate(copy / place, tiny_cohort, draws=50) for place in every]


@pytest.fixture(scope="module")
def inputs(tiny_run: Run, tiny_segmentation_run: Run, tiny_cohort: Cohort, evidence: list[Evidence]) -> ReportInputs:
    return gather(
        tiny_run, tiny_cohort, evidence=evidence, segmentation=tiny_segmentation_run, tasks={"finding": "Has the patient COVID-19?"}
    )  # fmt: skip


@pytest.fixture(scope="module")
def report(inputs: ReportInputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(tmp_path_factory.mktemp("report") / "new/report.html", inputs)


def test_what_is_gathered_is_the_run_s_and_the_cohort_s(
    inputs: ReportInputs, tiny_run: Run, tiny_cohort: Cohort
) -> None:
    assert inputs.split == tiny_run.split.hash
    assert inputs.sides == (len(tiny_run.split.train), len(tiny_run.split.test))
    assert inputs.weights == file_hash(tiny_run.weights)
    assert inputs.cohort["patients"] == len(tiny_cohort.patients())
    assert {r.uri for r in inputs.rejected} == {r.uri for r in tiny_cohort.rejected()}
    assert inputs.tasks["finding"] == "Has the patient COVID-19?"
    assert inputs.tasks["xray_to_note"] == "Does a patient's X-ray find their own note?"
    assert inputs.notes_tell
    assert inputs.overlays
    assert {c.name for c in inputs.curves} >= {"loss", "segmentation/hippocampus"}
    assert "kind: hybrid" in inputs.recipe


def test_an_adapted_run_reports_of_its_backbone(tiny_finding_run: Run, tiny_run: Run, tiny_cohort: Cohort) -> None:
    made = gather(tiny_finding_run, tiny_cohort)
    assert (made.run, made.weights) == (tiny_run.path.name, file_hash(tiny_run.weights))


def test_the_summary_holds_every_number_of_the_page(report: Path, evidence: list[Evidence]) -> None:
    page = report.read_text(encoding="utf-8")
    summary = json.loads(report.with_name("summary.json").read_text())
    keys = set(re.findall(r'data-key="([^"]*)"', page))
    assert keys <= summary["figures"].keys() | summary["counts"].keys()
    for one in evidence:
        for figure in one.figures:
            held = summary["figures"][f"evidence.{one.run}.{figure.name}"]
            assert held["n"] == figure.n
            assert held["split"] == figure.split == summary["split"]
            assert held["value"] == (figure.value if np.isfinite(figure.value) else None)
    assert summary["weights"] in page


def test_a_run_that_was_moved_without_its_curves_still_has_a_report(
    tiny_run: Run, tiny_cohort: Cohort, tmp_path: Path
) -> None:
    place = shutil.copytree(
        tiny_run.path, tmp_path / "moved", ignore=shutil.ignore_patterns("metrics.parquet", "adapted")
    )
    made = write_report(tmp_path / "report.html", gather(place, tiny_cohort))
    page = made.read_text()
    assert "Training curves: the run was moved without them" in page
    assert "it was not run, and nothing here shows that pretraining helps" in page


def test_the_report_is_about_whom_the_run_is_about(tiny_run: Run, tiny_cohort: Cohort, tmp_path: Path) -> None:
    place = shutil.copytree(tiny_run.path, tmp_path / "part", ignore=shutil.ignore_patterns("adapted"))
    recipe = (place / "recipe.yaml").read_text()
    (place / "recipe.yaml").write_text(recipe.replace("where: null", "where: modality = 'volume'"))
    made = gather(place, tiny_cohort)
    assert made.cohort["modality"] == {"volume": made.cohort["patients"]}
    assert set(made.maps[0].finding) == {"unlabelled"}  # nobody of them has the finding's column


@contextmanager
def room_for(bytes_each: int) -> Iterator[None]:
    """No file may grow beyond so many bytes, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_each, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_on_a_full_disk_an_earlier_report_is_left_as_it_was(tmp_path: Path) -> None:
    earlier = ReportInputs("Before", "demo", "s", {}, (1, 1))
    place = write_report(tmp_path / "report.html", earlier)
    before = {p.name: p.read_text() for p in tmp_path.iterdir()}
    after = ReportInputs("After", "demo", "s", {}, (1, 1))
    with room_for(500), pytest.raises(RunError, match=r"report\.html could not be written") as caught:
        write_report(place, after)
    assert "free some space" in caught.value.remedy
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == before


def test_a_place_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="could not be written"):
        write_report(tmp_path / "file/report.html", ReportInputs("Title", "demo", "s", {}, (0, 0)))


def test_curves_begin_with_the_whole_loss_and_know_their_stages() -> None:
    rows = [
        {"stage": "second", "step": 2, "name": "loss", "value": 1.0},
        {"stage": "first", "step": 1, "name": "loss", "value": 2.0},
        {"stage": "first", "step": 0, "name": "loss", "value": 3.0},
        {"stage": "first", "step": 0, "name": "contrastive", "value": None},
        {"stage": "first", "step": 1, "name": "contrastive", "value": 0.5},
    ]
    loss, part = curves_of(pa.Table.from_pylist(rows))
    assert (loss.name, loss.steps.tolist(), loss.values.tolist()) == ("loss", [0, 1, 2], [3, 2, 1])
    assert (part.name, part.steps.tolist()) == ("contrastive", [1])
    assert loss.stages == ((0.0, "first"), (2.0, "second"))


def test_a_patient_of_two_sites_counts_at_both_and_once_at_each() -> None:
    make = lambda n, patient, site: Record(str(n), patient, datetime(2020, 1, 1), Modality.TEXT, "note", "n.txt", site)
    found = [make(0, "a", "x"), make(1, "a", "x"), make(2, "a", "y"), make(3, "b", "x"), make(4, "c", None)]
    assert patients_by_site(found) == {"x": 2, "y": 1}


@pytest.mark.parametrize(
    ("modality", "kinds", "word"),
    [
        ("image", ["CR chest PA", "DX chest"], "X-ray"),
        ("image", ["CR chest PA", "photograph"], "image"),
        ("volume", ["MR hippocampus"], "MR volume"),
        ("volume", ["MR hippocampus", "CT abdomen"], "volume"),
        ("signal", ["ECG 12-lead", "ECG 1-lead"], "ECG"),
        ("signal", ["ECG 12-lead", "ABP"], "signal"),
        ("text", ["clinic note"], "note"),
        ("image", [], "image"),
    ],
)
def test_modalities_are_called_by_what_they_are(modality: str, kinds: list[str], word: str) -> None:
    found = [Record(k, "a", None, Modality(modality), k, "file") for k in kinds]
    mask = Record("m", "a", None, Modality(modality), "MASK chest", "mask", attributes={"mask_of": "a"})
    assert modality_words([*found, mask])[modality] == word


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1400, "dark")])
def test_it_is_read_in_a_browser_without_scrolling_sideways(report: Path, width: int, scheme: str) -> None:
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("chromium is not installed")
    sync = pytest.importorskip("playwright.sync_api")
    with sync.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = opened.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        heard: list[str] = []
        page.on("console", lambda message: heard.append(message.text))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("request", lambda request: heard.append(request.url) if request.url.startswith("http") else None)
        page.goto(report.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert heard == []
        light, ink = page.evaluate(
            "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
            ".map(c => c.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + Number(b), 0))"
        )
        assert (light < ink) == (scheme == "dark")
        opened.close()


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1400])
def test_a_drawn_record_and_its_nearest_are_seen_beside_each_other(width: int, tmp_path: Path) -> None:
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("chromium is not installed")
    sync = pytest.importorskip("playwright.sync_api")
    grey = np.linspace(0, 1, 64).reshape(8, 8)
    two = (Pair(grey, grey[::-1], "one", 0.3, 0.2), Pair(None, None, "other", 0.4, 0.2, "it may not be shown"))
    place = write_report(tmp_path / "report.html", ReportInputs("Title", "demo", "s", {}, (1, 1), pairs=two))
    with sync.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = opened.new_page(viewport={"width": width, "height": 900})
        page.goto(place.as_uri())
        drawn, real = (one.bounding_box() for one in page.locator(".pair img").all())
        assert drawn["width"] == pytest.approx(real["width"], abs=1)
        assert drawn["width"] > 100
        assert (drawn["y"], drawn["x"] < real["x"]) == (real["y"], True)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        opened.close()
