from __future__ import annotations

from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch

from polyclinic.cohort import Cohort, ingest
from polyclinic.fusion import Late
from polyclinic.harmonise import SlideFeaturesStandard
from polyclinic.inference import embed
from polyclinic.models import TwoTower, build_model
from polyclinic.models.systems import titan
from polyclinic.objectives import Ibot
from polyclinic.schema import Modality
from polyclinic.tokens import Titan, phantom
from polyclinic.training import Recipe, Run, pretrain
from polyclinic.training.curves import is_loss

PEOPLE, SIDE = 9, 1024
SMALL = (
    "encoders.slide={kind: titan, features: 8, width: 16, depth: 1, heads: 2}",
    "encoders.text={kind: gpt, words: 16, vocabulary: 128, width: 16, depth: 1, heads: 2}",
    "model.width=16", "model.embedding=16", "precision=fp32", "cohort.split.test=0.34",
    *(f"stages.0.objective.{key}" for key in ("region=20", "smalls=2", "prototypes=16", "width=16")),
    *(f"stages.{n}.{key}" for n in range(3) for key in ("steps=2", "batch=4", "warmup=1")),
    *(f"stages.{n}.objective.parts.1={{kind: caption, modalities: [slide], queries: 4, width: 16, depth: 1, heads: 2}}" for n in (1, 2)),
)  # fmt: skip


def tiles(person: int, columns: int = 6, rows: int = 5) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(person)
    corners = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), -1).reshape(-1, 2) * SIDE
    return draw.normal(size=(len(corners), 8)).astype(np.float32) + person % 3, corners


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """Patients with a slide's features as TRIDENT writes them, a caption and a report."""
    place = tmp_path_factory.mktemp("pathology")
    for person in range(PEOPLE):
        folder = place / f"files/patient{person:02}"
        folder.mkdir(parents=True)
        features, corners = tiles(person)
        with h5py.File(folder / "slide.h5", "w") as file:
            file["features"], file["coords"] = features[None], corners
            file["coords"].attrs.update({"patch_size_level0": SIDE, "level0_magnification": 40})
        grade = ("well", "moderately", "poorly")[person % 3]
        for kind, words in {
            "caption": f"Glands, {grade} formed, with stroma number {person}.",
            "report": f"Adenocarcinoma of the colon, {grade} differentiated, case {person}.",
        }.items():
            (folder / f"{kind}.txt").write_text(f"Patient: {folder.name}\nType: {kind}\n\n{words}\n")
    return ingest(place / "files", into=place / "cohort")


@pytest.fixture(scope="module")
def run(cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return pretrain(Recipe.load("titan", SMALL), cohort, into=tmp_path_factory.mktemp("runs"))


def standard_of(run: Run) -> SlideFeaturesStandard:
    spec = run.recipe.encoders[Modality.SLIDE]
    assert isinstance(spec, Titan)
    return spec.standard()


def test_the_recipe_s_views_are_the_paper_s() -> None:
    recipe = Recipe.load("titan")
    grid = recipe.stages[0].objective
    assert grid.kind == "ibot"
    assert (grid.region, grid.smalls) == (16**2, 10)
    assert [share * 16**2 for share in (*grid.large, *grid.small)] == [14**2] * 2 + [6**2] * 2
    slide = recipe.encoders[Modality.SLIDE]
    assert (slide.width, slide.depth, slide.heads) == (768, 6, 12)
    assert isinstance(slide, Titan)
    assert 16 * slide.side_mm == pytest.approx(8192 * 0.5 / 1000)


def test_captions_and_reports_have_a_stage_each(cohort: Cohort) -> None:
    _, captions, reports = Recipe.load("titan").stages
    for stage, kind in ((captions, "note caption"), (reports, "report")):
        ((where, _),) = stage.told().values()
        assert {record.kind for record in cohort.records(where)} == {"SLIDE features", kind}


def test_files_become_slides_that_are_compared_with_notes(run: Run, cohort: Cohort) -> None:
    rows = run.metrics().to_pylist()
    asked = {(row["stage"], row["name"]) for row in rows if is_loss(row["name"])}
    notes = {"contrastive/slide-text", "caption/text"}
    for stage, names in {"grid": {"dino/slide", "ibot/slide"}, "captions": notes, "reports": notes}.items():
        assert {name for at, name in asked if at == stage} == names | {"loss"}
    vectors = embed(run, cohort, patients=[f"patient{n:02}" for n in range(PEOPLE)])
    assert set(vectors) == {Modality.SLIDE, Modality.TEXT}
    names, found = vectors[Modality.SLIDE]
    assert sorted(names) == [f"patient{n:02}" for n in range(PEOPLE)]
    assert found.shape == (PEOPLE, 16)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    # The same features at hand give the same vectors: at 40-fold and at the recipe's side alike.
    slides = [titan.Slide(*tiles(int(name[-2:])), side=SIDE, mpp=mpp) for name in names for mpp in (0.25, None)]
    again = titan.embed(run.model(), slides, standard_of(run))
    for copy in (again[::2], again[1::2]):
        torch.testing.assert_close(copy, torch.from_numpy(found), atol=1e-5, rtol=1e-4)


def test_a_grid_longer_than_any_of_training_is_read(run: Run) -> None:
    standard = standard_of(run)
    features, corners = tiles(1, 60, 40)
    slides = [titan.Slide(features, corners + shift, SIDE) for shift in (0, 333_333)]
    here, there = titan.embed(run.model(), slides, standard)
    assert here.isfinite().all()
    torch.testing.assert_close(here, there, atol=1e-4, rtol=1e-4)


def tissue(seed: int, side: int = 10) -> titan.Slide:
    """Six regions of four tissues: a tile's neighbours say what it is likely to be."""
    draw = np.random.default_rng(seed)
    corners = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2)
    nearest = np.linalg.norm(corners[:, None] - draw.random((6, 2)) * side, axis=2).argmin(1)
    of_tissue = np.random.default_rng(7).normal(size=(4, 16))
    features = of_tissue[draw.integers(4, size=6)][nearest] + draw.normal(size=(side**2, 16)) / 2
    return titan.Slide(features, corners * SIDE, SIDE)


