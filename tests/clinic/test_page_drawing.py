"""Drawing in the page, in a real headless Chromium: marks land where a person clicks, and the mask is drawn there."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import shown
from polyclinic.adaptation import adapt
from polyclinic.clinic import Desk
from polyclinic.clinic.drawing import Drawings
from polyclinic.clinic.reply import Drawn, Shown
from polyclinic.inference import Segmenter
from polyclinic.training import Run

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.browser
expect = sync_api.expect
ORANGE = """() => {
  const canvas = document.querySelector("#picture"), { width, height } = canvas;
  const pen = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  pen.drawImage(canvas, 0, 0);
  const { data } = pen.getImageData(0, 0, width, height);
  let count = 0, x = 0, y = 0;
  for (let i = 0; i < data.length; i += 4)
    if (data[i] - data[i + 2] > 30) { count += 1; x += (i / 4) % width; y += Math.floor(i / 4 / width); }
  return { share: count / width / height, u: x / count / width, v: y / count / height };
}"""
"""What is coloured of the picture, and its middle, as shares."""
Prompts = list[dict[str, Any]]


@pytest.fixture
def ball(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """A volume and its mask (x y z of the file)."""
    values, mask = shown.volume(1000)
    return shown.write_volume(values, tmp_path / "new.nii.gz"), mask


def opened(open_page: Callable[..., Any], url: str, path: Path, **options: Any) -> tuple[Any, Prompts]:
    """The page with a record to draw on, and the prompts that it will send."""
    page, sent = open_page(url, **options), Prompts()
    page.on("request", lambda r: sent.append(json.loads(r.post_data)) if r.url.endswith("/segment") else None)
    page.locator("#files").set_input_files(path)
    expect(page.locator("#drawing")).to_be_visible()
    expect(page.locator("#picture")).to_have_attribute(
        "data-slice", r"0" if path.suffix == ".png" else str(shown.SHAPE[1] // 2)
    )
    return page, sent


def at(page: Any, u: float, v: float) -> tuple[float, float]:
    """A place of the picture on the screen, given as shares."""
    page.evaluate("document.querySelector('#picture').scrollIntoView({ block: 'center' })")
    box = page.locator("#picture").bounding_box()
    return box["x"] + u * box["width"], box["y"] + v * box["height"]


def share(mask: np.ndarray) -> tuple[float, float]:
    """Of a picture's width and height, where the middle of a mask (y x) lies."""
    y, x = np.nonzero(mask)
    return (float(x.mean()) + 0.5) / mask.shape[1], (float(y.mean()) + 0.5) / mask.shape[0]


def wait_drawn(page: Any, words: str) -> None:
    expect(page.locator("#waiting")).to_be_hidden()
    expect(page.locator("#drawn")).to_contain_text(words)


