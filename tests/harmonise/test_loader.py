from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile
import torch

from polyclinic import records
from polyclinic.cohort import Cohort, Label, ingest
from polyclinic.cohort.catalogue import inputs
from polyclinic.harmonise import (
    Cache,
    Fingerprint,
    GridError,
    ImageStandard,
    OmicsStandard,
    SignalStandard,
    SlideStandard,
    TableStandard,
    TextStandard,
    VideoStandard,
    VolumeStandard,
    fit,
    points_back,
)
from polyclinic.harmonise.loader import Loader
from polyclinic.harmonise.unread import UnreadError
from polyclinic.records import RecordError
from polyclinic.schema import Batch, MissingExtraError, Modality, Payload, Ragged, Record

STANDARDS = {
    Modality.IMAGE: ImageStandard(size=32),
    Modality.VOLUME: VolumeStandard(size=(16, 24, 16)),
    Modality.TEXT: TextStandard(words=16, vocabulary=128),
    Modality.TABLE: TableStandard(exclude=("finding", "survival_months", "censorship"), fewest=2),
    Modality.OMICS: OmicsStandard(),
    Modality.SIGNAL: SignalStandard(seconds=2),
}
LABELS = (
    Label("finding", "class", "finding", ("COVID-19",)),
    Label("survival", "survival", "survival_months", event="censorship", event_value=0),
    Label("hippocampus", "mask", modality=Modality.VOLUME),
)


@pytest.fixture(scope="module")
def fingerprint(tiny_cohort: Cohort) -> Fingerprint:
    return fit(inputs(tiny_cohort.records()), tiny_cohort.load, STANDARDS)


@pytest.fixture(scope="module")
def cache() -> Cache:
    return Cache()


def loader(cohort: Cohort, fingerprint: Fingerprint, cache: Cache | None = None, **more: Any) -> Loader:
    return Loader(
        cohort.records(),
        more.pop("patients", cohort.patients()),
        STANDARDS,
        fingerprint,
        cohort.load,
        LABELS,
        cache,
        batch=8,
        **more,
    )


def same(one: Batch, other: Batch) -> bool:
    if one.patients != other.patients or list(one.payloads) != list(other.payloads):
        return False
    for modality, ragged in one.payloads.items():
        twin = other.payloads[modality]
        if (
            ragged.ids != twin.ids
            or not torch.equal(ragged.patient, twin.patient)
            or not torch.equal(ragged.time_h, twin.time_h)
        ):
            return False
        if not all(
            torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))
            for a, b in zip(ragged.values, twin.values, strict=True)
        ):
            return False
    return all(torch.equal(t.mask, other.targets[name].mask) for name, t in one.targets.items())


def test_a_batch_is_a_function_of_seed_and_step(tiny_cohort: Cohort, fingerprint: Fingerprint, cache: Cache) -> None:
    one, other = loader(tiny_cohort, fingerprint, cache), loader(tiny_cohort, fingerprint)
    for step in (7, 3, 7):
        assert same(one.batch(step), other.batch(step))
    turned = Loader(
        list(reversed(tiny_cohort.records())),
        tiny_cohort.patients(),
        STANDARDS,
        fingerprint,
        tiny_cohort.load,
        LABELS,
        cache,
        batch=8,
    )
    assert same(turned.batch(3), one.batch(3))
    assert not same(one.batch(3), one.batch(4))
    assert not same(one.batch(3), loader(tiny_cohort, fingerprint, cache, seed=1).batch(3))


def test_a_batch_has_only_what_exists(tiny_cohort: Cohort, fingerprint: Fingerprint, cache: Cache) -> None:
    volumes = [r.patient for r in tiny_cohort.records("modality = 'volume'") if not r.attributes["mask"]]
    batch = loader(tiny_cohort, fingerprint, cache).of(volumes[:2])
    assert list(batch.payloads) == [Modality.VOLUME]
    ragged = batch.payloads[Modality.VOLUME]
    assert isinstance(ragged.values, torch.Tensor)
    assert ragged.values.shape == (2, 1, 16, 24, 16)
    assert ragged.spacing is not None
    assert ragged.spacing.tolist() == [[1, 1, 1]] * 2
    assert ragged.patient.tolist() == [0, 1]


