"""Heads of which each has an MR and a CT, for what is made of one from the other: a bright box in one of eight corners."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

SIDE = 16
RECIPE = f"""
name: heads
cohort: {{split: {{by: patient, test: 0.4, seed: 0}}}}
encoders:
  volume: {{kind: vit3d, size: [{SIDE}, {SIDE}, {SIDE}], spacing_mm: [2, 2, 2], patch: [8, 8, 8], width: 16, depth: 1, heads: 2}}
model: {{kind: unified, width: 16, embedding: 16, fusion: {{kind: late}}}}
tasks:
  box: {{kind: segmentation, structure: MASK, classes: [box], inputs: [volume]}}
  left: {{kind: classification, column: left, positive: [Y], negative: [N], inputs: [volume]}}
stages:
  - name: make
    steps: 40
    batch: 8
    lr: 3.0e-3
    objective:
      kind: hybrid
      parts:
        - {{kind: translation, target: volume, target_kind: CT, source_kind: MR, width: 16, depth: 1, heads: 2}}
        - {{kind: latent_diffusion, target: volume, target_kind: CT, source_kind: MR, channels: 4, width: 16, depth: 1, heads: 2}}
precision: fp32
"""


def write_heads(place: Path, patients: int) -> None:
    """A folder each: `mr/images`, `ct/images` in HU, and `ct/labels` of where the box is; a table of its side."""
    rows = ["patient_id,left"]
    for number in range(patients):
        random = np.random.default_rng(number)
        z, y, x = (slice(8 * k, 8 * k + 8) for k in random.integers(0, 2, 3))
        box = np.zeros((SIDE,) * 3)
        box[z, y, x] = 1
        rows.append(f"case_{number:02},{'Y' if x.start == 0 else 'N'}")
        mr = box + 0.1 * random.normal(size=box.shape)
        ct = -200 + 600 * box + 20 * random.normal(size=box.shape)
        for name, array in (
            ("mr/images/mr", mr.astype(np.float32)),
            ("ct/images/ct", ct.round().astype(np.int16)),
            ("ct/labels/ct", box.astype(np.uint8)),
        ):
            path = place / f"case_{number:02}" / f"{name}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array.transpose(), np.diag([-2.0, -2, 2, 1])), path)  # pyright: ignore[reportPrivateImportUsage]
    (place / "sides.csv").write_text("\n".join(rows) + "\n")
