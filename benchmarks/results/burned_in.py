"""How well text burned into images is found, and how often it is seen where there is none. Writes a page of results.

    polyclinic phantom --patients 40 --modalities xray --size 128 --out phantom
    .venv/bin/python benchmarks/results/burned_in.py --pictures ../shared/data/covid-chestxray/images --dicom phantom/hospital --out made

Names, dates and numbers are drawn into images with fonts that come with Pillow and matplotlib, at random places, across and along; the
planted box counts as found where half of it is within the boxes that are given. False alarms are counted on images without text: which
of the real radiographs carry some was looked at by eye (`burned_in_seen.txt`). A patient's images all are of one half: on one half the
weights of the detector were fitted (`--fit` prints them), on the other it is measured, with other words in two other fonts besides.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import time
import zlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import polyclinic
from polyclinic.records.deidentify import burned_in
from polyclinic.trust.measures.calibration import wilson

HEIGHTS = (7, 9, 12, 16, 24, 36, 60)
CONTRASTS = (0.1, 0.2, 0.4, 1.0)
FITTED_WORDS = (
    "SMITH^JOHN", "Garcia, Maria L.", "MRN 0048213", "1962-03-14", "DOB: 03/14/1962", "St. Mary Hospital", "Acc 20240017",
    "Dr. Nguyen", "12:45:07 PM", "F 056Y", "O'Brien", "ID:7731920",
)  # fmt: skip
WORDS = (
    "KOWALSKI^ANNA", "de Vries, Pieter", "MRN: 7719-204", "2019/11/02", "04.07.1948", "Universitätsklinik", "A-5520113", "Ref. Dr. Okafor",
    "09:12", "M 71Y", "Lindqvist", "Pat.-Nr. 55821", "HASAN, L", "Room 12 Bed 3",
)  # fmt: skip
FITTED_FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono", "DejaVuSerif", "")
FONTS = ("DejaVuSans", "DejaVuSansMono-Bold", "STIXGeneral", "")
"""Of matplotlib; the empty name is Pillow's own."""
Grey = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Image:
    """An image, whose it is, and where it is from."""

    name: str
    patient: str
    source: str
    grey: Grey


@dataclass(frozen=True, slots=True)
class Planted:
    """An image with a line of text: its ink (y x), 0 to 1, and its box."""

    grey: Grey
    ink: NDArray[np.float64]
    box: tuple[slice, slice]


def of_pictures(folder: Path) -> Iterator[Image]:
    import PIL.Image

    table = folder.parent / "metadata.csv"
    whose = {}
    if table.is_file():
        with table.open(newline="") as file:
            whose = {row["filename"]: row["patientid"] for row in csv.DictReader(file)}
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in (".png", ".jpg", ".jpeg")):
        grey = np.asarray(PIL.Image.open(path).convert("L"))
        yield Image(path.name, whose.get(path.name, path.name), "real radiographs and CT slices", grey)


def of_dicom(folder: Path) -> Iterator[Image]:
    import pydicom

    for path in sorted(folder.rglob("*.dcm")):
        dataset = pydicom.dcmread(path)
        if "PixelData" not in dataset or dataset.Modality == "SEG":
            continue
        yield Image(path.name, str(dataset.PatientID), "simulated radiographs", burned_in.as_grey(dataset.pixel_array))


def second_half(image: Image) -> bool:
    return bool(zlib.crc32(image.patient.encode()) & 1)