def test_every_patient_comes_once_with_all_records(tiny_cohort: Cohort, fingerprint: Fingerprint, cache: Cache) -> None:
    made = loader(tiny_cohort, fingerprint, cache)
    batches = list(made.each(7))
    assert [p for b in batches for p in b.patients] == made.patients == tiny_cohort.patients()
    ids = [i for b in batches for ragged in b.payloads.values() for i in ragged.ids]
    assert len(ids) == len(set(ids))
    masks = {r.id for r in tiny_cohort.records() if r.attributes.get("mask")}
    assert masks
    assert not masks & set(ids)  # a mask is an answer
    assert set(ids) == {r.id for r in inputs(tiny_cohort.records())}
    for batch in batches:
        for ragged in batch.payloads.values():
            assert ragged.patients == len(batch.patients)
            assert ragged.patient.tolist() == sorted(ragged.patient.tolist())
    few = next(made.each(5, modalities=[Modality.TEXT]))
    assert len(few.patients) == 5
    assert set(few.payloads) <= {Modality.TEXT}


def test_a_step_takes_at_most_so_many_records_of_a_modality(
    tiny_cohort: Cohort, fingerprint: Fingerprint, cache: Cache
) -> None:
    counts: dict[str, int] = {}
    for r in inputs(tiny_cohort.records()):
        if r.modality is Modality.IMAGE:
            counts[r.patient] = counts.get(r.patient, 0) + 1
    several = max(counts, key=lambda p: counts[p])
    assert counts[several] > 1
    one = loader(tiny_cohort, fingerprint, cache, most=1)
    drawn = {one.of([several], seed=s).payloads[Modality.IMAGE].ids[0] for s in range(20)}
    assert len(drawn) > 1  # which of them changes
    assert len(one.of([several]).payloads[Modality.IMAGE].ids) == counts[several]


def test_unlabelled_is_masked_and_not_negative(tiny_cohort: Cohort, fingerprint: Fingerprint, cache: Cache) -> None:
    made = loader(tiny_cohort, fingerprint, cache)
    (batch,) = made.each(1000)
    finding = batch.targets["finding"]
    known = {p: int(v) for p, v, m in zip(batch.patients, finding.values, finding.mask, strict=True) if m}
    told = {r.patient: r.attributes["finding"] for r in tiny_cohort.records("kind = 'table studies'")}
    assert known == {p: int(cell == "COVID-19") for p, cell in told.items() if cell is not None}
    assert not finding.mask.all()
    survival = batch.targets["survival"]
    assert isinstance(survival.values, torch.Tensor)
    assert survival.values.shape == (len(batch.patients), 2)
    assert (survival.values[survival.mask][:, 0] > 0).all()
    hippocampus = batch.targets["hippocampus"]
    assert len(hippocampus.values) == len(batch.payloads[Modality.VOLUME].ids) == len(hippocampus.mask)
    assert set(torch.cat([v.reshape(-1) for v in hippocampus.values]).tolist()) == {0, 1, 2}


def test_a_comparison_forgets_all_labels_but_a_few(tiny_cohort: Cohort, fingerprint: Fingerprint, cache: Cache) -> None:
    made = loader(tiny_cohort, fingerprint, cache)
    few = sorted(made.labelled("hippocampus"))[:2]
    made.only("hippocampus", few)
    (batch,) = made.each(1000)
    assert sorted(made.labelled("hippocampus")) == few
    kept = batch.targets["hippocampus"].mask.sum()
    assert kept == 2
    zero = [
        v for v, m in zip(batch.targets["hippocampus"].values, batch.targets["hippocampus"].mask, strict=True) if not m
    ]
    assert zero
    assert all((v == 0).all() for v in zero)
    some = sorted(made.labelled("finding"))[:3]
    made.only("finding", some)
    assert sorted(made.labelled("finding")) == some
    assert made.labelled("survival")


def test_a_mask_lies_on_its_image(tiny_cohort: Cohort, fingerprint: Fingerprint, cache: Cache) -> None:
    made = loader(tiny_cohort, fingerprint, cache)
    (batch,) = made.each(1000)
    found = {r.id: r for r in tiny_cohort.records()}
    for name, mask in zip(batch.payloads[Modality.VOLUME].ids, batch.targets["hippocampus"].values, strict=True):
        image = found[name]
        source = tiny_cohort.load(next(r for r in found.values() if r.attributes.get("mask_of") == name)).array[0]
        places = torch.nonzero(mask)[::50]
        back = np.rint(points_back(places.numpy()[:, ::-1].astype(float), made.payload(image).history)).astype(int)
        assert [int(source[z, y, x]) for x, y, z in back] == [int(mask[tuple(p)]) for p in places.tolist()]


