"""Features of a slide's tiles, as another program computed them: no more than `most`, each in its place in mm.

A file that says its µm a pixel, or at which magnification level 0 was scanned, places its tiles by it; of any other a tile is
taken to be as large as the recipe's, and marked `nominal`.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ..schema import Payload, Record, Step
from .fingerprint import Fingerprint
from .geometry import GridError
from .slide import nominal_mpp, spread


class SlideFeaturesStandard(BaseModel):
    """(n d) float32 of at most `most` tiles; where there are more, they are spread evenly, as `SlideStandard`'s.

    Args:
        features: d.
        side_mm: of a tile of a slide without a scale.
        most: tiles of a slide.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["slide"] = "slide"
    features: int = Field(default=768, ge=1)
    side_mm: float = Field(default=0.256, gt=0)
    most: int = Field(default=4096, ge=1)


def harmonise(payload: Payload, record: Record, standard: SlideFeaturesStandard, fingerprint: Fingerprint) -> Payload:
    """(n d) float32; `places` (n 4) the mm of the tiles' centres. `to_world` takes pixels of level 0 to mm.

    Raises:
        GridError: it is a slide of pixels, or has another number of features a tile.
    """
    if payload.array.ndim != 2:
        raise GridError(
            "a slide's pixels, where the encoder reads features of its tiles", "records of kind 'SLIDE features'",
            "choose them (`cohort.where: modality <> 'slide' or kind = 'SLIDE features'`), or use `kind: slide_vit`",
        )  # fmt: skip
    if payload.array.shape[1] != standard.features:
        raise GridError(
            f"{payload.array.shape[1]} features a tile", f"{standard.features}, as the recipe has them",
            f"set `encoders.slide.features={payload.array.shape[1]}`, or choose the files of one network",
        )  # fmt: skip
    told = payload.history[0].parameters
    corners, side = np.asarray(told["corners"], np.float64), float(str(told["side"]))
    mpp = nominal_mpp(record) if record.attributes.get("magnification") else 1000 * standard.side_mm / side
    to_world = np.diag([mpp / 1000] * 2 + [1.0, 1.0]) if payload.to_world is None else payload.to_world
    columns, rows = np.floor((corners - corners.min(0)) / side + 0.5).astype(np.int64).T
    taken = spread(columns, rows, standard.most) if len(rows) > standard.most else np.arange(len(rows))
    centres = np.concatenate([corners[taken] + side / 2 - 0.5, np.tile([0.0, 1.0], (len(taken), 1))], 1)
    places = np.zeros((len(taken), 4), np.float32)
    places[:, :2] = (centres @ to_world.T)[:, :2]
    history = (Step("tiles", payload.history[0].shape, payload.history[0].to_world, {"side": side}),)
    return Payload(payload.array[taken], to_world, history, payload.to_world is None, places=places)
