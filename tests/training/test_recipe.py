from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

from polyclinic.harmonise import Fingerprint
from polyclinic.harmonise.text import FIRST, train_tokenizer
from polyclinic.objectives import Finding, Structure
from polyclinic.schema import Modality
from polyclinic.training import Recipe, RecipeError, schema
from polyclinic.training.recipe import differing, folder, parts

SHIPPED = sorted(folder().glob("*.yaml"))
RECIPE = """# A recipe.
name: demo
cohort:
  split: {by: patient, test: 0.4, seed: 0, stratify: finding}
encoders:
  image:  {kind: vit, size: 128, patch: 16, width: 128, depth: 4, heads: 4}
  volume: {kind: vit3d, size: [40, 56, 40], patch: [8, 8, 8], width: 128, depth: 4, heads: 4}
  text:   {kind: bert, words: 96, vocabulary: 2048, width: 128, depth: 2, heads: 4}
  table:  {kind: events, width: 128, depth: 2, heads: 4, exclude: [in_icu]}
  omics:  {kind: programmes, genes: 128, width: 128, depth: 2, heads: 4}
model: {kind: two_tower, width: 128, embedding: 128, fusion: {kind: intermediate, style: self_attention, depth: 2, heads: 4}}
tasks:
  finding:     {kind: classification, column: finding, positive: [COVID-19], inputs: [image, text, table]}
  icu:         {kind: classification, column: went_icu, positive: [Y], inputs: [image, text, table]}
  hippocampus: {kind: segmentation, structure: hippocampus, classes: [anterior, posterior], inputs: [volume]}
  survival:    {kind: survival, time: survival_months, event: censorship, event_value: 0, inputs: [omics, table]}
  xray_to_note: {kind: retrieval, query: image, answer: text}
stages:
  - name: hybrid
    steps: 220
    batch: 16
    lr: 1.0e-3
    objective:
      kind: hybrid
      parts:
        - {kind: contrastive, loss: clip, pairs: all}
        - {kind: masked, ratio: 0.6}
        - {kind: segmentation, task: hippocampus, labels: 4}
"""


def refused(text: str, at: Path, overrides: tuple[str, ...] = ()) -> RecipeError:
    path = at / "mine.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        Recipe.load(path, overrides)
    return caught.value


def line_of(text: str, words: str) -> int:
    return next(n for n, row in enumerate(text.splitlines(), start=1) if words in row)


# What is written instead of what; where the line named begins (None: as changed); what is said; what there is; what is guessed.
WRONG = [
    ("steps: 220", "stepz: 220", None, "stages.0.stepz is not a key", "steps", "did you mean 'steps'?"),
    ("{kind: masked", "{kind: maskd", None, "stages.0.objective.parts.1 of kind 'maskd'", "contrastive, masked", "'masked'?"),
    ("ratio: 0.6", "ratoi: 0.6", None, "stages.0.objective.parts.1.ratoi is not a key", "ratio", "did you mean 'ratio'?"),
    ("ratio: 0.6", "ratio: 1.6", None, "stages.0.objective.parts.1.ratio is 1.6: Input should be less than 1", "", ""),
    ("{kind: masked, ", "{", "        - {ratio", "stages.0.objective.parts.1 without a `kind`", "contrastive, dino", "add it"),
    ("  volume: {", "  volumes: {", None, "encoders.volumes: an unknown modality 'volumes'", "volume", "did you mean 'volume'?"),
    ("size: 128", "size: 130", None, "encoders.image: patches of 16 do not fill an image of 130", "", ""),
    ("steps: 220", "steps: many", None, "stages.0.steps is 'many': Input should be a valid integer", "", ""),
    ("steps: 220", "steps: 0", None, "stages.0.steps is 0: Input should be greater than or equal to 1", "", ""),
    ("steps: 220", "steps: 220\n    steps: 9", None, "'steps' stands there twice (also in line", "once", "remove or rename"),
    ("lr: 1.0e-3", "lr: .nan", None, "stages.0.lr is nan: Input should be a finite number", "", ""),
    ("lr: 1.0e-3", "lr: .inf", None, "stages.0.lr is inf", "", ""),
    ("name: demo", "name: ../demo", None, "name is '../demo': String should match", "", ""),
    ("kind: two_tower", "kind: two_towers", None, "model of kind 'two_towers'", "two_tower, unified", "did you mean 'two_tower'?"),
    ("two_tower, width: 128", "two_tower, width: 130", None, "model.fusion: 4 heads do not divide a width of 130", "", ""),
    ("style: self_attention", "style: cross", None, "model.fusion.style is 'cross'", "class_tokens, ", "'cross_attention'?"),
    ("structure: hip", "structur: hip", None, "tasks.hippocampus.structur is not a key", "structure", "'structure'?"),
    ("stratify: finding", "stratify: findin", None, "classes, findings, grade or survival 'findin'", "", ""),
    ("stratify: finding", "stratify: hippocampus", None, "'hippocampus' (there are finding, icu, survival)", "", ""),
    ("task: hippocampus,", "task: hipocampus,", "    objective:", "no segmentation task 'hipocampus' (there are hippocampus)", "", ""),
    ("task: hippocampus,", "task: hippocampus, channels: 4,", "    objective:", "a decoder of 4 channels", "", ""),
    ("task: hippocampus,", "task: hippocampus, full: true,", "    objective:", "a decoder of 8 channels with `full`", "", ""),
    ("query: image", "query: video", None, "tasks.xray_to_note.query: names video, which has no encoder", "", ""),
    ("inputs: [volume]", "inputs: [image]", None, "tasks.hippocampus.inputs: without volume, which the answers lie on", "", ""),
    ("answer: text}", "answer: txt}", None, "tasks.xray_to_note.answer: an unknown modality 'txt'", "text", "did you mean 'text'?"),
    ("  xray_to_note:", "  xray/note:", None, "tasks.xray/note is 'xray/note': String should match", "", ""),
    ("model: {", "model: [", None, "is not YAML: expected ',' or ']'", "", ""),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "begins", "found", "there", "guessed"), WRONG, ids=[w[1][:30] for w in WRONG])
