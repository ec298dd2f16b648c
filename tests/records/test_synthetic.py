"""What says that a model made it is set aside; what merely is a picture or a volume is read."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image, PngImagePlugin

from polyclinic.cohort import ingest
from polyclinic.records.synthetic import MARK


def test_marked_files_are_set_aside_and_their_neighbours_are_not(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    marked, other = PngImagePlugin.PngInfo(), PngImagePlugin.PngInfo()
    marked.add_text(MARK, "made")
    other.add_text("Comment", "SYNTHETIC fibre in a plain film")  # a word in a comment is no mark
    picture = Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64).astype(np.uint8))
    picture.save(tmp_path / "in/P01.png", pnginfo=marked)
    picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(tmp_path / "in/P02.png", pnginfo=other)
    for number, intent in ((3, MARK), (4, "")):
        image = nib.Nifti1Image(np.random.default_rng(number).normal(size=(8, 8, 8)).astype(np.float32), np.eye(4))  # pyright: ignore[reportPrivateImportUsage]
        image.header["intent_name"] = intent
        nib.save(image, tmp_path / f"in/P0{number}.nii.gz")  # pyright: ignore[reportPrivateImportUsage]
    found = ingest(tmp_path / "in", tmp_path / "cohort")
    assert {r.patient for r in found.records()} == {"P02", "P04"}
    words = "a record that a model made (its header says SYNTHETIC)"
    assert {r.uri: r.found for r in found.rejected()} == {"P01.png": words, "P03.nii.gz": words}