@pytest.mark.parametrize("width", [1280, 390], ids=["desktop", "telephone"])
def test_what_is_clicked_is_drawn_there_and_mended_and_undone(
    width: int, open_page: Callable[..., Any], discs_url: str, new: tuple[Path, np.ndarray], tmp_path: Path
) -> None:
    path, mask = new
    page, sent = opened(open_page, discs_url, path, viewport={"width": width, "height": 1000})
    expect(page.locator("#drawn")).to_have_text("Nothing is shown yet.")
    expect(page.locator("#save")).to_be_disabled()
    u, v = share(mask == 1)
    page.mouse.click(*at(page, u, v))
    wait_drawn(page, "structure: ")
    expect(page.locator("#headline")).to_contain_text("pixels")
    ((x, y),) = sent[-1]["points"]
    assert (x, y) == pytest.approx(
        (u * 80 - 0.5, v * 48 - 0.5), abs=0.5
    )  # in the file's samples, whatever the size on the screen
    found = page.evaluate(ORANGE)
    assert (found["u"], found["v"]) == pytest.approx((u, v), abs=0.05)
    assert found["share"] == pytest.approx((mask == 1).mean(), rel=0.4)
    # A point beside it, by the right button and by Shift; a click keeps its kind whatever comes after.
    page.mouse.click(*at(page, *share(mask == 2)), button="right")
    expect(page.locator("#marks li")).to_have_count(2)
    wait_drawn(page, "structure: ")
    page.keyboard.down("Shift")
    page.mouse.click(*at(page, 0.5, 0.95))
    page.keyboard.up("Shift")
    expect(page.locator("#marks li")).to_have_text(["+on it", "−beside it", "−beside it"])
    wait_drawn(page, "structure: ")
    assert (len(sent[-1]["points"]), len(sent[-1]["off"])) == (1, 2)
    # Saved: the mask that is seen.
    with page.expect_download() as download:
        page.locator("#save").click()
    assert download.value.suggested_filename == "new-structure.mask.png"
    download.value.save_as(tmp_path / "mask.png")
    saved = np.asarray(Image.open(tmp_path / "mask.png"))
    assert f"structure: {(saved > 0).sum()} pixels" in page.locator("#drawn").inner_text()
    page.locator("#undo").click()
    expect(page.locator("#marks li")).to_have_count(2)
    page.locator("#clear-marks").click()
    expect(page.locator("#drawn")).to_have_text("Nothing is shown yet.")
    assert page.evaluate(ORANGE)["share"] == 0
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_a_box_is_dragged(open_page: Callable[..., Any], discs_url: str, new: tuple[Path, np.ndarray]) -> None:
    path, mask = new
    page, sent = opened(open_page, discs_url, path)
    y, x = np.nonzero(mask == 2)
    page.mouse.move(*at(page, x.max() / 80 + 0.01, y.min() / 48))
    page.mouse.down()
    page.mouse.move(*at(page, 0.6, 0.5))
    page.mouse.move(*at(page, x.min() / 80, y.max() / 48 + 0.02))
    page.mouse.up()
    wait_drawn(page, "structure: ")
    low, high = sent[-1]["box"]
    assert (*low, *high) == pytest.approx((x.min(), y.min(), x.max(), y.max()), abs=1.1)
    found = page.evaluate(ORANGE)
    assert (found["u"], found["v"]) == pytest.approx(share(mask == 2), abs=0.06)


def test_clicks_on_a_turned_volume_land_on_its_own_voxels(
    open_page: Callable[..., Any], balls_url: str, balls_run: Run, ball: tuple[Path, np.ndarray]
) -> None:
    """Pictures run to patient's left, to the back and to the head; the file's axes to the back, to the head and to the right."""
    path, mask = ball
    page, sent = opened(open_page, balls_url, path)
    x, y, z = (float(n.mean()) for n in np.nonzero(mask == 1))
    page.locator("#slice").fill(str(round(y)))  # the file's second axis runs to the head
    expect(page.locator("#picture")).to_have_attribute("data-slice", str(round(y)))
    u, v = (shown.SHAPE[2] - 1 - z + 0.5) / shown.SHAPE[2], (x + 0.5) / shown.SHAPE[0]
    page.mouse.click(*at(page, u, v))
    wait_drawn(page, "mL")
    (point,) = sent[-1]["points"]
    assert point == pytest.approx([x, round(y), z], abs=0.3)
    drawn = Segmenter(balls_run).begin([path]).segment([point]).overlay
    assert drawn is not None
    across, down = np.nonzero(drawn[:, round(y)])  # z and x of the file
    seen = (shown.SHAPE[2] - 0.5 - across.mean()) / shown.SHAPE[2], (down.mean() + 0.5) / shown.SHAPE[0]
    found = page.evaluate(ORANGE)
    assert (found["u"], found["v"]) == pytest.approx(seen, abs=0.03)
    expect(page.locator("#marks li")).to_have_text(f"+on it, slice {round(y) + 1}")
    # Another slice, and back by the mark. The wheel goes through the slices.
    page.locator("#picture").hover()
    page.mouse.wheel(0, 100)
    expect(page.locator("#picture")).to_have_attribute("data-slice", str(round(y) - 1))
    page.locator("#marks button").click()
    expect(page.locator("#picture")).to_have_attribute("data-slice", str(round(y)))
    # A box of two slices: dragged on one, it reaches to another.
    page.locator("#clear-marks").click()
    page.get_by_role("radio", name="Box around it").check()
    page.mouse.move(*at(page, u - 0.2, v - 0.2))
    page.mouse.down()
    page.mouse.move(*at(page, u, v))
    page.mouse.move(*at(page, u + 0.2, v + 0.2))
    page.mouse.up()
    wait_drawn(page, "structure")
    page.locator("#slice").fill(str(round(y) + 4))
    page.locator("#reach").click()
    expect(page.locator("#marks li").last).to_have_text(f"▭box, slices {round(y) + 1} to {round(y) + 5}")
    wait_drawn(page, "structure")
    low, high = sent[-1]["box"]
    assert [low[1], high[1]] == [round(y), round(y) + 4]
    assert low[0] < x < high[0]
    assert low[2] < z < high[2]


