"""An adapted run on the disk and in memory: its file, a backbone with it, and several on one backbone."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..models import Model, save_weights, under
from ..models.adapters import AdapterError, AdapterFields, additions, fold, learned, replace, restore, sharing
from ..schema import Modality
from ..tasks import HazardsTask, LinearTask, PlacedFields, Report, Task
from ..training import Run
from ..training.methods import Knn, Probe, ZeroShot, methods
from ..training.run import file_hash, write_json
from .neighbours import voting
from .plan import AdaptError, Plan
from .sentences import over_sentences

FILE = "adapter.safetensors"


@dataclass(frozen=True, slots=True)
class Adapted:
    """A model with its head, ready to answer."""

    run: Run
    name: str
    model: Model
    task: Task
    inputs: tuple[Modality, ...]

    def at(self, landmark: float | None) -> Adapted:
        """The same, which answers at a landmark of its task, at the first where nobody names one; None changes nothing.

        Raises:
            AdaptError: the task has no landmarks.
            TaskError: it has others.
        """
        if isinstance(self.task, HazardsTask):
            return dataclasses.replace(self, task=self.task.at(landmark))
        if landmark is not None:
            raise AdaptError(
                f"the landmark {landmark:g} of {self.name!r}, a {self.task.spec.kind}",
                "a task with landmarks",
                "leave it out",
            )
        return self

    def together(self, most: int) -> int:
        """How many patients are asked at once: one where volumes of any size are read a box at a time, or a report is written."""
        spec = self.task.spec
        whole = isinstance(spec, PlacedFields) and self.model.encoder(Modality(spec.modality)).at_once is not None
        return 1 if whole or isinstance(spec, Report) else most


class Shelf:
    """One backbone in memory and any number of adapted runs on it.

    Each is opened with modules of its own around the same weights, and costs its own weights alone: none knows of another, and
    all may answer at once.

    Args:
        run: the backbone's, or one adapted from it; or its folder.
    """

    def __init__(self, run: Run | str | Path) -> None:
        self.run = (run if isinstance(run, Run) else Run.open(run)).backbone
        self.hash = file_hash(self.run.weights)
        self.model = self.run.model().requires_grad_(False)

    def open(self, run: Run | str | Path, folded: bool = False) -> Adapted:
        """An adapted run on this backbone; arguments and errors as `open_adapted`'s."""
        run = run if isinstance(run, Run) else Run.open(run)
        _adapted(run)
        if run.adapter["backbone"] != self.hash:
            raise AdaptError(
                f"{run.path}, adapted from the backbone {run.adapter['backbone']}",
                f"from {self.hash}, which is in memory ({self.run.path})",
                "open it by itself, or on a shelf of its own backbone",
            )
        return _opened(run, sharing(self.model), folded)


def open_adapted(run: Run | str | Path, folded: bool = True) -> Adapted:
    """The model and head of an adapted run, with weights of its own; `Shelf` has several on the same ones.

    Args:
        run: adapted, or its folder.
        folded: whether what can be is folded into the backbone's weights: the same answers to a few millionths, at no cost.
    Raises:
        AdaptError: the run was not adapted, or its weights do not fit.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    _adapted(run)
    return _opened(run, run.backbone.model().requires_grad_(False), folded)


def _adapted(run: Run) -> None:
    if not run.adapter:
        raise AdaptError(
            f"the run {run.path} is not adapted to a task",
            "a run made by `polyclinic adapt`",
            f"polyclinic adapt {run.path} --task …",
        )


def _opened(run: Run, model: Model, folded: bool) -> Adapted:
    from safetensors import SafetensorError

    name = run.adapter["task"]
    try:
        specs, (state, _) = methods(run.adapter["methods"]), kept(run)
        head = head_of(run, name, model, specs)
        for key, tensor in under("model.", state).items():
            replace(model, key, tensor)
        restore(model, [s for s in specs if isinstance(s, AdapterFields)], under("added.", state))
        if folded:
            fold(model)
        _fill(head, under("head.", state))
    except (SafetensorError, RuntimeError, AttributeError, KeyError, ValueError, AdapterError) as error:
        raise AdaptError(
            f"weights in {run.path / FILE} that do not fit ({type(error).__name__}: {error})",
            "the adapter of this task, whole and made by this version",
            "adapt again",
        ) from error
    model.requires_grad_(False).eval()
    return Adapted(run, name, model, head.eval(), tuple(map(Modality, run.adapter["inputs"])))


def kept(run: Run) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of an adapted run's file, which is the one that `adapter.json` speaks of, and what it says of itself."""
    state, about = _read(run.path / FILE)
    _same(run, about)
    return state, about


