"""Annotations: what was drawn stays to the bit and still finds its pictures; who drew it, when and where goes."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from polyclinic import records
from polyclinic.records.deidentify import Report, open_key
from polyclinic.schema import Record

PLANTED = (
    "Zebedee", "Quillon", "MRN55001", "MRN55002", "Vandermeer", "Barnaby", "Elsewhere", "Thistlewood", "2019-03-14", "2013-11-14",
    "Ottoline", "Clementine", "zq@example.org", "S19-88123", "/home/", "C:\\", "8847213", "943-47-8120",
)  # fmt: skip
Look = Callable[[Iterable[str]], None]
NAMES = ("MRN55001_Zebedee_1.png", "MRN55002_2.png")
OUTLINE = [[2.25, 3, 6, 3, 6, 8, 2, 8]]
WORDS = "polyp beside the fold, seen by Dr. Vandermeer at Saint Elsewhere"


def pictures(place: Path) -> None:
    for number, name in enumerate(NAMES):
        (place / "in/images").mkdir(exist_ok=True)
        Image.fromarray(np.full((24, 30), number, np.uint8)).save(place / "in/images" / name)


def coco() -> dict[str, Any]:
    drawn: dict[str, Any] = {
        "iscrowd": 0,
        "area": 20.5,
        "caption": WORDS,
        "annotator": "Barnaby",
        "attributes": {"by": "Clementine"},
    }
    return {
        "info": {"contributor": "Ottoline Thistlewood", "date_created": "2019-03-14", "url": "zq@example.org", "year": 2019},
        "licenses": [{"id": 1, "name": "Barnaby", "url": "http://elsewhere.org"}],
        "images": [
            {"id": 8847213 + n, "file_name": f"images/{name}", "width": 30, "height": 24, "date_captured": "2013-11-14 17:02:52",
             "coco_url": f"http://elsewhere.org/{name}", "flickr_url": "/home/barnaby", "license": 1} for n, name in enumerate(NAMES)
        ],
        "categories": [{"id": 5, "name": "nodule", "supercategory": "lesion"}, {"id": 2, "name": "mass", "note": "Zebedee"}],
        "annotations": [
            {"id": 943478120, "image_id": 8847213, "category_id": 5, "bbox": [2.25, 3, 4, 5], "segmentation": OUTLINE, **drawn},
            {"id": 2, "image_id": 8847214, "category_id": 2, "bbox": [25, 20, 10, 10],
             "segmentation": {"size": [24, 30], "counts": [48, 10, 662], "by": "Zebedee"}, **drawn},
            {"id": 3, "image_id": 8847214, "category_id": 2, "bbox": ["Zebedee", 1, 2, 3],
             "segmentation": {"size": [24, 30], "counts": "Zebedee"}},
        ],
    }  # fmt: skip


def drawn(path: Path, root: Path) -> dict[str, tuple[Any, Any]]:
    """What was drawn on each picture: kind and stem → numbers and names."""
    found = [item for item in records.read(path, root) if isinstance(item, Record)]
    assert found
    shown = {}
    for record in found:
        payload = records.load(record, root)
        shown[f"{record.attributes['annotation']} {record.attributes['stem']}"] = (
            payload.array.tolist(),
            payload.names,
        )
    return shown


def renamed(place: Path) -> dict[str, str]:
    """Stem of a picture → its new one, by the table beside the key."""
    rows = (line.split(",") for line in (place / "key.names.csv").read_text().splitlines()[1:])
    return {Path(old).stem: Path(new).stem for new, old in rows if old.endswith(".png")}


def same(place: Path, path: Path, after: Path) -> None:
    new_name, old, new = renamed(place), drawn(path, place / "in"), drawn(after, place / "out")
    assert {" ".join([k.split()[0], new_name[k.split()[1]]]): v for k, v in old.items()} == new


def test_coco(place: Path, clean: Callable[..., Report], none_left: Look) -> None:
    pictures(place)
    path = place / "in/instances_Zebedee.json"
    path.write_text(json.dumps(coco(), indent=1))
    report = clean()
    none_left(PLANTED)
    (after,) = (place / "out").glob("[!.]*.json")
    same(place, path, after)
    new, key = json.loads(after.read_text()), open_key(place / "key")
    assert [(place / "out" / i["file_name"]).is_file() for i in new["images"]] == [True, True]
    for image, who in zip(new["images"], ("MRN55001", "MRN55002"), strict=True):
        moved = datetime(2013, 11, 14, 17, 2, 52) + timedelta(days=key.days(who))
        assert image["date_captured"] == f"{moved:%Y-%m-%d %H:%M:%S}"
    assert new["annotations"][0]["segmentation"] == OUTLINE
    assert new["annotations"][0]["caption"].startswith("polyp beside the fold")
    assert "bbox" not in new["annotations"][2]
    assert {a["image_id"] for a in new["annotations"]} == {i["id"] for i in new["images"]}
    assert report.kinds == {"annotations of pictures": 1, "picture": 2}
    assert any(action.file == after.name for action in report.actions)


def test_what_may_be_a_name_is_listed(place: Path, clean: Callable[..., Report]) -> None:
    pictures(place)
    data = coco()
    data["annotations"][0]["caption"] = "fold after Quilonazole, no bleeding"
    (place / "in/a.json").write_text(json.dumps(data))
    (asked,) = (r for r in clean().review if r.action == "may be a name")
    assert asked.place == "annotations 0 caption characters 11–22"
    (after,) = (place / "out").glob("[!.]*.json")
    assert json.loads(after.read_text())["annotations"][0]["caption"][11:22] == "Quilonazole"


def test_labelme(place: Path, clean: Callable[..., Report], none_left: Look) -> None:
    pictures(place)
    (place / "in/json").mkdir()
    path = place / "in/json/MRN55001_Zebedee_1.json"
    shape = lambda label, kind, points: {
        "label": label, "shape_type": kind, "points": points, "group_id": None, "description": WORDS, "flags": {"Barnaby": True}
    }  # fmt: skip
    embedded = base64.b64encode((place / "in/images" / NAMES[0]).read_bytes() + b"Zebedee Quillon").decode()
    data = {
        "version": "5.4.1", "flags": {"Clementine": True}, "imagePath": f"..\\images\\{NAMES[0]}", "imageData": embedded,
        "imageHeight": 24, "imageWidth": 30, "annotator": "Ottoline Thistlewood", "lineColor": "/home/barnaby",
        "shapes": [shape("cup", "rectangle", [[6.5, 8], [2, 3]]),
                   shape("disc", "circle", [[15, 12], [15, 20]]), shape("tip", "point", [[4.5, 5]])],
    }  # fmt: skip
    path.write_text(json.dumps(data))
    clean()
    none_left([*PLANTED, embedded[:16]])
    (after,) = (place / "out").rglob("[!.]*.json")
    same(place, path, after)
    new = json.loads(after.read_text())
    assert (after.parent / new["imagePath"]).resolve().is_file()
    assert new["imageData"] is None
    assert after.stem == Path(new["imagePath"]).stem


VOC = """<?xml version="1.0"?><!-- by Barnaby --><annotation verified="Clementine"><folder>Zebedee</folder><filename>{name}</filename>
<path>C:\\scans\\Thistlewood\\{name}</path><source><database>Saint Elsewhere</database><annotation>Ottoline</annotation></source>
<owner><name>Barnaby</name></owner><size by="zq@example.org"><width>30</width><height>24</height><depth>1</depth></size>
<segmented>0</segmented>
<object>Zebedee<name>polyp</name><pose>Quillon</pose><truncated>0</truncated><difficult>8847213 x</difficult><note>S19-88123</note>
<bndbox>Zebedee<xmin>1</xmin><ymin>1.5</ymin><xmax>30</xmax><ymax>24</ymax></bndbox></object>Vandermeer</annotation>"""


def test_voc(place: Path, clean: Callable[..., Report], none_left: Look) -> None:
    pictures(place)
    path = place / "in/MRN55002_2.xml"
    path.write_text(VOC.format(name=NAMES[1]))
    clean()
    none_left(PLANTED)
    (after,) = (place / "out").glob("*.xml")
    same(place, path, after)
    assert after.stem == renamed(place)["MRN55002_2"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '{"images": [{"id": 1, "file_name": "Zebedee.png"}], "annotations": [], "categories": []}'),
        ("b.json", '{"images": [{"file_name": "Zebedee.png"'),
        ("c.xml", "<annotation><filename>Zebedee.png</filename></annotation>"),
        ("d.xml", '<!DOCTYPE a [<!ENTITY z "Zebedee">]><annotation><filename>&z;</filename></annotation>'),
    ],
)
def test_what_its_reader_refuses_is_set_aside(
    place: Path, clean: Callable[..., Report], none_left: Look, name: str, text: str
) -> None:
    (place / "in" / name).write_text(text)
    assert clean(aside=True).files == []
    none_left(PLANTED)
