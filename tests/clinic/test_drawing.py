"""Drawing what is shown, by real HTTP: masks lie where one pointed, and what is kept is little, short and said."""

from __future__ import annotations

import base64
import gzip
import json
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

import shown
from polyclinic.adaptation import AdaptError, adapt
from polyclinic.clinic import Desk, create_app, drawing
from polyclinic.clinic.drawing import Drawings, GoneError
from polyclinic.clinic.reply import NOTICE, Begun, Drawn, Shown
from polyclinic.inference import PromptError, Segmenter
from polyclinic.records import RecordError
from polyclinic.training import Run
from polyclinic.trust import evaluate
from polyclinic.trust.measures.prompted import overlap

Serve = Callable[..., Any]


def begin(url: str, *files: Path, **options: Any) -> httpx.Response:
    parts = [("files", (f.name, f.read_bytes())) for f in files]
    return httpx.post(f"{url}/segment/begin", files=parts, timeout=60, **options)


def ask(url: str, to: str = "/segment", **told: Any) -> httpx.Response:
    return httpx.post(f"{url}{to}", json=told, timeout=60)


def refused(response: httpx.Response, status: int = 422) -> dict[str, str]:
    assert response.status_code == status, response.text
    told = response.json()
    assert set(told) == {"found", "expected", "do"}
    assert all(told.values())
    return told


def middle(mask: np.ndarray) -> list[float]:
    """(x y …) of a mask (… y x)."""
    return [float(v.mean()) for v in np.nonzero(mask)][::-1]


def dice(one: np.ndarray, other: np.ndarray) -> float:
    import torch

    return overlap(torch.from_numpy(one > 0), torch.from_numpy(other > 0))


def picture(drawn: Drawn, number: int) -> np.ndarray:
    png = drawn.masks[number]
    assert png is not None
    return np.asarray(Image.open(BytesIO(base64.b64decode(png))))


