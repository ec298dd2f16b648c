"""Chest images of 224² pixels and their notes, harmonised: batches from our cache on disk, beside WebDataset's tar shards.

Both keep the same samples: the image as float32 and the note's word numbers. Ours is `Loader` over `Cache`, whose Zarr shards are
compressed and whose rows are checked against their checksum; words are never written to the disk, so that ours cuts every note into
word pieces at its first use, while the peer finds the numbers in its tar. The peer is `WebDataset` as its manual has it: `.npy` in tar
shards of 256 samples, `decode`, `batched`. Each pass is a process of its own, ours and the peer's in turn, without workers, timed from
the first asking to the last batch, imports apart; the machine's file cache is warm for both.

    cold        nothing in memory: every image comes from the shards, in the order in which they were written
    shuffled    the same in another order: ours draws from everything, the peer from a buffer of 1,000 samples
    warm        the second pass of a process that may keep 2 GiB; the peer keeps nothing and reads again
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from polyclinic.harmonise import Cache, Fingerprint, ImageStandard, TextStandard
from polyclinic.harmonise.loader import Loader
from polyclinic.harmonise.text import train_tokenizer
from polyclinic.schema import Modality, Payload, Record

SAMPLES, ROUNDS, SIZE, BATCH, A_TAR, BUFFER = 2048, 5, 224, 32, 256, 1000
STANDARDS = {Modality.IMAGE: ImageStandard(size=SIZE), Modality.TEXT: TextStandard(words=96, vocabulary=512)}
WORDS = 400
Sample = tuple[str, torch.Tensor, torch.Tensor]


def records(samples: int) -> list[Record]:
    """A patient each, with an image and a note."""
    return [
        Record(f"{kind}{i:06d}", f"P{i:06d}", None, modality, kind, f"{kind}{i}")
        for i in range(samples)
        for modality, kind in ((Modality.IMAGE, "CR chest"), (Modality.TEXT, "report"))
    ]


def source(record: Record) -> Payload:
    """A body with two lungs in 12 bits, with noise; or sixty words."""
    draw = np.random.default_rng(int(record.patient[1:]))
    if record.modality is Modality.TEXT:
        return Payload(np.zeros(0), text=" ".join(f"finding{n}" for n in draw.integers(0, WORDS, 60)))
    y, x = np.mgrid[-1:1:256j, -1:1:256j]
    grey = 2500 - 1200 * (x**2 + y**2)
    for side in (-0.4, 0.4):
        grey -= 900 * np.exp(-(((x - side) / draw.uniform(0.2, 0.3)) ** 2 + (y / draw.uniform(0.4, 0.6)) ** 2))
    return Payload((grey + draw.normal(0, 40, grey.shape)).clip(0, 4095).astype(np.uint16)[None])


def loader(folder: Path, samples: int, most_bytes: int, load: Callable[[Record], Payload] | None = None) -> Loader:
    """Ours; where nothing else is to `load`, only words are there to be had, and an image has to come from the cache."""
    found = records(samples)
    words = {} if load else {r.id: source(r) for r in found if r.modality is Modality.TEXT}
    load = load or (lambda record: words[record.id])
    known = Fingerprint(tokenizer=(folder / "tokenizer.json").read_text())
    return Loader(
        found, [r.patient for r in found[::2]], STANDARDS, known, load, cache=Cache(folder / "cache", most_bytes)
    )


def write(folder: Path, samples: int) -> None:
    """Both stores, from the same harmonised samples."""
    import webdataset

    notes = [r for r in records(min(samples, 500)) if r.modality is Modality.TEXT]
    (folder / "tokenizer.json").write_text(train_tokenizer((source(r).text or "" for r in notes), 512))
    made = loader(folder, samples, 2**20, source)
    with webdataset.ShardWriter(f"{folder}/%04d.tar", maxcount=A_TAR, verbose=0) as tars:  # type: ignore[attr-defined]
        for patient, image, note in samples_of(made.each(BATCH)):
            tars.write({"__key__": patient, "image.npy": image.numpy(), "note.npy": note.numpy()})


def samples_of(batches: Iterator[Any]) -> Iterator[Sample]:
    for batch in batches:
        yield from zip(
            batch.patients, batch.payloads[Modality.IMAGE].values, batch.payloads[Modality.TEXT].values, strict=True
        )


def ours(folder: Path, samples: int, how: str) -> Callable[[], Iterator[Any]]:
    import google_crc32c  # noqa: F401 - not in the time, as the peer's are not
    import numcodecs  # noqa: F401

    made = loader(folder, samples, 2**31 if how == "warm" else 2**20)
    who = list(made.patients)
    if how == "shuffled":
        np.random.default_rng(0).shuffle(who)
    return lambda: made.each(BATCH, who)


def peer(folder: Path, samples: int, how: str) -> Callable[[], Iterator[Any]]:
    import webdataset

    together = lambda rows: (
        [r[0] for r in rows],
        torch.stack([torch.from_numpy(r[1]) for r in rows]),
        [torch.from_numpy(r[2]) for r in rows],
    )
    tars = [str(p) for p in sorted(folder.glob("*.tar"))]
    data = webdataset.WebDataset(tars, shardshuffle=False)  # type: ignore[attr-defined]
    if how == "shuffled":
        data = data.shuffle(BUFFER)
    return lambda: iter(
        data.decode().to_tuple("__key__", "image.npy", "note.npy").batched(BATCH, collation_fn=together)
    )


def alone(name: str, how: str, folder: Path, samples: int) -> None:
    """One pass in a process of its own: prints its seconds."""
    ask = {"ours": ours, "webdataset": peer}[name](folder, samples, how)
    if how == "warm":
        consume(ask)
    print(consume(ask))


def consume(ask: Callable[[], Iterator[Any]]) -> float:
    begun = time.perf_counter()
    for _ in ask():
        pass
    return time.perf_counter() - begun


def seconds(name: str, how: str, folder: Path, samples: int) -> float:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.loader", "--alone", name, how, str(folder), str(samples)],
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return float(done.stdout.split()[-1])


def same(folder: Path, samples: int) -> None:
    """Both give every sample once and with the same numbers; in order, their batches are equal one by one."""
    digest = lambda name, *arrays: (name, *(hashlib.blake2b(a.numpy().tobytes()).hexdigest() for a in arrays))
    for how in ("cold", "shuffled"):
        mine = [digest(*s) for s in samples_of(ours(folder, samples, how)())]
        theirs = [digest(*s) for batch in peer(folder, samples, how)() for s in zip(*batch, strict=True)]
        assert len(mine) == samples
        assert sorted(mine) == sorted(theirs), "the samples differ"
        assert how == "shuffled" or mine == theirs, "the order differs"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few samples, to see that it runs")
    parser.add_argument("--alone", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.alone:
        name, how, folder, samples = given.alone
        alone(name, how, Path(folder), int(samples))
        return
    samples, rounds = (128, 2) if given.quick else (SAMPLES, ROUNDS)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        write(folder, samples)
        same(folder, samples)
        disk = [
            sum(p.stat().st_size for p in folder.rglob(f"{what}") if p.is_file()) / 2**20
            for what in ("cache/**/*", "*.tar")
        ]
        print(f"{samples:,} samples; {disk[0]:.0f} MiB of cache, {disk[1]:.0f} MiB of tar")
        print(f"{'samples/s':12}{'ours':>10}{'webdataset':>12}{'ratio':>8}")
        rates: dict[str, dict[str, float]] = {}
        for how in ("cold", "shuffled", "warm"):
            taken: dict[str, list[float]] = {"ours": [], "webdataset": []}
            for _ in range(rounds):
                for name, found in taken.items():
                    found.append(seconds(name, how, folder, samples))
            rates[how] = {name: samples / statistics.median(found) for name, found in taken.items()}
            one, other = rates[how].values()
            print(f"{how:12}{one:10.0f}{other:12.0f}{one / other:8.2f}")
    ratio = {how: rate["ours"] / rate["webdataset"] for how, rate in rates.items()}
    figure = {
        "name": "loader", "ours": rates["shuffled"]["ours"], "peer": rates["shuffled"]["webdataset"], "unit": "samples/s, shuffled",
        "ratio": ratio["shuffled"], "n": rounds, "share_of_peak": None, "cold_ratio": ratio["cold"], "warm_ratio": ratio["warm"],
        "equal_output": f"every one of {samples:,} samples once, with the same bytes; in order, sample by sample",
    }  # fmt: skip
    print(json.dumps(figure))


if __name__ == "__main__":
    main()
