from __future__ import annotations

import tomllib
from pathlib import Path

from polyclinic.training import reading
from polyclinic.training.reading import find, folder, guess

REPOSITORY = Path(__file__).parents[2]


def test_shipped_recipes_are_found_in_the_repository_and_travel_in_the_wheel() -> None:
    assert (folder() / "demo.yaml").is_file()
    assert find("demo") == folder() / "demo.yaml"
    wheel = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    packaged = Path(reading.__file__).parents[1] / "recipes"  # where `folder` looks first
    assert wheel["force-include"] == {"recipes": packaged.relative_to(REPOSITORY / "src").as_posix()}


def test_a_file_comes_before_a_shipped_name(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "demo").write_text("name: mine")
    monkeypatch.chdir(tmp_path)
    assert find("demo") == Path("demo")


def test_guesses_are_near_or_none() -> None:
    assert guess("contrastiv", ["contrastive", "masked"], "no idea") == "did you mean 'contrastive'?"
    assert guess("xyz", ["contrastive", "masked"], "no idea") == "no idea"
