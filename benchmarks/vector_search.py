"""The ten nearest of a million vectors of width 128, one question at a time: `polyclinic.index`'s search beside scikit-learn's and NumPy's.

The vectors lie in 5,000 clumps, half of the questions near the clumps and half from elsewhere, as words look for images. The peer
is what answers exactly: `NearestNeighbors` (brute force, cosine); NumPy's product and `argpartition` stand beside it.
`equal_output` is the share of the true ten that ours finds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np

from polyclinic.inference.nearest import Nearest

WIDTH, CLUMPS, ROUNDS, TEN = 128, 5000, 25, 10


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def drawn(n: int, clumps: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """(n e) unit vectors about clumps."""
    out = np.empty((n, WIDTH), dtype=np.float32)
    for start in range(0, n, 50_000):
        part = out[start : start + 50_000]
        part[:] = unit(clumps[random.integers(0, len(clumps), len(part))] + 0.7 * random.normal(size=part.shape))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few vectors, few rounds: does it run?")
    quick = parser.parse_args().quick
    from sklearn.neighbors import NearestNeighbors

    n, rounds = (3000, 3) if quick else (1_000_000, ROUNDS)
    random = np.random.default_rng(0)
    clumps, elsewhere = random.normal(size=(2, max(20, CLUMPS if not quick else 20), WIDTH))
    vectors = drawn(n, clumps, random)
    told = np.concatenate([drawn(500, clumps, random), drawn(500, elsewhere, random)])
    asked = np.concatenate([drawn(rounds, clumps, random), drawn(rounds, elsewhere, random)])[:, None]
    begun = time.perf_counter()
    ours = Nearest.of(vectors, told, exact=1000 if quick else 20_000)
    built = time.perf_counter() - begun
    peer = NearestNeighbors(n_neighbors=TEN, algorithm="brute", metric="cosine").fit(vectors)

    def plain(query: np.ndarray) -> np.ndarray:
        alike = vectors @ query[0]
        few = np.argpartition(-alike, TEN - 1)[:TEN]
        return few[np.argsort(-alike[few], kind="stable")][None]

    ways = {
        "polyclinic": lambda query: ours.search(query, TEN)[1],
        "NumPy, all": plain,
        "NearestNeighbors": lambda query: peer.kneighbors(query, return_distance=False),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    shared = []
    for query in asked:
        found = {}
        for name, way in ways.items():
            begun = time.perf_counter()
            found[name] = way(query)[0]
            seconds[name].append(time.perf_counter() - begun)
        shared.append(len(set(found["polyclinic"].tolist()) & set(found["NearestNeighbors"].tolist())) / TEN)
    print(f"{n:,} vectors of width {WIDTH}, one question at a time; made searchable in {built:.0f} s")
    print(f"{'':20}{'median ms':>12}{'slowest ms':>12}")
    for name, each in seconds.items():
        print(f"{name:20}{1000 * statistics.median(each):12.2f}{1000 * max(each):12.2f}")
    near, far = np.mean(shared[:rounds]), np.mean(shared[rounds:])
    print(f"of the true ten: {near:.1%} of questions near the vectors, {far:.1%} of those from elsewhere")
    mine, theirs = (1000 * statistics.median(seconds[name]) for name in ("polyclinic", "NearestNeighbors"))
    print(
        json.dumps(
            {
                "name": "vector_search", "ours": mine, "peer": theirs, "unit": "ms a question", "ratio": theirs / mine, "n": len(asked),
                "equal_output": f"{np.mean(shared):.1%} of the peer's ten nearest are found",
            }
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
