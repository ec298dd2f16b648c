"""The page in a real headless Chromium: what a person drops, and what they then see."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

import polyclinic as pc
from corners import draw, pretrained
from polyclinic.clinic import Desk
from polyclinic.clinic.reply import NOTICE, Evidence, Metric, Reply
from polyclinic.clinic.service import page as shipped_page
from polyclinic.clinic.views import Pictures

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.browser
Page = sync_api.Page
expect = sync_api.expect
DROP = """async ([files, selector]) => {
  const transfer = new DataTransfer();
  for (const [name, base64] of files)
    transfer.items.add(new File([Uint8Array.from(atob(base64), (c) => c.charCodeAt(0))], name));
  const at = document.querySelector(selector);
  for (const kind of ["dragenter", "dragover", "drop"])
    at.dispatchEvent(new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true }));
}"""
COLOURED = """() => {
  const canvas = document.querySelector("#picture"), { width, height } = canvas;
  const pen = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  pen.drawImage(canvas, 0, 0);
  const { data } = pen.getImageData(0, 0, width, height);
  let count = 0;
  for (let i = 0; i < data.length; i += 4) if (data[i] !== data[i + 1] || data[i] !== data[i + 2]) count += 1;
  return count;
}"""


def drop(page: Any, *files: Path, at: str = "#drop") -> None:
    page.evaluate(DROP, [[[f.name, base64.b64encode(f.read_bytes()).decode()] for f in files], at])


def wait_coloured(page: Any, right: Callable[[int], bool]) -> None:
    """Until so many pixels are in colours; asked from here, because the page's policy lets nothing be evaluated in it."""
    count, left = page.evaluate(COLOURED), 100
    while not right(count) and left:
        page.wait_for_timeout(50)
        count, left = page.evaluate(COLOURED), left - 1
    assert right(count), f"{count} pixels are in colours"


def labels_of(reply: Reply, number: int) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(base64.b64decode(reply.views[0].slices[number].mask or ""))))


class Slow:
    """A desk that answers about some files only when it is told to."""

    def __init__(self, desk: Desk, *names: str) -> None:
        self.desk, self.card, self.names = desk, desk.card, names
        self.asked, self.go = threading.Event(), threading.Event()

    @property
    def described(self) -> str:
        return self.desk.described

    def answer(
        self, files: Sequence[str | Path], names: Sequence[str] | None = None, pictures: Pictures = "png"
    ) -> Reply:
        if set(names or ()) & set(self.names):
            self.asked.set()
            assert self.go.wait(60)
        return self.desk.answer(files, names, pictures)


def test_a_report_shows_what_each_sentence_rests_on(
    open_page: Callable[..., Any], serve_app: Callable[..., Any], tmp_path: Path
) -> None:
    files = draw(tmp_path / "corners")
    cohort = pc.ingest(files, tmp_path / "cohort")
    run = pc.adapt(pretrained("caption", cohort, tmp_path, 260), "report", method="probe", steps=0, cohort=cohort)
    desk = Desk(run)
    cited = (f for f in sorted(files.glob("*.png")) if desk.answer([f]).sentences[0].region is not None)
    picture = next(cited)
    reply = desk.answer([picture])
    first, second = reply.sentences
    assert " ".join(s.text for s in reply.sentences) == reply.headline
    assert first.region is not None
    row, side = (first.part or "").split()
    assert (first.region.left, first.region.right) == ((0, 0.5) if side == "left" else (0.5, 1))
    assert first.region.top == pytest.approx(("upper", "middle", "lower").index(row) / 3, abs=1e-6)
    with serve_app(desk) as url:
        page = open_page(url)
        drop(page, picture)
        expect(page.locator("#headline")).to_have_text("A report, written by the model")
        expect(page.locator("#sentences li")).to_have_count(2)
        said = page.locator("#sentences li").first
        expect(said).to_contain_text(first.text)
        expect(page.locator("#sentences li").nth(1)).to_contain_text(second.text)
        expect(page.locator(".region")).to_have_count(0)
        # Pointed at, the part is framed on the picture; a click keeps the frame, a second one takes it away.
        ground = said.get_by_role("button", name=f"rests on the {first.part} of the picture")
        ground.click()
        page.mouse.move(2, 2)
        frame, canvas = page.locator(".region").bounding_box(), page.locator("#picture").bounding_box()
        assert frame["x"] - canvas["x"] == pytest.approx(first.region.left * canvas["width"], abs=1.5)
        assert frame["y"] - canvas["y"] == pytest.approx(first.region.top * canvas["height"], abs=1.5)
        assert frame["width"] == pytest.approx(canvas["width"] / 2, abs=1.5)
        ground.click()
        page.mouse.move(2, 2)
        page.locator("#choose").focus()
        expect(page.locator(".region")).to_have_count(0)
        for note in reply.notes:
            expect(page.locator(".lead")).to_contain_text(note)


