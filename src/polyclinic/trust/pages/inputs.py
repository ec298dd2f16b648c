"""What a report shows, as data: nothing of it is computed while the page is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...schema import Rejected
from ...training.curves import is_loss
from ..comparisons.comparison import Comparison
from ..evidence import Evidence
from ..measures.retrieval import RetrievalExample
from ..measures.synthesis import Pair
from .embeddings import EmbeddingMap
from .overlays import Overlay
from .placed import Placed


@dataclass(frozen=True)
class Curve:
    """One loss over the steps of pretraining.

    Args:
        name: of the loss.
        steps, values: (t,).
        stages: where each stage begins, and its name.
    """

    name: str
    steps: np.ndarray
    values: np.ndarray
    stages: tuple[tuple[float, str], ...] = ()


@dataclass(frozen=True)
class ReportInputs:
    """All that the report shows; whatever is empty is left out of it, and the report says what is missing.

    Args:
        title: the headline.
        run: the pretrained run's name.
        split: the split's hash.
        cohort: as `Cohort.describe()`, of those whom the run is about.
        sites: patients of each site, the largest first; a patient seen at two counts at both.
        sides: training and test patients.
        rejected: what was set aside, and why.
        comparison: the arms; None where they were not compared.
        evidence: of each adapted run, and of the pretrained one's retrieval.
        curves: of pretraining.
        maps: of the embeddings.
        retrieval: examples.
        overlays: of a segmentation.
        placed: pictures of what detections and keypoints place.
        pairs: what a run draws, beside the training records that it is closest to.
        words: what a modality is called in this hospital, such as image → X-ray.
        notes_tell: the notes may state the diagnosis; the report then says so beside every figure that read them.
        recipe: as YAML.
        packages: name → version.
        machine: in words.
        seconds: how long each part took.
        licences: of the data, one sentence each.
        made: when, in words; empty for a file that is the same each time.
        weights: the backbone's hash; commit: of the source.
        parameters: of the backbone.
        tasks: task name → what it asks, in words.
    """

    title: str
    run: str
    split: str
    cohort: Mapping[str, Any]
    sides: tuple[int, int]
    sites: Mapping[str, int] = field(default_factory=dict)
    rejected: Sequence[Rejected] = ()
    comparison: Comparison | None = None
    evidence: Sequence[Evidence] = ()
    curves: Sequence[Curve] = ()
    maps: Sequence[EmbeddingMap] = ()
    retrieval: Sequence[RetrievalExample] = ()
    overlays: Sequence[Overlay] = ()
    placed: Sequence[Placed] = ()
    pairs: Sequence[Pair] = ()
    words: Mapping[str, str] = field(default_factory=dict)
    notes_tell: bool = True
    recipe: str = ""
    packages: Mapping[str, str] = field(default_factory=dict)
    machine: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
    licences: Sequence[str] = ()
    made: str = ""
    weights: str = ""
    commit: str = ""
    parameters: int = 0
    tasks: Mapping[str, str] = field(default_factory=dict)


def curves_of(metrics: Any) -> tuple[Curve, ...]:
    """The losses' curves of `Run.metrics()`: the whole one first, then its parts.

    Args:
        metrics: a pyarrow table of stage, step, name, value.
    """
    rows = [row for row in metrics.to_pylist() if is_loss(row["name"])]
    starts: dict[str, float] = {}
    for row in rows:
        starts[row["stage"]] = min(starts.get(row["stage"], float("inf")), float(row["step"]))
    stages = tuple((at, name) for name, at in sorted(starts.items(), key=lambda pair: pair[1]))
    names = sorted({row["name"] for row in rows}, key=lambda name: (name != "loss", name))
    found = []
    for name in names:
        mine = sorted((row["step"], row["value"]) for row in rows if row["name"] == name and row["value"] is not None)
        found.append(Curve(name, np.array([s for s, _ in mine], float), np.array([v for _, v in mine], float), stages))
    return tuple(found)
