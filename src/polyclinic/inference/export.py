"""An adapted run for other programs: `torch.export`, ONNX, one file of weights, a MONAI bundle. What leaves is held against ours first.

    a harmonised record ──▶ polyclinic ──▶ answer        both at the same made-up records, and
              └──────────▶ the export ──▶ answer         no further apart than `TOLERANCE`

The graph is that of one patient with one record of one modality: how tokens of many are packed is decided by their numbers, which a
graph does not see. Weights, head and scaling are in it; harmonising is not, and `export.json` says what the graph wants.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ..adaptation.adapted import Adapted, open_adapted
from ..adaptation.plan import AdaptError
from ..models import Model
from ..schema import Batch, MissingExtraError, Modality, Ragged
from ..tasks import (
    DetectionTask,
    HazardsTask,
    KeypointsTask,
    LinearTask,
    PlacedFields,
    SegmentationTask,
    SurvivalTask,
    Task,
)
from ..tasks.detection import SAME
from ..tokens import phantom
from ..training import Run
from ..training.run import file_hash, versions, write_json
from . import bundle

Format = Literal["onnx", "pt2", "safetensors", "monai"]
FORMATS: tuple[str, ...] = get_args(Format)
READ = (Modality.IMAGE, Modality.VOLUME, Modality.SIGNAL, Modality.OMICS)
"""Whose harmonised records all have one shape."""
TOLERANCE, TRIALS = 1e-3, 3
"""How far an export's answers may be from ours, and at how many made-up records that is looked at."""
UNITS = {
    Modality.IMAGE: "mm of a pixel (y x)", Modality.VOLUME: "mm of a voxel (z y x)", Modality.SIGNAL: "s of a sample",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written.

    Args:
        path: the file, or the bundle's folder.
        inputs: name → shape.
        output: what the answer is, in words, with its shape.
        difference: the largest one from ours.
    """

    path: Path
    inputs: dict[str, tuple[int, ...]]
    output: str
    difference: float


class OnePatient(nn.Module):
    """One record of one modality, harmonised → the answer about its patient.

    Args:
        model, task: of an adapted run.
        like: a record of that shape.
        modality: of it.
    """

    def __init__(self, model: Model, task: Task, like: Ragged, modality: Modality) -> None:
        super().__init__()
        self.model, self.task, self.like, self.modality = model, task, like, modality

    def forward(self, values: Tensor, spacing: Tensor | None = None) -> Tensor:
        """A probability (1,), a log hazard (1,), grades' probabilities (1 k), events' incidences (1 k j), or cells (1 k …)."""
        ragged = Ragged(
            values, torch.tensor([0]), torch.zeros(1), spacing, 1, self.like.ids, self.like.places, self.like.kinds
        )
        output = self.task.output(self.model, Batch({self.modality: ragged}, {}, ["patient"]))
        return self.task.answer(output) if isinstance(self.task, LinearTask) else output

    @property
    def answer(self) -> str:
        """What comes out, in words."""
        if isinstance(self.task, LinearTask):
            return self.task.says
        if isinstance(self.task, DetectionTask | KeypointsTask):
            return f"(1 {self.task.head.leave.out_channels} …cells) {'; '.join(self.task.says)}"
        return "(1 k …) logits of background, " + ", ".join(self.task.spec.classes)


def export(
    run: Adapted | Run | str | Path, format: Format = "onnx", *, modality: Modality | str | None = None, into: str | Path | None = None,
) -> Exported:  # fmt: skip
    """Write an adapted run for another program, and hold its answers against ours.

    Args:
        run: adapted, or its folder.
        format: "onnx" (opset of the installed exporter, `onnxruntime` checks it), "pt2" (`torch.export`), "safetensors" (the model
            with LoRA and DoRA merged in, other additions under names of their own, and its head), or "monai" (a bundle around "pt2").
        modality: which one the graph reads; by default the task's, or the only one that can be exported. Of the others the answer
            is as for a patient without them.
        into: the file, or the bundle's folder; by default `export` in the run's folder.
    Raises:
        AdaptError: no such format; no modality whose records are of one shape; several, of which none is named; the answers differ.
        MissingExtraError: the format's libraries are not installed.
    """
    adapted = run if isinstance(run, Adapted) else open_adapted(run)
    if format not in FORMATS:
        raise AdaptError(f"no format {format!r}", "one of " + ", ".join(FORMATS), "correct it")
    place = Path(into) if into is not None else adapted.run.path / "export" / _NAMES[format]
    if format == "safetensors":
        return _weights(adapted, place)
    chosen = _chosen(adapted, modality)
    graph = _Graph.of(adapted, chosen)
    place.parent.mkdir(parents=True, exist_ok=True)
    write = {"onnx": _onnx, "pt2": _pt2, "monai": _monai}[format]
    with _quiet():
        say = write(graph, place)
    difference = graph.difference(say)
    if not difference <= TOLERANCE:
        shutil.rmtree(place, ignore_errors=True)
        place.unlink(missing_ok=True)
        raise AdaptError(
            f"an export whose answers are {difference:.2g} from ours", f"no more than {TOLERANCE:g}",
            "export in another format, and report the recipe",
        )  # fmt: skip
    told = {"inputs": {n: list(s) for n, s in graph.inputs.items()}, "output": graph.answer, "difference": difference}
    told |= {"reading": reading} if (reading := reading_of(adapted.task)) else {}
    beside = place / "export.json" if place.is_dir() else place.with_suffix(".json")
    write_json(beside, told | _origin(adapted) | {"modality": chosen.value, "wants": graph.wants})
    return Exported(place, graph.inputs, graph.answer, difference)


_NAMES = {"onnx": "model.onnx", "pt2": "model.pt2", "safetensors": "model.safetensors", "monai": "bundle"}


def _chosen(adapted: Adapted, modality: Modality | str | None) -> Modality:
    """The modality that is read."""
    if not isinstance(adapted.task, LinearTask | SegmentationTask | DetectionTask | KeypointsTask):
        raise AdaptError(
            f"an export of {adapted.name!r}, a {adapted.task.spec.kind}", "a task that is told in numbers or places",
            "use `polyclinic predict`, or export its weights with --format safetensors",
        )  # fmt: skip
    if getattr(adapted.task, "shared", False):  # who has which modality is looked up there, which a graph cannot
        raise AdaptError(
            f"a graph of {adapted.name!r} by zero_shot, which compares a patient's modalities with sentences",
            "a method with labels", "use `polyclinic predict`, or export its weights with --format safetensors",
        )  # fmt: skip
    can = [m for m in adapted.inputs if m in READ]
    if isinstance(adapted.task.spec, PlacedFields):
        can = [Modality(adapted.task.spec.modality)]
    if modality is None and len(can) == 1:
        return can[0]
    if modality is None or modality not in can:
        found = (
            f"an export that reads {modality}"
            if modality is not None
            else f"a run that reads {', '.join(adapted.inputs)}"
        )
        expected = "one of " + ", ".join(can) if can else "one whose records have one shape: " + ", ".join(READ)
        raise AdaptError(found, expected, "name it: --modality" if can else "use `polyclinic predict` or `serve`")
    return Modality(modality)


def reading_of(task: Task) -> dict[str, Any]:
    """How another program makes of the graph's numbers what polyclinic tells: of places, and of risks by a time; empty of others."""
    if isinstance(task, DetectionTask | KeypointsTask):
        grid = {"stride": list(task.head.stride), "first_cell_at": [(s - 1) / 2 for s in task.head.stride]}
        if isinstance(task, KeypointsTask):
            rule = "each point lies in the cell of its highest heat, by its offset from there"
            return grid | {"points": list(task.spec.points), "rule": rule}
        rule = (
            "a cell whose heat no neighbour of its class exceeds is a thing: its middle lies by the offset from the cell, its sides are "
            "the exponents; of two of a class that overlap by more than `same` the surer stands; told is what reaches `told_from`"
        )
        return grid | {"classes": list(task.spec.classes), "told_from": task.cuts.tolist(), "same": SAME, "rule": rule}
    if isinstance(task, HazardsTask):
        known = task.incidence()
        return {
            "events": list(known.causes), "ends": known.ends.tolist(), "horizons": known.horizons.tolist(), "unit": known.unit,
            "landmark": known.landmark, "rule": "a risk by a time within an interval lies on the line between those by its ends",
        }  # fmt: skip
    base = task.baseline() if isinstance(task, SurvivalTask) else None
    if base is None or not len(base.times):
        return {}
    return {
        "times": base.times.tolist(), "hazard": base.hazard.tolist(), "centre": base.centre, "horizons": base.horizons.tolist(),
        "unit": base.unit, "rule": "the risk by times[i] is 1 - exp(-hazard[i] * exp(answer - centre))",
    }  # fmt: skip


class _Graph:
    """The traced network, what it reads, and records to try it on."""

    def __init__(
        self, ours: OnePatient, trials: list[tuple[Tensor, ...]], wants: dict[str, Any], fingerprint: Path
    ) -> None:
        self.ours, self.trials, self.wants, self.answer = ours, trials, wants, ours.answer
        self.fingerprint = fingerprint
        values, *spacing = trials[0]
        self.names = [ours.modality.value, *(["spacing"] if spacing else [])]
        self.inputs = {n: tuple(t.shape) for n, t in zip(self.names, (values, *spacing), strict=True)}

    @classmethod
    def of(cls, adapted: Adapted, modality: Modality) -> _Graph:
        """Of an adapted run."""
        run = adapted.run
        standard = run.recipe.standards()[modality]
        made = [phantom.ragged(standard, {"patient": 1}, seed, full=run.fingerprint) for seed in range(TRIALS)]
        trials = [tuple(t for t in (r.values, r.spacing) if isinstance(t, Tensor)) for r in made]
        wants = standard.model_dump(mode="json") | ({"spacing": UNITS[modality]} if made[0].spacing is not None else {})
        ours = OnePatient(adapted.model, adapted.task, made[0], modality).eval()
        return cls(ours, trials, wants, run.backbone.path / "model/fingerprint.json")

    def program(self) -> torch.export.ExportedProgram:
        """Traced on a record: what depends on the numbers of tokens is decided, what depends on their values is not."""
        from torch.fx.experimental.proxy_tensor import make_fx

        with torch.no_grad():
            traced = make_fx(self.ours, tracing_mode="real")(*self.trials[0])
            return torch.export.export(traced.requires_grad_(False), self.trials[0])

    @torch.no_grad()
    def difference(self, say: Callable[[Sequence[Tensor]], Tensor]) -> float:
        """The largest one between the export's answers and ours."""
        return max(float((say(trial) - self.ours(*trial)).abs().max()) for trial in self.trials)


def _pt2(graph: _Graph, place: Path) -> Callable[[Sequence[Tensor]], Tensor]:
    torch.export.save(graph.program(), place)
    again = torch.export.load(place).module()
    return lambda trial: again(*trial)


def _onnx(graph: _Graph, place: Path) -> Callable[[Sequence[Tensor]], Tensor]:
    try:
        import onnxruntime  # pyright: ignore[reportMissingImports]
        import onnxscript  # noqa: F401  # the exporter needs it  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtraError(str(error.name), "export") from error
    torch.onnx.export(
        graph.program(), graph.trials[0], place, input_names=graph.names, output_names=["answer"], external_data=False, verbose=False
    )  # fmt: skip
    session = onnxruntime.InferenceSession(place, providers=["CPUExecutionProvider"])
    feed = lambda trial: {n: t.numpy() for n, t in zip(graph.names, trial, strict=True)}
    return lambda trial: torch.from_numpy(session.run(None, feed(trial))[0])


def _monai(graph: _Graph, place: Path) -> Callable[[Sequence[Tensor]], Tensor]:
    """A bundle: MONAI reads the configuration, our harmoniser the files, and the graph needs neither of us."""
    modality = graph.ours.modality
    if isinstance(graph.ours.task, DetectionTask | KeypointsTask):
        raise AdaptError(
            f"a MONAI bundle of a {graph.ours.task.spec.kind}, for whose cells MONAI has no reader",
            "a task that is told in numbers or a mask", "export to onnx or pt2: `reading` in export.json says how cells are read",
        )  # fmt: skip
    if modality not in (Modality.IMAGE, Modality.VOLUME):
        raise AdaptError(f"a MONAI bundle of {modality}", "an image or a volume", "export to onnx or pt2 instead")
    shutil.rmtree(place, ignore_errors=True)
    bundle.write(place, graph.ours.task, modality, graph.inputs[modality.value], graph.answer, graph.wants)
    shutil.copy(graph.fingerprint, place / bundle.FINGERPRINT)
    return _pt2(graph, place / bundle.NETWORK)


def _weights(adapted: Adapted, place: Path) -> Exported:
    """The model as it answers and its head, in one file; read again, they are the same to the bit."""
    from safetensors.torch import load_file, save_file

    tensors = {f"model.{k}": v.contiguous().clone() for k, v in adapted.model.state_dict().items()}
    tensors |= {f"head.{k}": v.contiguous().clone() for k, v in adapted.task.state_dict().items()}
    place.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, place, {k: str(v) for k, v in _origin(adapted).items()})
    again = load_file(place)
    apart = max(
        (float((again[k].float() - v.float()).abs().max()) for k, v in tensors.items() if v.numel()), default=0.0
    )
    write_json(place.with_suffix(".json"), _origin(adapted) | {"recipe": adapted.run.recipe.model_dump(mode="json")})
    return Exported(
        place,
        {},
        "the model's weights (`model.`; LoRA and DoRA merged in, other additions beside them), and the head's (`head.`)",
        apart,
    )


def _origin(adapted: Adapted) -> dict[str, Any]:
    run = adapted.run
    return {
        "task": adapted.name, "backbone": file_hash(run.weights), "adapter": file_hash(run.path / "adapter.safetensors"),
        "split": run.split.hash, "versions": versions(),
    }  # fmt: skip


@contextmanager
def _quiet() -> Any:
    """Exporters talk of what they do not find."""
    import logging

    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
