"""Desks of the tiny runs, and their service on a free port of loopback."""

from __future__ import annotations

import csv
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import shown
from polyclinic.clinic import Desk, create_app
from polyclinic.clinic.service import SERVER
from polyclinic.cohort import Cohort
from polyclinic.training import Run
from polyclinic.trust import evaluate


@pytest.fixture(scope="session")
def finding_desk(tiny_finding_run: Run) -> Desk:
    """Of a run that nobody has examined."""
    return Desk(tiny_finding_run)


@pytest.fixture(scope="session")
def segmentation_desk(tiny_segmentation_run: Run) -> Desk:
    return Desk(tiny_segmentation_run)


@pytest.fixture(scope="session")
def examined_run(tiny_finding_run: Run, tiny_cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finding run with its evidence. Read-only: a test that changes it copies it."""
    backbone = tiny_finding_run.backbone.path.resolve()
    place = tmp_path_factory.mktemp("examined") / backbone.name
    shutil.copytree(backbone, place, ignore=shutil.ignore_patterns("cache", "evidence", "card.md"))
    run = place / tiny_finding_run.path.resolve().relative_to(backbone)
    evaluate(run, tiny_cohort, draws=50)
    return run


@pytest.fixture(scope="session")
def xray(small_hospital: Path) -> Path:
    return next((small_hospital / "radiology/CXR-0329").iterdir())


@pytest.fixture(scope="session")
def note(small_hospital: Path) -> Path:
    """Of the same patient, who is named in its head."""
    return small_hospital / "radiology/notes/CXR-0329_1.txt"


@pytest.fixture(scope="session")
def broken(small_hospital: Path) -> Path:
    (path,) = (small_hospital / "radiology/broken").iterdir()
    return path


@pytest.fixture(scope="session")
def volume(small_hospital: Path) -> Path:
    return sorted((small_hospital / "neurology/hippocampus/images").iterdir())[0]


@pytest.fixture(scope="session")
def row_of(small_hospital: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A table with the rows of some patients of the small hospital."""
    with (small_hospital / "radiology/studies.csv").open(newline="") as file:
        head, *rows = list(csv.reader(file))

    def made(*patients: str) -> Path:
        path = tmp_path_factory.mktemp("table") / "studies.csv"
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([head, *(row for row in rows if row[0] in patients)])
        return path

    return made


@contextmanager
def serving(run: Any, **options: Any) -> Iterator[str]:
    """The service's address while it runs in a thread."""
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(create_app(run, **options), port=0, log_config=None, **SERVER))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def serve_app() -> Callable[..., Any]:
    """`serving`, for tests that make their own service."""
    return serving


@pytest.fixture(scope="session")
def finding_url(finding_desk: Desk) -> Iterator[str]:
    with serving(finding_desk) as url:
        yield url


@pytest.fixture(scope="session")
def segmentation_url(segmentation_desk: Desk) -> Iterator[str]:
    with serving(segmentation_desk) as url:
        yield url


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser of this file's own: while one is open no other file can start Playwright in the same process."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("there is no Chromium on this machine (apt install chromium)")
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Any) -> Iterator[Callable[..., Any]]:
    """Opens an address; afterwards nothing was said on the console, and no other host was asked."""
    contexts: list[Any] = []
    said: list[str] = []
    asked: list[str] = []

    def opened(url: str, **options: Any) -> Any:
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(url)
        page.get_by_text("This model reads").wait_for(state="attached")
        return page

    yield opened
    for context in contexts:
        context.close()
    # Chromium itself notes that a refusal was one.
    assert [s for s in said if "status of 4" not in s] == []
    assert {u.split("/")[2].split(":")[0] for u in asked if not u.startswith(("data:", "blob:"))} <= {"127.0.0.1"}


@pytest.fixture(scope="session")
def drawing_run(discs_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Of the two discs, a copy that nobody has examined."""
    place = tmp_path_factory.mktemp("drawing") / discs_run.path.name
    shutil.copytree(discs_run.path, place, ignore=shutil.ignore_patterns("cache", "evidence", "card.md"))
    return Run.open(place)


@pytest.fixture(scope="session")
def discs_url(drawing_run: Run) -> Iterator[str]:
    with serving(drawing_run) as url:
        yield url


@pytest.fixture(scope="session")
def balls_url(balls_run: Run) -> Iterator[str]:
    with serving(balls_run) as url:
        yield url


@pytest.fixture
def new(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """A picture of discs that nobody was trained on, and its mask."""
    image, mask = shown.picture(1000)
    Image.fromarray(image).save(tmp_path / "new.png")
    return tmp_path / "new.png", mask
