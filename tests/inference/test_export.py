"""What is exported answers as we do, about real files, in programs that do not know us."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from polyclinic.adaptation import AdaptError, adapt, open_adapted
from polyclinic.cohort import Cohort
from polyclinic.inference import export, predict, predict_masks
from polyclinic.inference.export import TOLERANCE, OnePatient, _Graph, reading_of
from polyclinic.models import TwoTower, build_model
from polyclinic.schema import Modality, Target
from polyclinic.tasks import Hazards, Survival
from polyclinic.tokens import phantom
from polyclinic.training import Run


@pytest.fixture(scope="module")
def radiographs(tiny_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return adapt(tiny_run, "finding", "lora", steps=3, inputs=["image"], into=tmp_path_factory.mktemp("x") / "finding")


def real(run: Run, cohort: Cohort, modality: Modality) -> list[tuple[np.ndarray, np.ndarray, str]]:
    """(values, spacing, patient) of records as the run reads them, of patients with one such record."""
    loader, found = run.loader(cohort, (*run.split.train, *run.split.test)), []
    for batch in loader.each(1, modalities=(modality,)):
        ragged = batch.payloads.get(modality)
        if ragged is not None and len(ragged.ids) == 1:
            assert isinstance(ragged.values, torch.Tensor)
            assert ragged.spacing is not None
            found.append((ragged.values.numpy(), ragged.spacing.numpy(), batch.patients[0]))
    return found


@pytest.mark.parametrize("format", ["onnx", "pt2"])
def test_the_same_probability_of_real_radiographs(
    radiographs: Run, tiny_cohort: Cohort, tmp_path: Path, format: Any
) -> None:
    made = export(radiographs, format, into=tmp_path / f"net.{format}")
    assert made.difference <= TOLERANCE
    side = radiographs.recipe.encoders[Modality.IMAGE].size  # type: ignore[union-attr]
    assert made.inputs == {"image": (1, 1, side, side), "spacing": (1, 2)}
    told = json.loads((tmp_path / "net.json").read_text())
    assert told["wants"]["size"] == side
    assert told["split"] == radiographs.split.hash
    pictures = real(radiographs, tiny_cohort, Modality.IMAGE)
    ours = predict(radiographs, tiny_cohort, patients=[p for *_, p in pictures])
    wanted = dict(zip(ours.patients, ours.outputs, strict=True))
    assert len(pictures) >= 5
    say = _onnx(made.path) if format == "onnx" else _pt2(made.path)
    for values, spacing, patient in pictures:
        assert say(values, spacing) == pytest.approx(wanted[patient], abs=1e-5)
    assert len({round(v, 6) for v in wanted.values()}) > 1  # the answers are not one number


def _onnx(path: Path) -> Any:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path)
    return lambda values, spacing: float(session.run(None, {"image": values, "spacing": spacing})[0][0])


def _pt2(path: Path) -> Any:
    """In a process that cannot import polyclinic."""
    code = (
        "import sys, torch; sys.modules['polyclinic'] = None; net = torch.export.load(sys.argv[1]).module()\n"
        "x, s = torch.load(sys.argv[2]); print(float(net(x, s)[0]))"
    )

    def say(values: np.ndarray, spacing: np.ndarray) -> float:
        torch.save((torch.from_numpy(values), torch.from_numpy(spacing)), path.with_suffix(".in"))
        words = [sys.executable, "-c", code, path, path.with_suffix(".in")]
        return float(subprocess.run(words, capture_output=True, text=True, check=True).stdout)

    return say


def test_a_bundle_segments_in_monai(tiny_segmentation_run: Run, tiny_cohort: Cohort, tmp_path: Path) -> None:
    place = export(tiny_segmentation_run, "monai", into=tmp_path / "bundle").path
    asked = [p for p in tiny_segmentation_run.split.test if p.startswith("hippocampus")][:1]
    (true,) = predict_masks(tiny_segmentation_run, tiny_cohort, patients=asked)
    source = tiny_cohort._roots[true.record.id] / true.record.uri.split("#")[0]
    scan = shutil.copy(source, tmp_path / "scan.nii.gz")
    code = "import sys; from monai.bundle import run; run(config_file=sys.argv[1], bundle_root=sys.argv[2], files=[sys.argv[3]])"
    words = [sys.executable, "-c", code, place / "configs/inference.json", place, scan]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    image: Any = nib.load(tmp_path / "bundle/eval/scan_mask.nii.gz")  # pyright: ignore[reportPrivateImportUsage]
    original: Any = nib.load(scan)  # pyright: ignore[reportPrivateImportUsage]
    assert np.allclose(image.affine, original.affine, atol=1e-4)
    assert np.array_equal(np.asarray(image.dataobj).transpose(), true.on_source)
    metadata = json.loads((place / "configs/metadata.json").read_text())
    assert metadata["network_data_format"]["outputs"]["pred"]["channel_def"] == {
        "0": "background", "1": "anterior", "2": "posterior",
    }  # fmt: skip


def test_a_bundle_of_a_classification(radiographs: Run, tiny_cohort: Cohort, tmp_path: Path) -> None:
    from polyclinic.inference.bundle import Reading, numbers

    place = export(radiographs, "monai", into=tmp_path / "bundle").path
    record = next(r for r in tiny_cohort.records() if r.modality is Modality.IMAGE)
    file = tiny_cohort._roots[record.id] / record.uri.split("#")[0]
    network = torch.export.load(place / "models/model.pt2").module()
    said = numbers(network, Reading(place), [str(file)], tmp_path / "out")
    adapted = open_adapted(radiographs)
    from polyclinic.inference import predict_files

    assert said[file.name] == pytest.approx(float(predict_files(adapted, [file]).values["score"]), abs=1e-4)
    assert json.loads((tmp_path / "out/answers.json").read_text()) == said


def test_the_weights_have_what_was_adapted_in_them(radiographs: Run, tmp_path: Path) -> None:
    made = export(radiographs, "safetensors", into=tmp_path / "all.safetensors")
    found, adapted = load_file(made.path), open_adapted(radiographs)
    assert made.difference == 0
    for name, tensor in adapted.model.state_dict().items():
        assert torch.equal(found[f"model.{name}"], tensor)
    assert any(not torch.equal(found[f"model.{k}"], v) for k, v in radiographs.backbone.model().state_dict().items())
    assert "head.head.weight" in found


def test_what_cannot_be_exported_is_refused(
    tiny_finding_run: Run, radiographs: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AdaptError, match="reads text"):
        export(tiny_finding_run, "pt2", modality="text", into=tmp_path / "a.pt2")
    with pytest.raises(AdaptError, match="no format 'tensorrt'"):
        export(radiographs, "tensorrt")  # type: ignore[arg-type]
    monkeypatch.setattr(import_module("polyclinic.inference.export"), "TOLERANCE", -1.0)
    with pytest.raises(AdaptError, match="from ours"):
        export(radiographs, "pt2", into=tmp_path / "b.pt2")
    assert not (tmp_path / "b.pt2").exists()


def test_incidences_leave_with_what_makes_risks_of_them(tmp_path: Path) -> None:
    """The graph's incidences are polyclinic's, and on the line between its ends lie polyclinic's risks."""
    model = build_model(TwoTower(width=16, embedding=16), phantom.encoders(), phantom.fingerprint(), 0).eval()
    spec = Hazards(
        time="t", event="e", events={"death": ("1",), "transplant": ("2",)}, horizons=(3.0, 7.5), intervals=4
    )
    task, random = spec.build("course", model), np.random.default_rng(0)
    task.begin(
        [(float(t), float(e), 0.0) for t, e in zip(random.uniform(1, 12, 60), random.integers(0, 3, 60), strict=True)]
    )
    torch.nn.init.normal_(task.head.weight, generator=torch.Generator().manual_seed(0))
    records = [phantom.ragged(phantom.encoders()[Modality.IMAGE].standard(), {"patient": 1}, seed) for seed in range(2)]
    trials = [tuple(t for t in (r.values, r.spacing) if isinstance(t, torch.Tensor)) for r in records]
    graph = _Graph(OnePatient(model, task, records[0], Modality.IMAGE).eval(), trials, {}, tmp_path)
    say = import_module("polyclinic.inference.export")._pt2(graph, tmp_path / "net.pt2")
    assert graph.difference(say) < TOLERANCE
    told, rule = say(trials[0])[0].detach().numpy(), reading_of(task)
    assert told.shape == (2, 4)
    by_hand = [np.interp(rule["horizons"], [0.0, *rule["ends"]], [0.0, *each]) for each in told]
    np.testing.assert_allclose(by_hand, task.incidence().risk(told[None], np.array([3.0, 7.5]))[0], atol=1e-6)
    assert rule["events"] == ["death", "transplant"]


def test_log_hazards_leave_with_the_hazard_that_makes_risks_of_them() -> None:
    task, random = Survival(time="t", event="e", unit="months").build("death", _Wide()), np.random.default_rng(0)  # type: ignore[arg-type]
    assert reading_of(task) == {}, "nobody was seen to have the event"
    output = torch.from_numpy(random.normal(size=50)).float()
    known = np.stack([random.exponential(10, 50), random.integers(0, 2, 50)], axis=1)
    task.refer_to(output, Target(torch.from_numpy(known).float(), torch.ones(50, dtype=torch.bool)))
    rule, base = reading_of(task), task.baseline()
    hazard = np.array(rule["hazard"])
    for eta in (-1.0, 0.4):
        by_hand = 1 - np.exp(-hazard * np.exp(eta - rule["centre"]))
        np.testing.assert_allclose(by_hand, base.risk(np.array([eta]), np.array(rule["times"]))[0], atol=1e-9)


class _Wide:
    width = 8
