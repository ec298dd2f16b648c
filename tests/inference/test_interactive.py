"""Interactive segmentation on pictures whose truth is known: two discs, of which the one is meant that is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import polyclinic as pc
from polyclinic.adaptation import AdaptError
from polyclinic.cohort import Cohort
from polyclinic.inference import PromptError, Segmenter, segment
from polyclinic.inference.interactive import write_mask
from polyclinic.objectives import Prompt
from polyclinic.records import RecordError
from polyclinic.schema import Modality
from polyclinic.training import Run
from polyclinic.trust.measures.prompted import next_click, overlap, prompted, shown
from shown import TALL, WIDE, picture


def middle(mask: np.ndarray) -> tuple[float, float]:
    y, x = np.nonzero(mask)
    return float(x.mean()), float(y.mean())


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return overlap(torch.from_numpy(one > 0), torch.from_numpy(other > 0))


@pytest.fixture(scope="module")
def run(discs_run: Run) -> Run:
    return discs_run


@pytest.fixture(scope="module")
def cohort(run: Run) -> Cohort:
    return run.cohort()


@pytest.fixture(scope="module")
def segmenter(run: Run) -> Segmenter:
    return Segmenter(run)


@pytest.fixture
def new(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """A picture that nobody was trained on, and its mask."""
    image, mask = picture(1000)
    Image.fromarray(image).save(tmp_path / "new.png")
    return tmp_path / "new.png", mask


@pytest.mark.parametrize("label", [1, 2])
def test_the_disc_that_is_shown_is_drawn_on_the_picture_as_it_came(
    label: int, segmenter: Segmenter, new: tuple[Path, np.ndarray]
) -> None:
    path, mask = new
    meant, other = mask == label, mask == 3 - label
    session = segmenter.begin([path])
    y, x = np.nonzero(meant)
    by_point = session.segment([middle(meant)])
    by_box = session.segment(box=((x.min(), y.min()), (x.max(), y.max())))
    turned = session.segment(box=((x.max(), y.min()), (x.min(), y.max())))
    for answer in (by_point, by_box):
        assert answer.overlay is not None
        assert answer.overlay.shape == (TALL, WIDE)
        assert dice(answer.overlay, meant) > 0.8
        assert dice(answer.overlay, other) < 0.2
        assert answer.values == {"structure_pixels": int(answer.overlay.sum())}
        assert answer.used == (Modality.IMAGE,)
    assert turned.overlay is not None
    assert by_box.overlay is not None
    assert np.array_equal(turned.overlay, by_box.overlay)  # any two opposite corners are the box


def test_a_record_is_encoded_once(
    segmenter: Segmenter, new: tuple[Path, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, mask = new
    session, encoded = segmenter.begin([path]), list[int]()
    whole = segmenter.model.forward
    monkeypatch.setattr(segmenter.model, "forward", lambda *a, **k: (encoded.append(1), whole(*a, **k))[1])
    first = session.segment([middle(mask == 1)])
    second = session.segment([middle(mask == 2)])
    assert len(encoded) == 1
    again = segment(segmenter, [path], points=[middle(mask == 2)])
    assert second.overlay is not None
    assert again.overlay is not None
    assert first.overlay is not None
    assert np.array_equal(again.overlay, second.overlay)  # what was asked before leaves nothing behind
    assert not np.array_equal(first.overlay, second.overlay)


def test_how_well_it_draws_is_measured_by_each_way(run: Run, cohort: Cohort) -> None:
    evidence = pc.evaluate(run, cohort, draws=50)
    assert (evidence.task, evidence.kind, evidence.method) == ("disc", "segmentation", "promptable")
    names = [f.name for f in evidence.figures]
    ways = ("box", "1_click", "3_clicks", "5_clicks")
    assert names == [f"dice_by_{w}{s}" for w in ways for s in ("", "_left_disc", "_right_disc")]
    assert {f.n for f in evidence.figures} == {len(run.split.test)}
    assert evidence.figure("dice_by_box").value > 0.85
    assert evidence.figure("dice_by_1_click").value > 0.8
    assert evidence.figure("dice_by_5_clicks").value >= evidence.figure("dice_by_1_click").value - 0.02
    both = [evidence.figure(f"dice_by_box_{side}_disc").value for side in ("left", "right")]
    assert evidence.figure("dice_by_box").value == pytest.approx(np.mean(both))
    card = (run.path / "card.md").read_text()
    assert "draws the structure that it is shown by points or a box" in card
    assert "dice by box" in card


def test_the_measure_is_of_the_truth(segmenter: Segmenter, new: tuple[Path, np.ndarray]) -> None:
    """Asked for what is not there the same run does badly: the figure can fall."""
    session = segmenter.begin([new[0]])
    size = session.payload.array.shape[-2:]
    corner = torch.zeros(size, dtype=torch.bool)
    corner[: size[0] // 6, : size[1] // 6] = True
    assert shown(session, corner, None)["1_click"] < 0.5


def test_the_next_click_is_where_most_is_wrong() -> None:
    meant = torch.zeros(9, 12, dtype=torch.bool)
    meant[2:7, 1:6] = True
    first, on = next_click(torch.zeros_like(meant), meant)
    assert (first.tolist(), on) == ([4.0, 3.0], True)  # the innermost sample of a square
    much = meant.clone()
    much[1:8, 8:12] = True  # drawn beside it, and larger than what is missing
    much[2:7, 1] = False
    point, on = next_click(much, meant)
    assert not on
    assert much[tuple(point.long())]
    assert not meant[tuple(point.long())]
    with pytest.raises(ValueError, match="without an error"):
        next_click(meant, meant)


def test_a_ring_is_clicked_on_and_not_in_its_hole() -> None:
    y, x = np.mgrid[:15, :15]
    far = torch.from_numpy(np.hypot(y - 7, x - 7))
    ring = (far < 7) & (far > 4)
    point, on = next_click(torch.zeros_like(ring), ring)
    assert on
    assert bool(ring[tuple(point.long())])


@pytest.mark.parametrize(
    ("told", "found"),
    [
        ({}, "nothing that shows"),
        ({"off": [(3, 3)]}, "points off a structure"),
        ({"points": [(3, 3, 3)]}, "a place of 3 numbers"),
        ({"points": [(WIDE, 3)]}, "outside of the record"),
        ({"points": [(-1, 3)]}, "outside of the record"),
        ({"name": "left disc"}, "the name 'left disc'"),
    ],
)
def test_what_shows_nothing_is_refused(
    told: dict[str, Any], found: str, segmenter: Segmenter, new: tuple[Path, np.ndarray]
) -> None:
    with pytest.raises(PromptError) as error:
        segmenter.begin([new[0]]).segment(**told)
    assert found in error.value.found
    assert error.value.expected
    assert error.value.remedy


def test_one_record_is_drawn_on(
    segmenter: Segmenter, new: tuple[Path, np.ndarray], tmp_path: Path, tiny_run: Run
) -> None:
    other = tmp_path / "other.png"
    Image.fromarray(picture(1001)[0]).save(other)
    with pytest.raises(RecordError, match="2 images"):
        segmenter.begin([new[0], other])
    with pytest.raises(AdaptError, match="did not learn to draw"):
        Segmenter(tiny_run)


def test_a_mask_as_a_file_lies_on_the_picture(
    segmenter: Segmenter, new: tuple[Path, np.ndarray], tmp_path: Path
) -> None:
    path, mask = new
    answer = segment(segmenter, [path], points=[middle(mask == 1)])
    write_mask(answer, tmp_path / "out/mask.png")
    with Image.open(tmp_path / "out/mask.png") as file:
        back = np.asarray(file)
    assert np.array_equal(back == 255, answer.overlay == 1)
    assert set(np.unique(back)) == {0, 255}
    with pytest.raises(PromptError, match=r"mask\.nii"):
        write_mask(answer, tmp_path / "mask.nii.gz")


def test_the_command(run: Run, new: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from polyclinic.cli import app

    path, mask = new
    x, y = middle(mask == 2)
    told = ["segment", str(run.path), str(path), "--point", f"{x:.0f},{y:.0f}", "--into", str(tmp_path / "m.png")]
    done = CliRunner().invoke(app, [*told, "--overlay", str(tmp_path / "o.png"), "--json"])
    assert done.exit_code == 0, done.output
    with Image.open(tmp_path / "m.png") as file:
        assert dice(np.asarray(file), mask == 2) > 0.8
    with Image.open(tmp_path / "o.png") as file:
        seen = np.asarray(file.convert("RGB")).astype(int)
    assert (np.ptp(seen, axis=2) > 20).any()  # in colour where it was drawn
    wrong = CliRunner().invoke(app, ["segment", str(run.path), str(path), "--point", "here"])
    assert wrong.exit_code == 2
    assert "is not numbers" in wrong.output


BALLS = """
name: balls
cohort: {where: "modality = 'volume'", split: {by: patient, test: 0.25, seed: 0}}
encoders:
  volume: {kind: vit3d, size: SIZE, patch: [4, 4, 4], spacing_mm: [2, 2, 2], width: 32, depth: 1, heads: 2, WHOLE}