def test_label_columns_never_enter(tiny_cohort: Cohort, fingerprint: Fingerprint, cache: Cache) -> None:
    (batch,) = loader(tiny_cohort, fingerprint, cache).each(1000)
    names = {c.number: n for n, c in fingerprint.codes.items()}
    seen = {names[int(code)] for events in batch.payloads[Modality.TABLE].values for code in events[:, 0]}
    assert seen
    assert not [n for n in seen if n.startswith(("finding", "survival_months", "censorship"))]


@pytest.fixture(params=["UTC", "America/New_York"])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("zone")
def test_hours_count_from_the_patients_first_record_whatever_the_machines_zone() -> None:
    start = datetime(2020, 3, 7, 12)  # the night after, clocks go forward in New York
    moments = [start + timedelta(hours=24), start, None, datetime(1900, 1, 1), datetime(2199, 5, 5)]
    who = ["P1", "P1", "P1", "P2", "P3"]
    found = [
        Record(f"{i}", p, m, Modality.IMAGE, "CR", f"{i}") for i, (p, m) in enumerate(zip(who, moments, strict=True))
    ]
    made = Loader(
        found,
        ["P1", "P2", "P3"],
        {Modality.IMAGE: ImageStandard(size=8)},
        Fingerprint(),
        lambda r: Payload(np.eye(9)[None]),
    )
    ragged = made.of(["P1", "P2", "P3"]).payloads[Modality.IMAGE]
    assert dict(zip(ragged.ids, ragged.time_h.tolist(), strict=True)) == {
        "0": 24.0,
        "1": 0.0,
        "2": 0.0,
        "3": 0.0,
        "4": 0.0,
    }


def test_a_nominal_scale_is_no_spacing() -> None:
    found = [Record("a", "P1", None, Modality.IMAGE, "CR", "a"), Record("b", "P2", None, Modality.IMAGE, "CR", "b")]
    load = lambda r: Payload(np.eye(16)[None], None if r.id == "a" else np.diag([0.5, 0.5, 1, 1]))
    ragged = (
        Loader(found, ["P1", "P2"], {Modality.IMAGE: ImageStandard(size=8)}, Fingerprint(), load)
        .of(["P1", "P2"])
        .payloads[Modality.IMAGE]
    )
    assert ragged.spacing is not None
    assert torch.isnan(ragged.spacing[0]).all()
    assert ragged.spacing[1].tolist() == [1.0, 1.0]


def of_payloads(modality: Modality, standard: Any, payloads: dict[str, Payload]) -> Ragged:
    """What a loader makes of one record a patient."""
    found = [Record(name, name, None, modality, modality.value, name) for name in payloads]
    made = Loader(found, list(payloads), {modality: standard}, Fingerprint(), lambda r: payloads[r.id])
    return made.of(list(payloads)).payloads[modality]


def test_the_frames_of_a_video_keep_their_times_and_their_scale() -> None:
    times = {"a": np.arange(40) / 10, "b": 100 + np.cumsum(np.tile([0.1, 0.3], 8))}
    clips = {}
    for name, seconds in times.items():
        places = np.zeros((len(seconds), 4))
        places[:, 3] = seconds
        array = np.random.default_rng(0).integers(0, 255, (len(seconds), 3, 20, 30), np.uint8)
        clips[name] = Payload(array, np.diag([0.5, 0.5, 1, 1]) if name == "a" else None, places=places)
    ragged = of_payloads(Modality.VIDEO, VideoStandard(rate_hz=5, seconds=2, size=10, start_s=None), clips)
    assert ragged.places is not None
    assert ragged.places[0].dtype == torch.float32
    assert ragged.places[0][:, 3].tolist() == pytest.approx((1 + np.arange(10) / 5).tolist())
    assert len(ragged.values[1]) == len(ragged.places[1])
    assert set(ragged.places[1][:, 3].tolist()) <= set(times["b"].astype(np.float32).tolist())
    assert ragged.spacing is not None
    assert ragged.spacing[0].tolist() == pytest.approx(
        [1.5, 1.5]
    )  # mm a pixel of a frame: 30 of half a millimetre on 10
    assert torch.isnan(ragged.spacing[1]).all()
    assert ragged.spacing.shape == (2, 2)