def plant(image: Grey, rng: np.random.Generator, words: str, font: str, height: int, contrast: float) -> Planted | None:
    """Draw a line of words with capitals of a height, brighter or darker than what is under it by a part of the range."""
    import matplotlib
    from PIL import Image as Pil
    from PIL import ImageDraw, ImageFont

    size = round(height / 0.73)  # of a capital to its font's size, in all of these
    fonts = Path(matplotlib.get_data_path(), "fonts", "ttf")
    face = ImageFont.truetype(str(fonts / f"{font}.ttf"), size) if font else ImageFont.load_default(size=size)
    left, top, right, bottom = (round(v) for v in face.getbbox(words))
    mode = "L" if rng.random() < 0.7 else "1"  # anti-aliased or not
    drawn = Pil.new(mode, (right - left + 2, bottom - top + 2))
    ImageDraw.Draw(drawn).text((1 - left, 1 - top), words, font=face, fill=255 if mode == "L" else 1)
    ink = np.asarray(drawn.convert("L")) / 255
    if rng.random() < 0.2:
        ink = np.rot90(ink)
    if any(i + 8 > n for i, n in zip(ink.shape, image.shape, strict=True)):
        return None
    at = [int(rng.integers(2, n - i - 1)) for i, n in zip(ink.shape, image.shape, strict=True)]
    box = slice(at[0], at[0] + ink.shape[0]), slice(at[1], at[1] + ink.shape[1])
    under = image[box].astype(float)
    middle, step = float(np.median(under)), 255 * contrast
    if contrast >= 1:
        target = 255.0 if middle < 128 else 0.0
    else:
        room = [t for t in (middle + step, middle - step) if 0 <= t <= 255]
        if not room:
            return None
        target = room[int(rng.integers(len(room)))]
    grey = image.copy()
    grey[box] = np.round(under * (1 - ink) + target * ink)
    return Planted(grey, ink, box)


def plants(
    images: list[Image], rng: np.random.Generator, words: tuple[str, ...], fonts: tuple[str, ...], height: int, contrast: float, n: int
) -> Iterator[Planted]:  # fmt: skip
    """Planted images; those that are too small for the glyphs are enlarged first."""
    from PIL import Image as Pil

    pick = lambda of: of[int(rng.integers(len(of)))]
    made = 0
    while made < n:
        image = pick(images).grey
        if (grow := 20 * height / max(image.shape)) > 1:
            image = np.asarray(Pil.fromarray(image).resize([round(s * grow) for s in image.shape[::-1]], 3))
        planted = plant(image, rng, pick(words), pick(fonts), height, contrast)
        if planted is not None:
            made += 1
            yield planted


def fit(images: list[Image], rng: np.random.Generator) -> None:
    """Print the weights: planted lines against chains of components in images without text."""
    from sklearn.linear_model import LogisticRegression

    rows: list[NDArray[np.float64]] = []
    is_text: list[bool] = []
    for image in images:
        chains = [c for c, _ in burned_in.chains(image.grey)]
        rows += [burned_in.features(c) for c in chains]
        is_text += [False] * len(chains)
    for height in HEIGHTS:
        for contrast in CONTRASTS[1:]:
            for planted in plants(images, rng, FITTED_WORDS, FITTED_FONTS, height, contrast, 30):
                for chain, line in burned_in.chains(planted.grey):
                    inside = _overlap(line, planted.box)
                    if inside > 0.4 * (line.bottom - line.top) * (line.right - line.left):
                        rows.append(burned_in.features(chain))
                        is_text.append(True)
    model = LogisticRegression(C=1.0, class_weight="balanced", max_iter=10_000).fit(np.stack(rows), is_text)
    print(f"{sum(is_text)} lines, {len(rows) - sum(is_text)} other chains")
    print("_WEIGHTS", [round(float(w), 1) for w in model.coef_[0]], "_BIAS", round(float(model.intercept_[0]), 1))


def _overlap(line: burned_in.Line, box: tuple[slice, slice]) -> int:
    high = min(line.bottom, box[0].stop) - max(line.top, box[0].start)
    wide = min(line.right, box[1].stop) - max(line.left, box[1].start)
    return max(0, high) * max(0, wide)