class Odd:
    """A desk whose answer says something else than the desk's own."""

    def __init__(self, desk: Desk, change: Callable[[Reply], Reply]) -> None:
        self.desk, self.card, self.change = desk, desk.card, change

    @property
    def described(self) -> str:
        return self.desk.described

    def answer(
        self, files: Sequence[str | Path], names: Sequence[str] | None = None, pictures: Pictures = "png"
    ) -> Reply:
        return self.change(self.desk.answer(files, names, pictures))


def test_a_figure_without_an_interval_is_said_and_not_drawn(
    open_page: Callable[..., Any], serve_app: Callable[..., Any], finding_desk: Desk, xray: Path
) -> None:
    metric = Metric(
        name="AUROC", value=1.0, low=None, high=None, n=3, note="no interval", modalities=["image"], chance=0.5
    )
    known = lambda reply: reply.model_copy(update={"evidence": Evidence(metric=metric, alike=None)})
    with serve_app(Odd(finding_desk, known)) as url:
        page = open_page(url)
        drop(page, xray)
        expect(page.locator("#headline")).to_be_visible()
        expect(page.locator("svg.interval")).to_have_count(0)


def test_a_dropped_volume_is_answered_with_its_overlay(
    open_page: Callable[..., Any], segmentation_url: str, segmentation_desk: Desk, volume: Path
) -> None:
    reply = segmentation_desk.answer([volume])
    view = reply.views[0]
    page = open_page(segmentation_url)
    drop(page, volume)
    expect(page.locator("#headline")).to_have_text(reply.headline)
    expect(page.locator(".lead .about")).to_contain_text(volume.name)
    expect(page.locator("#uncertainty")).to_have_text(reply.uncertainty)
    expect(page.get_by_role("status")).to_contain_text(f"Answer for {volume.name}")

    # What is coloured is what was drawn, as much larger as the picture is shown.
    start = view.start
    expect(page.locator("#picture")).to_have_attribute("data-slice", str(start))
    labels = labels_of(reply, start)
    factor = page.evaluate("document.querySelector('#picture').width") // labels.shape[1]
    assert factor > 1
    assert page.evaluate(COLOURED) == (labels > 0).sum() * factor**2

    # A structure can be taken away, the outline is less than the whole, and no strength is no colour.
    boxes = page.locator("#legend input")
    expect(page.locator("#legend li")).to_have_count(2)
    expect(page.locator("#legend")).to_contain_text(f"{reply.structures[0].size:g} mL")
    boxes.nth(0).uncheck()
    wait_coloured(page, lambda count: count == (labels == 2).sum() * factor**2)
    boxes.nth(0).check()
    page.locator("#outline").check()
    wait_coloured(page, lambda count: count < (labels > 0).sum() * factor**2)
    assert page.evaluate(COLOURED) > 0
    page.locator("#opacity").fill("0")
    wait_coloured(page, lambda count: count == 0)

    # The slider, the arrow keys and the wheel go through the slices, and the letters stay.
    picture = page.locator("#picture")
    where = page.locator("#where")
    expect(where).to_have_text(f"{start + 1} of {len(view.slices)}")
    picture.focus()
    page.keyboard.press("ArrowUp")
    expect(where).to_have_text(f"{start + 2} of {len(view.slices)}")
    expect(picture).to_have_attribute("data-slice", str(start + 1))
    picture.hover()
    page.mouse.wheel(0, 100)
    expect(where).to_have_text(f"{start + 1} of {len(view.slices)}")
    page.locator("#slice").fill("0")
    expect(picture).to_have_attribute("data-slice", "0")
    expect(page.locator("#slice")).to_have_attribute("aria-valuetext", f"slice 1 of {len(view.slices)}")
    page.keyboard.press("Home")
    assert [page.locator(f".letter.{side}").text_content() for side in ("left", "right", "top", "bottom")] == list(
        "RLAP"
    )
    assert "patient’s right" in (picture.get_attribute("aria-label") or "")


