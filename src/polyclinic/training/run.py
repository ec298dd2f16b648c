"""A run: a folder that is everything, and the only thing, that later steps read."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..cohort import Cohort, CohortError, Split
from ..harmonise import Cache, Fingerprint
from ..harmonise.loader import Loader
from ..harmonise.unread import Unread
from ..models import Model, build_model, load_weights
from ..objectives import Objective
from ..objectives.hybrid import places
from .checkpoint import RunError
from .recipe import Recipe

PACKAGES = (
    "polyclinic",
    "torch",
    "numpy",
    "pydantic",
    "lightning-fabric",
    "tokenizers",
    "transformers",
    "safetensors",
    "duckdb",
    "pyarrow",
    "numcodecs",
)

KEPT = "model/encoders"
"""Where a run keeps what encoders were built from besides the recipe, a folder a modality."""


def file_hash(path: Path) -> str:
    """blake2b-128 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write whole or not at all.

    Raises:
        RunError: the disk is full, or the place may not be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, path)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        raise RunError(
            f"{path} could not be written ({error.strerror})",
            "a place with room that may be written",
            "free some space",
        ) from error


def write_json(path: Path, data: Any) -> None:
    """Write whole or not at all; raises as `write_text`."""
    write_text(path, json.dumps(data, indent=1, sort_keys=True))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path}, which {'is broken' if path.exists() else 'is not there'}",
            "the file as it was written",
            "copy the run's folder again, all of it",
        ) from error


