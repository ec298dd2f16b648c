from __future__ import annotations

import gc
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.core.sync import sync

from polyclinic.harmonise import Cache, ImageStandard, TextStandard, VolumeStandard, harmonise
from polyclinic.harmonise.fingerprint import Fingerprint
from polyclinic.schema import Modality, Payload, Record

STANDARD = VolumeStandard(size=(12, 12, 12))


def volume(seed: int = 0) -> Payload:
    source = Payload(np.random.default_rng(seed).normal(size=(1, 9, 8, 7)), np.diag([1.0, -2, 3, 1]))
    return harmonise(source, Record("v", "P", None, Modality.VOLUME, "MR", "v"), STANDARD, Fingerprint())


def assert_same(one: Payload, other: Payload) -> None:
    assert np.array_equal(one.array, other.array)
    assert one.array.dtype == other.array.dtype
    assert one.to_world is not None
    assert other.to_world is not None
    assert np.array_equal(one.to_world, other.to_world)
    assert one.history == other.history
    assert (one.nominal, one.names) == (other.nominal, other.names)


def never() -> Payload:
    raise AssertionError("made again")


def test_what_is_kept_comes_back_the_same_from_memory_and_from_the_disk(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    assert_same(cache.get("a", STANDARD, "", volume), volume())
    assert_same(cache.get("a", STANDARD, "", never), volume())
    cache.flush()
    assert_same(Cache(tmp_path).get("a", STANDARD, "", never), volume())


def test_another_record_standard_or_fingerprint_is_another_entry(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.get("a", STANDARD, "x", volume)
    for key in (("b", STANDARD, "x"), ("a", VolumeStandard(size=(13, 12, 12)), "x"), ("a", STANDARD, "y")):
        assert_same(cache.get(*key, lambda: volume(1)), volume(1))
    cache.flush()
    assert_same(Cache(tmp_path).get("a", STANDARD, "x", never), volume())


def damaged(path: Path, how: str) -> None:
    chunks = [p for p in path.rglob("*") if p.is_file() and p.name != "zarr.json"]
    about = next(path.rglob("zarr.json"))
    match how:
        case "a chunk cut short":
            chunks[0].write_bytes(chunks[0].read_bytes()[:-20])
        case "a chunk gone":
            chunks[0].unlink()
        case "a chunk of zeros":
            chunks[0].write_bytes(b"")
        case "a changed bit":
            data = bytearray(chunks[0].read_bytes())
            data[len(data) // 2] ^= 4
            chunks[0].write_bytes(data)
        case "a changed bit in the index":
            data = bytearray(chunks[0].read_bytes())
            data[-15] ^= 4
            chunks[0].write_bytes(data)
        case "no metadata":
            about.unlink()
        case "broken metadata":
            about.write_text("{")
        case "metadata without a history":
            known = json.loads(about.read_text())
            del known["attributes"]["rows"][0]["history"]
            about.write_text(json.dumps(known))


@pytest.mark.parametrize(
    "how",
    [
        "a chunk cut short",
        "a chunk gone",
        "a chunk of zeros",
        "a changed bit",
        "a changed bit in the index",
        "no metadata",
        "broken metadata",
        "metadata without a history",
    ],
)
def test_a_damaged_entry_is_made_again(tmp_path: Path, how: str) -> None:
    Cache(tmp_path).get("a", STANDARD, "", volume)
    damaged(tmp_path, how)
    made: list[int] = []

    def again() -> Payload:
        made.append(1)
        return volume()

    mending = Cache(tmp_path)
    assert_same(mending.get("a", STANDARD, "", again), volume())
    mending.flush()
    assert made
    assert_same(Cache(tmp_path).get("a", STANDARD, "", never), volume())  # and is whole now


SHARE = """
import sys, time
from pathlib import Path
import numpy as np
from polyclinic.harmonise import Cache, VolumeStandard
from polyclinic.schema import Payload
cache, made = Cache(Path(sys.argv[1])), 0
def make(i):
    global made
    made += 1
    time.sleep(0.01)
    return Payload(np.full((1, 20, 20, 20), i, np.float32), np.eye(4))
print("ready", flush=True)
sys.stdin.readline()
for i in range(40):
    found = cache.get(str(i), VolumeStandard(), "", lambda: make(i))
    assert (found.array == i).all()
cache.flush()
print(made)
"""


def test_two_processes_share_it(tmp_path: Path) -> None:
    both = [
        subprocess.Popen(
            [sys.executable, "-c", SHARE, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in both:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    told = [process.communicate(timeout=60) for process in both]
    assert [p.returncode for p in both] == [0, 0]
    assert 40 <= sum(int(out) for out, _ in told) <= 80
    assert not list(tmp_path.glob("*/.*"))
    for i in range(40):
        assert (Cache(tmp_path).get(str(i), VolumeStandard(), "", never).array == i).all()


def numbered(i: int, side: int = 8) -> Payload:
    return Payload(np.full((1, side, side, side), i, np.float32), np.diag([1.0, 2, 3, 1]), names=("grey",))


def test_records_of_one_shape_share_a_shard_of_one_file(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    for i in range(300):
        cache.get(str(i), STANDARD, "", lambda i=i: numbered(i, 8 if i % 100 else 9))
    cache.flush()
    shards = sorted(p for p in tmp_path.glob("*/*"))
    assert len(shards) == 3  # at 256 records: of both shapes; and the rest
    assert sum(p.is_file() and p.name != "zarr.json" for p in tmp_path.rglob("*")) == 3
    again = Cache(tmp_path)
    for i in (299, 0, 7, 200):
        found = again.get(str(i), STANDARD, "", never)
        assert (found.array == i).all()
        assert found.names == ("grey",)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "uint8", "int16", "int64", "bool", ">i2", ">f4"])
def test_any_zarr_reader_finds_the_rows_that_we_find(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, packed: bool
) -> None:
    if not packed:
        monkeypatch.setattr("polyclinic.harmonise.shard._LARGEST", 0)  # as of a row of over 2 GiB
    draw = np.random.default_rng(0)
    arrays = [np.zeros((1, 5, 7), dtype), *(draw.normal(50, 20, (5, 1, 5, 7)).astype(dtype))]
    cache = Cache(tmp_path)
    for i, array in enumerate(arrays):
        cache.get(str(i), STANDARD, "", lambda array=array: Payload(array))
    cache.flush()
    (shard,) = tmp_path.glob("*/*.zarr")
    assert np.array_equal(np.asarray(zarr.open_array(shard, mode="r")[...]), np.stack(arrays))
    for i, array in enumerate(arrays):
        found = Cache(tmp_path).get(str(i), STANDARD, "", never).array
        assert np.array_equal(found, array)
        assert found.dtype == array.dtype.newbyteorder("<")
        assert found.flags.writeable


def test_another_process_reads_what_was_flushed_while_it_runs(tmp_path: Path) -> None:
    one, other = Cache(tmp_path), Cache(tmp_path)
    one.get("a", STANDARD, "", lambda: numbered(1))
    other.get("b", STANDARD, "", lambda: numbered(2))
    one.flush()
    assert (other.get("a", STANDARD, "", never).array == 1).all()
    other.flush()
    assert (one.get("b", STANDARD, "", never).array == 2).all()


def test_one_damaged_row_costs_no_other(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    draw = np.random.default_rng(0)
    payloads = {name: Payload(draw.normal(size=(1, 16, 16, 16)).astype(np.float32), np.eye(4)) for name in "abc"}
    for name, payload in payloads.items():
        cache.get(name, STANDARD, "", lambda payload=payload: payload)
    cache.flush()
    (chunk,) = [p for p in tmp_path.rglob("*") if p.is_file() and p.name != "zarr.json"]
    data = bytearray(chunk.read_bytes())
    data[100] ^= 255  # in the first row
    chunk.write_bytes(data)
    again = Cache(tmp_path)
    for name in "bc":
        assert_same(again.get(name, STANDARD, "", never), payloads[name])
    with pytest.raises(AssertionError, match="made again"):
        again.get("a", STANDARD, "", never)
    again.get("a", STANDARD, "", lambda: payloads["a"])
    again.flush()
    for name in "abc":
        assert_same(Cache(tmp_path).get(name, STANDARD, "", never), payloads[name])


def test_what_is_let_go_within_zarrs_own_loop_is_written_all_the_same(tmp_path: Path) -> None:
    held = [Cache(tmp_path)]
    held[0].get("a", STANDARD, "", volume)
    # A ring of references, as the garbage collector finds it and wherever it happens to run.
    ring: list[object] = [held.pop()]
    ring.append(ring)

    async def collect() -> None:
        ring.clear()
        gc.collect()

    sync(collect())
    assert_same(Cache(tmp_path).get("a", STANDARD, "", never), volume())


@pytest.mark.parametrize("end", ["", "sys.exit(3)", "raise KeyboardInterrupt"])
def test_what_still_waits_when_the_program_ends_is_written(tmp_path: Path, end: str) -> None:
    code = SHARE.replace('print("ready", flush=True)\nsys.stdin.readline()', "").replace("cache.flush()", end)
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False)
    assert "Exception ignored" not in done.stderr
    assert "SyncError" not in done.stderr
    for i in range(40):
        assert (Cache(tmp_path).get(str(i), VolumeStandard(), "", never).array == i).all()


def test_places_and_records_of_nothing_are_kept_too(tmp_path: Path) -> None:
    tiles = Payload(np.zeros((3, 2, 4, 4), np.uint8), np.eye(4), places=np.arange(12.0).reshape(3, 4))
    none = Payload(np.zeros((0, 2, 4, 4), np.uint8), np.eye(4), places=np.zeros((0, 4)))
    for name, payload in (("a", tiles), ("b", none)):
        Cache(tmp_path).get(name, STANDARD, "", lambda payload=payload: payload)
        kept = Cache(tmp_path).get(name, STANDARD, "", never)
        assert_same(kept, payload)
        assert kept.places is not None
        assert np.array_equal(kept.places.reshape(-1), np.asarray(payload.places).reshape(-1))


def test_on_a_full_disk_it_goes_on_in_memory(tmp_path: Path) -> None:
    code = SHARE.replace(
        'print("ready", flush=True)\nsys.stdin.readline()',
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (60, 60))",
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "40\n"
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_the_memory_in_front_is_bound_and_the_oldest_go_first() -> None:
    cache = Cache(None, most_bytes=3 * volume().array.nbytes)
    for name in "abc":
        cache.get(name, STANDARD, "", volume)
    cache.get("a", STANDARD, "", never)
    cache.get("d", STANDARD, "", volume)
    cache.get("a", STANDARD, "", never)
    with pytest.raises(AssertionError, match="made again"):
        cache.get("b", STANDARD, "", never)
    small = Cache(None, most_bytes=1)
    small.get("a", STANDARD, "", volume)
    small.get("a", STANDARD, "", never)  # the latest is always kept


def test_words_are_kept_in_memory_only(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    words = Payload(np.arange(3), text="Jane Doe coughs")
    cache.get("a", TextStandard(), "", lambda: words)
    assert cache.get("a", TextStandard(), "", never) is words
    assert list(tmp_path.iterdir()) == []
    cache.get("b", ImageStandard(), "", lambda: Payload(np.zeros((1, 8, 8), np.float32)))
    cache.flush()
    assert list(tmp_path.iterdir()) != []