def test_the_overlay_lies_on_what_was_drawn(
    open_page: Callable[..., Any], segmentation_url: str, segmentation_desk: Desk, volume: Path
) -> None:
    reply = segmentation_desk.answer([volume])
    page = open_page(segmentation_url)
    drop(page, volume)
    expect(page.locator("#picture")).to_have_attribute("data-slice", str(reply.views[0].start))
    encoded = page.evaluate("document.querySelector('#picture').toDataURL('image/png').split(',')[1]")
    rgb = np.asarray(Image.open(BytesIO(base64.b64decode(encoded))).convert("RGB")).astype(int)
    labels = labels_of(reply, reply.views[0].start)
    factor = rgb.shape[1] // labels.shape[1]
    coloured = (rgb.max(2) != rgb.min(2))[::factor, ::factor]
    np.testing.assert_array_equal(coloured, labels > 0)
    # Orange is more red than blue, sky blue the reverse.
    redder = (rgb[..., 0] > rgb[..., 2])[::factor, ::factor]
    np.testing.assert_array_equal(redder[labels > 0], labels[labels > 0] == 1)


def test_a_radiograph_and_its_note_are_answered_together(
    open_page: Callable[..., Any], finding_url: str, finding_desk: Desk, xray: Path, note: Path
) -> None:
    reply = finding_desk.answer([xray, note])
    page = open_page(finding_url)
    drop(page, xray, note)
    expect(page.locator("#headline")).to_have_text(reply.headline)
    expect(page.locator(".lead .about")).to_contain_text(f"{xray.name}, {note.name}")
    uses = page.locator("#uses li")
    expect(uses).to_have_text(
        [
            f"imageread: {xray.name} (CR chest PA)",
            f"textread: {note.name} (radiology note)",
            "tablenone: the answer is made without it",
        ]
    )
    expect(page.locator("#whose")).to_have_text("Every file names the same patient.")
    expect(page.locator("#slice")).to_have_count(0)
    expect(page.locator("#picture")).to_have_attribute("data-slice", "0")
    shown = page.evaluate("document.querySelector('#picture').toDataURL('image/png').split(',')[1]")
    source = pydicom.dcmread(xray).pixel_array.astype(float)
    grey = np.asarray(Image.open(BytesIO(base64.b64decode(shown))).convert("L").resize(source.shape[::-1])).astype(
        float
    )
    assert np.corrcoef(grey.ravel(), source.ravel())[0, 1] > 0.99


def test_a_file_that_cannot_be_used_is_refused_in_words(
    open_page: Callable[..., Any], finding_url: str, broken: Path
) -> None:
    page = open_page(finding_url)
    drop(page, broken)
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("No answer")
    expect(alert).to_contain_text(f"{broken.name}: a DICOM file that was cut short")
    expect(alert).to_contain_text("send it again from the PACS")
    expect(page.locator("#answer")).to_be_hidden()


