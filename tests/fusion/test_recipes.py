"""Every fusion in every model, from a recipe's line to a trained run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from polyclinic.cohort import Cohort
from polyclinic.fusion import FusionSpec
from polyclinic.training import Recipe, RecipeError, pretrain

LIGHT = (
    "encoders={text: {kind: bert, words: 24, vocabulary: 128, width: 16, depth: 1, heads: 2},"
    " table: {kind: events, width: 16, depth: 1, heads: 2, fewest: 2},"
    " omics: {kind: programmes, genes: 256, width: 16, depth: 1, heads: 2}}",
    "tasks={finding: {kind: classification, column: finding, positive: [COVID-19]}}",
    "stages=[{name: both, steps: 2, batch: 6, warmup: 1, objective:"
    " {kind: hybrid, parts: [{kind: contrastive}, {kind: masked, context: patient}]}}]",
)
"""Words, cells and genes: a second a run."""
MEET = {"early", "self_attention", "class_tokens", "cross_attention", "bottleneck"}
"""Where tokens meet, the masked words of a two-tower model teach the fusion; elsewhere nothing does before it is adapted."""


def lines() -> list[tuple[str, str]]:
    """What a recipe says of each kind and style."""
    out = []
    for kind in get_args(get_args(FusionSpec)[0]):
        name, fields = kind.model_fields["kind"].default, kind.model_fields
        sizes = ", depth: 2, heads: 2" if "depth" in fields else ""
        styles: tuple[Any, ...] = get_args(fields["style"].annotation) if "style" in fields else ()
        out += [(s, f"{{kind: {name}, style: {s}{sizes}}}") for s in styles] or [(name, f"{{kind: {name}{sizes}}}")]
    return out


@pytest.mark.parametrize("model", ["two_tower", "unified"])
@pytest.mark.parametrize("fusion", lines(), ids=lambda line: line[0])
def test_it_trains(model: str, fusion: tuple[str, str], tiny_recipe: Path, tiny_cohort: Cohort, tmp_path: Path) -> None:
    name, line = fusion
    recipe = Recipe.load(tiny_recipe, (*LIGHT, f"model={{kind: {model}, width: 16, embedding: 16, fusion: {line}}}"))
    run = pretrain(recipe, tiny_cohort, into=tmp_path)
    curves = run.metrics()
    assert set(curves["step"].to_pylist()) == {0, 1}
    assert all(map(math.isfinite, curves["value"].to_pylist()))
    fresh, trained = run.model(pretrained=False).state_dict(), run.model().state_dict()
    assert all(value.isfinite().all() for value in trained.values())
    # Words and genes are masked; nothing asks for what the cells hear in their last block.
    learns = {n for n in trained if n.startswith("fusion.") and n.endswith("weight") and ".table." not in n}
    moved = {n for n in learns if not torch.equal(trained[n], fresh[n])}
    assert moved == (learns if model == "unified" or name in MEET else set())


@pytest.mark.parametrize(
    ("line", "found", "expected"),
    [
        ("{kind: intermediate, style: self_attention, latents: 4}", "4 latents, and self_attention has none", ""),
        ("{kind: intermediate, style: bottleneck, depth: 1}", "a bottleneck of depth 1", ""),
        ("{kind: intermediate, style: perceiver, heads: 3}", "3 heads do not divide a width of 32", ""),
        ("{kind: intermediate, style: latents}", "'latents'", "class_tokens, cross_attention, bottleneck, perceiver"),
        ("{kind: late, style: product, depth: 2}", "model.fusion.depth is not a key", "kind, style"),
        ("{kind: early, style: perceiver}", "model.fusion.style is not a key", "depth, heads, kind"),
        ("{kind: bottleneck}", "model.fusion of kind 'bottleneck'", "early, intermediate, late"),
    ],
)
def test_what_a_style_has_no_use_for_is_refused(line: str, found: str, expected: str, tiny_recipe: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.load(tiny_recipe, (f"model.fusion={line}",))
    assert found in caught.value.found
    assert "model.fusion" in caught.value.found
    assert expected in caught.value.expected
