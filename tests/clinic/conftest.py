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

import pytest

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
