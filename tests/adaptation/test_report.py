"""Reports from pictures whose truth is known: a spot in a corner is a nodule there. The run's decoder says it, rests on that corner, and is
held against the picture."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load

import polyclinic as pc
from corners import draw, pretrained, words_of
from damaged import of, path_of
from polyclinic.adaptation import open_adapted
from polyclinic.adaptation.adapt import AdaptError
from polyclinic.adaptation.report import reference, writer_of
from polyclinic.cohort import Cohort
from polyclinic.harmonise.text import spelled
from polyclinic.inference import answer_cohort, export, predict, predict_files
from polyclinic.inference.report import present_report, sentence_ends
from polyclinic.objectives.hybrid import Hybrid
from polyclinic.schema import Modality
from polyclinic.tasks import Report, ReportTask, TaskError
from polyclinic.tasks.correctness import NAMES
from polyclinic.tasks.grounds import PARTS
from polyclinic.training import Recipe, Run


@pytest.fixture(scope="module")
def corners(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("corners"))


@pytest.fixture(scope="module")
def cohort(corners: Path, tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return pc.ingest(corners, tmp_path_factory.mktemp("corners-cohort"))


@pytest.fixture(scope="module")
def run(cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return pretrained("caption", cohort, tmp_path_factory.mktemp("corners-run"), 260)


@pytest.fixture(scope="module")
def adapted(run: Run, cohort: Cohort) -> Run:
    return pc.adapt(run, "report", method="probe", steps=0, cohort=cohort)


def test_writes_what_is_there(adapted: Run, cohort: Cohort) -> None:
    answers = predict(adapted, cohort)
    assert answers.mask.sum() >= len(answers.patients) - 5
    right = answers.outputs[answers.mask] == np.array([t.lower() for t in answers.targets[answers.mask]], dtype=object)
    assert right.mean() > 0.9
    evidence = pc.evaluate(adapted, cohort, draws=50)
    assert evidence.figure("finding_f1").value > 0.9
    assert evidence.figure("side_errors").value < 0.1
    assert evidence.figure("prior_made_up").value == 0
    assert evidence.figure("bleu_4").n == answers.mask.sum()
    assert "f1: nodule" in str(evidence)


def test_a_report_that_vanishes_while_the_decoder_is_tuned(corners: Path, run: Run, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(corners, tmp_path / "in"))
    cohort = pc.ingest(folder, tmp_path / "cohort")
    gone = of(cohort, run.split.train, Modality.TEXT)
    path = path_of(gone, folder)
    made = pc.adapt(
        run, "report", method="probe", steps=2, cohort=cohort, into=tmp_path / "made",
        progress=lambda done, total, what: path.unlink() if done == 1 else None,
    )  # fmt: skip
    assert [(one["patient"], one["record"]) for one in made.adapter["unread"]] == [(gone.patient, gone.id)]
    assert gone.patient not in made.adapter["labelled"]
    assert "nodule" in made.adapter["checked"]


def test_a_sentence_rests_on_the_corner_of_which_it_speaks(adapted: Run, cohort: Cohort) -> None:
    """Not every one does: what the decoder says of most patients anyway needs no picture."""
    opened, truth = open_adapted(adapted), ("upper left", "upper right", "lower left", "lower right")
    loader = adapted.loader(cohort, adapted.split.train)
    cited = []
    for patient in [p for p in loader.patients if int(p[1:]) % 5 != 4][:32]:
        claims = present_report(opened, loader.of([patient], (Modality.IMAGE,)), (Modality.IMAGE,)).extra["claims"]
        first, second = claims
        assert set(second.findings) == {"effusion"}
        if first.part is not None:
            cited.append(first.part == truth[int(patient[1:]) % 5])
    assert len(cited) >= 12
    assert np.mean(cited) >= 0.8


def test_a_report_of_a_file(adapted: Run, corners: Path) -> None:
    answer = predict_files(adapted, [corners / "C003_1.png"])
    claims = answer.extra["claims"]
    assert (
        answer.headline == answer.values["report"] == " ".join(c.text for c in claims) == words_of("left lower").lower()
    )
    assert answer.values["sentences"] == len(claims) == 2
    assert claims[0].findings == {"nodule": "present"}
    assert answer.used == (Modality.IMAGE,)


def test_what_the_picture_says_against_a_sentence(adapted: Run) -> None:
    task, nodule = open_adapted(adapted).task, NAMES.index("nodule")
    assert isinstance(task, ReportTask)
    task.thresholds.fill_(torch.nan)[nodule] = 0.1
    margins = torch.full((len(NAMES),), 0.3)
    assert task.against({"nodule": "absent", "effusion": "absent"}, margins) == ("nodule",)
    assert task.against({"nodule": "present", "no_finding": "present"}, margins) == ()
    assert task.against({"nodule": "present", "effusion": "present"}, -margins) == ("nodule",)
    assert task.against({"nodule": "uncertain"}, margins) == ()
    assert task.against({"nodule": "present"}, torch.full_like(margins, torch.nan)) == ()  # no picture says nothing


def test_margins_are_of_patients_with_a_picture(adapted: Run, cohort: Cohort) -> None:
    opened, patients = open_adapted(adapted), adapted.split.test[:3]
    task = opened.task
    assert isinstance(task, ReportTask)
    loader = adapted.loader(cohort, patients)
    margins = task.margins(opened.model, loader.of(patients, (Modality.IMAGE,)))
    assert margins.shape == (3, len(NAMES))
    assert bool((margins.abs() <= 2).all())
    alone = task.margins(opened.model, loader.of(patients[1:2], (Modality.IMAGE,)))
    assert torch.allclose(margins[1:2], alone, atol=1e-5)
    assert bool(task.margins(opened.model, loader.of(patients, (Modality.TEXT,))).isnan().all())


def test_what_could_not_be_checked_is_said(adapted: Run, corners: Path) -> None:
    opened = open_adapted(adapted)
    task = opened.task
    assert isinstance(task, ReportTask)
    assert "effusion" not in adapted.adapter["checked"]  # nobody has one: nothing can be said of it
    for threshold, said in ((torch.nan, "No finding could be held"), (0.0, "Held against the picture: nodule.")):
        task.thresholds.fill_(torch.nan)[NAMES.index("nodule")] = threshold
        notes = predict_files(opened, [corners / "C000_1.png"]).extra["notes"]
        assert any(note.startswith(said) for note in notes)


def test_thresholds_need_enough_that_tells(adapted: Run) -> None:
    task = open_adapted(adapted).task
    assert isinstance(task, ReportTask)
    nodule, random = NAMES.index("nodule"), np.random.default_rng(0)
    said = np.zeros((40, len(NAMES)), bool)
    said[:20, nodule] = True
    for shift, there, known in ((5.0, 20, True), (0.0, 20, False), (5.0, 4, False)):
        task.thresholds.fill_(torch.nan)
        margins = torch.tensor(random.normal(0, 1, (40, len(NAMES))) + shift * said)
        task.learn_thresholds(margins, said & (np.arange(40) < there)[:, None], ~said)
        assert bool(task.thresholds.isfinite()[nodule]) is known


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["on top", "queries", "retell"])
def test_every_decoder_writes_and_is_tuned(kind: str, cohort: Cohort, corners: Path, tmp_path: Path) -> None:
    run = pretrained(kind, cohort, tmp_path, 40)
    before = open_adapted(pc.adapt(run, "report", method="probe", steps=0, cohort=cohort))
    tuned = open_adapted(pc.adapt(run, "report", method="full", steps=60, cohort=cohort))
    batch = tuned.run.loader(cohort, tuned.run.split.test).of(
        [p for p in tuned.run.split.test if int(p[1:]) % 20 != 19], (Modality.IMAGE, Modality.TEXT)
    )
    with torch.no_grad():
        nats = [float(a.task.output(a.model, batch)) for a in (before, tuned)]
    assert nats[1] < nats[0]
    answer = predict_files(tuned, [corners / "C000_1.png"])
    assert answer.values["report"]
    assert not any("Which part" in note for note in answer.extra["notes"])


def test_the_nats_of_sentences_add_up_to_the_report_s(adapted: Run, cohort: Cohort) -> None:
    opened = open_adapted(adapted)
    task, model = opened.task, opened.model
    assert isinstance(task, ReportTask)
    patient = next(p for p in adapted.split.test if int(p[1:]) % 20 != 19)
    batch = adapted.loader(cohort, (patient,)).of([patient])
    (note,) = batch.payloads[Modality.TEXT].values
    written = note[1:]
    ends = sentence_ends(written, task)
    assert [spelled(written[a:b].tolist(), task.fingerprint)[-1] for a, b in zip([0, ends[0]], ends, strict=True)] == [
        ".",
        ".",
    ]
    with torch.no_grad():
        each, whole = task._nats(model, batch, written, ends), task.output(model, batch)
    words = len(written) + 1  # and the end
    last = float(whole) * words - float(each.sum())
    assert 0 <= last < 0.5  # the end of the report is no sentence's
    grounds = task.grounds(model, batch, written, ends)
    assert grounds is not None
    assert [set(g) for g in grounds] == [set(PARTS)] * 2


def test_fewer_patients_and_repeatability(run: Run, cohort: Cohort, tmp_path: Path) -> None:
    one, other = (
        pc.adapt(run, "report", method="lora", labels=12, steps=3, cohort=cohort, into=tmp_path / n) for n in "ab"
    )
    assert one.adapter["labels"] == 12
    weights = [(r.path / "adapter.safetensors").read_bytes() for r in (one, other)]
    assert weights[0] == weights[1]
    assert any(k.startswith("added.") for k in load(weights[0]))


def test_refusals(run: Run, cohort: Cohort) -> None:
    with pytest.raises(AdaptError, match="a report by scratch"):
        pc.adapt(run, "report", method="scratch", cohort=cohort)
    with pytest.raises(AdaptError, match="nothing but text"):
        pc.adapt(run, "report", inputs=["text"], cohort=cohort)
    with pytest.raises(TaskError, match="decoder"):
        Report().build("report", run.model())
    with pytest.raises(ValueError, match="no encoder"):
        Recipe.model_validate(
            {**run.recipe.model_dump(mode="json"), "encoders": {"image": {"kind": "vit", "size": 24, "patch": 4}}, "stages": [
                {"name": "a", "steps": 1, "batch": 2, "objective": {"kind": "masked"}}]}
        )  # fmt: skip


@pytest.mark.parametrize(
    ("told", "match"),
    [
        ({"languages": ()}, "which of them go on a word"),
        ({"language": "es"}, "reports in the language 'es'"),
        ({"objective": None}, "did not learn to write"),
    ],
)
def test_a_run_that_cannot_write_is_refused(told: dict[str, Any], match: str, run: Run, cohort: Cohort) -> None:
    other, recipe = Run(run.path), run.recipe
    if "languages" in told:
        text = recipe.encoders[Modality.TEXT].model_copy(update={"languages": ()})
        recipe = recipe.model_copy(update={"encoders": {**recipe.encoders, Modality.TEXT: text}})
    elif "language" in told:
        recipe = recipe.model_copy(update={"tasks": {"report": Report(language="es", inputs=(Modality.IMAGE,))}})
    else:
        objective = recipe.stages[-1].objective
        assert isinstance(objective, Hybrid)
        contrast = objective.parts[0]
        recipe = recipe.model_copy(update={"stages": [recipe.stages[-1].model_copy(update={"objective": contrast})]})
    other.__dict__["recipe"] = recipe
    with pytest.raises(AdaptError, match=match):
        writer_of(other, "report", run.model())


def test_reports_in_another_language_are_no_reference(run: Run, cohort: Cohort) -> None:
    loader = run.loader(cohort, run.split.test)
    patient = next(p for p in loader.patients if Modality.TEXT in loader.by_patient[p])
    (record,) = loader.by_patient[patient][Modality.TEXT]
    assert reference(loader, patient, "en") == reference(loader, patient, None) == record
    assert reference(loader, patient, "es") is None
    later = replace(record, id="later")
    loader.by_patient[patient][Modality.TEXT].append(later)
    assert reference(loader, patient, "en") == later


def test_a_cohort_gets_its_reports(adapted: Run, cohort: Cohort, tmp_path: Path) -> None:
    some = adapted.split.test[:4]
    place = answer_cohort(adapted, cohort, patients=some, into=tmp_path / "answers")
    rows = {row["patient"]: row for row in pq.read_table(place / "answers-00000.parquet").to_pylist()}
    written = predict(adapted, cohort, patients=some)
    assert len(written.patients) == 4
    for patient, text in zip(written.patients, written.outputs, strict=True):
        assert rows[patient]["headline"].split() == text.split()
        assert rows[patient]["modalities"] == ["image"]
    with pytest.raises(AdaptError, match="a report"):
        export(adapted, "pt2", into=tmp_path / "net.pt2")
