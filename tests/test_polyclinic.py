from __future__ import annotations

import importlib
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

import polyclinic as pc

HEAVY = (
    "torch",
    "numpy",
    "duckdb",
    "pyarrow",
    "pydantic",
    "sklearn",
    "scipy",
    "pydicom",
    "fastapi",
    "matplotlib",
    "zarr",
    "pandas",
)


def python(code: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_nothing_heavy_is_imported_before_it_is_named() -> None:
    code = "import sys, polyclinic; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    assert not set(HEAVY) & set(python(code).split())


def test_naming_one_room_does_not_open_the_others() -> None:
    code = "import sys, polyclinic as pc; pc.ingest; print(*sorted(sys.modules))"
    opened = set(python(code).split())
    assert "polyclinic.cohort" in opened
    assert not opened & {"polyclinic.training", "polyclinic.adaptation", "polyclinic.trust", "polyclinic.clinic"}


@pytest.mark.parametrize("name", pc.__all__)
def test_what_is_promised_is_there(name: str) -> None:
    assert getattr(pc, name).__name__ == name
    assert name in dir(pc)


def test_what_is_not_there_is_said() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'pretrane'"):
        _ = pc.pretrane  # type: ignore[attr-defined]


def test_every_room_says_what_is_in_it() -> None:
    rooms = [p.parent.name for p in Path(pc.__file__).parent.glob("*/__init__.py")]
    assert {"records", "cohort", "harmonise", "training", "adaptation", "trust", "clinic"} <= set(rooms)
    for room in rooms:
        assert importlib.import_module(f"polyclinic.{room}").__doc__, room


def five_lines(hospital: Path, place: Path, recipe: Path, port: int) -> str:
    """The lines of the package's docstring, with this machine's paths, few steps and a free port."""
    doc = pc.__doc__ or ""
    lines = doc[doc.index("import polyclinic as pc") :].strip().splitlines()
    assert len(lines) == 5
    code = "\n".join(lines)
    for told, here in (
        ('"examples/hospital"', repr(str(hospital))), ('"cohort/"', repr(str(place / "cohort"))),
        ('"recipes/demo.yaml", cohort', f"{str(recipe)!r}, cohort, into={str(place / 'runs')!r}"),
        ("labels=100", "labels=100, steps=2"), ("pc.serve(finding)", f"pc.serve(finding, port={port})"),
    ):  # fmt: skip
        assert code.count(told) == 1, told
        code = code.replace(told, here)
    return code


@pytest.mark.slow
@pytest.mark.server
def test_the_library_in_five_lines(small_hospital: Path, tiny_recipe: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = five_lines(small_hospital, tmp_path, tiny_recipe, port)
    said = tmp_path / "said"
    with said.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-u", "-c", code], stdout=out, stderr=subprocess.STDOUT, cwd=tmp_path
        )
    try:
        until = time.monotonic() + 300
        while True:
            assert process.poll() is None, said.read_text()
            assert time.monotonic() < until, said.read_text()
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
                    assert answer.status == 200
                break
            except OSError:
                time.sleep(0.5)
        printed = said.read_text()
        assert "finding (lora, image+text+table" in printed  # the evidence, with n at every figure
        assert "n = " in printed
        assert (tmp_path / "runs/tiny/adapted").exists()
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
