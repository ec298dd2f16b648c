"""NIfTI volumes and masks (`nibabel`), in LPS mm as DICOM has it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..schema import MissingExtraError, Modality, Payload, Record, Rejected
from .source import RecordError, check_size, content_id

_MASK_FOLDERS = {"labels", "masks", "segmentations", "label", "mask", "seg", "labelstr", "labelsts"}
_MASK_SUFFIX = re.compile(r"_(seg|mask|label|segmentation)$", re.IGNORECASE)
_PLAIN_FOLDERS = {"images", "image", "data", "nifti", "volumes", "imagestr", "imagests", "mri", "mr", "ct"}
LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def recognises(path: Path, head: bytes) -> bool:
    """Whether it is named .nii or .nii.gz (a gzip does not show what it holds), or has the NIfTI-1 magic."""
    return path.name.lower().endswith((".nii", ".nii.gz")) or head[344:348] in (b"n+1\x00", b"n+2\x00")


def stem(path: Path) -> str:
    """The name without .nii(.gz) and without a mask's suffix: what an image and its mask share."""
    return _MASK_SUFFIX.sub("", re.sub(r"\.nii(\.gz)?$", "", path.name, flags=re.IGNORECASE))


def is_mask(path: Path) -> bool:
    """Whether the folder or the name says that it is a mask."""
    name = re.sub(r"\.nii(\.gz)?$", "", path.name, flags=re.IGNORECASE)
    return path.parent.name.lower() in _MASK_FOLDERS or bool(_MASK_SUFFIX.search(name))


def _open(path: Path) -> Any:
    try:
        import nibabel
    except ImportError as error:
        raise MissingExtraError("nibabel", "volumes") from error
    try:
        image: Any = nibabel.load(path)
    except Exception as error:
        raise RecordError(
            f"a NIfTI file that does not open ({type(error).__name__})", "a whole NIfTI-1 or -2 file", "copy it again"
        ) from error
    shape = tuple(int(n) for n in image.shape)
    if len(shape) == 4 and shape[3] == 1:
        shape = shape[:3]
    if len(shape) not in (3, 4):
        raise RecordError(f"an array of {len(shape)} dimensions", "a volume (x y z) or (x y z c)", "convert it")
    check_size(shape, 4)
    if not np.isfinite(image.affine).all() or abs(np.linalg.det(image.affine[:3, :3])) < 1e-9:
        raise RecordError("an affine that cannot be inverted", "a valid qform or sform", "repair the header")
    return image


def _body(path: Path, kind: str) -> str:
    folder = next((p for p in reversed(path.parent.parts) if p.lower() not in _MASK_FOLDERS | _PLAIN_FOLDERS), "")
    word = re.sub(r"[^a-z ]", " ", folder.lower()).strip()
    return f"{kind} {word}".strip()


def read(path: Path) -> Iterator[Record | Rejected]:
    """One record a file; `attributes["mask"]` tells a mask, which ingest links to its image by the stem."""
    image = _open(path)
    image.dataobj[
        tuple(slice(0, 1) for _ in image.shape)
    ]  # a truncated file shows itself here, or when its end is read
    _check_end(path, image)
    mask, name = is_mask(path), stem(path)
    spacing = [float(v) for v in np.linalg.norm(image.affine[:3, :3], axis=0)]
    words = {p.lower() for p in path.parent.parts}
    yield Record(
        id=content_id(path),
        patient=name,
        time=None,
        modality=Modality.VOLUME,
        kind=_body(path, "MASK" if mask else "CT" if "ct" in words else "MR" if words & {"mr", "mri", "neurology"} else "volume"),
        uri=str(path),
        attributes={
            "mask": mask, "stem": name,
            "spacing_x_mm": spacing[0], "spacing_y_mm": spacing[1], "spacing_z_mm": spacing[2],
            "columns": int(image.shape[0]), "rows": int(image.shape[1]), "slices": int(image.shape[2]),
        },
    )  # fmt: skip


def _check_end(path: Path, image: Any) -> None:
    """Read the last voxel: a file that was cut short has none."""
    try:
        np.asarray(image.dataobj[tuple(slice(n - 1, n) for n in image.shape)])
    except Exception as error:
        raise RecordError(
            "a NIfTI file that was cut short", "as many voxels as the header says", "copy it again"
        ) from error


def load(record: Record) -> Payload:
    """array (c z y x) float32, to_world (x y z 1) → mm in LPS (NIfTI's RAS with x and y turned)."""
    image = _open(Path(record.uri))
    try:
        data = np.asarray(image.dataobj, dtype=np.float32)
    except Exception as error:
        raise RecordError(
            "a NIfTI file that was cut short", "as many voxels as the header says", "copy it again"
        ) from error
    data = data[..., None] if data.ndim == 3 else data
    return Payload(
        np.ascontiguousarray(data.transpose(3, 2, 1, 0)), to_world=LPS_FROM_RAS @ np.asarray(image.affine, float)
    )