def test_what_is_wrong_is_said_with_its_line(
    old: str, new: str, begins: str | None, found: str, there: str, guessed: str, tmp_path: Path
) -> None:
    assert old in RECIPE
    text = RECIPE.replace(old, new, 1)
    error = refused(text, tmp_path)
    assert f"mine.yaml, line {line_of(text, begins or new.splitlines()[-1])}" in error.found
    assert found in error.found
    assert there in error.expected
    assert guessed in error.remedy


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    error = refused(RECIPE.replace("name: demo\n", "", 1), tmp_path)
    assert error.found == "mine.yaml: name is missing"
    error = refused(RECIPE.replace("    steps: 220\n", "", 1), tmp_path)
    assert error.found == f"mine.yaml, line {line_of(RECIPE, '- name: hybrid')}: stages.0.steps is missing"


def test_how_many_more_there_are(tmp_path: Path) -> None:
    error = refused(RECIPE.replace("steps: 220", "steps: 0").replace("batch: 16", "batch: 0"), tmp_path)
    assert "(and 1 more)" in error.found


@pytest.mark.parametrize(("text", "found"), [
    ("", "holds a NoneType"), ("- a\n- b\n", "holds a list"), ("a: [1\n", "is not YAML"), ("a: \t1\n\tb", "is not YAML"),
])  # fmt: skip
def test_what_is_no_recipe_at_all(text: str, found: str, tmp_path: Path) -> None:
    assert found in refused(text, tmp_path).found


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"name: caf\xe9\n")
    with pytest.raises(RecipeError, match=r"is not text \(byte 9\)"):
        Recipe.load(path)


def test_a_recipe_that_is_not_there() -> None:
    with pytest.raises(RecipeError, match="did you mean 'demo'") as caught:
        Recipe.load("recipes/demmo.yaml")
    assert "demo" in caught.value.expected


@pytest.mark.parametrize("path", SHIPPED, ids=[p.stem for p in SHIPPED])
def test_shipped_recipes_are_recipes(path: Path) -> None:
    recipe = Recipe.load(path.stem)
    assert recipe.name == path.stem
    assert Recipe.model_validate(yaml.safe_load(recipe.as_yaml())) == recipe


def fits(value: Any, at: dict[str, Any], defs: dict[str, Any]) -> bool:
    """Whether a value is what the JSON Schema says: the keywords that pydantic writes for recipes, and no others."""
    if "$ref" in at:
        return fits(value, defs[at["$ref"].rsplit("/", 1)[1]], defs)
    known = {
        "title", "description", "default", "discriminator", "type", "properties", "required", "additionalProperties", "items",
        "enum", "const", "anyOf", "oneOf", "minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "minItems", "maxItems",
        "minLength", "pattern", "patternProperties", "prefixItems", "minProperties", "propertyNames", "$defs", "$schema",
    }  # fmt: skip
    assert set(at) <= known, set(at) - known
    if "anyOf" in at:
        return any(fits(value, one, defs) for one in at["anyOf"])
    if "oneOf" in at:
        return sum(fits(value, one, defs) for one in at["oneOf"]) == 1
    kinds = {
        "object": dict,
        "array": list,
        "string": str,
        "boolean": bool,
        "integer": int,
        "number": (int, float),
        "null": type(None),
    }
    if "type" in at and not isinstance(value, kinds[at["type"]]):
        return False
    if ("enum" in at and value not in at["enum"]) or ("const" in at and value != at["const"]):
        return False
    if isinstance(value, dict):
        named = at.get("properties", {})
        (rest,) = at.get("patternProperties", {None: at.get("additionalProperties", True)}).values()
        inside = all(
            fits(v, named[k], defs) if k in named else rest if isinstance(rest, bool) else fits(v, rest, defs)
            for k, v in value.items()
        )
        return inside and set(at.get("required", ())) <= set(value) and len(value) >= at.get("minProperties", 0)
    if isinstance(value, list) and "items" in at:
        return len(value) >= at.get("minItems", 0) and all(fits(v, at["items"], defs) for v in value)
    if isinstance(value, int | float):
        return value >= at.get("minimum", value) and value > at.get("exclusiveMinimum", value - 1)
    return True


