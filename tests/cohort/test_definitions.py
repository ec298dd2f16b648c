"""Named cohorts: a version chooses the same records for ever, or says how many are gone."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from polyclinic.cli import app
from polyclinic.cohort import Cohort, CohortError, EmptyCohortError, define, definition, definitions
from polyclinic.cohort.definitions import difference
from polyclinic.schema import Modality, Record
from polyclinic.training import Recipe
from polyclinic.training.recipe import CohortSpec, RecipeError

CR = "kind like 'CR%' -- the X-rays"


def record(name: str, patient: str, modality: Modality = Modality.IMAGE) -> Record:
    return Record(name, patient, None, modality, "CR chest" if modality is Modality.IMAGE else "note", f"{name}.x")


def hospital(path: Path) -> Cohort:
    cohort = Cohort.create(path)
    images = [record(f"i{i}", f"P{i % 4}") for i in range(10)]
    notes = [record(f"t{i}", f"P{i}", Modality.TEXT) for i in range(3)]
    cohort.add(path, [*images, *notes])
    return cohort


def test_a_version_is_its_records_and_their_hash(tmp_path: Path) -> None:
    cohort = hospital(tmp_path)
    made = define(cohort, "chest", CR)
    ids = sorted(f"i{i}" for i in range(10))
    assert (made.version, made.records, made.patients) == (1, 10, 4)
    assert made.hash == hashlib.blake2b("".join(f"{i}\n" for i in ids).encode(), digest_size=16).hexdigest()
    kept = json.loads((tmp_path / "cohorts/chest/1.json").read_text())
    assert (kept["where"], kept["hash"], kept["polyclinic"]) == (CR, made.hash, "0.1.0")
    assert [r.id for r in cohort.records(made.chosen)] == ids


def test_defining_anew_is_the_next_version_and_the_first_stays(tmp_path: Path) -> None:
    cohort = hospital(tmp_path)
    first = define(cohort, "chest", CR)
    before = (tmp_path / "cohorts/chest/1.json").read_bytes()
    assert define(cohort, "chest", CR) == first  # nothing is new
    cohort.add(tmp_path, [record("i99", "P9"), record("i98", "P3")])
    second = define(cohort, "chest", CR)
    third = define(cohort, "chest", CR, "texts > 0")
    assert [d.version for d in definitions(cohort)] == [1, 2, 3]
    assert (tmp_path / "cohorts/chest/1.json").read_bytes() == before
    assert definition(cohort, "chest") == third
    assert definition(cohort, "chest", 1) == first
    assert {r.id for r in cohort.records(second.chosen)} - {r.id for r in cohort.records(first.chosen)} == {
        "i98",
        "i99",
    }
    change = difference(cohort, "chest", 1, 2)
    assert (change.records_added, change.records_gone) == (("i98", "i99"), ())
    assert (change.patients_added, change.patients_gone) == (1, 0)
    back = difference(cohort, "chest", 2, 1)
    assert (back.records_gone, back.patients_gone) == (("i98", "i99"), 1)


def test_having_is_about_all_of_a_patient(tmp_path: Path) -> None:
    cohort = hospital(tmp_path)
    made = define(cohort, "both", CR, "texts > 0 and images >= 3 -- P0 and P1")
    assert {r.patient for r in cohort.records(made.chosen)} == {"P0", "P1"}
    assert {r.modality for r in cohort.records(made.chosen)} == {Modality.IMAGE}
    with pytest.raises(EmptyCohortError, match="having texts > 5"):
        define(cohort, "none", None, "texts > 5")
    with pytest.raises(CohortError, match="textss"):
        define(cohort, "none", None, "textss > 5")
    assert [d.name for d in definitions(cohort)] == ["both"]


def test_records_that_are_gone_are_counted_and_nobody_is_named(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for i in range(3):
        (tmp_path / f"in/SECRET{i}_1.txt").write_text(f"Some words {i}.")
    from polyclinic.cohort import ingest

    cohort = ingest(tmp_path / "in", tmp_path / "c")
    made = define(cohort, "notes", "modality = 'text'")
    (tmp_path / "in/SECRET1_1.txt").unlink()
    cohort = ingest(tmp_path / "in", tmp_path / "c")
    with pytest.raises(CohortError) as told:
        cohort.records(made.chosen)
    assert "1 of the 3 records of the cohort 'notes', version 1, are gone" in told.value.found
    assert "define the cohort anew" in told.value.remedy
    assert "SECRET" not in str(told.value)
    (tmp_path / "in/SECRET1_1.txt").write_text("Some words 1.")
    assert len(ingest(tmp_path / "in", tmp_path / "c").records(made.chosen)) == 3


DEFINE = """
import sys
from polyclinic.cohort import Cohort, define
for i in range(4):
    define(Cohort.open(sys.argv[1]), "x", f"id <> '{sys.argv[2]}{i}'")
