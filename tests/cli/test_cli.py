"""Every command, as a person and as a program would use it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner, Result

from polyclinic import __version__
from polyclinic.cli import app
from polyclinic.cohort import Cohort
from polyclinic.training import Run
from polyclinic.training.run import file_hash

BINARY = Path(sys.executable).with_name("polyclinic")


def run(*words: object, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(app, [str(w) for w in words], env={"COLUMNS": "80", **(env or {})})


def answer(*words: object) -> dict[str, Any]:
    """What a command says with --json: one object and nothing else on stdout."""
    done = run(*words, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def refusal(*words: object) -> dict[str, str]:
    """The error of a command that could not be done, which a person and a program are told alike."""
    plain = run(*words)
    assert plain.exit_code == 1, plain.output
    assert plain.stdout == ""
    assert "Traceback" not in plain.stderr
    done = run(*words, "--json")
    assert done.exit_code == 1
    told = json.loads(done.stdout)
    assert told["exit"] == 1
    assert told["error"]["found"] in plain.stderr.replace("\n", " ")
    assert f"Found: {told['error']['found']}" in plain.stderr
    return told["error"]


def real(*words: object, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([BINARY, *map(str, words)], capture_output=True, text=True, timeout=120, check=False, **more)


def every() -> Iterator[tuple[str, ...]]:
    """The words of every command and group."""

    def walk(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        yield words
        for name, inner in getattr(command, "commands", {}).items():
            yield from walk(inner, (*words, name))

    return walk(typer.main.get_command(app), ())


COMMANDS = list(every())


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_explains_itself_in_eighty_columns(words: tuple[str, ...]) -> None:
    done = run(*words, "--help")
    assert done.exit_code == 0
    assert "Usage: polyclinic" in done.stdout or "Usage: " in done.stdout
    assert max(len(line) for line in done.stdout.splitlines()) <= 80
    assert run(*words, "-h").stdout == done.stdout


def test_no_command_is_left_out_of_this_test() -> None:
    leaves = {" ".join(w) for w in COMMANDS if w and w not in {("cohort",), ("recipe",)}}
    assert leaves == {
        "ingest", "cohort check", "cohort describe", "cohort query", "cohort split", "cohort patient", "cohort define", "cohort list",
        "cohort diff",
        "recipe validate", "recipe show", "recipe schema",
        "recipe list", "pretrain", "compare", "adapt", "evaluate", "ask", "predict", "serve", "demo", "doctor", "deidentify", "phantom",
        "export", "index", "search", "segment", "continual", "synthesise",
    }  # fmt: skip
    assert all("--json" in run(*words, "--help").stdout for words in COMMANDS if " ".join(words) in leaves)


def test_help_and_looking_at_a_cohort_import_no_torch(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.csv").write_text("patient_id,x\nP1,1\n")
    look = (
        "import sys; sys.argv = ['polyclinic', *sys.argv[1:]]\nfrom polyclinic.cli import main\n"
        "try: main()\nexcept SystemExit: pass\nprint('torch' in sys.modules, file=sys.stderr)"
    )
    folder, catalogue = tmp_path / "in", tmp_path / "c"
    for words in (
        ["--help"],
        ["pretrain", "--help"],
        ["ingest", folder, "--into", catalogue],
        ["cohort", "describe", catalogue],
    ):
        done = subprocess.run(
            [sys.executable, "-c", look, *map(str, words)], capture_output=True, text=True, timeout=60, check=True
        )
        assert done.stderr.splitlines()[-1] == "False", words


def test_the_version() -> None:
    assert real("--version").stdout == f"{__version__}\n"


# --- ingest and cohort


def test_ingest_of_ones_own_folder(small_hospital: Path, tmp_path: Path) -> None:
    first = run("ingest", small_hospital, "--into", tmp_path / "c")
    assert first.exit_code == 0
    assert re.search(r"\d+ records \(\d+ of them masks\) of \d+ patients; (\d+) new", first.stdout)
    assert (
        "radiology/broken/A99999.dcm\n    a DICOM file that was cut short; do: send it again from the PACS"
        in first.stdout
    )
    again = answer("ingest", small_hospital, "--into", tmp_path / "c")
    assert again["added"] == 0
    assert again["records"] > 100
    assert {r["uri"].rpartition("/")[2] for r in again["rejected"]} == {
        "12726.hea",
        "hippocampus_010.nii.gz",
        "A99999.dcm",
        "CXR-9999_1.txt",
    }
    assert all(r["found"] and r["expected"] and r["do"] for r in again["rejected"])


def test_what_is_gone_is_counted(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / f"in/{name}.csv").write_text(f"patient_id,x\nP{name},1\n")
    assert answer("ingest", tmp_path / "in", "--into", tmp_path / "c")["added"] == 2
    (tmp_path / "in/a.csv").unlink()
    told = answer("ingest", tmp_path / "in", "--into", tmp_path / "c")
    assert (told["added"], told["gone"], told["records"]) == (0, 1, 1)
    assert "1 no longer there" not in run("ingest", tmp_path / "in", "--into", tmp_path / "c").stdout  # that was then


def test_many_set_aside_are_cut_and_the_rest_can_be_asked_for(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.csv").write_text("patient_id,x\nP1,1\n")
    for i in range(25):
        (tmp_path / f"in/{i}.xyz").write_text("?")
    done = run("ingest", tmp_path / "in", "--into", tmp_path / "c")
    assert "25 set aside" in done.stdout
    assert "… and 5 more: polyclinic cohort query" in done.stdout
    assert len(answer("cohort", "query", tmp_path / "c", "from rejected")["rows"]) == 25


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("ingest", "nowhere"), "nothing at nowhere"),
        (("cohort", "describe", "nowhere"), "no catalogue in nowhere"),
        (("pretrain", "nowhere.yaml"), "no recipe nowhere.yaml"),
        (("adapt", "nowhere", "--task", "finding"), "no run in nowhere"),
        (("evaluate", "nowhere"), "no run in nowhere"),
        (("ask", "nowhere", "Is it?", "--task", "finding"), "no run in nowhere"),
        (("predict", "nowhere", "x.dcm"), "no run in nowhere"),
        (("serve", "nowhere"), "no run in nowhere"),
        (("export", "nowhere"), "no run in nowhere"),
        (("index", "nowhere"), "no run in nowhere"),
        (("search", "nowhere", "--patient", "P"), "no index in nowhere"),
        (("demo", "--hospital", "nowhere"), "nowhere"),
    ],
)
def test_what_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], found: str) -> None:
    monkeypatch.chdir(tmp_path)
    told = refusal(*words)
    assert found in told["found"]
    assert told["do"]


@pytest.mark.parametrize(
    "words",
    [
        ("ingest",),
        ("bogus",),
        ("cohort", "split", "c", "--test", "2"),
        ("adapt", "run"),
        ("ask", "run", "Is it?"),
        ("ingest", "a", "--workers", "0"),
        ("cohort", "split", "c", "--by", "ward"),
        ("adapt", "r", "--task", "t", "--method", "magic"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_two_also_for_a_program(words: tuple[str, ...]) -> None:
    assert run(*words).exit_code == 2
    done = real(*words, "--json")
    assert done.returncode == 2
    told = json.loads(done.stdout)
    assert told["exit"] == 2
    assert told["error"]["found"]
    assert "Usage:" in done.stderr


def test_describe(tiny_cohort: Cohort) -> None:
    told = answer("cohort", "describe", tiny_cohort.path)
    assert told == json.loads(json.dumps(tiny_cohort.describe()))
    shown = run("cohort", "describe", tiny_cohort.path).stdout
    assert f"{told['patients']} patients" in shown
    assert "MR hippocampus" in shown
    assert "a mask with no image" in shown


def test_check_says_who_is_labelled_and_what_gives_away(tiny_cohort: Cohort, tiny_recipe: Path) -> None:
    told = answer("cohort", "check", tiny_cohort.path, tiny_recipe)
    assert set(told) == {"finding", "survival"}
    assert told["finding"]["labelled"] == 12
    assert told["finding"]["groups"] == {"0": 6, "1": 6}
    assert told["finding"]["giveaways"] == []  # twelve patients: nothing can be shown
    shown = run("cohort", "check", tiny_cohort.path, tiny_recipe).stdout
    assert "no column and no word alone" in shown


def test_query(tiny_cohort: Cohort) -> None:
    sql = "select modality, count(*) as n from records group by modality order by n"
    told = answer("cohort", "query", tiny_cohort.path, sql)
    assert told["columns"] == ["modality", "n"]
    assert sum(row["n"] for row in told["rows"]) == len(tiny_cohort.ids())
    row = answer(
        "cohort", "query", tiny_cohort.path, "select attributes, time from records where kind = 'table studies' limit 1"
    )["rows"][0]
    assert "finding" in row["attributes"]  # an object, not JSON within JSON
    shown = run("cohort", "query", tiny_cohort.path, "select id from records", "--limit", "3").stdout
    assert f"… {len(tiny_cohort.ids()) - 3} more rows (--limit)" in shown
    bad = refusal("cohort", "query", tiny_cohort.path, "select modalty from records")
    assert 'Candidate bindings: "modality"' in bad["found"]
    assert "records(id, patient" in bad["expected"]


def test_split(tiny_cohort: Cohort, tmp_path: Path) -> None:
    told = answer(
        "cohort", "split", tiny_cohort.path, "--test", "0.4", "--stratify", "finding", "--into", tmp_path / "s.json"
    )
    assert sorted(told["train"] + told["test"]) == tiny_cohort.patients()
    assert json.loads((tmp_path / "s.json").read_text()) == told
    assert told["hash"] == answer("cohort", "split", tiny_cohort.path, "--test", "0.4", "--stratify", "finding")["hash"]
    bad = refusal("cohort", "split", tiny_cohort.path, "--stratify", "findig")
    assert bad["found"] == "--stratify asks for the column 'findig', which no table has"
    assert bad["do"] == "did you mean 'finding'?"
    assert "no record where" in refusal("cohort", "split", tiny_cohort.path, "--where", "modality = 'slide'")["found"]
    one_class = refusal(
        "cohort",
        "split",
        tiny_cohort.path,
        "--stratify",
        "finding",
        "--where",
        "attributes->>'finding' = 'COVID-19' or modality = 'volume'",
    )
    assert "no class but COVID-19 of finding" in one_class["found"]
    assert "the rare class" in one_class["do"]


def test_patient(tiny_cohort: Cohort) -> None:
    told = answer("cohort", "patient", tiny_cohort.path, "CXR-0234")
    assert {r["modality"] for r in told["records"]} >= {"image", "table"}
    assert refusal("cohort", "patient", tiny_cohort.path, "CXR-024")["do"].startswith("did you mean 'CXR-02")


def test_a_full_disk_is_one_and_what_was_ingested_stays(tiny_cohort: Cohort, hospital: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_cohort.path, tmp_path / "c")
    limit = "import resource, sys, os; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)); os.execv(sys.argv[1], sys.argv[1:])"
    words = [
        sys.executable,
        "-c",
        limit,
        str(BINARY),
        "ingest",
        str(hospital / "oncology"),
        "--into",
        str(tmp_path / "c"),
        "--json",
    ]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)["error"]["found"].startswith("no room on the disk")
    assert Cohort.open(tmp_path / "c").records() == tiny_cohort.records()


def test_ctrl_c_is_130_and_the_same_command_goes_on(small_hospital: Path, tmp_path: Path) -> None:
    words = [str(BINARY), "ingest", str(small_hospital), "--into", str(tmp_path / "c"), "--json"]
    slow = "import sys, time\nimport polyclinic.records as r\nread = r.read_together\n" \
        "def slowly(*a, **k):\n    print('reading', file=sys.stderr, flush=True)\n    time.sleep(0.1)\n    return read(*a, **k)\n" \
        "r.read_together = slowly\nfrom polyclinic.cli import main\nsys.argv = sys.argv[1:]\nmain()"  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-c", slow, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        for _ in range(3):
            process.stderr.readline()
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert json.loads(out) == {
        "error": {"found": "stopped", "expected": "", "do": "run the same command again: what was finished is kept"},
        "exit": 130,
    }
    assert "Traceback" not in error
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    assert json.loads(done.stdout)["records"] > 100


def test_a_reader_that_goes_away_is_no_error(tiny_cohort: Cohort) -> None:
    done = subprocess.run(
        ["bash", "-c", f"'{BINARY}' cohort query '{tiny_cohort.path}' 'from records' --limit 9999 | head -1"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "Traceback" not in done.stderr


def test_what_is_written_to_a_file_is_not_folded(tiny_cohort: Cohort) -> None:
    env = {k: v for k, v in os.environ.items() if k != "COLUMNS"}
    done = real(
        "cohort", "query", tiny_cohort.path, "select uri from records where modality = 'volume' limit 1", env=env
    )
    assert re.search(r"^neurology/hippocampus/(images|labels)/hippocampus_\d+\.nii\.gz\s*$", done.stdout, re.MULTILINE)


def test_a_place_that_cannot_be_used_is_said_so(hospital: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    told = refusal("ingest", hospital / "ehr", "--into", tmp_path / "file")
    assert str(tmp_path / "file") in told["found"]


# --- recipes


def test_recipes(tiny_recipe: Path) -> None:
    told = answer("recipe", "validate", tiny_recipe)
    assert told["valid"] is True
    assert told["encoders"] == ["image", "volume", "text", "table", "omics"]
    assert "memory" not in answer("recipe", "validate", tiny_recipe, "--no-memory")
    assert told["memory"]["fits"] is True
    assert told["memory"]["stages"][0]["bytes"] > 4 * told["memory"]["stages"][0]["parameters"] > 0
    assert "assumed 20000 genes" in told["memory"]["assumed"]
    shown = run("recipe", "validate", "gpt", "--set", "stages.0.batch=10000000").stdout
    assert "too much for this machine" in shown
    assert "accumulate=2 halves" in " ".join(shown.split())
    assert answer("recipe", "show", tiny_recipe, "--set", "stages.0.steps=9")["stages"][0]["steps"] == 9
    assert "steps: 6" in run("recipe", "show", tiny_recipe).stdout
    assert "properties" in answer("recipe", "schema")
    assert json.loads(run("recipe", "schema").stdout) == answer("recipe", "schema")
    listed = {r["name"]: r for r in answer("recipe", "list")["recipes"]}
    assert "demo" in listed
    assert (listed["clip"]["dimensions"], listed["clip"]["proxy"]) == (["2-D"], "contrastive")
    assert "Radford" in listed["clip"]["about"]


def test_compare_says_what_it_wrote(tiny_cohort: Cohort, tmp_path: Path) -> None:
    (tmp_path / "words.yaml").write_text(
        "name: words\ncohort: {split: {test: 0.4, stratify: finding}}\nencoders:\n"
        "  text: {kind: bert, words: 24, vocabulary: 128, width: 16, depth: 1, heads: 2}\n"
        "  table: {kind: events, width: 16, depth: 1, heads: 2, fewest: 2}\n"
        "model: {kind: unified, width: 16, embedding: 16, fusion: {kind: late}}\n"
        "tasks: {finding: {kind: classification, column: finding, positive: [COVID-19]}}\n"
        "stages: [{name: words, steps: 2, batch: 4, objective: {kind: masked_language}}]\n"
    )
    words = ["compare", tmp_path / "words.yaml", "--task", "finding", "--cohort", tiny_cohort.path, "--into", tmp_path]
    told = answer(*words, "--seeds", 1, "--budget", "tokens=1000")
    assert told["comparison"]["arms"][0]["tokens"] <= 1000
    assert told["margin"] is None
    assert told["verdict"] == "words was compared with nothing."
    assert {"comparison.md", "comparison.json", "comparison.svg"} <= {p.name for p in tmp_path.iterdir()}
    assert refusal(*words, "--budget", "hours=1")["found"] == "the budget 'hours=1'"


@pytest.mark.parametrize(
    ("old", "new", "found", "do"),
    [
        ("  text: ", "  txet: ", "an unknown modality 'txet'", "did you mean 'text'?"),
        ("kind: bert", "kind: brt", "brt", ""),
        ("steps: 6", "steps: six", "steps", ""),
        ("task: hippocampus", "task: hipocampus", "hipocampus", ""),
    ],
)
def test_a_recipe_with_a_mistake_is_refused_with_its_line(
    tiny_recipe: Path, tmp_path: Path, old: str, new: str, found: str, do: str
) -> None:
    text = tiny_recipe.read_text()
    assert old in text
    (tmp_path / "r.yaml").write_text(text.replace(old, new))
    told = refusal("recipe", "validate", tmp_path / "r.yaml")
    assert found in told["found"]
    assert do in told["do"]
    assert re.search(r"line \d+", told["found"])


# --- runs


def test_a_wrong_label_column_stops_before_anything_is_trained(
    tiny_recipe: Path, tiny_cohort: Cohort, tmp_path: Path
) -> None:
    (tmp_path / "r.yaml").write_text(tiny_recipe.read_text().replace("column: finding", "column: findng"))
    told = refusal("pretrain", tmp_path / "r.yaml", "--cohort", tiny_cohort.path, "--into", tmp_path / "runs")
    assert told["found"] == "task 'finding' asks for the column 'findng', which no table has"
    assert told["do"] == "did you mean 'finding'?"
    assert not list((tmp_path / "runs").rglob("*.safetensors"))


def test_an_empty_cohort_stops_too(tiny_recipe: Path, tiny_cohort: Cohort, tmp_path: Path) -> None:
    told = refusal(
        "pretrain",
        tiny_recipe,
        "--cohort",
        tiny_cohort.path,
        "--into",
        tmp_path / "runs",
        "--set",
        "cohort.where=modality = 'slide'",
    )
    assert told["found"] == "no record where modality = 'slide'"


def test_a_split_with_one_class_stops_too(tiny_recipe: Path, tiny_cohort: Cohort, tmp_path: Path) -> None:
    where = "cohort.where=attributes->>'finding' is null or attributes->>'finding' = 'COVID-19'"
    told = refusal("pretrain", tiny_recipe, "--cohort", tiny_cohort.path, "--into", tmp_path / "runs", "--set", where)
    assert "no class but 1 of finding" in told["found"]


@pytest.mark.slow
def test_from_recipe_to_answer(tiny_recipe: Path, tiny_cohort: Cohort, small_hospital: Path, tmp_path: Path) -> None:
    told = answer(
        "pretrain", tiny_recipe, "--cohort", tiny_cohort.path, "--into", tmp_path / "runs", "--set", "stages.0.steps=2"
    )
    assert told["steps"] == 2
    assert told["train"] + told["test"] == len(tiny_cohort.patients())
    made = answer("adapt", told["run"], "--task", "finding", "--method", "probe")
    assert made["labels"] > 0
    figures = answer("evaluate", made["run"])["figures"]
    assert all({"name", "value", "low", "high", "n", "split"} <= set(f) for f in figures)
    assert {f["split"] for f in figures} == {told["split"]}
    picture = next((small_hospital / "radiology/CXR-0234").glob("*.dcm"))
    said = answer("predict", made["run"], picture)
    assert said["used"] == ["image"]
    assert "research" in said["notice"].lower()
    shown = run("predict", made["run"], picture).stdout
    assert said["headline"] in shown.replace("\n", " ")
    bad = refusal("predict", made["run"], small_hospital / "radiology/broken/A99999.dcm")
    assert "cut short" in bad["found"]
    assert "no task 'findng'" in refusal("adapt", told["run"], "--task", "findng")["found"]


def test_an_overlay_is_written(tiny_segmentation_run: Run, small_hospital: Path, tmp_path: Path) -> None:
    volume = next((small_hospital / "neurology/hippocampus/images").iterdir())
    told = answer("predict", tiny_segmentation_run.path, volume, "--overlay", tmp_path / "o.png")
    assert told["overlay"] == str(tmp_path / "o.png")
    assert (tmp_path / "o.png").read_bytes().startswith(b"\x89PNG")


def test_everybody_of_a_catalogue_is_answered(tiny_finding_run: Run, tiny_cohort: Cohort, tmp_path: Path) -> None:
    words = ("predict", tiny_finding_run.path, "--cohort", tiny_cohort.path, "--into", tmp_path / "answers")
    told = answer(*words)
    assert told["answers"] > 5
    assert told["answers"] + told["without"] == len(tiny_cohort.patients())
    assert f"{told['answers']} answers" in run(*words).stdout
    assert run("predict", tiny_finding_run.path).exit_code == 2


def test_what_to_ask_for_next_is_said(tiny_finding_run: Run, small_hospital: Path) -> None:
    words = ("predict", tiny_finding_run.path, next((small_hospital / "radiology/CXR-0234").glob("*.dcm")), "--suggest")
    told = answer(*words)["suggestion"]
    assert told["present"] == ["image"]
    assert told["ask"] is None
    assert {g["modality"] for g in told["gains"]} == {"text", "table"}
    assert "too few patients" in told["why"]  # the tiny hospital has no twenty
    assert "ask for nothing" in run(*words, env={"COLUMNS": "160"}).stdout


def test_an_export_is_written(tiny_segmentation_run: Run, tmp_path: Path) -> None:
    told = answer("export", tiny_segmentation_run.path, "--format", "pt2", "--into", tmp_path / "net.pt2")
    assert told["difference"] <= 1e-3
    assert (tmp_path / "net.pt2").exists()
    assert "slide" in refusal("export", tiny_segmentation_run.path, "--modality", "slide")["found"]


def test_what_is_alike_is_found(tiny_run: Run, tiny_cohort: Cohort, tmp_path: Path) -> None:
    made = answer("index", tiny_run.path, "--cohort", tiny_cohort.path, "--into", tmp_path / "index")
    assert made["rows"]["patient"] > 20
    patient = tiny_run.split.train[0]
    hits = answer("search", tmp_path / "index", "--patient", patient, "--to", "table", "--k", 4)["hits"]
    assert [h["rank"] for h in hits] == [1, 2, 3, 4]
    assert patient not in {h["patient"] for h in hits}
    assert hits[0]["patient"] in run("search", tmp_path / "index", "--patient", patient, "--to", "table").stdout
    assert answer("search", tmp_path / "index", "--say", "pneumonia", "--k", 2)["hits"]
    wrong = run("search", tmp_path / "index")
    assert wrong.exit_code == 2
    assert "--patient or --say" in wrong.stderr


def test_ask(tiny_asked_run: Run, tmp_path: Path) -> None:
    run_, said = tiny_asked_run, "Is there COVID-19?"
    words = ["ask", run_.path, said, "--task", "finding"]
    told = answer(*words, "--out", tmp_path / "new/answers.parquet")
    assert (told["task"], told["question"], told["nothing_to_read"]) == ("finding", said, [])
    assert {a["patient"] for a in told["answers"]} <= set(run_.split.test)
    assert {a["side"] for a in told["answers"]} == {"test"}
    assert all(0 < a["output"] < 1 and a["records"] for a in told["answers"])
    lineage = told["lineage"]
    assert (lineage["backbone"], lineage["split"]) == (file_hash(run_.weights), run_.split.hash)
    table = pq.read_table(tmp_path / "new/answers.parquet")
    assert table.to_pylist() == told["answers"]
    written = {k.decode(): v.decode() for k, v in table.schema.metadata.items()}
    assert written == {"task": "finding", "question": said} | lineage
    shown = run(*words).stdout
    assert f"finding: {said}" in shown
    assert f"backbone {lineage['backbone'][:8]}" in shown
    assert "Not a medical device" in shown
    assert sum(shown.count(a["patient"]) for a in told["answers"]) == min(20, len(told["answers"]))


def test_ask_of_some_patients_from_some_of_their_records(tiny_asked_run: Run) -> None:
    words = ["ask", tiny_asked_run.path, "--task", "finding"]
    trained, tested = (
        next(p for p in side if p.startswith("CXR")) for side in (tiny_asked_run.split.train, tiny_asked_run.split.test)
    )
    told = answer(*words, "--patient", trained, "--patient", tested, "--reads", "image")
    assert told["question"] == "Is there COVID-19?"  # the task's own
    assert {a["patient"]: a["side"] for a in told["answers"]} == {trained: "train", tested: "test"}
    assert {tuple(a["modalities"]) for a in told["answers"]} == {("image",)}
    blind = answer(*words, "--patient", tested, "--reads", "omics")
    assert (blind["answers"], blind["nothing_to_read"]) == ([], [tested])
    assert f"nothing to read of {tested}" in run(*words, "--patient", tested, "--reads", "omics").stdout
    hazards = answer("ask", tiny_asked_run.path, "--task", "survival")["answers"]
    assert {"output", "time", "event"} < set(hazards[0])
    assert "event" in run("ask", tiny_asked_run.path, "--task", "survival").stdout


def test_what_cannot_be_asked(tiny_run: Run, tiny_asked_run: Run) -> None:
    assert "did not learn to answer" in refusal("ask", tiny_run.path, "Is it?", "--task", "finding")["found"]
    words = ["ask", tiny_asked_run.path]
    assert refusal(*words, " ", "--task", "finding")["found"] == "a question without words"
    assert "grade or survival" in refusal(*words, "--task", "nothing")["found"]
    told = refusal(*words, "--task", "finding", "--patient", "CXR-024")
    assert "'CXR-024'" in told["found"]
    assert told["do"].startswith("did you mean 'CXR-02")
    assert "does not read" in refusal(*words, "--task", "finding", "--reads", "slide")["found"]


def test_evaluate_names_the_task_where_a_run_answers_several(tiny_asked_run: Run, tmp_path: Path) -> None:
    shutil.copytree(tiny_asked_run.path, tmp_path / "asked")
    told = answer("evaluate", tmp_path / "asked")
    assert told["task"] == "finding"
    assert {task: figures[0]["name"] for task, figures in told["others"].items()} == {
        "survival": "concordance",
        "icu": "auroc",
    }
    shown = run("evaluate", tmp_path / "asked", env={"COLUMNS": "160"}).stdout
    assert re.search(r"^survival +concordance", shown, re.MULTILINE)


def test_doctor() -> None:
    told = answer("doctor")
    assert told["core"]["torch"]
    assert "advice" in told
    shown = run("doctor").stdout
    assert "torch" in shown
    assert all(name in shown for name in told["extras"])
    assert max(len(line) for line in shown.splitlines()) <= 80 or told["advice"]