def test_a_new_drop_takes_the_old_answer_away_at_once(
    open_page: Callable[..., Any],
    serve_app: Callable[..., Any],
    finding_desk: Desk,
    small_hospital: Path,
    xray: Path,
    broken: Path,
) -> None:
    other = next((small_hospital / "radiology/CXR-0102").iterdir())
    slow = Slow(finding_desk, other.name)
    with serve_app(slow) as url:
        page = open_page(url)
        drop(page, xray)
        expect(page.locator(".lead")).to_contain_text(xray.name)
        # In the very turn in which the files are dropped, before anything is sent or answered.
        gone = page.evaluate(f"async (given) => {{ await ({DROP})(given); return document.querySelector('#answer').textContent; }}",
                             [[[other.name, base64.b64encode(other.read_bytes()).decode()]], "#drop"])  # fmt: skip
        assert gone == ""
        assert slow.asked.wait(30)
        expect(page.locator("#answer")).to_be_hidden()
        expect(page.locator("#busy")).to_contain_text(other.name)
        assert xray.name not in page.locator("body").inner_text()
        slow.go.set()
        expect(page.locator(".lead")).to_contain_text(other.name)
        drop(page, broken)
        expect(page.get_by_role("alert")).to_contain_text(broken.name)
        assert page.locator("#answer").text_content() == ""
        drop(page, xray)
        expect(page.locator(".lead")).to_contain_text(xray.name)
        expect(page.locator("#refusal")).to_be_hidden()


def test_an_answer_that_comes_late_is_thrown_away(
    open_page: Callable[..., Any], serve_app: Callable[..., Any], finding_desk: Desk, small_hospital: Path, xray: Path
) -> None:
    first = next((small_hospital / "radiology/CXR-0102").iterdir())
    slow = Slow(finding_desk, first.name)
    with serve_app(slow) as url:
        page = open_page(url)
        # Even where the browser does not take its request back, as one without AbortController would not.
        page.evaluate("() => { AbortController.prototype.abort = () => {}; }")
        drop(page, first)
        assert slow.asked.wait(30)
        drop(page, xray)
        expect(page.locator(".lead")).to_contain_text(xray.name)
        expected = finding_desk.answer([xray]).headline
        with page.expect_response(lambda r: r.url.endswith("/predict") and r.status == 200):
            slow.go.set()
        page.wait_for_timeout(200)
        expect(page.locator("#headline")).to_have_text(expected)
        assert first.name not in page.locator("body").inner_text()


def test_a_person_can_stop_and_clear(
    open_page: Callable[..., Any], serve_app: Callable[..., Any], finding_desk: Desk, small_hospital: Path, xray: Path
) -> None:
    waits = next((small_hospital / "radiology/CXR-0102").iterdir())
    slow = Slow(finding_desk, waits.name)
    with serve_app(slow) as url:
        page = open_page(url)
        drop(page, waits)
        assert slow.asked.wait(30)
        page.get_by_role("button", name="Stop").click()
        expect(page.locator("#busy")).to_be_hidden()
        slow.go.set()
        drop(page, xray)
        expect(page.locator(".lead")).to_contain_text(xray.name)
        page.get_by_role("button", name="Clear").click()
        expect(page.locator("#answer")).to_be_hidden()
        assert xray.name not in page.locator("body").inner_text()