def recall(images: list[Image], rng: np.random.Generator, n: int) -> dict[tuple[int, float], tuple[int, float, float]]:
    """(height, contrast) → how many were found, the ink within the boxes of those, and the time an image, in ms a megapixel."""
    table = {}
    for height in HEIGHTS:
        for contrast in CONTRASTS:
            found, covered, spent, pixels = 0, [], 0.0, 0
            for planted in plants(images, rng, WORDS, FONTS, height, contrast, n):
                began = time.process_time()
                lines = burned_in.lines_of_text(planted.grey)
                spent, pixels = spent + time.process_time() - began, pixels + planted.grey.size
                mask = np.zeros(planted.grey.shape, bool)
                for line in lines:
                    mask[line.box] = True
                if mask[planted.box].mean() >= 0.5:
                    found += 1
                    covered.append(float((mask[planted.box] * planted.ink).sum() / planted.ink.sum()))
            table[height, contrast] = found, float(np.mean(covered)) if covered else 0.0, 1e9 * spent / pixels
            print(height, contrast, table[height, contrast], flush=True)
    return table


def share(hits: int, n: int) -> str:
    low, high = wilson(hits, n)
    return f"{100 * hits / n:.0f}% ({100 * low:.0f}–{100 * high:.0f})"


def page(found: dict[tuple[int, float], tuple[int, float, float]], n: int, alarms: list[tuple[str, int, int]]) -> str:
    """The tables in Markdown."""
    heads = ["black or white" if c == 1 else f"{100 * c:.0f}% of the range" for c in CONTRASTS]
    lines = [
        f"Made by `benchmarks/results/burned_in.py`: {n} lines a cell, 95% intervals; {platform.machine()}, "
        f"polyclinic {polyclinic.__version__}.",
        "",
        "| height of a capital, px | " + " | ".join(heads) + " |",
        "|---|" + "---|" * len(CONTRASTS),
    ]  # fmt: skip
    lines += [f"| {h} | " + " | ".join(share(found[h, c][0], n) for c in CONTRASTS) + " |" for h in HEIGHTS]
    inked = [found[h, c][1] for h in HEIGHTS for c in CONTRASTS if found[h, c][0]]
    lines += ["", f"Of a line that was found, {100 * float(np.mean(inked)):.1f}% of the ink is within the boxes.", ""]
    lines += ["| images | with a box | of |", "|---|---|---|"]
    lines += [f"| {name} | {hits} = {share(hits, of)} | {of} |" for name, hits, of in alarms if of]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, help="a folder of PNG or JPEG", required=True)
    parser.add_argument("--dicom", type=Path, help="a folder of DICOM images without text")
    parser.add_argument("--seen", type=Path, default=Path(__file__).with_name("burned_in_seen.txt"))
    parser.add_argument("--out", type=Path, default=Path("made"))
    parser.add_argument("--each", type=int, default=60, help="planted lines of each height and contrast")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fit", action="store_true", help="print weights fitted on the first half, and end")
    given = parser.parse_args()
    images = [*of_pictures(given.pictures), *(of_dicom(given.dicom) if given.dicom else ())]
    seen = set(given.seen.read_text().split()) if given.seen.is_file() else set()
    plain = [image for image in images if image.name not in seen]
    rng = np.random.default_rng(given.seed)
    if given.fit:
        fit([image for image in plain if not second_half(image)], rng)
        return
    held = [image for image in plain if second_half(image)]
    found = recall(held, rng, given.each)
    alarms: dict[str, list[int]] = defaultdict(list)
    flagged = []
    for image in images:
        hit = bool(burned_in.lines_of_text(image.grey))
        if image.name in seen:
            alarms[f"{image.source}, which carry text"].append(hit)
        elif second_half(image):
            alarms[f"{image.source}, without text"].append(hit)
            flagged += [image.name] * hit
    text = page(found, given.each, [(name, sum(hits), len(hits)) for name, hits in alarms.items()])
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "burned-in.md").write_text(text)
    print(text)
    times = [t for _, _, t in found.values()]
    print(
        json.dumps(
            {"name": "burned_in", "ms_per_megapixel": round(float(np.median(times)), 1), "false_alarms": flagged}
        )
    )


if __name__ == "__main__":
    main()