@pytest.fixture
def ball(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """A volume that nobody was trained on, and its mask (z y x)."""
    values, mask = shown.volume(1000)
    return shown.write_volume(values, tmp_path / "new.nii.gz"), mask.transpose(2, 1, 0)


@pytest.fixture(scope="module")
def drawings(drawing_run: Run) -> Drawings:
    return Drawings(drawing_run)


# ---- answers


@pytest.mark.parametrize("label", [1, 2])
def test_the_disc_that_is_pointed_at_comes_back_as_a_picture(
    label: int, discs_url: str, drawing_run: Run, new: tuple[Path, np.ndarray]
) -> None:
    path, mask = new
    told = Begun.model_validate(begin(discs_url, path).raise_for_status().json())
    assert (told.view.file, len(told.view.slices), told.names, told.ways) == (path.name, 1, [], ["point", "box"])
    assert [(a.along, a.samples, a.reversed) for a in told.axes] == [("column", 80, False), ("row", 48, False)]
    x, y = middle(mask == label)
    answer = Drawn.model_validate(ask(discs_url, drawing=told.drawing, points=[[x, y]]).raise_for_status().json())
    expected = Segmenter(drawing_run).begin([path]).segment([(x, y)])
    assert expected.overlay is not None
    np.testing.assert_array_equal(picture(answer, 0), expected.overlay)  # the picture has a pixel a sample
    assert dice(picture(answer, 0), mask == label) > 0.8
    assert (answer.structure.size, answer.structure.unit) == (expected.overlay.sum(), "pixels")
    assert answer.area_cm2 is None, "the file has no scale"
    assert answer.notice == NOTICE
    y, x = np.nonzero(mask == label)
    corners = [[int(x.max()), int(y.min())], [int(x.min()), int(y.max())]]
    boxed = Drawn.model_validate(ask(discs_url, drawing=told.drawing, box=corners).raise_for_status().json())
    assert dice(picture(boxed, 0), mask == label) > 0.8


def test_a_place_in_a_turned_volume_with_oblong_voxels_is_where_its_pictures_show_it(
    balls_url: str, balls_run: Run, ball: tuple[Path, np.ndarray]
) -> None:
    path, mask = ball
    told = Begun.model_validate(begin(balls_url, path).raise_for_status().json())
    # From the header: the file's axes run to the back, to the head, and to the right; pictures to the left, the back and the head.
    assert [(a.along, a.samples, a.reversed) for a in told.axes] == [
        ("row", 40, False), ("slice", 28, False), ("column", 18, True),
    ]  # fmt: skip
    assert told.names == ["bright ball", "dim ball"]
    place = middle(mask == 1)
    answer = Drawn.model_validate(ask(balls_url, drawing=told.drawing, points=[place]).raise_for_status().json())
    expected = Segmenter(balls_run).begin([path]).segment([place])
    assert expected.overlay is not None
    assert dice(expected.overlay, mask == 1) > 0.5
    # Where `axes` say that a sample's middle lies in the pictures, it is coloured just where it is of the mask.
    planes: dict[int, np.ndarray] = {}
    found = np.zeros_like(expected.overlay)
    shown_as = {one.place: number for number, one in enumerate(told.view.slices)}
    for place in np.ndindex(*found.shape[::-1]):
        shares = {
            a.along: ((a.samples - 1 - n if a.reversed else n) + 0.5) / a.samples
            for a, n in zip(told.axes, place, strict=True)
        }
        number = shown_as[round(shares["slice"] * found.shape[1] + 0.5)]
        if answer.masks[number] is not None:
            plane = planes.setdefault(number, picture(answer, number))
            found[place[::-1]] = plane[int(shares["row"] * plane.shape[0]), int(shares["column"] * plane.shape[1])]
    np.testing.assert_array_equal(found, expected.overlay)
    assert answer.structure.size == pytest.approx(expected.overlay.sum() * 12 / 1000, abs=1e-3)
    assert answer.structure.unit == "mL"
    assert told.view.slices[answer.fullest].place - 1 == (expected.overlay > 0).sum((0, 2)).argmax()


def test_further_points_mend_and_leave_nothing_behind(discs_url: str, new: tuple[Path, np.ndarray]) -> None:
    path, mask = new
    told = begin(discs_url, path).json()
    first = middle(mask == 1)
    other = [first[0] + 5, first[1]]  # within the disc: as if only a part of it were meant
    alone = ask(discs_url, drawing=told["drawing"], points=[first]).json()
    mended = ask(discs_url, drawing=told["drawing"], points=[first], off=[other]).json()
    again = ask(discs_url, drawing=told["drawing"], points=[first]).json()
    assert (again["masks"], again["structure"]) == (alone["masks"], alone["structure"])
    assert mended["masks"] != alone["masks"]


def test_a_record_is_encoded_when_it_is_begun_and_never_again(
    drawings: Drawings, new: tuple[Path, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, mask = new
    encoded, whole = list[int](), drawings.segmenter.model.forward
    monkeypatch.setattr(drawings.segmenter.model, "forward", lambda *a, **k: (encoded.append(1), whole(*a, **k))[1])
    begun = drawings.begin([path])
    assert len(encoded) == 1
    path.unlink()  # an upload is gone by the time somebody points
    for label in (1, 2):
        drawings.draw(Shown(drawing=begun.drawing, points=[middle(mask == label)]))
    assert len(encoded) == 1


def test_the_file_lies_on_the_record_and_says_where_it_comes_from(
    balls_url: str, discs_url: str, balls_run: Run, ball: tuple[Path, np.ndarray], new: tuple[Path, np.ndarray], tmp_path: Path
) -> None:  # fmt: skip
    import nibabel

    path, mask = ball
    place = [round(v, 2) for v in middle(mask == 1)]
    prompt = {"drawing": begin(balls_url, path).json()["drawing"], "points": [place], "name": "bright ball"}
    response = ask(balls_url, "/segment/file", **prompt).raise_for_status()
    assert response.headers["content-disposition"] == 'attachment; filename="mask.nii.gz"'
    assert response.headers["cache-control"] == "no-store"
    assert gzip.decompress(response.content)[344:348] == b"n+1\x00"
    (tmp_path / "mask.nii.gz").write_bytes(response.content)
    file: Any = nibabel.load(tmp_path / "mask.nii.gz")  # pyright: ignore[reportPrivateImportUsage]
    assert np.allclose(file.affine, shown.AFFINE)
    session = Segmenter(balls_run).begin([path])
    expected = session.segment([place], name="bright ball").overlay
    assert expected is not None
    np.testing.assert_array_equal(np.asarray(file.dataobj), expected.transpose(2, 1, 0))
    (comment,) = file.header.extensions
    assert comment.get_code() == 6  # nifti1.h: NIFTI_ECODE_COMMENT
    told = json.loads(comment.get_content())
    assert told["shown"] == {"points": [place], "off": [], "box": None, "name": "bright ball"}
    assert (told["run"], told["record"], told["notice"]) == (balls_run.path.name, session.record.id, NOTICE)
    assert len(told["backbone"]) == len(told["objective"]) == 32

    path, mask = new
    prompt = {"drawing": begin(discs_url, path).json()["drawing"], "points": [middle(mask == 1)]}
    made = Image.open(BytesIO(ask(discs_url, "/segment/file", **prompt).raise_for_status().content))
    assert set(np.unique(np.asarray(made))) == {0, 255}
    assert made.size == (80, 48)
    assert json.loads(made.text["lineage"])["shown"]["points"] == [middle(mask == 1)]  # type: ignore[attr-defined]


def test_the_area_is_told_at_the_scale_of_a_file_that_has_one(
    drawings: Drawings, new: tuple[Path, np.ndarray], tmp_path: Path
) -> None:
    path, mask = new
    scaled = tmp_path / "scaled.png"
    Image.open(path).save(scaled, dpi=(254, 254))  # a tenth of a millimetre a pixel
    begun = drawings.begin([scaled])
    drawn = drawings.draw(Shown(drawing=begun.drawing, points=[middle(mask == 1)]))
    if begun.view.pixel_mm is None:
        assert drawn.area_cm2 is None
    else:
        assert drawn.area_cm2 == pytest.approx(drawn.structure.size * 0.01 / 100, rel=1e-2)


def test_how_well_it_draws_is_said_where_it_was_measured(
    drawing_run: Run, new: tuple[Path, np.ndarray], tmp_path: Path
) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(drawing_run.path, copy)
    before = Drawings(Run.open(copy)).begin([new[0]])
    assert "Nothing is known of how well it draws" in before.uncertainty
    assert before.evidence is None
    run = Run.open(copy)
    measured = evaluate(run, drawing_run.cohort(), draws=50)
    after = Drawings(run)
    begun = after.begin([new[0]])
    assert begun.evidence is not None
    assert begun.evidence.metric.value == measured.figure("dice_by_1_click").value
    n = measured.figure("dice_by_1_click").n
    assert f"On {n} patients the model never saw" in begun.uncertainty
    assert f"{measured.figure('dice_by_box').value:.2f} by a box" in begun.uncertainty
    assert after.described == (copy / "card.md").read_text()


# ---- refusals


@pytest.mark.parametrize(
    ("told", "found"),
    [
        ({}, "nothing that shows the structure"),
        ({"off": [[3, 3]]}, "points off a structure, and none on it"),
        ({"points": [[80, 3]]}, "the place 80, 3, outside of the record"),
        ({"points": [[-1, 3]]}, "outside of the record"),
        ({"box": [[0, 0], [90, 3]]}, "outside of the record"),
        ({"points": [[3, 3, 3]]}, "a place of 3 numbers"),
        ({"name": "left disc"}, "the name 'left disc'"),
    ],
)
def test_what_shows_nothing_is_refused_in_words(
    told: dict[str, Any], found: str, discs_url: str, new: tuple[Path, np.ndarray]
) -> None:
    drawing = begin(discs_url, new[0]).json()["drawing"]
    for to in ("/segment", "/segment/file"):
        assert found in refused(ask(discs_url, to, drawing=drawing, **told))["found"]
    assert ask(discs_url, drawing=drawing, points=[[3, 3]]).status_code == 200, "and it can be asked on"


def test_an_unknown_name_is_told_which_there_are(balls_url: str, ball: tuple[Path, np.ndarray]) -> None:
    told = refused(ask(balls_url, drawing=begin(balls_url, ball[0]).json()["drawing"], name="liver"))
    assert told["expected"] == "one of bright ball, dim ball"


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({"points": [[3]]}, "points.0"),
        ({"points": [["x", 3]]}, "points.0.0"),
        ({"points": 3}, "points"),
        ({"points": [[3, 3]] * 201}, "points"),
        ({"box": [[3, 3]]}, "box"),
        ({"name": 3}, "name"),
        ({"nme": "lung"}, "nme"),
    ],
)
def test_a_body_of_another_shape_is_refused_by_its_field(body: dict[str, Any], found: str, discs_url: str) -> None:
    told = refused(ask(discs_url, drawing="x", **body))
    assert told["found"].startswith(found)


def test_numbers_that_are_none_and_words_that_are_no_json_are_refused(discs_url: str) -> None:
    for body in ('{"drawing": "x", "points": [[NaN, 1]]}', '{"drawing": "x", "points": [[1e999, 1]]}', "{", "", "[]"):
        response = httpx.post(f"{discs_url}/segment", content=body, headers={"content-type": "application/json"})
        refused(response)


def test_it_is_guarded_as_the_rest_is(
    discs_url: str, new: tuple[Path, np.ndarray], serve_app: Serve, drawing_run: Run
) -> None:
    refused(begin(discs_url, new[0], headers={"origin": "https://example.org"}), 403)
    refused(httpx.post(f"{discs_url}/segment", json={}, headers={"host": "example.org"}), 421)
    refused(httpx.get(f"{discs_url}/segment"), 405)
    refused(httpx.post(f"{discs_url}/segment/begin", json={}))
    with serve_app(drawing_run, limit_mb=0.0005) as url:
        refused(begin(url, new[0]), 413)


def test_files_that_are_not_one_record_to_draw_on_are_refused(
    discs_url: str, new: tuple[Path, np.ndarray], ball: tuple[Path, np.ndarray], broken: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.png"
    Image.fromarray(shown.picture(1001)[0]).save(other)
    assert refused(begin(discs_url, new[0], other))["found"] == "2 images"
    assert "volume" in refused(begin(discs_url, ball[0]))["found"]
    assert f"{broken.name}: " in refused(begin(discs_url, broken))["found"]


def test_samples_that_are_no_numbers_are_refused(balls_run: Run, tmp_path: Path) -> None:
    values, _ = shown.volume(3)
    values[3, 3, 3] = np.nan
    with pytest.raises(RecordError, match="not numbers"):
        Drawings(balls_run).begin([shown.write_volume(values, tmp_path / "nan.nii.gz")])


# ---- what is kept


def test_a_drawing_is_forgotten_when_it_is_ended(discs_url: str, new: tuple[Path, np.ndarray]) -> None:
    drawing = begin(discs_url, new[0]).json()["drawing"]
    assert ask(discs_url, drawing=drawing, points=[[3, 3]]).status_code == 200
    assert ask(discs_url, "/segment/end", drawing=drawing).json() == {"ended": True}
    assert ask(discs_url, "/segment/end", drawing=drawing).json() == {"ended": False}
    for to in ("/segment", "/segment/file"):
        told = refused(ask(discs_url, to, drawing=drawing, points=[[3, 3]]), 410)
        assert told["do"] == "begin it again"
    refused(ask(discs_url, drawing="never", points=[[3, 3]]), 410)


def test_few_are_kept_and_the_one_asked_longest_ago_makes_room(
    drawing_run: Run, new: tuple[Path, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Drawings(drawing_run)
    names = [one.begin([new[0]]).drawing for _ in range(drawing.MOST_KEPT)]
    assert len(set(names)) == drawing.MOST_KEPT
    one.draw(Shown(drawing=names[0], points=[[3, 3]]))
    one.begin([new[0]])
    assert [one.has(name) for name in names] == [True, False, True, True]
    monkeypatch.setattr(drawing, "MOST_BYTES", 1)
    last = one.begin([new[0]]).drawing
    assert [one.has(name) for name in (*names, last)] == [False] * 4 + [True], "a large one is kept alone"
    with pytest.raises(GoneError):
        one.draw(Shown(drawing=names[0], points=[[3, 3]]))


def test_what_nobody_asks_for_a_while_is_forgotten_by_itself(
    drawing_run: Run, new: tuple[Path, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Drawings(drawing_run)
    monkeypatch.setattr(drawing, "KEPT_S", 1)
    name = one.begin([new[0]]).drawing
    for _ in range(500):
        if not one.has(name):
            break
        time.sleep(0.02)
    assert not one.has(name)


def test_a_refused_prompt_keeps_the_record(drawings: Drawings, new: tuple[Path, np.ndarray]) -> None:
    name = drawings.begin([new[0]]).drawing
    with pytest.raises(PromptError):
        drawings.draw(Shown(drawing=name))
    assert drawings.has(name)
    assert drawings.end(name)


# ---- which runs there are


def test_a_run_that_draws_is_served_beside_one_that_answers(
    drawing_run: Run, tiny_finding_run: Run, serve_app: Serve, new: tuple[Path, np.ndarray], note: Path
) -> None:
    with serve_app([tiny_finding_run, drawing_run]) as url:
        models = httpx.get(f"{url}/health").json()["models"]
        assert [(m["answers"], m["draws"]) for m in models] == [(True, None), (False, "image")]
        assert models[1]["method"] == "promptable"
        begin(url, new[0]).raise_for_status()  # one alone draws: it need not be named
        told = refused(begin(url, new[0], data={"run": tiny_finding_run.path.name}))
        assert told["found"] == f"no run {tiny_finding_run.path.name!r} that draws what it is shown"
        httpx.post(f"{url}/predict", files={"files": ("n.txt", note.read_bytes())}, timeout=60).raise_for_status()
        card = httpx.get(f"{url}/card", params={"run": drawing_run.path.name}).json()
        assert "Draws on a record the structure that it is shown" in card["markdown"]


def test_a_run_that_only_answers_is_not_asked_to_draw(finding_url: str, new: tuple[Path, np.ndarray]) -> None:
    assert httpx.get(f"{finding_url}/health").json()["model"]["draws"] is None
    assert "no run that draws" in refused(begin(finding_url, new[0]))["found"]


def test_a_run_that_does_neither_is_refused(tiny_run: Run) -> None:
    with pytest.raises(AdaptError, match="not adapted"):
        create_app(tiny_run)


def test_an_adapted_run_still_draws_what_its_backbone_learned(
    drawing_run: Run, new: tuple[Path, np.ndarray], serve_app: Serve
) -> None:
    adapted = adapt(drawing_run, "disc", "probe", steps=4, labels=4)
    desk, path = Desk(adapted), new[0]
    assert desk.card.draws == "image"
    assert desk.card.answers
    with serve_app(desk) as url:
        told = begin(url, path).raise_for_status().json()
        assert told["model"]["method"] == "promptable", "which is not the run that answers"
        place = middle(new[1] == 1)
        size = ask(url, drawing=told["drawing"], points=[place]).raise_for_status().json()["structure"]["size"]
    alone = Segmenter(drawing_run).begin([path]).segment([place])
    assert size == next(iter(alone.values.values()))