class Run:
    """A pretrained run, or one adapted to a task (it then points to its backbone).

    Args:
        path: its folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """The run in a folder.

        Raises:
            RunError: there is none, or it was not finished.
        """
        place = Path(path)
        if (place / "adapter.json").exists():
            return cls(place)._on_its_backbone()
        if not (place / "recipe.yaml").exists():
            raise RunError(f"no run in {place}", "a folder made by `polyclinic pretrain` or `adapt`", "check the path")
        if not (place / "model/model.safetensors").exists():
            raise RunError(
                f"a run in {place} that was not finished",
                "model/model.safetensors",
                "run the same `pretrain` again: it resumes",
            )
        return cls(place)

    def _on_its_backbone(self) -> Run:
        """This adapted run, if the backbone that it was adapted from is there."""
        if not (self.path / "adapter.safetensors").exists():
            raise RunError(f"an adapted run in {self.path} without its weights", "adapter.safetensors", "adapt again")
        where = self.path / self.adapter["run"]
        if not (where / "recipe.yaml").exists():
            raise RunError(
                f"an adapted run in {self.path} whose backbone is not in {where.resolve()}",
                "the pretrained run, where it lay relative to the adapted one",
                "copy or move both together, or adapt again",
            )
        if (found := file_hash(self.weights)) != self.adapter["backbone"]:
            raise RunError(
                f"an adapter of another backbone than {self.backbone.path.resolve()} holds (its hash is {found})",
                f"weights with the hash {self.adapter['backbone']}",
                "adapt again, or put the backbone's weights back",
            )
        return self

    @cached_property
    def adapter(self) -> dict[str, Any]:
        """What the run was adapted to; empty for a pretrained one."""
        place = self.path / "adapter.json"
        return _read_json(place) if place.exists() else {}

    @cached_property
    def backbone(self) -> Run:
        """The pretrained run; of a pretrained run, itself."""
        return Run.open((self.path / self.adapter["run"]).resolve()) if self.adapter else self

    @property
    def weights(self) -> Path:
        """The pretrained model's weights."""
        return self.backbone.path / "model/model.safetensors"

    @cached_property
    def recipe(self) -> Recipe:
        """What was asked; what an encoder is built from besides lies in the run."""
        place = self.backbone.path
        recipe = Recipe.load(place / "recipe.yaml")
        kept = {m: spec.kept(place / KEPT / m.value) for m, spec in recipe.encoders.items()}
        return recipe.model_copy(update={"encoders": kept}).without(self.adapter.get("leave_out", ()))

    def without(self, columns: Sequence[str]) -> Run:
        """This run, whose loaders read none of some columns."""
        seen = Run(self.path)
        seen.__dict__.update(self.__dict__ | {"recipe": self.recipe.without(columns)})
        return seen

    @cached_property
    def lock(self) -> dict[str, Any]:
        """Records and hash of each side of the split, package versions, seed, commit."""
        return _read_json(self.backbone.path / "lock.json")

    @property
    def set_aside(self) -> list[Unread]:
        """Who could not be read when it was prepared and trained."""
        told = [self.lock, *self.training["sessions"]]
        return [*{row["record"]: Unread(**row) for each in told for row in each.get("unread", ())}.values()]

    @cached_property
    def training(self) -> dict[str, Any]:
        """What training took, a session at a time: steps, ranks, memory, time, energy."""
        place = self.backbone.path / "training.json"
        return _read_json(place) if place.exists() else {"sessions": []}

    @cached_property
    def split(self) -> Split:
        """Who trained and who tests."""
        return Split(tuple(self.lock["split"]["train"]), tuple(self.lock["split"]["test"]), self.lock["split"]["hash"])

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """What was learned of the training records."""
        return Fingerprint.open(self.backbone.path / "model/fingerprint.json")

    @cached_property
    def cache(self) -> Cache:
        """The harmonised payloads of this run's standards."""
        return Cache(self.backbone.path / "cache")

    @cached_property
    def unread(self) -> dict[str, Unread]:
        """Whom this run's loaders set aside, by the record that could not be read; the backbone's loaders note it here, too."""
        return self.backbone.unread if self.adapter else {}

    def stage_weights(self, stage: str) -> Path:
        """Where the weights lie as a stage with `keep` left them."""
        return self.backbone.path / f"model/stages/{stage}.safetensors"

    def model(self, pretrained: bool = True, seed: int | None = None, stage: str | None = None) -> Model:
        """The backbone.

        Args:
            pretrained: False for the same network with fresh weights.
            seed: of the fresh weights.
            stage: as a stage left it, whose recipe says `keep`; None as the last one did.
        Raises:
            RunError: no weights of this stage were kept.
        """
        if stage is not None and not self.stage_weights(stage).exists():
            have = [s.name for s in self.recipe.stages if s.keep]
            raise RunError(
                f"no weights of a stage {stage!r} in {self.path}",
                f"one of those that were kept: {', '.join(have) or 'none'}",
                "say `keep: true` in the stage and pretrain again",
            )
        model = build_model(
            self.recipe.model, self.recipe.encoders, self.fingerprint, self.recipe.seed if seed is None else seed
        )
        if pretrained:
            load_weights(self.stage_weights(stage) if stage else self.weights, model, weights_config(self.recipe))
        return model.eval()

    @property
    def objective_weights(self) -> Path:
        """What the last stage learned besides the model: decoders, temperatures, teachers."""
        return self.weights.with_name("objective.safetensors")

    def objective(self, model: Model) -> Objective:
        """The last stage's objective as it was left: what writes, draws and segments.

        Args:
            model: the run's own, as `model()` gives it.
        Raises:
            WeightsError: its weights are not those of this recipe.
        """
        import torch

        with torch.random.fork_rng(devices=[]):  # the first weights are drawn, and then replaced
            objective = self.recipe.stages[-1].objective.build(model, self.recipe.structures(self.fingerprint))
        load_weights(self.objective_weights, objective, {"recipe": self.recipe.name})
        return objective.eval()

    @property
    def parts(self) -> list[Any]:
        """The parts of the last stage's objective; one that has none is its own."""
        return [part for part, _ in places(self.recipe.stages[-1].objective)]

    def learned(self, part: Any, model: Model) -> Objective:
        """What the last stage learned by one of its `parts`, as it was left; arguments and errors as `objective`'s."""
        place = next(place for other, place in places(self.recipe.stages[-1].objective) if other == part)
        made = self.objective(model).get_submodule(place.rstrip("."))
        assert isinstance(made, Objective)
        return made

    def cohort(self, path: str | Path | None = None) -> Cohort:
        """The cohort that it was trained on, wherever that lies now.

        Raises:
            CohortError: it is not there.
        """
        if path is not None:
            return Cohort.open(path)
        if not Path(self.lock["cohort"], "cohort.json").exists():
            raise CohortError(
                f"no catalogue in {self.lock['cohort']}, where the run {self.path} was made",
                "the cohort that the run was pretrained on",
                "say where it lies now: --cohort, or cohort=",
            )
        return Cohort.open(self.lock["cohort"])

    def loader(
        self, cohort: Cohort, patients: tuple[str, ...], tasks: tuple[str, ...] = (), alone: bool = False, **options: Any
    ) -> Loader:  # fmt: skip
        """A loader of some patients, as this run harmonises them.

        Args:
            cohort: where they are.
            patients: who.
            tasks: whose labels come with them.
            alone: take no other patient's records out of the catalogue: of many patients, a few at a time.
            options: see `Loader`.
        """
        labels = [label for name in tasks if (label := self.recipe.tasks[name].label(name)) is not None]
        records = cohort.records(self.recipe.cohort.where, patients if alone else None)
        return Loader(
            records,
            patients,
            self.recipe.standards(),
            self.fingerprint,
            cohort.load,
            labels,
            self.cache,
            seed=self.recipe.seed,
            unread=self.unread,
            **options,
        )

    def metrics(self) -> Any:
        """The training curves: a pyarrow table of stage, step, name, value."""
        import pyarrow.parquet as pq

        return pq.read_table(self.path / "metrics.parquet")

    def __repr__(self) -> str:
        what = f"{self.adapter['task']} by {self.adapter['method']}" if self.adapter else "pretrained"
        return f"Run({self.path}, {what})"


def weights_config(recipe: Recipe) -> dict[str, Any]:
    """What of a recipe decides the shape and the meaning of the weights; a default that a later version adds is not in it."""
    model = recipe.model
    kinds = {m.value: spec.kind for m, spec in recipe.encoders.items()} | {
        "model": model.kind,
        "fusion": model.fusion.kind,
    }
    told = recipe.model_dump(mode="json", include={"encoders", "model"}, exclude_defaults=True)
    for spec in told["encoders"].values():
        spec.pop("folder", None)  # where a network came from, not what it is
    return {"kinds": kinds, **told}


def versions() -> dict[str, str]:
    """The packages that decide a result."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The source's commit, where it is under version control (and not merely installed below somebody's repository)."""
    here = Path(__file__)
    ask = lambda *words: subprocess.run(
        ["git", *words], cwd=here.parent, capture_output=True, text=True, timeout=5, check=True
    ).stdout.strip()
    try:
        ask("ls-files", "--error-unmatch", here.name)
        return ask("rev-parse", "HEAD")
    except (OSError, subprocess.SubprocessError):
        return None
