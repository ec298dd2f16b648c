"""Reports of volumes whose truth is known: a sentence cites the slices in which the nodule lies, and where on them, on the file's grid."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

import polyclinic as pc
from corners import PLACES, RECIPE, WRITERS, words_of
from polyclinic.adaptation import open_adapted
from polyclinic.clinic import Desk
from polyclinic.inference import predict_files
from polyclinic.schema import Modality

SIZE, SPOT = 16, 4
ENCODER = (
    "volume: {kind: vit3d, size: [16, 16, 16], patch: [4, 4, 4], spacing_mm: [2, 2, 2], width: 32, depth: 2, heads: 2}"
)


def corner_of(place: str) -> tuple[int, int, int]:
    """The first voxel (i j k) of the spot, in a file whose axes point to the right, the front and the head."""
    side, level = place.split()
    return (10 if side == "right" else 3, 10, 12 if level == "upper" else 0)


def drawn(place: Path) -> Path:
    place.mkdir()
    random, names = np.random.default_rng(0), [p for p in PLACES if p]
    for number in range(96):
        where = names[number % 4]
        voxels = random.normal(60, 12, (SIZE,) * 3).astype(np.float32)
        at = tuple(slice(c, c + SPOT) for c in corner_of(where))
        voxels[at] += 250
        image = nibabel.Nifti1Image(voxels, np.diag([2.0, 2.0, 2.0, 1.0]))  # type: ignore[attr-defined]
        nibabel.save(image, place / f"V{number:03}.nii.gz")  # type: ignore[attr-defined]
        (place / f"V{number:03}_1.txt").write_text(
            f"Patient: V{number:03}\nType: radiology report\nLanguage: en\n\n{words_of(where)}"
        )
    return place


@pytest.mark.slow
def test_a_sentence_cites_slices_and_where_on_them(tmp_path: Path) -> None:
    folder = drawn(tmp_path / "volumes")
    cohort = pc.ingest(folder, tmp_path / "cohort")
    text = RECIPE.replace("WRITER", WRITERS["caption"]).replace("inputs: [image]", "inputs: [volume]")
    text = text.replace("modality in ('image', 'text')", "modality in ('volume', 'text')").replace(
        "steps: 260", "steps: 160"
    )
    lines = [f"  {ENCODER}" if line.strip().startswith("image:") else line for line in text.splitlines()]
    (tmp_path / "recipe.yaml").write_text("\n".join(lines))
    run = pc.pretrain(tmp_path / "recipe.yaml", cohort, into=tmp_path / "runs")
    adapted = pc.adapt(run, "report", method="probe", steps=0, cohort=cohort)
    opened, names, right = open_adapted(adapted), [p for p in PLACES if p], []
    for number in range(12):
        place = names[number % 4]
        answer = predict_files(opened, [folder / f"V{number:03}.nii.gz"])
        assert answer.used == (Modality.VOLUME,)
        first = answer.extra["claims"][0]
        if first.part is None:
            continue
        assert first.place is not None
        assert first.slices is not None
        corner = corner_of(place)
        overlaps = [
            low < c + SPOT and c < high for low, high, c in zip(first.place.low, first.place.high, corner, strict=True)
        ]
        _, side, depth = first.part.split()
        right.append(all(overlaps))
        assert not all(overlaps) or (side, depth) == (place.split()[0], "front")
        assert first.slices == (round(first.place.low[2]) + 1, round(first.place.high[2]))
        assert first.place.size_mm == pytest.approx((16.0, 16.0, 8.0))
        assert answer.overlay is not None
        assert answer.overlay.shape == (SIZE,) * 3
        marked = np.flatnonzero(answer.overlay.any((1, 2))) + 1
        assert set(range(first.slices[0], first.slices[1] + 1)) <= set(marked.tolist())
    assert len(right) >= 6
    assert np.mean(right) >= 0.8
    reply = Desk(adapted).answer([folder / "V000.nii.gz"])
    sentence = reply.sentences[0]
    if sentence.part is not None:
        assert sentence.slices is not None
        assert sentence.region is None
        assert reply.overlay
        assert reply.structures[0].unit == "sentences"