def test_files_and_folders_can_be_chosen_with_the_keyboard(
    open_page: Callable[..., Any], segmentation_url: str, volume: Path, tmp_path: Path
) -> None:
    page = open_page(segmentation_url)
    page.on("filechooser", lambda _: None)  # from now on choosers are caught; what follows takes longer than that does
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Choose files")).to_be_focused()
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    assert chooser.value.is_multiple()
    chooser.value.set_files(volume)
    expect(page.locator(".lead")).to_contain_text(volume.name)
    # A series lies in a folder, beside what the system left there.
    source = pydicom.dcmread(str(get_testdata_file("MR_small.dcm")))
    source.preamble = bytes(128)
    for number in range(3):
        source.PatientID, source.SOPInstanceUID, source.PixelSpacing = "P1", f"1.2.3.{number}", [1, 1]
        source.ImagePositionPatient, source.ImageOrientationPatient = [0, 0, 2.0 * number], [1, 0, 0, 0, 1, 0]
        source.save_as(tmp_path / f"IM{number}")
    (tmp_path / ".DS_Store").write_bytes(b"\x00")
    page.locator("#folder").set_input_files(tmp_path)
    expect(page.locator("#uses")).to_contain_text("(a series of 3 files)")
    expect(page.locator("#where")).to_contain_text("of 3")


def test_several_pictures_can_be_told_apart(
    open_page: Callable[..., Any], finding_url: str, small_hospital: Path
) -> None:
    two = sorted((small_hospital / "radiology/CXR-0222").iterdir())
    page = open_page(finding_url)
    drop(page, *two)
    for file in two[::-1]:
        page.get_by_role("radio", name=file.name).check()
        expect(page.locator(".caption")).to_contain_text(file.name)
        assert file.name in (page.locator("#picture").get_attribute("aria-label") or "")


def test_names_are_words_and_nothing_else(
    open_page: Callable[..., Any], finding_url: str, note: Path, tmp_path: Path
) -> None:
    name = "<img src=x onerror=alert(1)>.txt"
    (tmp_path / "n.txt").write_text("Clear lungs.\n")
    page = open_page(finding_url)
    page.evaluate(DROP, [[[name, base64.b64encode(b"Clear lungs.").decode()]], "#drop"])
    expect(page.locator(".lead .about b")).to_have_text(name)
    expect(page.locator("#uses")).to_contain_text(name)
    assert page.locator("main img").count() == 0


def test_what_is_too_large_is_not_even_sent(
    open_page: Callable[..., Any], serve_app: Callable[..., Any], finding_desk: Desk, xray: Path
) -> None:
    with serve_app(finding_desk, limit_mb=0.01) as url:
        page = open_page(url)
        sent: list[str] = []
        page.on("request", lambda request: sent.append(request.url))
        drop(page, xray)
        expect(page.get_by_role("alert")).to_contain_text("at most 10 KiB")
        assert sent == []


def test_a_drop_beside_the_frame_counts_and_one_of_no_file_is_told(
    open_page: Callable[..., Any], finding_url: str, note: Path
) -> None:
    page = open_page(finding_url)
    drop(page, note, at="footer")
    expect(page.locator(".lead")).to_contain_text(note.name)
    drop(page)
    expect(page.get_by_role("alert")).to_contain_text("nothing that is a file")
    assert note.name not in page.locator("body").inner_text()