model: {kind: unified, width: 32, embedding: 32, fusion: {kind: intermediate, style: self_attention, depth: 1, heads: 2}}
tasks:
  ball: {kind: segmentation, structure: balls, classes: [ball], inputs: [volume]}
stages:
  - {name: show, steps: 60, batch: 8, lr: 4.0e-3, warmup: 10, objective: {kind: promptable, tasks: [ball], channels: 8}}
precision: fp32
"""


@pytest.mark.parametrize("whole", [False, True], ids=["at once", "a box at a time"])
def test_a_volume_is_drawn_on_where_it_lies(whole: bool, tmp_path: Path) -> None:
    """A turned volume with other spacings than the network's; read at once, and where the network sees a box at a time."""
    nibabel = pytest.importorskip("nibabel")
    affine = np.array([[0, 0, 3.0, -20], [-2.0, 0, 0, 35], [0, 2.0, 0, -9], [0, 0, 0, 1]])
    shape = (40, 28, 18)
    for folder in ("images/balls", "masks/balls"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1) * [2, 2, 3]
    for number in range(24):
        draws = np.random.default_rng(number)
        at = draws.uniform([18, 18, 18], [62, 38, 36])
        ball = ((places - at) ** 2).sum(-1) < 11**2
        noise = draws.normal(0, 6, shape)
        for folder, values in (("images", 40 + 160 * ball + noise), ("masks", ball)):
            kind = np.float32 if folder == "images" else np.uint8
            nibabel.save(
                nibabel.Nifti1Image(values.astype(kind), affine), tmp_path / f"data/{folder}/balls/B{number:02}.nii.gz"
            )
    cohort = pc.ingest(tmp_path / "data", tmp_path / "cohort")
    text = BALLS.replace("SIZE", "[20, 20, 24]" if whole else "[28, 40, 28]").replace(
        "WHOLE", f"whole: {str(whole).lower()}"
    )
    (tmp_path / "recipe.yaml").write_text(text)
    run = pc.pretrain(tmp_path / "recipe.yaml", cohort, into=tmp_path / "runs")
    path = tmp_path / "data/images/balls/B03.nii.gz"
    truth = np.asarray(nibabel.load(tmp_path / "data/masks/balls/B03.nii.gz").dataobj)
    x, y, z = (float(v.mean()) for v in np.nonzero(truth))
    answer = segment(run, [path], points=[(x, y, z)])
    assert answer.overlay is not None
    assert dice(answer.overlay.transpose(2, 1, 0), truth) > 0.6
    (size,) = answer.values.values()
    assert size == pytest.approx(answer.overlay.sum() * 12 / 1000, abs=1e-3)
    write_mask(answer, tmp_path / "mask.nii.gz")
    back = nibabel.load(tmp_path / "mask.nii.gz")
    assert np.allclose(back.affine, affine)
    assert np.array_equal(np.asarray(back.dataobj), answer.overlay.transpose(2, 1, 0))
    session = Segmenter(run).begin([path])
    if whole:
        chance = session.chance(
            Prompt(points=torch.tensor([[4.0, 4.0, 4.0]]), on=torch.tensor([True])), torch.tensor([4.0, 4, 4])
        )
        reach = torch.nonzero(chance)
        extent = (reach.max(0).values - reach.min(0).values + 1).tolist()
        assert all(e <= box for e, box in zip(extent, (20, 20, 24), strict=True))  # nothing is said beyond the box
        assert any(n > box for n, box in zip(chance.shape, (20, 20, 24), strict=True))
    (found,) = prompted(run, cohort, draws=20)
    assert found.figure("dice_by_1_click").value > 0.5