@pytest.mark.slow
def test_tissue_teaches_itself() -> None:
    """The loss falls, once the centre, a running mean, has been found; until then DINO's rises."""
    spec = Titan(features=16, width=32, depth=2, heads=4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model(
            TwoTower(width=32, embedding=16, fusion=Late(style="mean")),
            {Modality.SLIDE: spec},
            phantom.fingerprint(),
            0,
        )
        ibot = Ibot(
            region=64,
            large=(49 / 64, 49 / 64),
            small=(9 / 64, 9 / 64),
            smalls=2,
            jitter=0.1,
            prototypes=32,
            width=32,
            momentum=0.996,
        )
        objective = ibot.build(model, {})
    learned = [p for p in (*model.parameters(), *objective.parameters()) if p.requires_grad]
    optimiser, steps, terms = torch.optim.AdamW(learned, lr=5e-3), 120, []
    for step in range(steps):
        batch = titan.batch_of([tissue(seed) for seed in range(step * 6 % 48, step * 6 % 48 + 6)], spec.standard())
        losses = objective(model, batch, torch.Generator().manual_seed(step))
        assert losses.total is not None
        losses.total.backward()
        optimiser.step()
        optimiser.zero_grad()
        objective.stepped(model, (step + 1) / steps)
        terms.append([float(losses.terms[name].detach()) for name in ("dino/slide", "ibot/slide")])
    settled, last = (np.mean(part, axis=0) for part in (terms[40:60], terms[-20:]))
    assert (last < 0.9 * settled).all()


def test_a_hidden_tile_does_not_tell_where_on_the_slide_it_lies() -> None:
    """Its place is added as every token's is: for this encoder, not at all."""
    spec = Titan(features=16, width=16, depth=0, heads=2)  # without a trunk nothing is left of the places
    model = build_model(
        TwoTower(width=16, embedding=8, fusion=Late(style="mean")), {Modality.SLIDE: spec}, phantom.fingerprint(), 0
    )
    objective = Ibot(large=(1, 1), smalls=0, prototypes=16, width=16, ratio=0.5).build(model, {})
    batch = titan.batch_of([tissue(0)], spec.standard())
    near = batch.payloads[Modality.SLIDE]
    assert near.places is not None
    far = replace(
        near, places=[4 * places for places in near.places]
    )  # a power of two, so that no tie is broken otherwise
    one, other = (
        objective(model, replace(batch, payloads={Modality.SLIDE: slides}), torch.Generator().manual_seed(0)).terms
        for slides in (near, far)
    )
    assert set(one) == {"dino/slide", "ibot/slide"}
    for name, term in one.items():
        torch.testing.assert_close(term, other[name])