def test_the_tiles_of_a_slide_keep_their_places_and_their_scale(tmp_path: Path) -> None:
    array = np.full((512, 640, 3), 240, np.uint8)
    array[:256, :384] = (200, 90, 150)
    centimetre: Any = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}  # half a micrometre
    payloads = {}
    for name, scale in (("a", centimetre), ("b", {})):
        with tifffile.TiffWriter(tmp_path / f"{name}.tif") as file:
            for by in (1, 4):
                level = np.ascontiguousarray(array[::by, ::by])
                file.write(level, tile=(64, 64), photometric="rgb", metadata=None, subfiletype=int(by > 1), **scale)
        (record,) = records.read(tmp_path / f"{name}.tif")
        assert isinstance(record, Record)
        payloads[name] = records.load(record, tmp_path)
    ragged = of_payloads(Modality.SLIDE, SlideStandard(size=64, mpp=1.0), payloads)
    assert ragged.places is not None
    assert ragged.spacing is not None
    assert ragged.spacing[0].tolist() == pytest.approx([0.001, 0.001])
    assert torch.isnan(ragged.spacing[1]).all()
    # Tiles of 128 × 128 pixels of level 0, of which three across and two down are tissue: their centres in mm.
    expected = [[x * 0.064 - 0.00025 + 0.032, y * 0.064 - 0.00025 + 0.032] for y in range(2) for x in range(3)]
    assert np.allclose(ragged.places[0][:, :2], expected, atol=1e-6)
    assert not ragged.places[0][:, 2:].any()


def test_what_lies_on_a_grid_has_no_places(tiny_cohort: Cohort, fingerprint: Fingerprint) -> None:
    made = loader(tiny_cohort, fingerprint)
    seen = {m: r for b in made.each() for m, r in b.payloads.items()}
    assert set(seen) == set(STANDARDS)
    assert all(ragged.places is None for ragged in seen.values())
    kinds = {r.id: r.kind for r in tiny_cohort.records()}
    assert all(ragged.kinds == [kinds[i] for i in ragged.ids] for ragged in seen.values())
    axes = {m: None if r.spacing is None else r.spacing.shape[1] for m, r in seen.items()}
    assert axes == {
        Modality.IMAGE: 2, Modality.VOLUME: 3, Modality.SIGNAL: 1, Modality.TEXT: None, Modality.TABLE: None, Modality.OMICS: None,
    }  # fmt: skip