def test_a_service_that_has_gone_is_said_to_be(
    open_page: Callable[..., Any], serve_app: Callable[..., Any], finding_desk: Desk, note: Path
) -> None:
    with serve_app(finding_desk) as url:
        page = open_page(url)
    page.evaluate("() => { window.fetch = async () => { throw new TypeError('Failed to fetch'); }; }")
    drop(page, note)
    expect(page.get_by_role("alert")).to_contain_text("no answer from the service")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_telephone_and_the_notice_never_leaves(
    open_page: Callable[..., Any], segmentation_url: str, volume: Path, scheme: str
) -> None:
    page = open_page(segmentation_url, viewport={"width": 390, "height": 844}, color_scheme=scheme)
    page.locator("#card summary").click()
    expect(page.locator("#card-text")).to_contain_text("It has not been examined")
    drop(page, volume)
    expect(page.locator("#headline")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    expect(page.locator(".notice")).to_have_text(NOTICE)
    expect(page.locator(".notice")).to_be_in_viewport(ratio=1)
    assert contrast(page, ".notice") >= 4.5
    assert contrast(page, "#uncertainty") >= 4.5
    assert contrast(page, "footer") >= 4.5
    assert contrast(page, "#choose") >= 4.5


def contrast(page: Any, selector: str) -> float:
    """Of an element's words to what lies behind them (WCAG 2.2, 1.4.3)."""
    colours = page.evaluate(
        """(selector) => {
          let at = document.querySelector(selector);
          const ink = getComputedStyle(at).color;
          while (getComputedStyle(at).backgroundColor === "rgba(0, 0, 0, 0)") at = at.parentElement;
          return [ink, getComputedStyle(at).backgroundColor];
        }""",
        selector,
    )
    light = []
    for words in colours:
        share = np.array([int(v) for v in words[words.index("(") + 1 : -1].split(",")[:3]]) / 255
        linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
        light.append(float(linear @ [0.2126, 0.7152, 0.0722]))
    return (max(light) + 0.05) / (min(light) + 0.05)


def test_the_card_of_an_examined_run_is_shown_with_its_table(
    open_page: Callable[..., Any], serve_app: Callable[..., Any], examined_run: Path, xray: Path
) -> None:
    with serve_app(examined_run) as url:
        page = open_page(url)
        page.locator("#card summary").click()
        expect(page.locator("#card-text")).to_contain_text("It must not be used for")
        expect(page.locator("#card-text th").first).to_have_text("figure")
        expect(page.locator("#card-text td").first).to_have_text("auroc")
        drop(page, xray)
        evidence = Desk(examined_run).answer([xray]).evidence
        assert evidence is not None
        assert evidence.alike is not None
        alike = evidence.alike
        expect(page.locator("svg.interval").last).to_have_attribute(
            "aria-label",
            f"Truth was yes among the {alike.n} test patients with the nearest scores: {alike.observed:.2f}, "
            f"95% interval {alike.low:.2f} to {alike.high:.2f}",
        )


def test_of_several_models_a_person_chooses_and_the_same_files_are_asked_anew(
    open_page: Callable[..., Any],
    serve_app: Callable[..., Any],
    finding_desk: Desk,
    segmentation_desk: Desk,
    note: Path,
) -> None:
    with serve_app([segmentation_desk, finding_desk]) as url:
        page = open_page(url)
        choice = page.get_by_label("Ask")
        expect(choice.locator("option")).to_have_text(["hippocampus", "finding"])
        expect(page.locator("#who")).to_contain_text("hippocampus")
        drop(page, note)
        expect(page.locator("#refusal")).to_contain_text("files of text")
        choice.select_option(label="finding")
        expect(page.locator("#headline")).to_have_text(finding_desk.answer([note]).headline)
        expect(page.locator("#refusal")).to_be_hidden()
        expect(page.locator("#who")).to_contain_text(finding_desk.card.run)
        page.locator("#card summary").click()
        expect(page.locator("#card-text")).to_contain_text("Answers the task")
        page.locator("#clear").click()
        choice.select_option(label="hippocampus")  # what was cleared is not asked again
        expect(page.locator("#card-text")).to_be_empty()
        expect(page.locator("#refusal")).to_be_hidden()
        expect(page.locator("#answer")).to_be_hidden()


def test_one_model_leaves_nothing_to_choose(open_page: Callable[..., Any], finding_url: str) -> None:
    expect(open_page(finding_url).get_by_label("Ask")).to_be_hidden()


def test_nothing_in_the_page_comes_from_elsewhere_or_escapes_its_policy() -> None:
    text, policy = shipped_page()
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in text
    assert "style=" not in text
    assert ' onclick="' not in text
    for needed in (
        "default-src 'none'",
        "script-src 'sha256-",
        "style-src 'sha256-",
        "trusted-types 'none'",
        "frame-ancestors 'none'",
    ):
        assert needed in policy
