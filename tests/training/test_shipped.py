"""Every shipped recipe, made small, learns, and its weights come back from the disk to the same outputs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from polyclinic.cohort import Cohort, ingest
from polyclinic.cohort.catalogue import inputs
from polyclinic.phantom import simulate
from polyclinic.schema import Losses, Modality
from polyclinic.training import Recipe, Run, pretrain
from polyclinic.training.curves import is_loss
from polyclinic.training.reading import folder
from polyclinic.training.repeatable import generator
from polyclinic.training.step import Trainee

ELSEWHERE = {"titan", "me_llama"}
"""Of records that the phantom has not: they are trained by `tests/models/systems/`."""
SHIPPED = sorted(path for path in folder().glob("*.yaml") if path.stem not in ELSEWHERE)
STEPS, BATCH = 24, 8
MORE = {"m3fm": 96}
"""Steps of those whose loss of eight patients' few pairs falls less in a few than it wavers from batch to batch."""
SMALL: dict[str, dict[str, Any]] = {
    "image": {"size": 64, "patch": 16}, "volume": {"size": [32, 32, 32], "patch": [8, 8, 8], "spacing_mm": [12.5, 12.5, 12.5]},
    "text": {"words": 48, "vocabulary": 256}, "omics": {"genes": 32}, "table": {"fewest": 2},
}  # fmt: skip
"""Of the encoders, besides their width and depth."""
SETTLES = {"vit": 72}
"""Steps before a loss can fall: DINO's rises until the centre, a running mean, has been found."""


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """48 simulated patients with radiographs, CT, reports and masks of some."""
    place = tmp_path_factory.mktemp("phantom")
    made = simulate(place / "made", 48, size=32, modalities=["xray", "ct", "report"])
    return ingest(made.hospital, place / "cohort")


def small(path: Path, at: Path) -> Recipe:
    """A recipe with small networks and few steps, and otherwise as it is shipped."""
    data = yaml.safe_load(path.read_text())
    for modality, spec in data["encoders"].items():
        spec |= {"width": 32, "depth": 1, "heads": 2} | SMALL.get(modality, {})
    data["model"] |= {"width": 32, "embedding": 32}
    if "depth" in data["model"]["fusion"]:
        data["model"]["fusion"] |= {"depth": 1, "heads": 2}
    for stage in data["stages"]:
        stage |= {"steps": MORE.get(path.stem, STEPS), "batch": BATCH, "warmup": 2, "lr": 2e-3}
        for part in stage["objective"].get("parts", [stage["objective"]]):
            if part["kind"] == "dino":
                part |= {"prototypes": 64, "width": 32, "smalls": 2}
                stage |= {"steps": 192, "lr": 5e-3}
    data["precision"] = "fp32"
    if path.stem == "demo":  # the embedded hospital's tasks: the session's small cohort has all of them
        data["encoders"]["volume"] |= {"size": [32, 48, 32], "spacing_mm": [1.0, 1.0, 1.0]}
        data["encoders"].pop("signal")
    made = at / path.name
    made.write_text(yaml.safe_dump(data, sort_keys=False))
    return Recipe.load(made)


def fell(run: Run, stage: str) -> tuple[float, float]:
    """The mean loss of a stage's first steps and of its last; of a balanced hybrid, of the terms themselves."""
    settled = SETTLES.get(run.recipe.name, 0)
    rows = [r for r in run.metrics().to_pylist() if r["stage"] == stage and r["step"] >= settled and is_loss(r["name"])]
    balanced = getattr(next(s for s in run.recipe.stages if s.name == stage).objective, "balance", "fixed") != "fixed"
    terms = [r for r in rows if (r["name"] != "loss" and "/" in r["name"]) == balanced]
    firsts, lasts = [], []
    for name in sorted({r["name"] for r in terms}):
        values = [r["value"] for r in sorted(terms, key=lambda r: r["step"]) if r["name"] == name]
        share = max(1, len(values) // 3)
        firsts.append(np.mean(values[:share]))
        lasts.append(np.mean(values[-share:]))
    return float(np.sum(firsts)), float(np.sum(lasts))


def test_radiographs_cannot_be_counted_where_reports_say_how_many_there_were(phantom: Cohort) -> None:
    """A report speaks of an earlier study just where there is a second radiograph: that is easier to learn than what is seen."""
    reports = {r.patient: phantom.load(r).text or "" for r in phantom.records("modality = 'text'")}
    counted = lambda where: Counter(r.patient for r in inputs(phantom.records(where)) if r.modality is Modality.IMAGE)
    told = {p for p, text in reports.items() if "Comparison: Prior" in text or "Comparación: Estudio" in text}
    twice = {p for p, n in counted(None).items() if n == 2}
    assert told & set(counted(None)) == twice & set(reports) != set()
    asked = [Recipe.load(path) for path in SHIPPED if path.stem != "demo"]
    seen = {r.name: counted(r.cohort.where) for r in asked if {Modality.IMAGE, Modality.TEXT} <= set(r.encoders)}
    assert {name for name, of in seen.items() if set(of.values()) != {1}} == set()
    assert {frozenset(of) for of in seen.values()} == {frozenset(counted(None))}  # nobody is left out
    assert "hybrid-2d" in seen


@pytest.mark.slow
@pytest.mark.parametrize("path", SHIPPED, ids=[p.stem for p in SHIPPED])
def test_it_learns_and_comes_back_the_same(path: Path, phantom: Cohort, tiny_cohort: Cohort, tmp_path: Path) -> None:
    cohort = tiny_cohort if path.stem == "demo" else phantom
    trained: list[Trainee] = []
    note = torch.nn.modules.module.register_module_forward_hook(
        lambda module, *_: trained.append(module) if isinstance(module, Trainee) else None
    )
    try:
        run = pretrain(small(path, tmp_path), cohort, into=tmp_path)
    finally:
        note.remove()
    for stage in run.recipe.stages:
        first, last = fell(run, stage.name)
        assert last < first, f"{stage.name}: the loss went from {first:.4f} to {last:.4f}"
    last_trained, stage = trained[-1].eval(), run.recipe.stages[-1]
    batch = run.loader(cohort, run.split.train, tuple(stage.objective.labelled()), batch=BATCH).batch(0)
    model = run.model()
    objective = run.objective(model)
    with torch.no_grad():
        assert torch.equal(last_trained.model(batch).pooled, model(batch).pooled)
        terms, _ = last_trained(batch, generator(0))
        again = Trainee(model, objective)(batch, generator(0))
        assert terms
        assert Losses(*again).total is not None
        for name, value in terms.items():
            assert torch.equal(value, again[0][name]), name
