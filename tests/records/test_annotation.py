from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import polyclinic
from polyclinic import records
from polyclinic.records import polygons
from polyclinic.schema import Modality, Payload, Record, Rejected

ROWS, COLUMNS = 24, 30


def coco(**more: Any) -> dict[str, Any]:
    """Two images of the first of which a box, a polygon and a run-length code were drawn; the second has nothing."""
    return {
        "info": {},
        "images": [{"id": i, "file_name": f"{n}.png", "width": COLUMNS, "height": ROWS} for i, n in ((7, "scan_a"), (9, "scan_b"))],
        "categories": [{"id": 5, "name": "nodule", "supercategory": "x"}, {"id": 2, "name": "mass"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 5, "bbox": [2, 3, 4, 5], "segmentation": [[2, 3, 6, 3, 6, 8, 2, 8]]},
            {"id": 2, "image_id": 7, "category_id": 2, "bbox": [25, 20, 10, 10],
             "segmentation": {"size": [ROWS, COLUMNS], "counts": [48, 10, 662]}},
        ],
    } | more  # fmt: skip


def read(path: Path, data: object) -> tuple[dict[str, Record], list[str]]:
    """The records by image and kind, and the reasons."""
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    items = list(records.read(path))
    taken = {f"{i.attributes['stem']} {i.attributes['annotation']}": i for i in items if isinstance(i, Record)}
    return taken, [i.found for i in items if isinstance(i, Rejected)]


def annotated(bbox: list[Any]) -> dict[str, Any]:
    return coco(annotations=[{"image_id": 7, "category_id": 5, "bbox": bbox}])


def test_coco_gives_boxes_and_a_mask_of_each_image(tmp_path: Path) -> None:
    found, reasons = read(tmp_path / "instances.json", coco())
    assert reasons == []
    assert set(found) == {"scan_a boxes", "scan_a mask", "scan_b boxes", "scan_b mask"}
    boxes = found["scan_a boxes"]
    assert (boxes.kind, boxes.modality, boxes.uri) == ("BOXES image", Modality.IMAGE, "instances.json#item=0")
    assert boxes.attributes["mask"] is True  # never a model's input
    payload = records.load(boxes, tmp_path)
    assert payload.array.tolist() == [[2, 3, 6, 8], [25, 20, 30, 24]]  # the second one cut at the image's edge
    assert payload.names == ("nodule", "mass")
    mask = records.load(found["scan_a mask"], tmp_path)
    assert mask.names == ("mass", "nodule")  # by the category's id
    expected = np.zeros((ROWS, COLUMNS))
    expected[3:8, 2:6] = 2
    expected[0:10, 2] = 1  # 48 zeros are two columns of 24; then ten ones, drawn on top
    assert np.array_equal(mask.array[0], expected)
    nothing = records.load(found["scan_b mask"], tmp_path)
    assert nothing.array.shape == (1, ROWS, COLUMNS)
    assert not nothing.array.any()
    assert records.load(found["scan_b boxes"], tmp_path).array.shape == (0, 4)


def test_keypoints_keep_their_visibility_and_their_names(tmp_path: Path) -> None:
    category = {"id": 1, "name": "hand", "keypoints": ["wrist", "tip"]}
    drawn = [
        {"image_id": 7, "category_id": 1, "keypoints": [1, 2, 2, 0, 0, 0]},
        {"image_id": 7, "category_id": 1, "keypoints": [1, 2, 2]},
    ]
    found, reasons = read(tmp_path / "a.json", coco(categories=[category], annotations=drawn))
    payload = records.load(found["scan_a keypoints"], tmp_path)
    assert payload.names == ("wrist", "tip")
    assert payload.array.tolist() == [[[1, 2, 2], [0, 0, 0]]]
    assert reasons == ["1 keypoints (item 1)"]


VOC = """<annotation><folder>f</folder><filename>{name}</filename><size><width>30</width><height>24</height><depth>1</depth></size>
<object><name>polyp</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>30</xmax><ymax>24</ymax></bndbox></object>
<object><name>polyp</name><bndbox><xmin>{xmin}</xmin><ymin>4</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"""


