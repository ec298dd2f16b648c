"""Features that another program computed of a slide's tiles, in HDF5: one SLIDE record of kind "SLIDE features" a file.

Formats: what CLAM (Lu et al. 2021) and TRIDENT (Zhang et al. 2025) write: `features` (n d) or (1 n d), and `coords` (n 2), the
tiles' upper left corners in pixels of level 0. A tile's side there is the attribute `patch_size_level0` of `coords` (TRIDENT), or
`patch_size` times `downsample` (CLAM's coordinates), or else the commonest distance between neighbours (CLAM's features, which have no
attributes). The decoding is `hdf5.py`'s. Tensors in `.pt` are pickles, and never opened.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

import numpy as np

from ..schema import Modality, Payload, Record, Rejected, Step
from . import apart, h5ad
from .slide import whose
from .source import RecordError, check_size, content_id, place_of

KIND = "SLIDE features"
_FOLDER = re.compile(r"(slide_)?features(_.*)?|h5_files|\d+(\.\d+)?x_\d+px.*", re.IGNORECASE)
"""CLAM's and TRIDENT's own folders, whose digits name no patient."""


def recognises(path: Path, head: bytes) -> bool:
    """Whether it is an HDF5 file with `features` or `coords` at its root."""
    if not head.startswith(h5ad.MAGIC) or path.suffix.lower() not in {".h5", ".hdf5"} or find_spec("h5py") is None:
        return False
    return _holds(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=4096)
def _holds(path: Path, changed: int) -> bool:
    try:
        with apart.decoded("hdf5", "holds_tiles", h5ad.checked(path)) as items:
            return next(items)
    except RecordError:
        return False  # what is wrong with it is for `h5ad` to say


def read(path: Path, root: Path) -> Iterator[Record | Rejected]:
    """One record; all of the features are read once: broken ones show themselves now."""
    with apart.decoded("hdf5", "tiles", h5ad.checked(path)) as items:
        about = next(items)
        check_size((about["n"], about["d"]), 4)
        for _ in items:
            pass
    place, stem = place_of(path, root), path.name.split(".")[0]
    folders = [f for f in PurePosixPath(place).parent.parts if not _FOLDER.fullmatch(f)]
    mpp = about["mpp"]
    yield Record(
        id=content_id(path),
        patient=whose("/".join([*folders, path.name]), stem),
        time=None,
        modality=Modality.SLIDE,
        kind=KIND,
        uri=place,
        attributes={
            "tiles": about["n"], "features": about["d"], "side_px": about["side"], "side_told": about["told"], "mpp": mpp,
            "magnification": about["magnification"], "stem": stem, "anonymous": True,
        },
    )  # fmt: skip


def load(record: Record) -> Payload:
    """array (n d) float32; to_world takes pixels of level 0 (x y z 1) to mm, None without a scale.

    Its one step has the tiles' upper left corners `corners` (n 2) and their `side`, both in pixels of level 0.
    """
    with apart.decoded("hdf5", "tiles", h5ad.checked(Path(record.uri))) as items:
        about, corners = next(items), next(items)
        check_size((about["n"], about["d"]), 4)
        array, filled = np.empty((about["n"], about["d"]), np.float32), 0
        for block in items:
            array[filled : filled + len(block)] = block
            filled += len(block)
    mm = about["mpp"] and about["mpp"] / 1000
    to_world = np.diag([mm, mm, 1.0, 1.0]) if mm else None
    rows = None if to_world is None else tuple(tuple(map(float, row)) for row in to_world)
    return Payload(array, to_world, (Step("tiles", (len(array),), rows, {"corners": corners, "side": about["side"]}),))
