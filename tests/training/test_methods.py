from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from polyclinic.cli.runs import Kind as Offered
from polyclinic.models.adapters import Bitfit, Lora
from polyclinic.training import Recipe, RecipeError
from polyclinic.training.methods import KINDS, Full, MethodError, MethodSpec, Probe, methods, name_of


def test_every_kind_of_the_union_is_named_and_offered() -> None:
    found = [spec.model_fields["kind"].default for spec in get_args(get_args(MethodSpec)[0])]
    assert sorted(found) == sorted(KINDS) == sorted(get_args(Offered))
    for kind in KINDS:
        (spec,) = methods(kind)
        assert spec.kind == kind
        assert methods(spec.model_dump(mode="json")) == (spec,)


@pytest.mark.parametrize("told", [
    "lora+bitfit", ["lora", "bitfit"], [{"kind": "lora"}, Bitfit()], "[{kind: lora}, {kind: bitfit}]",
])  # fmt: skip
def test_a_mixture_in_each_way_to_say_it(told: Any) -> None:
    assert methods(told) == (Lora(), Bitfit())
    assert name_of(methods(told)) == "lora+bitfit"


def test_options() -> None:
    assert methods({"kind": "lora", "rank": 4}) == methods("{kind: lora, rank: 4}") == (Lora(rank=4),)
    assert methods({"kind": "full", "decay": 0.65, "thaw": 0.5}) == (Full(decay=0.65, thaw=0.5),)
    assert methods(Probe(ridge=0.1))[0].ridge == 0.1


@pytest.mark.parametrize(("told", "found", "remedy"), [
    ("prob", "no method 'prob'", "did you mean 'probe'?"),
    ("lora+bitfitt", "no method 'bitfitt'", "did you mean 'bitfit'?"),
    ({"rank": 4}, "no method 'None'", ""),
    ({"kind": "lora", "rnk": 4}, "rnk: extra inputs are not permitted", "did you mean 'rank'?"),
    ({"kind": "lora", "rank": 0}, "rank: input should be greater than or equal to 1", "correct it"),
    ({"kind": "full", "decay": 1.5}, "decay: ", "correct it"),
    ("{kind: lora", "the method '{kind: lora'", "correct it"),
    ("probe+lora", "probe stands alone", "leave one out"),
    ("full+lora", "full stands alone", "leave one out"),
    ("lora+lora", "lora is said twice", "leave one out"),
    ("lora+dora", "lora and dora are two ways to say the same weights", "leave one out"),
    ([], "nothing is said", ""),
])  # fmt: skip
def test_what_there_is_not_is_said(told: Any, found: str, remedy: str) -> None:
    with pytest.raises(MethodError) as caught:
        methods(told)
    assert found in caught.value.found
    assert remedy in caught.value.remedy


def test_a_recipe_says_it_in_one_line(tiny_recipe: Path, tmp_path: Path) -> None:
    assert Recipe.load(tiny_recipe).adaptation == (Lora(),)
    place = tmp_path / "r.yaml"
    place.write_text(tiny_recipe.read_text() + "adaptation: [{kind: lora, rank: 4}, {kind: bitfit}]\n")
    assert Recipe.load(place).adaptation == (Lora(rank=4), Bitfit())
    assert Recipe.load(tiny_recipe, ["adaptation=[{kind: probe}]"]).adaptation == (Probe(),)


@pytest.mark.parametrize(("line", "found", "remedy"), [
    ("adaptation: [{kind: lara}]", "of kind 'lara'", "did you mean 'lora'?"),
    ("adaptation: [{kind: lora, rnk: 4}]", "adaptation.0.rnk is not a key", "did you mean 'rank'?"),
    ("adaptation: [{kind: lora}, {kind: full}]", "adaptation: full stands alone", ""),
])  # fmt: skip
def test_a_recipe_s_mistake_is_said_with_its_line(
    line: str, found: str, remedy: str, tiny_recipe: Path, tmp_path: Path
) -> None:
    place = tmp_path / "r.yaml"
    place.write_text(tiny_recipe.read_text() + line + "\n")
    number = len(place.read_text().splitlines())
    with pytest.raises(RecipeError) as caught:
        Recipe.load(place)
    assert found in caught.value.found
    assert f"line {number}" in caught.value.found
    assert remedy in caught.value.remedy