def test_voc_counts_pixels_from_one_and_the_last_one_in(tmp_path: Path) -> None:
    found, reasons = read(tmp_path / "a.xml", VOC.format(name="scan_a.jpg", xmin=5))
    assert reasons == []
    assert records.load(found["scan_a boxes"], tmp_path).array.tolist() == [[0, 0, 30, 24], [4, 3, 9, 9]]
    _, reasons = read(tmp_path / "b.xml", VOC.format(name="scan_a.jpg", xmin=10))
    assert reasons == ["a box without a size (item 1)"]


def test_labelme_gives_each_of_its_shapes(tmp_path: Path) -> None:
    shape = lambda label, kind, points: {"label": label, "shape_type": kind, "points": points}
    shapes = [
        shape("cup", "rectangle", [[6, 8], [2, 3]]), shape("tip", "point", [[4.5, 5]]), shape("disc", "circle", [[15, 12], [15, 20]]),
        shape("fovea", "point", [[7, 8]]), shape("x", "line", [[1, 1], [2, 2]]),
    ]  # fmt: skip
    data = {
        "version": "5.4.1",
        "shapes": shapes,
        "imagePath": "..\\images\\eye_1.png",
        "imageHeight": ROWS,
        "imageWidth": COLUMNS,
        "imageData": None,
    }
    found, reasons = read(tmp_path / "a.json", data)
    assert reasons == ["a shape that is none of polygon, rectangle, circle, point (item 4)"]
    assert records.load(found["eye_1 boxes"], tmp_path).array.tolist() == [[2, 3, 6, 8]]
    points = records.load(found["eye_1 keypoints"], tmp_path)
    assert (points.names, points.array.tolist()) == (("tip", "fovea"), [[[4.5, 5, 2], [7, 8, 2]]])
    centres = [(x + 0.5, y + 0.5) for x in range(COLUMNS) for y in range(ROWS)]
    disc = sum(math.hypot(x - 15, y - 12) < 8 for x, y in centres)
    assert records.load(found["eye_1 mask"], tmp_path).array.sum() == 2 * disc  # cup is 1, disc is 2


@pytest.mark.parametrize(
    ("bbox", "reason"),
    [
        ([2, 3, -4, 5], "a box without a size (item 0)"),
        ([2, 3, math.nan, 5], "a coordinate that is not finite (item 0)"),
        ([2, 3, math.inf, 5], "a coordinate that is not finite (item 0)"),
        ([2, 3, "wide", 5], "a coordinate that is no number (item 0)"),
        ([2, 3, 4], "a list of points that is none (item 0)"),
        ([2, 3, 4, 5, 6, 7, 8, 9], "a box of more than four numbers (item 0)"),
        ([40, 3, 4, 5], "a box outside its image (item 0)"),
    ],
    ids=str,
)
def test_a_box_that_is_none_is_set_aside_by_its_number(tmp_path: Path, bbox: list[Any], reason: str) -> None:
    assert read(tmp_path / "a.json", annotated(bbox)) == ({}, [reason])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"annotations": [{"image_id": 8, "category_id": 5, "bbox": [1, 1, 1, 1]}]}, "an annotation of an image or a category"),
        ({"annotations": [{"image_id": [7], "category_id": {}, "bbox": [1, 1, 1, 1]}]}, "an annotation of an image or a category"),
        ({"annotations": []}, "annotations without a shape"),
        ({"images": [{"id": 7, "file_name": "a.png", "width": 2**17, "height": 2**17}]}, "a header that promises 64.0 GiB"),
        ({"images": [{"id": 7, "width": 2, "height": 2}]}, "an image without a name or an id"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_refused(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    found, reasons = read(tmp_path / "a.json", coco(**change))
    assert not found
    assert reasons[0].startswith(reason)


@pytest.mark.parametrize("counts", [[48, 10, 661], [-1, 721], [2**40], "0000", "~~~", "oooooooooooooooooo"])
def test_runs_of_another_length_are_set_aside(tmp_path: Path, counts: Any) -> None:
    data = coco(
        annotations=[{"image_id": 7, "category_id": 5, "segmentation": {"size": [ROWS, COLUMNS], "counts": counts}}]
    )
    found, reasons = read(tmp_path / "a.json", data)
    assert not found
    assert reasons[0].endswith("(item 0)")


def test_an_entity_that_climbs_out_or_grows_is_refused(tmp_path: Path) -> None:
    climbing = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
    growing = '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]>'
    for entity in (climbing, growing):
        found, reasons = read(
            tmp_path / "a.xml", entity + VOC.format(name="&x;" if entity is climbing else "&b;", xmin=5)
        )
        assert not found
        assert reasons == ["XML that does not parse (EntitiesForbidden)"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(-5, 35), st.floats(-5, 30)), min_size=3, max_size=8))
