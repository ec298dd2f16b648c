"""Videos: tags, sound, subtitles and messages within the stream go; every picture is the same to the bit, at the same time."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from polyclinic import records
from polyclinic.records.deidentify import Report, open_key
from reading import load, only

TAGS = {
    "title": "Zebedee Quillon", "comment": "MRN55001 for Dr. Vandermeer", "artist": "Barnaby", "album": "Saint Elsewhere",
    "author": "Thistlewood",
    "location": "+37.7749-122.4194/", "description": "lap chole 2019-03-14", "synopsis": "Ottoline",
    "encoder": "Clementine", "copyright": "zq@example.org",
    "show": "S19-88123", "creation_time": "2019-03-14T10:15:30Z",
}  # fmt: skip
PLANTED = (
    "Zebedee", "Quillon", "MRN55001", "Vandermeer", "Barnaby", "Elsewhere", "Thistlewood", "37.7749", "2019-03-14", "Ottoline",
    "Clementine", "zq@example.org", "S19-88123", "x264 - core", "Lavc",
)  # fmt: skip
Look = Callable[[Iterable[str]], None]


def maker() -> Any:
    """The encoder of `tests/records/test_video.py`."""
    spec = importlib.util.spec_from_file_location("video_maker", Path(__file__).parents[1] / "test_video.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["video_maker"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "name", ["a.mp4", "b.mov", "c.mkv", "d.webm", "e.avi", "f.mpg", "g.ts", "h.wmv", "i.mkv", "j.avi"]
)
def test_nothing_but_the_pictures_comes_along(
    place: Path, clean: Callable[..., Report], none_left: Look, name: str
) -> None:
    made = maker()
    path = place / f"in/MRN55001_Zebedee_{name}"
    made.encode(path, made.CODECS[name], 20, sound=name[0] in "abc", tags=TAGS)
    if name.endswith(".mp4"):
        with path.open("ab") as file:  # a box of its own, as cameras write
            file.write((24).to_bytes(4, "big") + b"uuidZebedee Quillon 1")
    report = clean()
    none_left(PLANTED)
    (after,) = (p for p in (place / "out").iterdir() if not p.name.startswith("."))
    old, new = load(path), load(after)
    assert (old.array == new.array).all()
    assert old.places is not None
    assert new.places is not None
    assert np.abs(old.places - new.places).max() < 2e-3
    key = open_key(place / "key")
    assert only(after).patient == key.pseudonym("MRN55001")
    with av.open(str(after)) as container:
        assert len(container.streams) == 1
    assert any("burned in" in r.action for r in report.review)


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_when_it_was_made_moves(place: Path, clean: Callable[..., Report], ending: str) -> None:
    path = place / f"in/MRN55001_a.{ending}"
    maker().encode(path, "libx264", 10, tags=TAGS)
    clean()
    (after,) = (place / "out").glob(f"*.{ending}")
    days = open_key(place / "key").days("MRN55001")
    assert only(path).time == datetime(2019, 3, 14, 10, 15, 30)
    assert only(after).time == datetime(2019, 3, 14, 10, 15, 30) + timedelta(days=days)


def test_what_cannot_be_looked_into_is_set_aside(place: Path, clean: Callable[..., Report]) -> None:
    made = maker()
    made.encode(place / "in/a.mkv", "prores_ks", 5, pix_fmt="yuv422p10le")
    assert [a.found for a in clean(aside=True).aside] == ["a codec of which it is not known what it hides"]
    assert len(list(records.read(place / "in/a.mkv"))) == 1
