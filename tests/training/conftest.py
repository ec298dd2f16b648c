"""A recipe of words, cells and genes that trains in a second, for what is about the loop and not about the networks."""

from __future__ import annotations

from pathlib import Path

import pytest

from polyclinic.training import Recipe

LIGHT = (
    "name=light",
    "encoders={text: {kind: bert, words: 24, vocabulary: 128, width: 16, depth: 1, heads: 2},"
    " table: {kind: events, width: 16, depth: 1, heads: 2, fewest: 2},"
    " omics: {kind: programmes, genes: 256, width: 16, depth: 1, heads: 2}}",
    "model={kind: two_tower, width: 16, embedding: 16, fusion: {kind: intermediate, depth: 1, heads: 2}}",
    "tasks={finding: {kind: classification, column: finding, positive: [COVID-19]},"
    " survival: {kind: survival, time: survival_months, event: censorship, event_value: 0}}",
    "stages=[{name: align, steps: 4, batch: 6, warmup: 1, objective: {kind: contrastive}},"
    " {name: hybrid, steps: 5, batch: 6, warmup: 1, objective: {kind: hybrid, parts: [{kind: contrastive}, {kind: masked}]}}]",
)


@pytest.fixture(scope="session")
def light(tiny_recipe: Path) -> Recipe:
    """Two stages of four and five steps."""
    return Recipe.load(tiny_recipe, LIGHT)


@pytest.fixture(scope="session")
def light_file(light: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, as a file for another process."""
    path = tmp_path_factory.mktemp("light") / "light.yaml"
    path.write_text(light.as_yaml())
    return path