def test_a_polygon_holds_the_pixels_whose_centres_are_inside(points: list[tuple[float, float]]) -> None:
    """The other way to say it: the winding of an odd number of turns, by crossings of a ray upwards, a pixel at a time."""
    found = polygons.polygon(np.array(points), (ROWS, COLUMNS))
    for row in range(0, ROWS, 3):
        for column in range(0, COLUMNS, 3):
            x, y = column + 0.5, row + 0.5
            inside = near = False
            for (x1, y1), (x2, y2) in zip(points, [*points[1:], points[0]], strict=True):
                if (x1 <= x) != (x2 <= x):
                    at = y1 + (x - x1) * (y2 - y1) / (x2 - x1)
                    inside ^= at > y
                length = math.hypot(x2 - x1, y2 - y1)
                t = min(max(((x - x1) * (x2 - x1) + (y - y1) * (y2 - y1)) / length**2, 0), 1) if length**2 else 0
                near |= math.hypot(x1 + t * (x2 - x1) - x, y1 + t * (y2 - y1) - y) < 1e-6
            assert near or found[row, column] == inside


def packed(counts: list[int]) -> str:
    """COCO's text form, written from its description."""
    out = ""
    for i, count in enumerate(counts):
        value, more = count - counts[i - 2] if i > 2 else count, True
        while more:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            out += chr(48 + (bits | (32 if more else 0)))
    return out


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 2**20), max_size=20))
def test_run_lengths_come_back(counts: list[int]) -> None:
    assert polygons.run_lengths(packed(counts)) == counts


def test_runs_go_down_the_columns() -> None:
    ones = np.zeros((5, 5), bool)
    ones[1:4, 1:4] = True
    counts = [6, 3, 2, 3, 2, 3, 6]
    assert np.array_equal(polygons.runs(counts, (5, 5)), ones)
    assert np.array_equal(polygons.runs(polygons.run_lengths(packed(counts)), (5, 5)), ones)


def test_ingested_with_its_images_it_is_linked_by_name(tmp_path: Path) -> None:
    (tmp_path / "data/images/patient1").mkdir(parents=True)
    for grey, name in enumerate(("scan_a", "scan_b")):
        Image.new("L", (COLUMNS, ROWS), grey).save(tmp_path / f"data/images/patient1/{name}.png")
    orphan = coco()
    orphan["images"].append({"id": 1, "file_name": "gone.png", "width": 3, "height": 3})
    (tmp_path / "data/instances.json").write_text(json.dumps(orphan))
    cohort = polyclinic.ingest(tmp_path / "data", into=tmp_path / "cohort")
    found = {r.id: r for r in cohort.records()}
    drawn = [r for r in found.values() if r.attributes.get("annotation")]
    assert len(drawn) == 4
    for record in drawn:
        image = found[str(record.attributes["mask_of"])]
        assert image.uri == f"images/patient1/{record.attributes['stem']}.png"
        assert record.patient == image.patient == "patient1"
    assert [r.found for r in cohort.rejected()] == ["a mask with no image"] * 2  # the boxes and the mask of gone.png
    assert isinstance(records.load(drawn[0], tmp_path / "data"), Payload)
