"""NIfTI volumes and masks (`nibabel`), in LPS mm as DICOM has it.

A mask is told by its folder or its name, or else by its voxels: a map of regions beside its image may be called anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ..schema import MissingExtraError, Modality, Payload, Record, Rejected
from .grid import grid_of, is_label_map
from .naming import is_image, is_mask, patient_of, telling, without_form, without_mask
from .source import RecordError, check_size, content_id, place_of, quiet
from .synthetic import MARK, refuse

LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_LOOKED = 32
"""Slices by which it is told whether it is a label map."""
_ENDING = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)


def recognises(path: Path, head: bytes) -> bool:
    """Whether it is named .nii or .nii.gz (a gzip does not show what it holds), or has the magic of NIfTI-1 or -2."""
    return bool(_ENDING.search(path.name)) or head[344:348] == b"n+1\x00" or head[4:8] == b"n+2\x00"


@quiet("nibabel.global")
def _open(path: Path) -> Any:
    try:
        import nibabel
    except ImportError as error:
        raise MissingExtraError("nibabel", "volumes") from error
    try:
        if _ENDING.search(path.name):
            image: Any = nibabel.load(path)
        else:  # nibabel goes by the name
            with path.open("rb") as file:
                kind = nibabel.Nifti2Image if file.read(8)[4:] == b"n+2\x00" else nibabel.Nifti1Image
            image = kind.from_file_map({"image": nibabel.FileHolder(filename=str(path))})
    except Exception as error:
        raise RecordError(
            f"a NIfTI file that does not open ({type(error).__name__})", "a whole NIfTI-1 or -2 file", "copy it again"
        ) from error
    shape = tuple(int(n) for n in image.shape)
    if len(shape) not in (3, 4):
        raise RecordError(f"an array of {len(shape)} dimensions", "a volume (x y z) or (x y z c)", "convert it")
    if image.get_data_dtype().kind not in "iuf":
        raise RecordError(f"voxels of type {image.get_data_dtype()}", "whole or real numbers", "convert it")
    check_size(shape, 4)
    if not np.isfinite(image.affine).all() or abs(np.linalg.det(image.affine[:3, :3])) < 1e-9:
        raise RecordError("an affine that cannot be inverted", "a valid qform or sform", "repair the header")
    return image


def _kind(place: str, mask: bool) -> str:
    """`MR hippocampus`: what the folders say, nearest first."""
    words = {p.lower() for p in PurePosixPath(place).parent.parts}
    kind = "MASK" if mask else "CT" if "ct" in words else "MR" if words & {"mr", "mri", "neurology"} else "volume"
    folder = next((f for f in reversed(telling(place)) if not re.search(r"\d", f)), "")  # one with a digit names a case
    return f"{kind} {' '.join(re.findall('[a-z]+', folder.lower()))}".strip()


def _patient(place: str, stem: str) -> str:
    bids = re.match(r"sub-[A-Za-z0-9]+", stem)  # BIDS 1.10, entities: the first is the subject
    return bids[0] if bids else without_form(patient_of(place, stem) or stem)


def read(path: Path, root: Path) -> Iterator[Record | Rejected]:
    """One record a file; `attributes["mask"]` tells a mask, which the catalogue links to its image by the stem or by the grid."""
    image = _open(path)
    refuse("intent_name" in image.header and image.header["intent_name"].tobytes().startswith(MARK.encode()))
    step = max(int(image.shape[2]) // _LOOKED, 1)
    last = tuple(slice(n - 1, n) for n in image.shape[3:])
    # A file that was cut short has no last slice.
    some = _voxels(image, (slice(None), slice(None), slice((image.shape[2] - 1) % step, None, step), *last))
    place = place_of(path, root)
    mapped = not is_image(place) and len(image.shape) == 3 and is_label_map(some)
    mask, stem = is_mask(place) or mapped, without_mask(_ENDING.sub("", path.name))
    spacing = [float(v) for v in np.linalg.norm(image.affine[:3, :3], axis=0)]
    oriented = bool(_codes(image).any())
    yield Record(
        id=content_id(path, place if mask else ""),  # two images may have the same mask: none at all, say
        patient=_patient(place, stem),
        time=None,
        modality=Modality.VOLUME,
        kind=_kind(place, mask),
        uri=place,
        attributes={
            "mask": mask, "stem": stem, "anonymous": True, "oriented": oriented, "label_map": mapped,
            "spacing_x_mm": spacing[0], "spacing_y_mm": spacing[1], "spacing_z_mm": spacing[2],
            "columns": int(image.shape[0]), "rows": int(image.shape[1]), "slices": int(image.shape[2]),
            "grid": grid_of(image.shape[:3], LPS_FROM_RAS @ np.asarray(image.affine, float)) if oriented else None,
        },
    )  # fmt: skip


def _codes(image: Any) -> np.ndarray:
    """qform_code and sform_code; with both 0 the header does not say how the patient lay (NIfTI-1, method 1)."""
    names = ("qform_code", "sform_code")
    return np.array([int(image.header[n]) if n in image.header else 1 for n in names])


def _voxels(image: Any, part: tuple[slice, ...]) -> np.ndarray:
    try:
        return np.asarray(image.dataobj[part], dtype=np.float32)
    except Exception as error:
        raise RecordError(
            f"a NIfTI file that was cut short ({type(error).__name__})", "as many voxels as the header says", "copy it again"
        ) from error  # fmt: skip


def load(record: Record) -> Payload:
    """array (c z y x) float32, to_world (x y z 1) → mm in LPS (NIfTI's RAS with x and y turned)."""
    image = _open(Path(record.uri))
    data = _voxels(image, tuple(slice(None) for _ in image.shape))
    data = data[..., None] if data.ndim == 3 else data
    return Payload(
        np.ascontiguousarray(data.transpose(3, 2, 1, 0)), to_world=LPS_FROM_RAS @ np.asarray(image.affine, float)
    )