def _read(place: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of an adapter's file, and what it says of itself."""
    from safetensors import safe_open

    with safe_open(place, framework="pt") as file:
        about = json.loads((file.metadata() or {}).get("about", "{}"))
        return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118


def _same(run: Run, about: dict[str, Any]) -> None:
    """Refuse a file that came from beside another `adapter.json`.

    Raises:
        AdaptError: it names another backbone, task or method.
    """
    for key in ("backbone", "task", "methods"):
        if about.get(key) != run.adapter[key]:
            raise AdaptError(
                f"weights in {run.path / FILE} that do not fit: they are of the {key} {about.get(key)!r}",
                f"{run.adapter[key]!r}, as adapter.json beside it says",
                "copy both files from the same run, or adapt again",
            )


def _fill(head: Task, state: dict[str, Tensor]) -> None:
    """A head's weights; what its training patients decide the size of takes the file's."""
    for place, module in head.named_modules():
        for name in getattr(module, "sized", ()):
            module.register_buffer(name, torch.zeros_like(state[f"{place}.{name}"]))
    head.load_state_dict(state)


def head_of(run: Run, name: str, model: Model, specs: tuple[Any, ...]) -> Task:
    """The head of a task, freshly initialised, as the method wants it.

    Raises:
        TaskError: the task has none.
    """
    spec = run.recipe.tasks[name]
    if isinstance(spec, Report):
        from .report import writer_of  # it needs this file

        return writer_of(run, name, model)
    built = spec.build(name, model)
    if isinstance(built, LinearTask) and isinstance(specs[0], Knn):
        return voting(built, model.width, specs[0].temperature)
    if isinstance(built, LinearTask) and isinstance(specs[0], ZeroShot):
        return over_sentences(built, model.embedding)
    if isinstance(built, LinearTask) and isinstance(specs[0], Probe) and specs[0].modalities == "stacked":
        built.read_apart(model.modalities)
    return built


def tensors(module: nn.Module) -> dict[str, Tensor]:
    """A module's weights and buffers by name, those that it does not save among them; without what was added to it."""
    added = {id(p) for _, _, one in additions(module) for p in one.parameters()}
    every = [*module.named_parameters(), *module.named_buffers()]
    return {name: tensor.detach() for name, tensor in every if id(tensor) not in added}


def write(plan: Plan, place: Path, model: Model, head: Task, chosen: dict[str, Any]) -> Run:
    """The new run: its head, what was added to the backbone, and of the backbone what changed. What lay there of an older one goes first.

    Args:
        place: its folder.
        chosen: what was decided on the way, for `adapter.json`.
    """
    run, before, chosen = plan.run, tensors(plan.run.model()), dict(chosen)
    aside = {one.patient: one for one in (*plan.aside, *chosen.pop("unread", ()))}
    changed = {k: v for k, v in tensors(model).items() if not torch.equal(v, before[k])}
    tensors_kept = (
        {f"head.{k}": v.clone() for k, v in head.state_dict().items()}  # a decoder's may be one and the same
        | {f"added.{k}": v for k, v in learned(model).items()}
        | {f"model.{k}": v for k, v in changed.items()}
    )
    for name in ("adapter.json", "card.md"):
        (place / name).unlink(missing_ok=True)
    shutil.rmtree(place / "evidence", ignore_errors=True)
    told = {
        "backbone": file_hash(run.weights), "task": plan.task, "methods": [m.model_dump(mode="json") for m in plan.methods],
    }  # fmt: skip
    save_weights(place / FILE, tensors_kept, about=told)
    write_json(
        place / "adapter.json",
        {
            **told, "run": os.path.relpath(run.path.resolve(), place.resolve()), "method": plan.method,
            "inputs": list(plan.reads), "labels": len(plan.patients), "labelled": plan.patients, "seed": plan.seed,
            **({"after": os.path.relpath(plan.after.path.resolve(), place.resolve())} if plan.after else {}), **chosen,
            **({"unread": [dataclasses.asdict(one) for one in aside.values()]} if aside else {}),
        },
    )  # fmt: skip
    return Run.open(place)
