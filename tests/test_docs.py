"""The code in the documents is run, on a small part of the embedded hospital and with a small recipe."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[str]:
    blocks = re.findall(r"^```bash\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    return re.findall(r"^polyclinic +([a-z]+)", "\n".join(blocks), re.MULTILINE)


@pytest.mark.slow
def test_the_tutorial_runs(small_hospital: Path, tiny_recipe: Path, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "examples/hospital").mkdir(parents=True)
    (tmp_path / "examples/hospital/data").symlink_to(small_hospital, target_is_directory=True)
    (tmp_path / "recipes").mkdir()
    shutil.copy(tiny_recipe, tmp_path / "recipes/demo.yaml")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in python_blocks(REPOSITORY / "docs/tutorial.md"):
        exec(compile(block, "docs/tutorial.md", "exec"), names)
    assert (tmp_path / "runs").exists()
    assert names["described"]["patients"] > 0  # type: ignore[index]
    assert names["evidence"].figures  # type: ignore[attr-defined]


def test_the_encoder_of_contributing_runs() -> None:
    names: dict[str, object] = {}
    blocks = python_blocks(REPOSITORY / "CONTRIBUTING.md")
    assert blocks
    for block in blocks:
        exec(compile(block, "CONTRIBUTING.md", "exec"), names)
    assert names["tokens"].values.shape[1] == names["encoder"].width  # type: ignore[attr-defined]


def test_commands_in_the_documents_exist() -> None:
    from polyclinic.cli import app

    known = {c.name or c.callback.__name__ for c in app.registered_commands if c.callback}
    known |= {group.name for group in app.registered_groups}
    for page in [REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")]:
        assert set(commands(page)) <= known, page


def test_links_between_documents_resolve() -> None:
    for page in [
        *REPOSITORY.glob("*.md"),
        *(REPOSITORY / "docs").glob("*.md"),
        *(REPOSITORY / "examples").rglob("README.md"),
    ]:
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} → {target}"


@pytest.mark.slow
def test_the_documentation_builds_without_a_warning(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=REPOSITORY, env={**os.environ, "DISABLE_MKDOCS_2_WARNING": "true"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "reference/index.html").exists()
