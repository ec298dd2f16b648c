"""An index: every patient's place in the shared space, kept beside the run, so that the nearest of a million are found at once.

cohort ──chunks──▶ model ──▶ vectors-00000.parquet … ──▶ image.npy | image.faiss …
a patient, files or a sentence ──▶ vector ──▶ the nearest records of any modality
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from ..cohort import Cohort
from ..harmonise.unread import Unread, UnreadError, check
from ..models import Model
from ..schema import Batch, Modality, PolyclinicError, Ragged
from ..tokens import TextEncoder
from ..tokens.text import as_note
from ..training import Run
from ..training.run import file_hash, write_json
from .chunks import CHUNK, Progress, over
from .nearest import Nearest

PATIENT = "patient"
"""Beside the modalities: the mean of a patient's vectors, of length 1."""


class SearchError(PolyclinicError):
    """An index that cannot be made, opened or asked."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One of the nearest.

    Args:
        rank: from 1.
        patient: whose.
        modality: of what was found; "patient" for the whole one.
        similarity: the cosine with what was asked.
        records: the ids of the records that the vector was made of.
    """

    rank: int
    patient: str
    modality: str
    similarity: float
    records: tuple[str, ...]


class Index:
    """Patients' vectors of one run and one catalogue, ready to be searched.

    Args:
        path: its folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened: dict[str, tuple[Nearest, pa.Table]] = {}

    @classmethod
    def open(cls, path: str | Path) -> Index:
        """The index in a folder, or that of a run's folder.

        Raises:
            SearchError: there is none, it was not finished, or its run has other weights now.
        """
        place = Path(path)
        place = place / "index" if (place / "recipe.yaml").exists() else place
        if not (place / "index.json").exists():
            raise SearchError(f"no index in {place}", "a folder that `polyclinic index` made", "index the run first")
        made = cls(place)
        if file_hash(made.run.weights) != made.about["weights"]:
            raise SearchError(
                f"an index of other weights than {made.run.path} holds now", f"the hash {made.about['weights']}",
                "index the run again",
            )  # fmt: skip
        return made

    @cached_property
    def about(self) -> dict[str, Any]:
        """Whose vectors: run, weights, cohort, how many of each modality, what share of the nearest is found, and who could not be read."""
        return json.loads((self.path / "index.json").read_text())

    @cached_property
    def run(self) -> Run:
        """The run that made the vectors."""
        return Run.open(self.path / self.about["run"])

    @cached_property
    def _model(self) -> Any:
        return self.run.model()

    @property
    def modalities(self) -> tuple[str, ...]:
        """What can be searched."""
        return tuple(self.about["rows"])

    def similar(self, patient: str, of: str = PATIENT, to: str | None = None, k: int = 10) -> list[Hit]:
        """The nearest to a patient of the index, who is not among them.

        Args:
            patient: whose vector is asked with.
            of: its modality; "patient" for the whole one.
            to: the modality that is looked for; by default the same.
            k: how many.
        Raises:
            SearchError: there is no such patient or modality.
        """
        nearest, rows = self._side(of)
        place = pc.index(rows["patient"], patient).as_py()
        if place < 0:
            raise SearchError(
                f"no {of} of a patient of this name in the index", f"one of its {len(rows)}", "check the name"
            )
        return self.nearest(nearest.vector(place), to or of, k, without=patient)

    def say(self, words: str, to: str = PATIENT, k: int = 10, language: str | None = None) -> list[Hit]:
        """The nearest to a sentence.

        Args:
            words: as a note would have them.
            to: the modality that is looked for.
            k: how many.
            language: of the words, where the text encoder knows several.
        Raises:
            SearchError: nothing was said, or the model reads no words.
        """
        model = self._model
        if Modality.TEXT not in model.modalities:
            raise SearchError(
                "words, which this run does not read", "a run with an encoder of text", "ask with a patient"
            )
        note = as_note(words, self.run.recipe.standards()[Modality.TEXT], self.run.fingerprint, language)
        ragged = Ragged([note], torch.tensor([0]), torch.zeros(1), None, 1, ["asked"])
        _, told = _vectors(model, Batch({Modality.TEXT: ragged}, {}, ["asked"])).get("text", ([], np.zeros((0, 0))))
        silent = isinstance(model.encoder(Modality.TEXT), TextEncoder) and len(note) < 2  # the word that begins a note
        if silent or not len(told):
            raise SearchError("nothing said", "a word or more that the run knows", "say what is looked for")
        return self.nearest(told[0], to, k)

    def nearest(self, vector: np.ndarray, to: str = PATIENT, k: int = 10, without: str | None = None) -> list[Hit]:
        """The nearest to a unit vector (e).

        Args:
            vector: in the shared space.
            to: the modality that is looked for.
            k: how many.
            without: a patient who is left out.
        """
        if k < 1:
            raise SearchError(f"the {k} nearest", "at least one", "ask for more")
        nearest, rows = self._side(to)
        alike, found = (part[0] for part in nearest.search(vector[None], k + (without is not None)))
        hits: list[Hit] = []
        for similarity, number in zip(alike.tolist(), found.tolist(), strict=True):
            if number < 0:  # the lists that were searched hold no more
                break
            row = rows.slice(number, 1).to_pylist()[0]
            if row["patient"] != without and len(hits) < k:
                hits.append(Hit(len(hits) + 1, row["patient"], to, float(similarity), tuple(row["records"])))
        return hits

    def _side(self, modality: str) -> tuple[Nearest, pa.Table]:
        if modality not in self.about["rows"]:
            raise SearchError(
                f"{modality!r}, of which the index has nothing", "one of " + ", ".join(self.modalities), "correct it"
            )
        if modality not in self._opened:
            place = self.path / modality
            rows = pq.read_table(place.with_suffix(".parquet"), memory_map=True)
            self._opened[modality] = Nearest.open(place, self.about["recall"][modality]), rows
        return self._opened[modality]


def index(
    run: Run | str | Path, cohort: Cohort | str | Path | None = None, *, patients: Sequence[str] | None = None,
    into: str | Path | None = None, progress: Progress | None = None,
) -> Index:  # fmt: skip
    """Index a run's patients; interrupted, the same call goes on.

    Args:
        run: pretrained (an adapted one's backbone is taken), or its folder.
        cohort: where it lies now; by default where it lay.
        patients: who; by default all whom the recipe's `where` admits.
        into: the index's folder; by default `index` in the run's.
        progress: called with done, all, what.
    Raises:
        EmptyCohortError: nobody is admitted.
        SearchError: no patient has anything that the run reads.
        UnreadError: nearly nobody can be read. Who cannot be is otherwise set aside, and stands in `index.json` as `unread`.
    """
    run = (run if isinstance(run, Run) else Run.open(run)).backbone
    catalogue = cohort if isinstance(cohort, Cohort) else run.cohort(cohort)
    place = Path(into) if into is not None else run.path / "index"
    who = sorted(set(patients)) if patients is not None else catalogue.patients(run.recipe.cohort.where)
    plan = {"weights": file_hash(run.weights)}
    (place / "index.json").unlink(missing_ok=True)
    make = partial(_embed, str(run.path), plan["weights"], catalogue.path)
    parts = over(make, who, place, plan, name="vectors", size=CHUNK, progress=progress)
    unread = _unread(parts, len(who))
    rows, recall = {}, {}
    for side in [*(m.value for m in run.recipe.encoders), PATIENT]:
        made = _gather(place, side)
        if made is not None:
            rows[side], recall[side] = made
    if not rows:
        raise SearchError(
            f"{len(who)} patients without anything that the run reads", "one of " + ", ".join(run.recipe.encoders),
            "check the recipe's `where`, or ingest more",
        )  # fmt: skip
    write_json(
        place / "index.json",
        {
            "run": os.path.relpath(run.path.resolve(), place.resolve()), "weights": plan["weights"], "cohort": str(catalogue.path),
            "rows": rows, "recall": recall, "unread": [asdict(one) for one in unread],
        },
    )  # fmt: skip
    return Index.open(place)


def _unread(parts: Sequence[Path], asked: int) -> list[Unread]:
    """Who of all chunks could not be read.

    Raises:
        UnreadError: nearly nobody could be; the chunks that say so are forgotten, so that the same call asks again.
    """
    each = {part: json.loads((pq.read_schema(part).metadata or {}).get(_UNREAD, b"[]")) for part in parts}
    found = [Unread(**one) for told in each.values() for one in told]
    try:
        check(asked, found)
    except UnreadError:
        for part in (part for part, told in each.items() if told):
            part.unlink()
        raise
    return found


def _embed(run: str, weights: str, cohort: Path, who: tuple[str, ...]) -> pa.Table:
    """The vectors of some patients; of those who cannot be read it says so, beside its schema."""
    opened, model = _opened(run, weights)
    loader = opened.loader(Cohort.open(cohort), who, alone=True)
    rows = list[dict[str, Any]]()
    for start in range(
        0, len(loader.patients), 32
    ):  # that nobody of some hundred can be read says nothing of the others
        batch, aside = loader.parted(loader.patients[start : start + 32])
        for one in aside:
            loader.note(one)
        rows += _rows(model, batch) if batch is not None else []
    loader.cache.flush()
    told = json.dumps([asdict(one) for one in loader.gone.values()])
    return pa.Table.from_pylist(rows, schema=_SCHEMA.with_metadata({_UNREAD: told}))


@lru_cache(maxsize=1)
def _opened(run: str, weights: str) -> tuple[Run, Model]:
    """A run and its model of these weights, once in each process."""
    opened = Run.open(run)
    return opened, opened.model()


_UNREAD = b"unread"
_SCHEMA = pa.schema(
    [("patient", pa.string()), ("side", pa.string()), ("records", pa.list_(pa.string())), ("vector", pa.list_(pa.float32()))]
)  # fmt: skip


def _rows(model: Any, batch: Batch) -> Iterator[dict[str, Any]]:
    """Of each patient of a batch: the vector of each modality, and of all together. What is not a number has no place."""
    ids = {
        m.value: [tuple(i for i, p in zip(r.ids, r.patient.tolist(), strict=True) if p == n) for n in range(len(batch.patients))]
        for m, r in batch.payloads.items()
    }  # fmt: skip
    whole: dict[int, list[tuple[str, np.ndarray]]] = {}
    for side, (numbers, vectors) in _vectors(model, batch).items():
        for n, vector in zip(numbers, vectors, strict=True):
            if np.isfinite(vector).all():
                whole.setdefault(n, []).append((side, vector))
                yield {"patient": batch.patients[n], "side": side, "records": ids[side][n], "vector": vector}
    for n, each in whole.items():
        mean = np.mean([vector for _, vector in each], axis=0)
        if (length := np.linalg.norm(mean)) > 0:
            records = [i for side, _ in each for i in ids[side][n]]
            yield {"patient": batch.patients[n], "side": PATIENT, "records": records, "vector": mean / length}


@torch.no_grad()
def _vectors(model: Any, batch: Batch) -> dict[str, tuple[list[int], np.ndarray]]:
    """Of each modality: whose (p,) and their unit vectors (p e)."""
    towers = model.towers(model.encode(batch))
    return {m.value: (t.patient.tolist(), t.vectors.float().numpy()) for m, t in towers.items()}


def _gather(place: Path, side: str) -> tuple[int, float] | None:
    """All vectors of a modality made searchable: how many they are, and what share of the nearest is found; None where there is none."""
    parts = sorted(place.glob("vectors-*.parquet"))
    tables = [pq.read_table(p, filters=[("side", "=", side)]) for p in parts]
    whole = pa.concat_tables(tables) if tables else None
    if whole is None or not len(whole):
        return None
    vectors, asked = (
        _matrix(whole),
        _matrix(pa.concat_tables(pq.read_table(p) for p in parts[:: max(1, len(parts) // 8)])),
    )
    for suffix in (".npy", ".faiss"):
        (place / side).with_suffix(suffix).unlink(missing_ok=True)
    made = Nearest.of(vectors, asked)
    made.write(place / side)
    pq.write_table(whole.select(["patient", "records"]), (place / side).with_suffix(".parquet"))
    return len(whole), made.recall


def _matrix(rows: pa.Table) -> np.ndarray:
    """(n e)"""
    return rows["vector"].combine_chunks().flatten().to_numpy().reshape(len(rows), -1)
