from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from polyclinic.objectives.hybrid import Part
from polyclinic.training import Recipe
from polyclinic.training.reading import folder
from polyclinic.training.taxonomy import ASKS, CELLS, DIMENSIONS, taxonomy

SHIPPED = sorted(folder().glob("*.yaml"))
NAMED = {"clip", "coca", "bert", "gpt", "llama", "vit", "mae", "sam"}
BASE = """
name: a
encoders:
  image: {kind: vit, size: 32, patch: 16, width: 16, heads: 2, depth: 1}
  text: {kind: bert, width: 16, heads: 2, depth: 1}
model: {kind: two_tower, width: 16, fusion: {kind: late}}
stages: [{name: one, steps: 1, objective: {kind: contrastive}}]
"""
VOLUME = "encoders={volume: {kind: vit3d, width: 16, heads: 2, depth: 1}}"
MASKS = "tasks={liver: {kind: segmentation, structure: liver, classes: [liver]}}"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base.yaml"
    path.write_text(BASE)
    return path


def test_every_kind_of_objective_has_a_family() -> None:
    kinds = {kind.model_fields["kind"].default for kind in get_args(get_args(Part)[0])}
    assert kinds <= set(ASKS), f"say in taxonomy.ASKS what {kinds - set(ASKS)} asks"


def test_a_place_is_told_by_what_a_recipe_is_made_of(base: Path) -> None:
    found = taxonomy(Recipe.load(base))
    assert (found.dimensions, found.proxy, found.stream) == (("2-D",), "contrastive", "vision–language")
    assert (found.assembly, found.fusion) == ("two towers", "late (mean)")
    assert str(found) == "2-D, contrastive; vision–language; two towers, fusion late (mean)"
    other = taxonomy(Recipe.load(base, ["model.kind=unified", "model.fusion={kind: early}", "name=contrastive-3d"]))
    assert (other.assembly, other.fusion) == ("unified", "early")
    assert other.cells == (("2-D", "contrastive"),)  # whatever it is called


@pytest.mark.parametrize(("overrides", "proxy"), [
    (["stages.0.objective={kind: masked}"], "generative"),
    (["stages.0.objective={kind: dino}"], "contrastive"),
    (["stages.0.objective={kind: ibot}"], "hybrid"),
    (["stages.0.objective={kind: hybrid, parts: [{kind: masked}, {kind: caption}]}"], "generative"),  # of one family
    (["stages.0.objective={kind: hybrid, parts: [{kind: masked}, {kind: local}]}"], "hybrid"),
    (["stages=[{name: a, steps: 1, objective: {kind: masked}}, {name: b, steps: 1, objective: {kind: contrastive}}]"], "hybrid"),
])  # fmt: skip
def test_the_proxy_task_is_that_of_all_that_is_asked(base: Path, overrides: list[str], proxy: str) -> None:
    assert taxonomy(Recipe.load(base, overrides)).proxy == proxy


def test_dimensions_are_of_what_is_seen_or_masked(base: Path) -> None:
    one = taxonomy(Recipe.load(base, [VOLUME, "stages.0.objective={kind: masked}"]))
    assert (one.dimensions, one.stream, one.assembly, one.fusion) == (("3-D",), "vision", "one encoder", "none")
    both = ["encoders.volume={kind: vit3d, width: 16, heads: 2, depth: 1}", MASKS]
    assert taxonomy(Recipe.load(base, both)).cells == (("2-D", "contrastive"), ("3-D", "contrastive"))
    # An image that is read beside does not make a segmentation of volumes a segmentation of images.
    for objective in ("{kind: segmentation, task: liver}", "{kind: promptable, tasks: [liver]}"):
        assert taxonomy(Recipe.load(base, [*both, f"stages.0.objective={objective}"])).cells == (
            ("3-D", "segmentation"),
        )
    words = ["encoders={text: {kind: bert, width: 16, heads: 2}}", "stages.0.objective={kind: masked_language}"]
    assert (taxonomy(Recipe.load(base, words)).dimensions, taxonomy(Recipe.load(base, words)).stream) == (
        (),
        "language",
    )
    cells = ["encoders={omics: {kind: programmes, width: 16, heads: 2}}", "stages.0.objective={kind: masked}"]
    assert taxonomy(Recipe.load(base, cells)).stream == "other"


def test_every_cell_and_every_named_system_is_shipped() -> None:
    places = {path.stem: taxonomy(Recipe.load(path)) for path in SHIPPED}
    filled = {cell for place in places.values() for cell in place.cells}
    assert set(CELLS) <= filled, set(CELLS) - filled
    assert set(places) >= NAMED
    assert set(DIMENSIONS.values()) >= {dimension for dimension, _ in CELLS}
    for name, place in places.items():  # a cell's recipe stands in the cell that it is called after
        proxy, _, dimension = name.rpartition("-")
        if dimension in ("2d", "3d"):
            assert (dimension.upper().replace("D", "-D"), proxy) in place.cells, name


@pytest.mark.parametrize("path", SHIPPED, ids=[p.stem for p in SHIPPED])
def test_a_shipped_recipe_says_what_it_is_and_bears_its_file_s_name(path: Path) -> None:
    first = path.read_text().splitlines()[0]
    assert first.startswith("# ")
    assert first.endswith((").", "cores."))  # the paper in brackets; of the demonstration, what it takes
    assert Recipe.load(path).name == path.stem


def test_the_documents_list_them_where_they_stand() -> None:
    page = (Path(__file__).parents[2] / "docs/recipes.md").read_text()
    for path in SHIPPED:
        place = taxonomy(Recipe.load(path))
        cells = (", ".join(place.dimensions) or "–", place.proxy, place.stream, place.assembly, place.fusion)
        assert f"| `{path.stem}` | {' | '.join(cells)} |" in page, path.stem