def test_marks_on_a_coronal_slice_are_sent_as_the_files_own_voxels_and_the_mask_comes_back_there(
    open_page: Callable[..., Any], balls_url: str, balls_run: Run, ball: tuple[Path, np.ndarray]
) -> None:
    """Coronal slices run along the file's first axis; across them lies its third, from the right, and up its second."""
    path, mask = ball
    page, sent = opened(open_page, balls_url, path)
    x, y, z = (float(n.mean()) for n in np.nonzero(mask == 1))
    page.get_by_role("radio", name="Coronal").check()
    page.locator("#slice").fill(str(round(x)))
    expect(page.locator("#picture")).to_have_attribute("data-plane", "coronal")
    expect(page.locator("#where")).to_have_text(f"{round(x) + 1} of {shown.SHAPE[0]}")
    u, v = (shown.SHAPE[2] - 0.5 - z) / shown.SHAPE[2], 1 - (y + 0.5) / shown.SHAPE[1]
    page.mouse.click(*at(page, u, v))
    wait_drawn(page, "mL")
    (point,) = sent[-1]["points"]
    assert point == pytest.approx([round(x), y, z], abs=0.3)
    assert point[0] == round(x)
    drawn = Segmenter(balls_run).begin([path]).segment([point]).overlay
    assert drawn is not None
    across, up = np.nonzero(drawn[:, :, round(x)])  # z and y of the file
    seen = (shown.SHAPE[2] - 0.5 - across.mean()) / shown.SHAPE[2], 1 - (up.mean() + 0.5) / shown.SHAPE[1]
    found = page.evaluate(ORANGE)
    assert (found["u"], found["v"]) == pytest.approx(seen, abs=0.03)
    # The slice with most of it, of this plane; and the axial one through the point.
    page.locator("#most").click()
    count = drawn.sum((0, 1))
    most = [f"{n + 1} of {shown.SHAPE[0]}" for n in np.flatnonzero(count == count.max())]  # several have as much of it
    expect(page.locator("#where")).to_have_text(re.compile("|".join(most)))
    page.locator("#marks button").click()
    expect(page.locator("#where")).to_have_text(f"{round(x) + 1} of {shown.SHAPE[0]}")
    page.locator("#picture").focus()
    page.keyboard.press("a")
    expect(page.locator("#picture")).to_have_attribute("data-slice", str(round(y)))
    # A box of two planes: its sides in the axial one, and how far it reaches in the coronal one.
    page.locator("#clear-marks").click()
    page.get_by_role("radio", name="Box around it").check()
    drag(page, (u - 0.2, 0.1), (u + 0.2, 0.5))
    wait_drawn(page, "structure")
    page.keyboard.press("c")
    expect(page.locator("#picture")).to_have_attribute("data-plane", "coronal")
    drag(page, (u - 0.25, v - 0.2), (u + 0.25, v + 0.2))
    wait_drawn(page, "structure")
    low, high = sent[-1]["box"]
    tall, wide = shown.SHAPE[1], shown.SHAPE[2]
    assert [low[0], high[0]] == pytest.approx([0.1 * shown.SHAPE[0] - 0.5, 0.5 * shown.SHAPE[0] - 0.5], abs=0.3)
    assert [low[1], high[1]] == pytest.approx([y - 0.2 * tall, y + 0.2 * tall], abs=0.3)
    assert [low[2], high[2]] == pytest.approx([z - 0.25 * wide, z + 0.25 * wide], abs=0.3)
    # The right button: moved, it changes the grey levels, and marks nothing; not moved, it marks a point beside it.
    page.get_by_role("radio", name="Point on it").check()
    count, grey = len(sent), page.locator("#levels-now").inner_text()
    drag(page, (0.3, 0.3), (0.6, 0.6), button="right")
    expect(page.locator("#levels-now")).not_to_have_text(grey)
    page.mouse.click(*at(page, 0.9, 0.9), button="right")
    expect(page.locator("#marks li").last).to_contain_text("beside it")
    wait_drawn(page, "structure")
    assert len(sent) == count + 1


