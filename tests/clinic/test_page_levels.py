"""Grey levels and planes in a real headless Chromium: what is on the screen is what the formula of DICOM makes of the file's values."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_windowing
from scipy.ndimage import gaussian_filter, map_coordinates

from showing import Showing

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.browser
expect = sync_api.expect
SHAPE, STEP = (400, 380, 12), 2.5
"""Of the file's x, y and z, and mm from slice to slice of voxels that are 1 mm wide: the page shows each sample as one pixel."""
CT_WINDOWS = {"soft tissue": (40, 400), "lung": (-600, 1500), "bone": (400, 1800), "brain": (40, 80)}


@pytest.fixture(scope="module")
def ct(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, np.ndarray]:
    """A CT-like volume whose axes run to patient's left, back and head, as the page shows them; its values and labels (x y z)."""
    noise = np.random.default_rng(0).normal(0, 1, SHAPE)
    values = np.clip(np.rint(gaussian_filter(noise, (9, 9, 1)) * 40000), -1024, 2500).astype(np.int16)
    values[0, 0, 0] = -1024
    labels = np.zeros(SHAPE, np.int64)
    labels[100:160, 200:230, 3:7], labels[250:300, 90:180, 8:10] = 1, 2
    path = tmp_path_factory.mktemp("ct") / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(values, np.diag([-1, -1, STEP, 1])), path)  # pyright: ignore[reportPrivateImportUsage]
    return path, values, labels


@pytest.fixture(scope="module")
def url(serve_app: Callable[..., Any]) -> Iterator[str]:
    with serve_app(Showing()) as address:
        yield address


def opened(open_page: Callable[..., Any], url: str, path: Path) -> Any:
    page = open_page(url)
    page.locator("#files").set_input_files(path)
    expect(page.locator("#picture")).to_have_attribute("data-slice", "0" if path.suffix != ".gz" else "6")
    return page


def seen(page: Any) -> np.ndarray:
    """(y x 3) of the canvas."""
    page.wait_for_timeout(100)
    encoded = page.evaluate("document.querySelector('#picture').toDataURL('image/png').split(',')[1]")
    return np.asarray(Image.open(BytesIO(base64.b64decode(encoded))).convert("RGB")).astype(int)


def grey(values: np.ndarray, center: float, width: float) -> np.ndarray:
    """0 to 255, by pydicom's LINEAR (PS3.3 C.11.2.1.2.1)."""
    about = Dataset()
    about.PhotometricInterpretation, about.BitsStored, about.PixelRepresentation = "MONOCHROME2", 16, 1
    about.WindowCenter, about.WindowWidth = center, width
    return (apply_windowing(np.rint(values).astype(np.int16), about) + 2**15) / (2**16 - 1) * 255


def figures(page: Any) -> tuple[float, float]:
    return float(page.locator("#center").input_value()), float(page.locator("#width").input_value())


def drag(page: Any, right: float, down: float, button: str) -> None:
    box = page.locator("#picture").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down(button=button)
    page.mouse.move(x + right / 2, y + down / 2)
    page.mouse.move(x + right, y + down)
    page.mouse.up(button=button)


def test_at_each_preset_the_picture_is_what_the_formula_gives(
    open_page: Callable[..., Any], url: str, ct: tuple[Path, np.ndarray, np.ndarray]
) -> None:
    page = opened(open_page, url, ct[0])
    names = page.locator("#preset option").all_inner_texts()
    assert names[:2] == ["soft tissue (40, 400 HU)", "lung (−600, 1500 HU)"]
    for number, (name, (center, width)) in enumerate(CT_WINDOWS.items()):
        page.get_by_label("Grey levels", exact=True).and_(page.locator("select")).select_option(index=number)
        assert names[number].startswith(name)
        assert figures(page) == (center, width)
        shown = seen(page)
        assert (shown[..., 0] == shown[..., 1]).all()
        assert (shown[..., 0] == shown[..., 2]).all()
        assert shown.shape[:2] == (SHAPE[1], SHAPE[0])
        assert np.abs(shown[..., 0] - grey(ct[1][:, :, 6].T, center, width)).max() <= 0.51
    assert np.ptp(seen(page)) == 255


