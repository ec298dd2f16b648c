"""A run: a folder that is everything, and the only thing, that later steps read."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from ..cohort import Cohort, Split
from ..harmonise import Cache, Fingerprint
from ..harmonise.loader import Loader
from ..models import Model, build_model, load_weights
from .checkpoint import RunError
from .recipe import Recipe

PACKAGES = (
    "polyclinic",
    "torch",
    "numpy",
    "pydantic",
    "lightning-fabric",
    "tokenizers",
    "safetensors",
    "duckdb",
    "pyarrow",
    "zarr",
)


def file_hash(path: Path) -> str:
    """blake2b-128 of a file."""
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


def write_json(path: Path, data: Any) -> None:
    """Write whole or not at all."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        beside.write_text(json.dumps(data, indent=1, sort_keys=True))
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise RunError(
            f"{path.name} could not be written ({error.strerror})", "room on the disk", "free some space"
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
            run = cls(place)
            backbone = run.backbone
            if file_hash(backbone.weights) != run.adapter["backbone"]:
                raise RunError(
                    f"an adapter of another backbone than {backbone.path.name} holds",
                    f"weights with the hash {run.adapter['backbone']}",
                    "adapt again, or put the backbone's weights back",
                )
            return run
        if not (place / "recipe.yaml").exists():
            raise RunError(f"no run in {place}", "a folder made by `polyclinic pretrain` or `adapt`", "check the path")
        if not (place / "model/model.safetensors").exists():
            raise RunError(
                f"a run in {place} that was not finished",
                "model/model.safetensors",
                "run the same `pretrain` again: it resumes",
            )
        return cls(place)

    @cached_property
    def adapter(self) -> dict[str, Any]:
        """What the run was adapted to; empty for a pretrained one."""
        place = self.path / "adapter.json"
        return json.loads(place.read_text()) if place.exists() else {}

    @cached_property
    def backbone(self) -> Run:
        """The pretrained run; of a pretrained run, itself."""
        return Run.open(self.path / self.adapter["run"]) if self.adapter else self

    @property
    def weights(self) -> Path:
        """The pretrained model's weights."""
        return self.backbone.path / "model/model.safetensors"

    @cached_property
    def recipe(self) -> Recipe:
        """What was asked."""
        return Recipe.model_validate(yaml.safe_load((self.backbone.path / "recipe.yaml").read_text()))

    @cached_property
    def lock(self) -> dict[str, Any]:
        """Records and hash of each side of the split, package versions, seed, commit."""
        return json.loads((self.backbone.path / "lock.json").read_text())

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

    def model(self, pretrained: bool = True, seed: int | None = None) -> Model:
        """The backbone.

        Args:
            pretrained: False for the same network with fresh weights.
            seed: of the fresh weights.
        """
        model = build_model(
            self.recipe.model, self.recipe.encoders, self.fingerprint, self.recipe.seed if seed is None else seed
        )
        if pretrained:
            load_weights(self.weights, model)
        return model.eval()

    def cohort(self, path: str | Path | None = None) -> Cohort:
        """The cohort that it was trained on, wherever that lies now."""
        place = Path(path or self.lock["cohort"])
        return Cohort.open(place)

    def loader(self, cohort: Cohort, patients: tuple[str, ...], tasks: tuple[str, ...] = (), **options: Any) -> Loader:
        """A loader of some patients, as this run harmonises them."""
        labels = [label for name in tasks if (label := self.recipe.tasks[name].label(name)) is not None]
        records = cohort.records(self.recipe.cohort.where)
        return Loader(
            records,
            patients,
            self.recipe.standards(),
            self.fingerprint,
            cohort.load,
            labels,
            self.cache,
            seed=self.recipe.seed,
            **options,
        )

    def metrics(self) -> Any:
        """The training curves: a pyarrow table of stage, step, name, value."""
        import pyarrow.parquet as pq

        return pq.read_table(self.path / "metrics.parquet")

    def __repr__(self) -> str:
        what = f"{self.adapter['task']} by {self.adapter['method']}" if self.adapter else "pretrained"
        return f"Run({self.path}, {what})"


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
    """The source's commit, where there is one."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
        return done.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