"""


def test_two_processes_define_at_once(tmp_path: Path) -> None:
    cohort = hospital(tmp_path)
    both = [subprocess.Popen([sys.executable, "-c", DEFINE, tmp_path, name]) for name in "ab"]
    assert [p.wait(timeout=120) for p in both] == [0, 0]
    found = definitions(cohort)
    assert [d.version for d in found] == list(range(1, 9))
    assert {d.where for d in found} == {f"id <> '{name}{i}'" for name in "ab" for i in range(4)}


@pytest.mark.parametrize("name", ["../x", "", "a/b", ".hidden", "a b", 'a"b'])
def test_a_name_that_is_none(tmp_path: Path, name: str) -> None:
    with pytest.raises(CohortError, match="a cohort called"):
        define(hospital(tmp_path), name)


def test_a_version_that_is_not_there(tmp_path: Path) -> None:
    cohort = hospital(tmp_path)
    define(cohort, "chest", CR)
    with pytest.raises(CohortError, match="no version 3 of the cohort 'chest'") as told:
        definition(cohort, "chest", 3)
    assert told.value.expected == "versions 1"
    with pytest.raises(CohortError, match="no cohort 'ches'"):
        definition(cohort, "ches")
    with pytest.raises(CohortError):
        cohort.records(CohortSpec.model_validate({"name": "chest", "version": 3}).where)
    (tmp_path / "cohorts/chest/2.json").write_text("{")
    with pytest.raises(CohortError, match=r"a damaged definition chest/2\.json"):
        definitions(cohort)


def test_a_recipe_names_a_version(tmp_path: Path, tiny_recipe: Path) -> None:
    cohort = hospital(tmp_path)
    define(cohort, "chest", CR)
    cohort.add(tmp_path, [record("i99", "P9")])
    define(cohort, "chest", CR)
    asked = ["cohort.name=chest", "cohort.version=1"]
    recipe = Recipe.load(tiny_recipe, asked)
    assert len(cohort.records(recipe.cohort.where)) == 10
    (tmp_path / "again.yaml").write_text(recipe.as_yaml())
    assert Recipe.load(tmp_path / "again.yaml") == recipe
    with pytest.raises(RecipeError, match="needs both `name` and `version`"):
        Recipe.load(tiny_recipe, asked[1:])
    with pytest.raises(RecipeError, match="a named cohort and `where`"):
        Recipe.load(tiny_recipe, [*asked, "cohort.where=id is not null"])


def test_the_commands_define_list_and_compare(tmp_path: Path) -> None:
    hospital(tmp_path)
    run = lambda *words: CliRunner().invoke(app, ["cohort", words[0], str(tmp_path), *words[1:]])
    made = json.loads(run("define", "chest", "--where", CR, "--json").stdout)
    assert (made["version"], made["records"]) == (1, 10)
    assert "cohort: {name: chest, version: 2}" in run("define", "chest", "--having", "texts > 0").stdout
    assert [c["version"] for c in json.loads(run("list", "--json").stdout)["cohorts"]] == [1, 2]
    shown = run("diff", "chest", "1", "2").stdout
    assert "3 records came and 2 went; 0 patients came and 1 went" in shown
    assert "texts > 0" in shown
    assert not {"P0", "P1", "P2", "P3"} & set(shown.split())