def test_dragging_and_the_keyboard_change_the_figures_and_reset_brings_them_back(
    open_page: Callable[..., Any], url: str, ct: tuple[Path, np.ndarray, np.ndarray]
) -> None:
    page = opened(open_page, url, ct[0])
    for button in ("right", "left"):
        drag(page, 60, -30, button)  # to the right: wider; up: brighter
        center, width = figures(page)
        assert center == 0
        assert width == pytest.approx(400 * np.exp(60 / 150), abs=1)
        expect(page.locator("#levels-now")).to_have_text(f"C 0  W {width:.0f} HU")
        assert page.locator("#preset").input_value() == ""
        assert np.abs(seen(page)[..., 0] - grey(ct[1][:, :, 6].T, center, width)).max() <= 0.51
        page.get_by_role("button", name="Reset").click()
        assert figures(page) == (40, 400)
    page.get_by_role("slider", name="Centre of the grey levels").focus()
    page.keyboard.press("ArrowRight")
    assert figures(page) == (41, 400)
    page.get_by_label("Width in HU").fill("100")
    page.keyboard.press("Enter")
    assert figures(page) == (41, 100)
    assert np.abs(seen(page)[..., 0] - grey(ct[1][:, :, 6].T, 41, 100)).max() <= 0.51
    page.get_by_label("Width in HU").fill("-5")  # which is no width
    page.keyboard.press("Enter")
    expect(page.locator("#levels-now")).to_have_text("C 41  W 100 HU")
    page.locator("#picture").focus()
    page.keyboard.press("3")
    assert figures(page) == CT_WINDOWS["bone"]
    expect(page.get_by_role("status")).to_have_text("Grey levels: bone")
    # What lies under the pointer, in the file's units.
    box = page.locator("#picture").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 123.5 / SHAPE[0], box["y"] + box["height"] * 45.5 / SHAPE[1])
    expect(page.locator("#value")).to_have_text(f"{ct[1][123, 45, 6]} HU".replace("-", "−"))


@pytest.mark.parametrize(("plane", "key", "letters"), [("coronal", "c", "RLHF"), ("sagittal", "s", "APHF")])
def test_other_planes_are_cut_through_the_place_that_was_pointed_to(
    open_page: Callable[..., Any], url: str, ct: tuple[Path, np.ndarray, np.ndarray], plane: str, key: str, letters: str
) -> None:
    page = opened(open_page, url, ct[0])
    box = page.locator("#picture").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 130.5 / SHAPE[0], box["y"] + box["height"] * 210.5 / SHAPE[1])
    page.keyboard.press(key)  # the picture has the focus that the click gave it
    expect(page.locator("#picture")).to_have_attribute("data-plane", plane)
    expect(page.get_by_role("radio", name=plane.capitalize())).to_be_checked()
    across = SHAPE[1] if plane == "coronal" else SHAPE[0]
    at = 210 if plane == "coronal" else 130
    expect(page.locator("#where")).to_have_text(f"{at + 1} of {across}")
    assert [page.locator(f".letter.{s}").text_content() for s in ("left", "right", "top", "bottom")] == list(letters)
    assert plane in page.locator("#picture").get_attribute("aria-label")
    page.keyboard.press("ArrowUp")  # a slice further: the place's cross lies on the one before
    expect(page.locator("#picture")).to_have_attribute("data-slice", str(at + 1))
    cut = (ct[1][:, at + 1] if plane == "coronal" else ct[1][at + 1]).T[::-1].astype(float)  # head on top
    tall = round(SHAPE[2] * STEP)
    rows = np.clip((np.arange(tall) + 0.5) / tall * SHAPE[2] - 0.5, 0, SHAPE[2] - 1)
    expected = map_coordinates(cut, np.stack(np.meshgrid(rows, np.arange(cut.shape[1]), indexing="ij")), order=1)
    shown = seen(page)
    assert shown.shape[:2] == expected.shape  # square millimetres
    assert np.abs(shown[..., 0] - grey(expected, 40, 400)).max() <= 1.3  # a half HU is 0.3 greys, and a rounding
    page.keyboard.press("a")
    expect(page.locator("#where")).to_have_text("7 of 12")