@pytest.mark.parametrize("path", SHIPPED, ids=[p.stem for p in SHIPPED])
def test_the_json_schema_admits_what_is_shipped_and_refuses_a_typo(path: Path) -> None:
    made = schema()
    assert made["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    data = yaml.safe_load(path.read_text())
    assert fits(data, made, made["$defs"])
    data["stages"][0]["stepz"] = 1
    assert not fits(data, made, made["$defs"])
    del data["stages"][0]["stepz"]
    data["stages"][0]["objective"]["kind"] = "nothing"
    assert not fits(data, made, made["$defs"])


def test_the_schema_is_what_pydantic_publishes() -> None:
    assert {"$schema": schema()["$schema"], **TypeAdapter(Recipe).json_schema()} == schema()


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "demo.yaml"
    path.write_text(RECIPE)
    return path


def test_overrides_set_values(recipe: Path) -> None:
    found = Recipe.load(
        recipe, ["stages.0.steps=7", "precision=fp32", "encoders.image={kind: vit, size: 64, patch: 16}", "name=small"]
    )
    assert found.stages[0].steps == 7
    assert found.precision == "fp32"
    assert found.name == "small"
    assert getattr(found.encoders[Modality.IMAGE], "size", None) == 64
    assert Recipe.load(recipe, ["cohort.where=modality = 'text'"]).cohort.where == "modality = 'text'"


@pytest.mark.parametrize(("override", "found"), [
    ("stages.0.steps=abc", "with --set stages.0.steps=abc: stages.0.steps is 'abc'"),
    ("stages.3.steps=1", "leads nowhere"),
    ("stages.0.stepz=1", "with --set stages.0.stepz=1: stages.0.stepz is not a key"),
    ("steps", "the override 'steps'"),
    ("=3", "the override '=3'"),
    ("stagez.0.steps=3", "with --set stagez.0.steps=3: stagez is not a key"),
    ("encoders.image.size=130", "with --set encoders.image.size=130: encoders.image: patches of 16"),
    ("encoders.image=[1", "leads nowhere"),
    ("name.first=x", "leads nowhere"),
    ("stages.0=5", "with --set stages.0=5: stages.0 is 5"),
])  # fmt: skip
def test_a_bad_override_is_said_as_such(override: str, found: str, tmp_path: Path) -> None:
    assert found in refused(RECIPE, tmp_path, (override,)).found


def test_an_override_that_is_right_is_not_blamed(tmp_path: Path) -> None:
    error = refused(RECIPE.replace("ratio: 0.6", "ratio: 2"), tmp_path, ("stages.0.steps=3",))
    assert "--set" not in error.found


def test_differing_names_the_keys(recipe: Path) -> None:
    one = Recipe.load(recipe)
    other = Recipe.load(recipe, ["stages.0.steps=7", "encoders.image.depth=1", "seed=4"])
    assert differing(one, other) == ["encoders.image.depth", "seed", "stages.0.steps"]
    assert differing(one, Recipe.load(recipe)) == []


def test_label_columns_are_kept_from_every_encoder(recipe: Path) -> None:
    found = Recipe.load(recipe)
    assert found.excluded() == ("censorship", "finding", "survival_months", "went_icu")
    standard = found.standards()[Modality.TABLE]
    assert set(standard.exclude) == {*found.excluded(), "in_icu"}


def test_structures_are_what_the_labels_of_tasks_are_of(recipe: Path) -> None:
    found = Recipe.load(recipe)
    finding, icu, survival = (found.tasks[name].inputs for name in ("finding", "icu", "survival"))
    assert found.structures() == {
        "finding": Finding(Modality.TABLE, ("finding",), (), "class", finding),
        "icu": Finding(Modality.TABLE, ("icu",), (), "class", icu),
        "hippocampus": Structure(Modality.VOLUME, ("anterior", "posterior")),
        "survival": Finding(Modality.TABLE, ("survival",), (), "survival", survival),
    }
    assert found.structures()["hippocampus"].labels == 3
    notes = Fingerprint(train_tokenizer(["the anterior part and the posterior part"] * 3, 200))
    front, back = (words.tolist() for words in found.structures(notes)["hippocampus"].words)
    assert front[0] == back[0] == FIRST
    assert front != back
    assert [part.kind for part in parts(found.stages[0].objective)] == ["contrastive", "masked", "segmentation"]


@pytest.mark.parametrize(("objective", "found"), [
    ("{kind: contrastive, pairs: [[image, image]]}", "a pair of image with itself, which only `loss: supcon` compares"),
    ("{kind: contrastive, pairs: video}", "names video, which has no encoder"),
    ("{kind: local, pairs: [[text, text]]}", "a pair of text with itself"),
    ("{kind: local, pairs: [[text, slide]]}", "names slide, which has no encoder"),
    ("{kind: symile, modalities: [image, text, image]}", "names a modality twice"),
    ("{kind: symile, modalities: [image, text]}", "at least 3 items"),
    ("{kind: dino, large: [0.5, 0.4]}", "shares from 0.5 to 0.4"),
    ("{kind: ibot, ratio: 1}", "less than 1"),
    ("{kind: masked, width: 20, heads: 3}", "3 heads do not divide a width of 20"),
    ("{kind: caption, width: 96, heads: 3, queries: 4}", "3 heads do not divide the model's width of 128"),
    ("{kind: translation, target: text}", "use `caption`"),
    ("{kind: translation, target: table}", "translation into table, of whose encoder's (events's) tokens no record can be put together"),
    ("{kind: latent_diffusion, target: image, patch: 64}", "samples, which places of 256 along each axis do not fill"),
    ("{kind: hybrid, parts: [{kind: latent_diffusion, target: volume, factor: 8, patch: 3}]}", "places of 24 along each axis"),
])  # fmt: skip
def test_an_objective_that_cannot_be_asked_is_refused(objective: str, found: str, recipe: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.load(recipe, [f"stages.0.objective={objective}"])
    assert found in caught.value.found


def test_a_modality_is_compared_with_itself_by_its_patients_records(recipe: Path) -> None:
    alone = ["cohort.split={by: patient}", "tasks={}", "encoders={image: {kind: vit}}"]
    objective = "stages.0.objective={kind: contrastive, loss: supcon, pairs: [[image, image]]}"
    assert Recipe.load(recipe, [*alone, objective]).stages[0].objective.named() == {Modality.IMAGE}
    with pytest.raises(RecipeError, match="there is one encoder"):
        Recipe.load(recipe, [*alone, "stages.0.objective={kind: contrastive, loss: siglip}"])


def test_a_class_token_hears_words_in_a_trunk_of_their_own() -> None:
    text = {"kind": "gpt", "class_token": True}
    stage = {"name": "s", "steps": 1, "objective": {"kind": "contrastive"}}
    recipe = {"name": "r", "encoders": {"image": {"kind": "vit"}, "text": text}, "stages": [stage]}
    late = {"kind": "two_tower", "fusion": {"kind": "late"}}
    assert getattr(Recipe.model_validate({**recipe, "model": late}).encoders[Modality.TEXT], "class_token")  # noqa: B009
    with pytest.raises(ValidationError, match="early fusion leaves the class token no trunk"):
        Recipe.model_validate({**recipe, "model": {"kind": "two_tower", "fusion": {"kind": "early"}}})


def test_what_reads_a_whole_batch_is_not_divided() -> None:
    compared = [{"kind": "local"}, {"kind": "dino"}, {"kind": "contrastive"}]
    stage = {"name": "s", "steps": 1, "batch": 4, "objective": {"kind": "hybrid", "parts": compared}}
    recipe = {
        "name": "r",
        "encoders": {"image": {"kind": "vit"}, "text": {"kind": "bert"}},
        "model": {"kind": "two_tower"},
    }
    assert Recipe.model_validate({**recipe, "stages": [{**stage, "accumulate": 2}]}).stages[0].accumulate == 2
    stage["objective"] = {"kind": "hybrid", "balance": "gradnorm", "parts": compared}
    assert Recipe.model_validate({**recipe, "stages": [{**stage, "accumulate": 2}]}).stages[0].accumulate == 2
    stage["objective"] = {"kind": "supervised", "tasks": ["os"]}
    timed = {**recipe, "tasks": {"os": {"kind": "survival", "time": "months", "event": "died", "event_value": 1}}}
    assert Recipe.model_validate({**timed, "stages": [stage]}).stages[0].accumulate == 1
    with pytest.raises(ValidationError, match="the survival 'os' compares patients of one whole batch"):
        Recipe.model_validate({**timed, "stages": [{**stage, "accumulate": 2}]})
