from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from polyclinic.cohort import Cohort, LabelError
from polyclinic.schema import Modality, Payload, Record
from polyclinic.training import InterruptedRunError, Recipe, Run, RunError, pretrain
from polyclinic.training.checkpoint import alone
from polyclinic.training.repeatable import generator, repeatable

FIRST, STEPS = 4, 9


def weights(run: Run | Path) -> tuple[bytes, bytes]:
    model = (run.path if isinstance(run, Run) else run) / "model"
    return (model / "model.safetensors").read_bytes(), (model / "objective.safetensors").read_bytes()


def at_step(wanted: int, then: Callable[[], object]) -> Callable[[int, int, str], None]:
    return lambda done, total, what: then() if done == wanted else None  # type: ignore[func-returns-value]


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def changed(recipe: Recipe, **fields: Any) -> Recipe:
    return Recipe.model_validate(recipe.model_dump() | fields)


@pytest.fixture(scope="module")
def whole(light: Recipe, tiny_cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The light recipe, never stopped."""
    return pretrain(light, tiny_cohort, into=tmp_path_factory.mktemp("whole"))


def python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A fresh process, with as many threads as this one."""
    head = f"import os, resource, signal, sys, torch\ntorch.set_num_threads({torch.get_num_threads()})\n"
    return subprocess.run(
        [sys.executable, "-c", head + textwrap.dedent(code), *map(str, arguments)], capture_output=True, text=True, timeout=300
    )  # fmt: skip


def test_the_same_recipe_gives_the_same_bits_with_all_modalities(
    tiny_run: Run, tiny_recipe: Path, tiny_cohort: Cohort, tmp_path: Path
) -> None:
    """Stopped half-way by Ctrl-C on its way there; images, volumes and masks take part."""
    with pytest.raises(InterruptedRunError, match="step 3 of 6"):
        pretrain(tiny_recipe, tiny_cohort, into=tmp_path, progress=at_step(3, interrupt))
    assert weights(pretrain(tiny_recipe, tiny_cohort, into=tmp_path)) == weights(tiny_run)


def test_twice_the_same_bits_and_another_seed_others(
    whole: Run, light: Recipe, tiny_cohort: Cohort, tmp_path: Path
) -> None:
    assert weights(pretrain(light, tiny_cohort, into=tmp_path)) == weights(whole)
    other = pretrain(changed(light, seed=1, name="other"), tiny_cohort, into=tmp_path)
    assert weights(other) != weights(whole)


@pytest.mark.parametrize("stop", [FIRST, FIRST + 2, STEPS - 1])
def test_stopped_and_resumed_is_never_stopped(
    stop: int, whole: Run, light: Recipe, tiny_cohort: Cohort, tmp_path: Path
) -> None:
    """At the last step of the first stage, within the second, and before the very last step."""
    with pytest.raises(InterruptedRunError, match=f"stopped at step {stop} of {STEPS}"):
        pretrain(light, tiny_cohort, into=tmp_path, progress=at_step(stop, interrupt))
    with pytest.raises(RunError, match="not finished"):
        Run.open(tmp_path / "light")
    run = pretrain(light, tiny_cohort, into=tmp_path)
    assert weights(run) == weights(whole)
    assert run.metrics().equals(whole.metrics())
    assert not (run.path / "checkpoints/last.pt").exists()


def test_stopped_at_every_step(whole: Run, light: Recipe, tiny_cohort: Cohort, tmp_path: Path) -> None:
    for step in range(1, STEPS):
        with pytest.raises(InterruptedRunError, match=f"stopped at step {step} of"):
            pretrain(light, tiny_cohort, into=tmp_path, progress=lambda *_: interrupt())
    run = pretrain(light, tiny_cohort, into=tmp_path, progress=lambda *_: interrupt())
    assert weights(run) == weights(whole)  # a signal at the very last step finds nothing left to stop
    assert run.metrics().equals(whole.metrics())


def test_in_bfloat16_too(light: Recipe, whole: Run, tiny_cohort: Cohort, tmp_path: Path) -> None:
    half = changed(light, precision="bf16")
    straight = pretrain(half, tiny_cohort, into=tmp_path / "straight")
    with pytest.raises(InterruptedRunError):
        pretrain(half, tiny_cohort, into=tmp_path / "stopped", progress=at_step(6, interrupt))
    assert weights(pretrain(half, tiny_cohort, into=tmp_path / "stopped")) == weights(straight)
    assert weights(straight) != weights(whole)


@pytest.mark.slow
def test_killed_in_another_process_and_resumed_here(
    whole: Run, light: Recipe, light_file: Path, tiny_cohort: Cohort, tmp_path: Path
) -> None:
    done = python(
        """
        from polyclinic.training import pretrain
        die = lambda done, total, what: os.kill(os.getpid(), signal.SIGKILL) if done == 6 else None
        pretrain(sys.argv[1], sys.argv[2], into=sys.argv[3], save_every_s=0, progress=die)
        """,
        light_file, tiny_cohort.path, tmp_path,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    assert torch.load(tmp_path / "light/checkpoints/last.pt", weights_only=True)["step"] == 5 - FIRST
    (tmp_path / "light/checkpoints/.last.pt.99").write_bytes(b"half a checkpoint of a process that was killed")
    run = pretrain(light, tiny_cohort, into=tmp_path)
    assert weights(run) == weights(whole)
    assert run.metrics().equals(whole.metrics())
    assert list((run.path / "checkpoints").iterdir()) == []


def test_killed_before_the_first_checkpoint(whole: Run, light: Recipe, tiny_cohort: Cohort, tmp_path: Path) -> None:
    """An exception that nobody catches leaves what a killed process does: the folder as it was at that step."""
    with pytest.raises(ZeroDivisionError):
        pretrain(light, tiny_cohort, into=tmp_path, progress=at_step(2, lambda: 1 / 0))
    assert not (tmp_path / "light/checkpoints").exists()
    assert weights(pretrain(light, tiny_cohort, into=tmp_path)) == weights(whole)


def test_killed_between_the_last_checkpoint_and_the_curves(
    whole: Run, light: Recipe, tiny_cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InterruptedRunError):
        pretrain(light, tiny_cohort, into=tmp_path, progress=at_step(STEPS - 1, interrupt))
    last = tmp_path / "light/checkpoints/last.pt"
    kept = last.with_name("kept")
    with monkeypatch.context() as patch:  # the moment after the checkpoint of the last step
        patch.setattr("polyclinic.training.loop.write_metrics", lambda run, rows: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pretrain(light, tiny_cohort, into=tmp_path)
    shutil.copy(last, kept)
    assert torch.load(kept, weights_only=True)["step"] == STEPS - FIRST
    run = pretrain(light, tiny_cohort, into=tmp_path)
    assert weights(run) == weights(whole)
    assert run.metrics().equals(whole.metrics())


@pytest.mark.slow
def test_a_full_disk_leaves_the_checkpoint_before_it(
    whole: Run, light: Recipe, light_file: Path, tiny_cohort: Cohort, tmp_path: Path
) -> None:
    """A file may not grow beyond a few kilobytes from step 6 on, as on a disk that is full."""
    done = python(
        """
        from polyclinic.schema import PolyclinicError
        from polyclinic.training import pretrain
        def fill(done, total, what):
            if done == 6:
                resource.setrlimit(resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY))
        try:
            pretrain(sys.argv[1], sys.argv[2], into=sys.argv[3], save_every_s=0, progress=fill)
        except PolyclinicError as error:
            print(type(error).__name__, error)
        """,
        light_file, tiny_cohort.path, tmp_path,
    )  # fmt: skip
    assert done.stdout.startswith("RunError"), done.stderr
    assert "could not be written" in done.stdout
    assert "the checkpoint before it is intact" in done.stdout
    assert "it resumes" in done.stdout
    checkpoints = tmp_path / "light/checkpoints"
    assert [p.name for p in checkpoints.iterdir()] == ["last.pt"]
    assert torch.load(checkpoints / "last.pt", weights_only=True)["step"] == 5 - FIRST
    assert weights(pretrain(light, tiny_cohort, into=tmp_path)) == weights(whole)


@pytest.mark.slow
def test_a_full_disk_when_the_model_is_written(
    whole: Run, light: Recipe, light_file: Path, tiny_cohort: Cohort, tmp_path: Path
) -> None:
    done = python(
        """
        import polyclinic.training.loop as loop
        from polyclinic.schema import PolyclinicError
        def fill(run, rows, write=loop.write_metrics):
            write(run, rows)
            if rows[-1]["step"] == 8:
                resource.setrlimit(resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY))
        loop.write_metrics = fill
        try:
            loop.pretrain(sys.argv[1], sys.argv[2], into=sys.argv[3])
        except PolyclinicError as error:
            print(type(error).__name__, error)
        """,
        light_file, tiny_cohort.path, tmp_path,
    )  # fmt: skip
    assert "WeightsError" in done.stdout or "RunError" in done.stdout, done.stderr
    assert "disk" in done.stdout
    assert not (tmp_path / "light/model/model.safetensors").exists()
    assert weights(pretrain(light, tiny_cohort, into=tmp_path)) == weights(whole)


@pytest.mark.slow
def test_ctrl_c_on_the_command_line_leaves_130_and_a_checkpoint(
    light: Recipe, tiny_cohort: Cohort, tmp_path: Path
) -> None:
    long = changed(light, stages=[light.stages[0].model_copy(update={"steps": 100_000}).model_dump()])
    file = tmp_path / "long.yaml"
    file.write_text(long.as_yaml())
    command = ["pretrain", str(file), "--cohort", str(tiny_cohort.path), "--into", str(tmp_path / "runs")]
    process = subprocess.Popen(
        [sys.executable, "-c", "from polyclinic.cli import main; main()", *command],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    line = "…"
    while line and "/100000" not in line:  # until it tells of a step
        line = process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "stopped at step" in said
    assert "it resumes" in said
    assert (tmp_path / "runs/light/checkpoints/last.pt").exists()


def test_a_second_ctrl_c_does_not_wait(light: Recipe, tiny_cohort: Cohort, tmp_path: Path) -> None:
    def twice() -> None:
        interrupt()
        interrupt()

    with pytest.raises(KeyboardInterrupt):
        pretrain(light, tiny_cohort, into=tmp_path, progress=at_step(2, twice))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.slow
def test_two_processes_on_one_run(light: Recipe, tiny_cohort: Cohort, tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\nfrom polyclinic.training.checkpoint import alone\n"
        "with alone(pathlib.Path(sys.argv[1])):\n    print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "light")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RunError, match="another process is training the run"):
            pretrain(light, tiny_cohort, into=tmp_path)
    finally:
        other.kill()
        other.communicate()
    assert pretrain(light, tiny_cohort, into=tmp_path).weights.exists()  # the lock went with the process


def test_one_thread_cannot_train_a_run_twice_at_once(light: Recipe, tiny_cohort: Cohort, tmp_path: Path) -> None:
    with alone(tmp_path / "light"), pytest.raises(RunError, match="another process"):
        pretrain(light, tiny_cohort, into=tmp_path)


def test_another_recipe_of_the_same_name_is_refused_and_the_keys_named(
    whole: Run, light: Recipe, tiny_cohort: Cohort
) -> None:
    before = weights(whole)
    other = changed(light, seed=7, precision="bf16")
    with pytest.raises(RunError, match="precision, seed") as caught:
        pretrain(other, tiny_cohort, into=whole.path.parent)
    assert "--no-resume" in caught.value.remedy
    assert weights(whole) == before


def test_an_unfinished_run_of_another_recipe_is_refused_too(light: Recipe, tiny_cohort: Cohort, tmp_path: Path) -> None:
    with pytest.raises(InterruptedRunError):
        pretrain(light, tiny_cohort, into=tmp_path, progress=at_step(2, interrupt))
    longer = light.stages[0].model_copy(update={"steps": 6})
    with pytest.raises(RunError, match=r"stages\.0\.steps"):
        pretrain(changed(light, stages=[longer.model_dump(), light.stages[1].model_dump()]), tiny_cohort, into=tmp_path)


def test_a_finished_run_is_given_back_and_not_trained_again(whole: Run, light: Recipe, tiny_cohort: Cohort) -> None:
    before = whole.weights.stat().st_mtime_ns
    again = pretrain(light, tiny_cohort, into=whole.path.parent, progress=lambda *_: pytest.fail("a step was made"))
    assert again.weights.stat().st_mtime_ns == before


def test_a_cohort_that_changed_since_is_refused(
    light: Recipe, tiny_cohort: Cohort, small_hospital: Path, tmp_path: Path
) -> None:
    """To go on with other records would give bits that are of neither cohort."""
    with pytest.raises(InterruptedRunError):
        pretrain(light, tiny_cohort, into=tmp_path / "runs", progress=at_step(2, interrupt))
    shutil.copytree(tiny_cohort.path, tmp_path / "cohort")
    grown = Cohort.open(tmp_path / "cohort")
    one = grown.records()[0]
    grown.add(small_hospital, [replace(one, id="f" * 32, patient="somebody new")], [])
    with pytest.raises(RunError, match="1 came to the cohort and 0 left it"):
        pretrain(light, grown, into=tmp_path / "runs")


def test_anew_forgets_the_old_run(light: Recipe, whole: Run, tiny_cohort: Cohort, tmp_path: Path) -> None:
    """Stopped right after it began, the new run must not be taken for the old one, nor go on from its checkpoint."""
    old = changed(light, seed=3)
    with pytest.raises(InterruptedRunError):
        pretrain(old, tiny_cohort, into=tmp_path, progress=at_step(5, interrupt))
    with pytest.raises(ZeroDivisionError):
        pretrain(light, tiny_cohort, into=tmp_path, resume=False, progress=at_step(1, lambda: 1 / 0))
    assert weights(pretrain(light, tiny_cohort, into=tmp_path)) == weights(whole)
    (tmp_path / "light/evidence").mkdir()
    (tmp_path / "light/evidence/evidence.json").write_text("{}")
    with pytest.raises(InterruptedRunError):
        pretrain(old, tiny_cohort, into=tmp_path, resume=False, progress=at_step(1, interrupt))
    with pytest.raises(RunError, match="not finished"):
        Run.open(tmp_path / "light")
    assert not (tmp_path / "light/evidence").exists()  # evidence of weights that are gone


def test_a_loss_that_is_not_a_number_stops_with_step_and_term(
    light: Recipe, tiny_cohort: Cohort, tmp_path: Path
) -> None:
    wild = light.stages[0].model_copy(update={"lr": 1e38, "warmup": 0})
    with pytest.raises(RunError, match=r"at step \d of stage 'align'") as caught:
        pretrain(changed(light, stages=[wild.model_dump()]), tiny_cohort, into=tmp_path)
    assert "contrastive/" in caught.value.found
    assert "lr" in caught.value.remedy
    assert not (tmp_path / "light/model/model.safetensors").exists()


def test_a_wrong_column_is_an_error_before_anything_is_trained(
    light: Recipe, tiny_cohort: Cohort, tmp_path: Path
) -> None:
    tasks = {"finding": {"kind": "classification", "column": "fnding", "positive": ["COVID-19"]}}
    with pytest.raises(LabelError, match="finding"):
        pretrain(changed(light, tasks=tasks), tiny_cohort, into=tmp_path)
    assert not (tmp_path / "light/recipe.yaml").exists()


class Disturbed(Cohort):
    """A cohort in which the words, cells and genes of some patients are others."""

    def __init__(self, cohort: Cohort, patients: set[str]) -> None:
        super().__init__(cohort.path)
        self.whom, self.seen = patients, 0

    def load(self, record: Record) -> Payload:
        payload = super().load(record)
        if record.patient not in self.whom or record.modality not in (Modality.TEXT, Modality.TABLE, Modality.OMICS):
            return payload
        self.seen += 1
        words = None if payload.text is None else "zyzzyva " * 50
        return replace(payload, array=payload.array * 3 + 1, text=words, names=tuple(f"{n}x" for n in payload.names))


def test_training_patients_of_whom_no_encoder_reads_anything_are_an_error_before_anything_is_trained(
    light: Recipe, tiny_cohort: Cohort, tmp_path: Path
) -> None:
    other = light.model_dump(mode="json") | {"tasks": {}}
    other["cohort"] |= {"where": "modality = 'volume'", "split": {"stratify": None}}
    assert "volume" not in other["encoders"]
    with pytest.raises(
        RunError, match=r"(?s)training patients without any .*, which is what the encoders read.*\(volume\)"
    ):
        pretrain(Recipe.model_validate(other), tiny_cohort, into=tmp_path)
    assert not (tmp_path / light.name / "recipe.yaml").exists()


def test_nothing_of_the_test_side_reaches_the_weights(
    whole: Run, light: Recipe, tiny_cohort: Cohort, tmp_path: Path
) -> None:
    """Word pieces, codes, genes, scales and weights are learned of the training patients alone."""
    untouched = pretrain(light, Disturbed(tiny_cohort, set(whole.split.test)), into=tmp_path / "test")
    assert weights(untouched) == weights(whole)
    assert untouched.fingerprint == whole.fingerprint
    touched = pretrain(light, Disturbed(tiny_cohort, set(whole.split.train)), into=tmp_path / "train")
    assert touched.fingerprint.tokenizer != whole.fingerprint.tokenizer


def test_the_columns_of_tasks_never_enter(whole: Run) -> None:
    columns = {name.split("=")[0] for name in whole.fingerprint.codes}
    assert columns
    assert not columns & {"finding", "survival_months", "censorship"}


def test_the_lock_says_who_and_what(whole: Run, tiny_cohort: Cohort) -> None:
    lock = whole.lock
    side = {p: name for name in ("train", "test") for p in lock["split"][name]}
    for record in tiny_cohort.records():
        assert (record.id in lock["records"]["train"]) == (side[record.patient] == "train")
        assert (record.id in lock["records"]["test"]) == (side[record.patient] == "test")
    assert (
        lock["packages"]["torch"] == torch.__version__.split("+")[0] or torch.__version__ in lock["packages"]["torch"]
    )
    assert lock["split"]["hash"] == whole.split.hash


def test_the_world_s_randomness_is_left_alone(light: Recipe, tiny_cohort: Cohort, tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with pytest.raises(InterruptedRunError):
        pretrain(light, tiny_cohort, into=tmp_path, progress=at_step(1, interrupt))
    assert torch.equal(torch.rand(3), expected)


def test_gradients_of_indexed_tensors_give_the_same_bits_each_time() -> None:
    """With several threads they do not by themselves, and attention indexes its packed tokens."""
    values, weight = torch.randn(2000, 96, requires_grad=True), torch.randn(6000, 96)
    rows = torch.randint(0, 50, (6000,))

    def gradient() -> torch.Tensor:
        (found,) = torch.autograd.grad((values[rows] * weight).sum(), values)
        return found

    with repeatable():
        first = gradient()
        assert all(torch.equal(gradient(), first) for _ in range(30))
    assert not torch.are_deterministic_algorithms_enabled()


def test_draws_depend_on_their_numbers_and_on_nothing_else() -> None:
    draw = lambda *at: torch.rand(4, generator=generator(*at))
    assert torch.equal(draw(0, 1, 2), draw(0, 1, 2))
    assert not torch.equal(draw(0, 1, 2), draw(0, 12))
    assert not torch.equal(draw(0, 1, 2), draw(0, 2, 1))
    assert math.isfinite(float(draw("a").sum()))