def test_the_mask_lies_on_every_plane_where_it_is(
    open_page: Callable[..., Any], serve_app: Callable[..., Any], ct: tuple[Path, np.ndarray, np.ndarray]
) -> None:
    path, _, labels = ct
    fullest = int((labels > 0).sum((0, 1)).argmax())
    with serve_app(Showing({"scan.nii.gz": labels.T})) as url:
        page = open_page(url)
        page.locator("#files").set_input_files(path)
        expect(page.locator("#picture")).to_have_attribute("data-slice", str(fullest))
        for name, axis in (("Coronal", 1), ("Sagittal", 0)):
            page.get_by_role("radio", name=name).check()
            expect(page.locator("#picture")).to_have_attribute("data-plane", name.lower())
            most = int((labels > 0).sum(tuple({0, 1, 2} - {axis})).argmax())
            expect(page.locator("#where")).to_have_text(f"{most + 1} of {SHAPE[axis]}")  # where there is most of it
            cut = labels.take(most, axis).T[::-1]
            tall = round(SHAPE[2] * STEP)
            rows = (np.arange(tall) + 0.5) / tall * SHAPE[2]
            clear = ~np.isclose(rows, rows.round())  # just between two slices either is right
            shown, expected = seen(page)[clear], cut[rows[clear].astype(int)]
            coloured = shown.max(2) != shown.min(2)
            np.testing.assert_array_equal(coloured, expected > 0)
            assert coloured.sum() > 100
            redder = shown[..., 0] > shown[..., 2]  # orange, and not sky blue
            assert (redder == (expected == 1))[coloured & (expected > 0)].all()


def test_a_radiograph_has_grey_levels_and_a_picture_in_colours_keeps_its_own(
    open_page: Callable[..., Any], url: str, xray: Path, tmp_path: Path
) -> None:
    page = opened(open_page, url, xray)
    assert page.locator("#preset option").all_inner_texts()[0].startswith("automatic")
    expect(page.locator(".planes")).to_have_count(0)
    before = seen(page)
    drag(page, 0, 60, "right")
    assert seen(page).mean() < before.mean()  # down: darker
    colours = np.zeros((380, 400, 3), np.uint8)
    colours[..., 0], colours[..., 1], colours[:, 200:, 2] = np.arange(400) % 256, np.arange(380)[:, None] % 256, 255
    colours[0, 0], colours[0, 1] = 0, 255
    Image.fromarray(colours).save(tmp_path / "slide.png")
    page = opened(open_page, url, tmp_path / "slide.png")
    expect(page.locator("#preset")).to_have_count(0)
    drag(page, 40, 40, "right")
    assert np.abs(seen(page) - colours).max() <= 2  # 1 in 200 of the values may be black or white, see robust_window


def test_a_volume_that_does_not_say_how_the_patient_lay_has_planes_without_their_names(
    open_page: Callable[..., Any], url: str, tmp_path: Path
) -> None:
    image = nibabel.Nifti1Image(np.random.default_rng(0).random((20, 24, 7)).astype(np.float32), None)  # pyright: ignore[reportPrivateImportUsage]
    image.header.set_qform(None, 0)
    image.header.set_sform(None, 0)
    nibabel.save(image, tmp_path / "silent.nii.gz")  # pyright: ignore[reportPrivateImportUsage]
    page = open_page(url)
    page.locator("#files").set_input_files(tmp_path / "silent.nii.gz")
    expect(page.locator(".planes label")).to_have_text(["As stored", "Cut along the rows", "Cut along the columns"])
    page.get_by_role("radio", name="Cut along the rows").check()
    expect(page.locator("#picture")).to_have_attribute("data-plane", "coronal")
    expect(page.locator(".letter")).to_have_count(0)
    expect(page.locator("#sides")).to_have_text("Which side of the patient is which is not known.")
