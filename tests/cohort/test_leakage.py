from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import zoom

from polyclinic.cohort import Cohort, LeakageError, guard, ingest, leakage
from polyclinic.cohort.leakage import near_duplicates
from polyclinic.schema import Modality, Payload, Record


@pytest.fixture(scope="module")
def chest(hospital: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Record], dict[str, np.ndarray]]:
    """The embedded hospital's X-rays."""
    cohort: Cohort = ingest(hospital / "radiology", tmp_path_factory.mktemp("c"))
    images = [r for r in cohort.records() if r.modality is Modality.IMAGE and not r.attributes.get("mask")]
    return images, {r.id: cohort.load(r).array for r in images}


def copied(array: np.ndarray, how: str) -> np.ndarray:
    grey = array[0]
    eight = np.interp(grey, (grey.min(), grey.max()), (0, 255)).astype(np.uint8)
    match how:
        case "saved as JPEG":
            import io

            out = io.BytesIO()
            Image.fromarray(eight).save(out, "JPEG", quality=40)
            return np.asarray(Image.open(out), dtype=np.float32)[None]
        case "half the size" | "larger":
            return np.asarray(zoom(grey, 0.5 if how == "half the size" else 1.3, order=1))[None]
        case "brighter":
            return np.clip(grey * 0.8 + 0.15 * np.ptp(grey), grey.min(), grey.max())[None]
        case "inside of a pixel's border":
            return grey[2:-2, 2:-2][None]
        case _:
            raise ValueError(how)


@pytest.mark.parametrize("how", ["saved as JPEG", "half the size", "larger", "brighter", "inside of a pixel's border"])
def test_a_planted_copy_is_found_and_refused(chest: tuple[list[Record], dict[str, np.ndarray]], how: str) -> None:
    images, arrays = chest[0][:40], chest[1]
    for record in images[::15]:
        planted = Record("planted", "SOMEBODY ELSE", None, Modality.IMAGE, "CR", "x")
        with_copy = {**arrays, "planted": copied(arrays[record.id], how)}
        load = lambda r, of=with_copy: Payload(of[r.id])
        assert {(a.id, b.id) for a, b in near_duplicates([*images, planted], load)} >= {(record.id, "planted")}
        train = sorted({r.patient for r in images})
        with pytest.raises(LeakageError, match="near-duplicates on two sides") as told:
            guard(train, ["SOMEBODY ELSE"], [*images, planted], load)
        assert record.patient not in str(told.value)  # it names images, not people
        guard([*train, "SOMEBODY ELSE"], [], [*images, planted], load)


def test_a_grey_copy_of_a_picture_in_colours_is_found() -> None:
    light = np.random.default_rng(0).normal(size=(4, 6, 6)).repeat(20, axis=1).repeat(20, axis=2) * 20 + 128
    colour = {f"c{i}": Payload(np.stack([shade, 0.5 * shade[::-1], 0.2 * shade.T])) for i, shade in enumerate(light)}
    grey = {"g": Payload(np.tensordot([0.299, 0.587, 0.114], colour["c2"].array, 1)[None])}  # ITU-R BT.601
    found = [Record(name, name, None, Modality.IMAGE, "image", name) for name in (*colour, *grey)]
    pairs = near_duplicates(found, lambda r: {**colour, **grey}[r.id])
    assert [(a.id, b.id) for a, b in pairs] == [("c2", "g")]


def test_x_rays_of_different_people_are_not_taken_for_copies(chest: tuple[list[Record], dict[str, np.ndarray]]) -> None:
    images, arrays = chest
    assert len({r.patient for r in images}) > 40
    assert near_duplicates(images, lambda r: Payload(arrays[r.id])) == []


@pytest.mark.parametrize("exact", [True, False])
def test_of_many_images_that_are_alike_only_copies_are_copies(monkeypatch: pytest.MonkeyPatch, exact: bool) -> None:
    random = np.random.default_rng(0)
    y, x = np.mgrid[0:64, 0:64] / 64
    # One simulator's people: the same body, each a little different.
    body = 200 * x + 60 * y
    waves = np.stack([np.cos(np.pi * i * x) * np.cos(np.pi * j * y) for i in range(4) for j in range(4) if i + j])
    people = body + np.tensordot(random.normal(size=(300, 15)) * 0.9, waves, 1)
    arrays = {f"a{n}": one[None] for n, one in enumerate(people)} | {"copy": copied(people[7][None], "half the size")}
    found = [Record(name, name, None, Modality.IMAGE, "CR", name) for name in arrays]
    load = lambda r: Payload(arrays[r.id])
    assert len(near_duplicates(found[:20], load)) > 100  # so few do not tell what is common to all
    if not exact:
        monkeypatch.setattr(leakage, "EXACT", 10)
    assert [(a.id, b.id) for a, b in near_duplicates(found, load)] == [("a7", "copy")]


def test_of_the_whole_public_set_only_true_copies_are_found(shared_data: Path, tmp_path: Path) -> None:
    cohort = ingest(shared_data / "covid-chestxray/images", tmp_path / "c")
    images = cohort.records()
    pairs = near_duplicates(images, cohort.load)
    assert len(pairs) < len(images) / 20
    for one, other in pairs:  # what it calls a copy correlates pixel by pixel at full size
        a, b = (
            np.asarray(Image.fromarray(cohort.load(r).array[0]).resize((256, 256))).reshape(-1) for r in (one, other)
        )
        assert np.corrcoef(a, b)[0, 1] > 0.97


def test_blocks_find_what_one_piece_finds(
    chest: tuple[list[Record], dict[str, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    images, arrays = chest
    planted = [Record(f"p{i}", f"Q{i}", None, Modality.IMAGE, "CR", "x") for i in range(3)]
    of = {**arrays, **{p.id: arrays[images[20 * i].id] for i, p in enumerate(planted)}}
    load = lambda r: Payload(of[r.id])
    expected = near_duplicates([*planted, *images], load)
    assert len(expected) == 3
    monkeypatch.setattr(leakage, "BLOCK", 7)
    assert sorted(near_duplicates([*planted, *images], load), key=str) == sorted(expected, key=str)


def test_a_patient_on_both_sides_is_refused() -> None:
    found = [Record("a", "P1", None, Modality.TABLE, "t", "x")]
    with pytest.raises(LeakageError, match="1 patients on both sides"):
        guard(["P1", "P2"], ["P1"], found, lambda r: Payload(np.zeros(1)))


def test_several_images_of_one_patient_are_no_leak_and_masks_are_no_images() -> None:
    image = lambda name, patient, **more: Record(name, patient, None, Modality.IMAGE, "CR", "x", attributes=more)
    load = lambda r: Payload(np.random.default_rng(0).normal(size=(1, 40, 40)))
    guard(["P1"], ["P2"], [image("a", "P1"), image("b", "P1"), image("c", "P2", mask=True)], load)


def test_blank_and_tiny_images_do_not_break_it() -> None:
    found = [Record(str(i), f"P{i}", None, Modality.IMAGE, "CR", "x") for i in range(3)]
    arrays = {"0": np.zeros((1, 40, 40)), "1": np.zeros((1, 3, 3)), "2": np.full((1, 40, 2), 7.0)}
    assert near_duplicates(found, lambda r: Payload(arrays[r.id])) == []
