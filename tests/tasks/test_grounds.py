"""Parts of pictures and volumes: they tile them, lie where their names say, and are painted over one at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from polyclinic.schema import Batch, Modality, Ragged
from polyclinic.tasks import Claim, Thing
from polyclinic.tasks.grounds import BLOCKS, PARTS, alone, drawn_on, part_of, parts_of, region_of, without

IMAGE, VOLUME = Modality.IMAGE, Modality.VOLUME


@pytest.mark.parametrize(
    ("parts", "shape"), [(PARTS, (7, 5)), (PARTS, (24, 24)), (BLOCKS, (9, 5, 7)), (BLOCKS, (16, 8, 8))]
)
def test_the_parts_tile_it(parts: tuple[str, ...], shape: tuple[int, ...]) -> None:
    count = np.zeros(shape, int)
    for part in parts:
        count[region_of(part, shape)] += 1
    assert (count == 1).all()
    assert len(set(parts)) == len(parts)


def test_they_lie_where_their_names_say() -> None:
    """The standard grid's axes point to the head, the back and the left; a picture's down and to the right."""
    z, y, x = (np.indices((8, 8, 8)) < 4).astype(bool)
    for part in BLOCKS:
        level, side, depth = part.split()
        at = region_of(part, (8, 8, 8))
        assert z[at].all() == (level in ("lowest", "lower"))
        assert y[at].all() == (depth == "front")
        assert x[at].all() == (side == "right")
    starts = [region_of(f"{level} right front", (16, 4, 4))[0] for level in ("lowest", "lower", "upper", "uppermost")]
    assert [(s.start, s.stop) for s in starts] == [(0, 4), (4, 8), (8, 12), (12, 16)]
    assert part_of(PARTS.index("middle right"), (9, 4)) == (slice(3, 6), slice(2, 4))
    assert {drawn_on(p) for p in parts_of(IMAGE)} == {IMAGE}
    assert {drawn_on(p) for p in parts_of(VOLUME)} == {VOLUME}
    assert not set(PARTS) & set(BLOCKS)


def records(values: torch.Tensor, names: list[str]) -> Ragged:
    n = len(values)
    return Ragged(values, torch.zeros(n, dtype=torch.int64), torch.zeros(n), None, 1, names)


def test_only_that_part_of_that_record_is_painted_over() -> None:
    volumes = torch.arange(2 * 8 * 4 * 4.0).view(2, 1, 8, 4, 4)
    told = Batch(
        {VOLUME: records(volumes, ["before", "now"]), IMAGE: records(torch.rand(1, 3, 6, 4), ["photo"])}, {}, ["p"]
    )
    part = "upper left back"
    painted = without(told, 1, part).payloads[VOLUME].values
    at = region_of(part, (8, 4, 4))
    assert torch.equal(painted[0], volumes[0])
    assert bool((painted[1][(0, *at)] == volumes[1].mean()).all())
    rest = torch.ones(8, 4, 4, dtype=torch.bool)
    rest[at] = False
    assert torch.equal(painted[1][0][rest], volumes[1, 0][rest])
    assert torch.equal(told.payloads[VOLUME].values[1], volumes[1])  # the batch is as it was
    colours = without(told, 0, "upper left").payloads[IMAGE].values[0]
    torch.testing.assert_close(colours[:, 0, 0], told.payloads[IMAGE].values[0].mean((1, 2)))


def test_the_study_s_only_one_is_asked_about() -> None:
    every = Batch(
        {
            IMAGE: records(torch.zeros(3, 1, 2, 2), ["a", "b", "c"]),
            VOLUME: records(torch.zeros(2, 1, 2, 2, 2), ["v", "w"]),
        },
        {},
        ["p"],
    )
    own = lambda images, volumes: Batch(
        {m: every.payloads[m].only(rows) for m, rows in ((IMAGE, images), (VOLUME, volumes)) if rows}, {}, ["p"]
    )
    assert alone(own([2], [1]), every) == {IMAGE: 2, VOLUME: 1}
    assert alone(own([0, 2], [0]), every) == {VOLUME: 0}
    assert alone(own([], []), every) == {}


def test_slices_are_counted_from_one() -> None:
    claim = lambda place: Claim("There is a nodule.", {"nodule": "present"}, "lower right front", 1.0, (), place)
    assert claim(Thing("p", 1.0, (0.0, 0.0, 8.0), (4.0, 4.0, 16.0))).slices == (9, 16)
    assert claim(Thing("p", 1.0, (0.0, 0.0, 2.5), (4.0, 4.0, 5.0))).slices == (3, 5)
    assert claim(Thing("p", 1.0, (0.0, 0.0), (4.0, 4.0))).slices is None
    assert claim(None).slices is None
