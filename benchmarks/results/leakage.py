"""What the leakage guard finds: planted copies of X-rays, and pairs of different people that it takes for copies.

Two sets of different people: simulated radiographs, and the public covid-chestxray set where a folder of it is given (it is not ours to
pass on). Of some images a copy under another name is planted, changed in one way a time, and the guard is asked for all near-duplicates.

    python -m benchmarks.results.leakage [--patients 700] [--copies 100] [--covid FOLDER] [--quick]

Found is the share of the planted copies, with its 95% interval (Wilson); false are pairs of images or copies of different people,
apart from the pairs that the guard finds in the set itself, which are named beforehand, to be looked at.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from polyclinic import ingest
from polyclinic.cohort.leakage import near_duplicates
from polyclinic.phantom import simulate
from polyclinic.schema import Modality, Payload, Record

Picture = np.ndarray
"""(y x) float32."""
People = dict[str, tuple[str, Picture]]
"""Image → whose, and the picture."""


def eight(picture: Picture) -> Picture:
    """In 256 shades, as a viewer exports it."""
    low, high = float(picture.min()), float(picture.max())
    return np.rint((picture - low) / (high - low) * 255).astype(np.float32)


def sized(picture: Picture, factor: float) -> Picture:
    rows, columns = (max(1, round(n * factor)) for n in picture.shape)
    return np.asarray(Image.fromarray(picture).resize((columns, rows), Image.Resampling.BILINEAR))


def jpeg(picture: Picture) -> Picture:
    out = io.BytesIO()
    Image.fromarray(eight(picture).astype(np.uint8)).save(out, "JPEG", quality=50)
    return np.asarray(Image.open(out), np.float32)


def cropped(picture: Picture, share: float, random: np.random.Generator) -> Picture:
    """A share of the rows and of the columns away, at the two ends as it falls."""
    (top, rows), (left, columns) = ((random.integers(0, (n := round(side * share)) + 1), n) for side in picture.shape)
    return picture[top : picture.shape[0] - rows + top, left : picture.shape[1] - columns + left]


WAYS: Mapping[str, Callable[[Picture, np.random.Generator], Picture]] = {
    "half the size": lambda p, _: sized(p, 0.5),
    "twice the size": lambda p, _: sized(p, 2.0),
    "JPEG, quality 50": lambda p, _: jpeg(p),
    "brighter, of more contrast, nothing cut off": lambda p, _: eight(p) * 0.6 + 90,
    "gamma 0.7": lambda p, _: 255 * (eight(p) / 255) ** 0.7,
    "gamma 1.5": lambda p, _: 255 * (eight(p) / 255) ** 1.5,
    "noise of 2% of the range": lambda p, random: p + random.normal(0, 0.02 * np.ptp(p), p.shape).astype(np.float32),
    "brighter by 20%, cut off at white": lambda p, _: np.minimum(eight(p) + 51, 255),
    "contrast of 1.5, cut off at both ends": lambda p, _: np.clip((eight(p) - 128) * 1.5 + 128, 0, 255),
    "mirrored": lambda p, _: p[:, ::-1],
    "2% cropped": lambda p, random: cropped(p, 0.02, random),
    "5% cropped": lambda p, random: cropped(p, 0.05, random),
}


def simulated(patients: int) -> People:
    with tempfile.TemporaryDirectory() as folder:
        made = simulate(Path(folder) / "phantom", patients, modalities=["xray"])
        cohort = ingest(made.hospital, Path(folder) / "cohort")
        images = cohort.records("modality = 'image'")
        return {r.id: (r.patient, cohort.load(r).array[0].astype(np.float32)) for r in images if not r.attributes.get("mask")}  # fmt: skip


def covid(folder: Path) -> People:
    with (folder / "metadata.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["modality"] == "X-ray"]
    places = {row["filename"]: (row["patientid"], folder / "images" / row["filename"]) for row in rows}
    return {
        name: (who, np.asarray(Image.open(path).convert("L"), np.float32))
        for name, (who, path) in places.items()
        if path.exists()
    }


def pairs(people: People, copies: Mapping[str, Picture]) -> set[tuple[str, str]]:
    """What the guard says of the people and of copies of some of them."""
    every = {name: Record(name, who, None, Modality.IMAGE, "CR", name) for name, (who, _) in people.items()}
    every |= {f"copy {n}": Record(f"copy {n}", f"copy {n}", None, Modality.IMAGE, "CR", n) for n in copies}
    pixels = {name: picture for name, (_, picture) in people.items()} | {f"copy {n}": p for n, p in copies.items()}
    found = near_duplicates(list(every.values()), lambda r: Payload(np.ascontiguousarray(pixels[r.id])[None]))
    return {(one.id, other.id) for one, other in found}


def wilson(share: float, count: int) -> tuple[float, float]:
    z = 1.96
    middle, half = share + z * z / (2 * count), z * math.sqrt(share * (1 - share) / count + z * z / (4 * count**2))
    return (middle - half) / (1 + z * z / count), (middle + half) / (1 + z * z / count)


def measure(name: str, people: People, copies: int) -> dict[str, object]:
    """A row for each way to change a copy."""
    random = np.random.default_rng(0)
    begun = time.perf_counter()
    own = pairs(people, {})
    seconds = time.perf_counter() - begun
    who = {person for person, _ in people.values()}
    print(f"\n{name}: {len(people)} images of {len(who)} people; of the set itself {len(own)} pairs in {seconds:.1f} s")
    for one, other in sorted(own):
        print(f"    {one} = {other}")
    chosen = [list(people)[i] for i in random.choice(len(people), min(copies, len(people)), replace=False)]
    twins = {frozenset(pair) for pair in own}
    strangers = lambda a, b: people[a][0] != people[b][0] and frozenset((a, b)) not in twins
    rows: dict[str, object] = {}
    for way, change in WAYS.items():
        found = pairs(people, {n: change(people[n][1], random) for n in chosen}) - own
        hit = sum((n, f"copy {n}") in found for n in chosen)
        wrong = sum(strangers(a.removeprefix("copy "), b.removeprefix("copy ")) for a, b in found)
        low, high = wilson(hit / len(chosen), len(chosen))
        print(f"| {way} | {hit / len(chosen):.2f} ({low:.2f}–{high:.2f}) | {wrong} |", flush=True)
        rows[way] = {"found": hit / len(chosen), "interval": [low, high], "false": wrong}
    return {"images": len(people), "people": len(who), "copies": len(chosen), "own": len(own), "ways": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--patients", type=int, default=700)
    parser.add_argument("--copies", type=int, default=100)
    parser.add_argument("--covid", type=Path)
    parser.add_argument("--quick", action="store_true", help="a few, to see that it runs")
    given = parser.parse_args()
    patients, copies = (270, 10) if given.quick else (given.patients, given.copies)
    sets = {"simulated": lambda: simulated(patients)}
    if given.covid:
        sets["covid-chestxray"] = lambda: covid(given.covid)
    print(json.dumps({"name": "leakage", "sets": {n: measure(n, make(), copies) for n, make in sets.items()}}))


if __name__ == "__main__":
    main()