def volumes(place: Path, mask: np.ndarray) -> Cohort:
    (place / "in/labels").mkdir(parents=True)
    nibabel.save(nibabel.Nifti1Image(np.random.default_rng(0).normal(size=(9, 9, 9)), np.eye(4)), place / "in/x1.nii")
    nibabel.save(
        nibabel.Nifti1Image(
            mask,
            np.diag([1, 1, 1, 1])
            if mask.shape == (9, 9, 9)
            else np.array([[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
        ),
        place / "in/labels/x1.nii",
    )
    return ingest(place / "in", place / "c")


def of_volumes(cohort: Cohort) -> Batch:
    standard = {Modality.VOLUME: VolumeStandard(size=(9, 9, 9))}
    return Loader(cohort.records(), cohort.patients(), standard, Fingerprint(), cohort.load, LABELS[2:]).of(
        cohort.patients()
    )


def test_a_label_number_beyond_a_byte_stays_itself(tmp_path: Path) -> None:
    mask = np.zeros((9, 9, 9), np.uint8)
    mask[2:4], mask[5:7] = 200, 117
    (target,) = of_volumes(volumes(tmp_path, mask)).targets["hippocampus"].values
    assert torch.unique(target).tolist() == [0, 117, 200]


def test_a_mask_that_does_not_lie_on_its_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(GridError, match=r"labels/x1\.nii: a mask of \(4, 4, 4\) on an image of \(9, 9, 9\)"):
        of_volumes(volumes(tmp_path, np.ones((4, 4, 4), np.uint8)))


def test_one_cache_serves_two_fingerprints(tiny_cohort: Cohort, fingerprint: Fingerprint) -> None:
    shared = Cache()
    bladder = [r.patient for r in tiny_cohort.records("modality = 'omics'")][:1]
    other = fit([r for r in inputs(tiny_cohort.records()) if r.patient != bladder[0]], tiny_cohort.load, STANDARDS)
    for made in (fingerprint, other):
        mine = loader(tiny_cohort, made, shared).of(bladder)
        alone = loader(tiny_cohort, made).of(bladder)
        assert same(mine, alone)
    assert not same(loader(tiny_cohort, fingerprint).of(bladder), loader(tiny_cohort, other).of(bladder))


def broken(cohort: Cohort, names: Iterable[str]) -> tuple[Callable[[Record], Payload], set[str]]:
    """A catalogue's `load`, for which the images of some patients are gone."""
    gone = set(names)

    def load(record: Record) -> Payload:
        if record.patient in gone and record.modality is Modality.IMAGE:
            raise RecordError("no file", "the source where it was ingested", "put it back")
        return cohort.load(record)

    return load, gone


def test_who_cannot_be_read_is_left_out_and_noted(tiny_cohort: Cohort, fingerprint: Fingerprint) -> None:
    whole = loader(tiny_cohort, fingerprint)
    seen = [p for p in whole.patients if Modality.IMAGE in whole.by_patient[p]]
    some = loader(tiny_cohort, fingerprint)
    some.load, gone = broken(tiny_cohort, seen[1:3])
    one = list(whole.each(4, [p for p in whole.patients if p not in gone]))
    told = [p for b in some.each(4) for p in b.patients]
    assert told == [p for b in one for p in b.patients]
    assert {u.patient for u in some.unread.values()} == gone
    assert all(u.why == "no file; expected the source where it was ingested" for u in some.unread.values())
    # What is not asked for need not be readable.
    assert [p for b in some.each(4, modalities=[Modality.TABLE]) for p in b.patients] == whole.patients
    batch, aside = some.parted(seen[:4])
    assert batch is not None
    assert same(batch, whole.of([seen[0], seen[3]]))
    assert {u.patient for u in aside} == gone
    with pytest.raises(RecordError, match="no file"):
        some.of(seen[:2])


def test_a_training_batch_takes_another_in_their_place(tiny_cohort: Cohort, fingerprint: Fingerprint) -> None:
    whole, some = loader(tiny_cohort, fingerprint, most=None), loader(tiny_cohort, fingerprint, most=None)
    first = whole.batch(0)
    some.load, gone = broken(tiny_cohort, [p for p in first.patients if Modality.IMAGE in whole.by_patient[p]][:2])
    assert gone
    batch = some.batch(0)
    assert len(batch.patients) == len(set(batch.patients)) == len(first.patients)
    assert set(first.patients) - gone <= set(batch.patients)
    assert batch.patients == sorted(batch.patients)
    for step in range(3):  # a function of the seed, the step and the files, whatever was asked before
        fresh = loader(tiny_cohort, fingerprint, most=None)
        fresh.load = some.load
        assert same(fresh.batch(step), some.batch(step))
        parts = fresh.batches(step, 2)
        assert [p for part in parts for p in part.patients] == some.batch(step).patients


def test_a_damaged_disk_is_not_taken_for_patients(tiny_cohort: Cohort, fingerprint: Fingerprint) -> None:
    images = loader(tiny_cohort, fingerprint)
    who = [p for p in images.patients if Modality.IMAGE in images.by_patient[p]]
    images.load, _ = broken(tiny_cohort, who[1:])
    with pytest.raises(UnreadError, match=f"{len(who) - 1} of {len(who)} patients who cannot be read"):
        images.readable(who)
    images.load, _ = broken(tiny_cohort, who[2:])
    assert images.readable(who) == who[:2]
    everybody = loader(tiny_cohort, fingerprint, patients=who, most=None)
    everybody.load, _ = broken(tiny_cohort, who)
    with pytest.raises(UnreadError):
        everybody.batch(0)


def test_what_an_extra_would_read_is_not_the_patient_s_fault(tiny_cohort: Cohort, fingerprint: Fingerprint) -> None:
    images = loader(tiny_cohort, fingerprint)

    def load(record: Record) -> Payload:
        raise MissingExtraError("pylibjpeg", "dicom")

    images.load = load
    with pytest.raises(MissingExtraError):
        next(images.each(4))