def drag(page: Any, start: tuple[float, float], end: tuple[float, float], button: str = "left") -> None:
    """From one place of the picture to another."""
    page.mouse.move(*at(page, *start))
    page.mouse.down(button=button)
    page.mouse.move(*at(page, (start[0] + end[0]) / 2, (start[1] + end[1]) / 2))
    page.mouse.move(*at(page, *end))
    page.mouse.up(button=button)


def test_it_is_drawn_by_name_and_by_the_keyboard_alone(
    open_page: Callable[..., Any], balls_url: str, ball: tuple[Path, np.ndarray]
) -> None:
    page, sent = opened(open_page, balls_url, ball[0])
    page.get_by_label("Name").select_option("dim ball")
    wait_drawn(page, "dim ball: ")
    assert (sent[-1]["name"], sent[-1]["points"]) == ("dim ball", [])
    page.locator("#picture").focus()
    page.keyboard.press("Backspace")
    expect(page.locator("#marks li")).to_have_count(0)
    expect(page.get_by_label("Name")).to_have_value("")
    page.keyboard.press("PageUp")
    expect(page.locator("#picture")).to_have_attribute("data-slice", str(shown.SHAPE[1] // 2 + 1))
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    wait_drawn(page, "structure")
    (point,) = sent[-1]["points"]
    # From the middle to patient's left, which is down the file's last axis; the picture has three pixels of 2 mm to two samples of 3.
    assert point[:2] == [19.5, 15]
    assert point[2] == pytest.approx(17 - ((0.5 + 9 / 27) * 18 - 0.5), abs=0.05)
    page.keyboard.press("Shift+Enter")
    expect(page.locator("#marks li").last).to_contain_text("beside it")
    wait_drawn(page, "structure")
    page.keyboard.press("b")
    page.keyboard.press("Shift+ArrowDown")
    page.keyboard.press("b")
    expect(page.locator("#marks li").last).to_contain_text("box, slices 16 to 16")
    wait_drawn(page, "structure")
    page.keyboard.press("Control+z")
    expect(page.locator("#marks li")).to_have_count(2)


def test_what_is_not_taken_is_told_and_taken_back(
    open_page: Callable[..., Any], discs_url: str, new: tuple[Path, np.ndarray]
) -> None:
    page, sent = opened(open_page, discs_url, new[0])
    page.mouse.click(*at(page, 0.5, 0.5), button="right")
    expect(page.locator("#drawn")).to_have_text("Points beside it need one on it, a box or a name.")
    assert sent == []
    page.locator("#clear-marks").click()
    page.mouse.click(*at(page, *share(new[1] == 1)))
    wait_drawn(page, "pixels")
    size = page.locator("#drawn").inner_text()
    refusal = json.dumps({"found": "a made-up reason", "expected": "another", "do": "try"})
    page.route("**/segment", lambda route: route.fulfill(status=422, content_type="application/json", body=refusal))
    page.mouse.click(*at(page, 0.9, 0.9))
    expect(page.locator("#not-taken")).to_have_text("Not taken: a made-up reason. Expected another. Try.")
    expect(page.locator("#marks li")).to_have_count(1)
    assert page.locator("#drawn").inner_text() == size


class Slow(Drawings):
    """Draws when it is told to."""

    go = threading.Event()

    def draw(self, shown: Shown) -> Drawn:
        assert self.go.wait(60)
        return super().draw(shown)


def test_while_it_waits_it_says_so_and_marks_are_not_lost(
    open_page: Callable[..., Any], serve_app: Callable[..., Any], drawing_run: Run, new: tuple[Path, np.ndarray]
) -> None:
    slow = Slow(drawing_run)
    with serve_app(slow) as url:
        page, sent = opened(open_page, url, new[0])
        page.mouse.click(*at(page, *share(new[1] == 1)))
        expect(page.locator("#waiting")).to_have_text("Drawing …")
        expect(page.locator("#marks li")).to_have_count(1)
        expect(page.locator("#save")).to_be_disabled()
        page.mouse.click(*at(page, 0.6, 0.1), button="right")
        page.mouse.click(*at(page, 0.9, 0.9), button="right")
        slow.go.set()
        wait_drawn(page, "pixels")
        assert [len(p["off"]) for p in sent] == [0, 2], "what was clicked meanwhile is asked together"


def test_a_drawing_that_was_forgotten_is_begun_again_and_one_that_is_left_is_ended(
    open_page: Callable[..., Any], serve_app: Callable[..., Any], drawing_run: Run, new: tuple[Path, np.ndarray]
) -> None:
    drawings = Drawings(drawing_run)
    with serve_app(drawings) as url:
        page, sent = opened(open_page, url, new[0])
        page.mouse.click(*at(page, *share(new[1] == 1)))
        wait_drawn(page, "pixels")
        first = sent[-1]["drawing"]
        assert drawings.end(first)
        page.mouse.click(*at(page, 0.9, 0.9), button="right")
        expect(page.locator("#marks li")).to_have_count(2)
        wait_drawn(page, "pixels")
        second = sent[-1]["drawing"]
        assert second != first
        with page.expect_response("**/segment/end"):
            page.get_by_role("button", name="Clear", exact=True).click()
        expect(page.locator("#drawing")).to_have_count(0)
        assert not drawings.has(second)


def test_beside_an_answer_it_is_offered_where_the_run_draws_and_else_not(
    open_page: Callable[..., Any], serve_app: Callable[..., Any], drawing_run: Run, new: tuple[Path, np.ndarray],
    segmentation_url: str, volume: Path,
) -> None:  # fmt: skip
    desk = Desk(adapt(drawing_run, "disc", "probe", steps=4, labels=4))
    with serve_app(desk) as url:
        page = open_page(url)
        page.locator("#files").set_input_files(new[0])
        expect(page.locator("#headline")).to_have_text(desk.answer([new[0]]).headline)
        page.get_by_role("button", name="Show it a structure").click()
        expect(page.locator("#drawing")).to_be_visible()
        page.mouse.click(*at(page, *share(new[1] == 1)))
        wait_drawn(page, "pixels")
        expect(page.locator("#headline")).to_have_text(desk.answer([new[0]]).headline)  # which is the answer's still
        page.get_by_role("button", name="Back to the answer’s picture").click()
        expect(page.locator("#drawing")).to_have_count(0)
        expect(page.locator("#legend")).to_be_visible()
    other = open_page(segmentation_url)
    other.locator("#files").set_input_files(volume)
    expect(other.locator("#picture")).to_be_visible()
    expect(other.locator("#draw")).to_have_count(0)
    expect(other.locator("#drawing")).to_have_count(0)
