"""The truth: who everybody is, what would have happened otherwise, the best possible answers. It lies apart from the hospital."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .omics import PROGRAMMES
from .patient import Written
from .people import PEOPLE, name_of

_OPTIMAL = (
    "optimal_pneumonia_labs",
    "optimal_fibrillation_ecg",
    "optimal_nodule_xray",
    "nodule_detectability_xray",
    "optimal_risk",
)
_SENTENCE = (
    "patient",
    "sentence",
    "section",
    "language",
    "text",
    "finding",
    "status",
    "lobe",
    "size_mm",
    "change",
    "before_mm",
)

ROWS = 2000
"""Of a part of a table that is written at once."""
README = """# The truth of a phantom hospital (seed {seed})

Never give a model anything of this folder. Nothing learned from the phantom is clinical evidence.

- `patients.parquet`, a row a patient: every node of the causal graph, hidden ones too. `months_treated` and `months_untreated` are the
  survival of the same person in both worlds. Besides, what each best possible reader answers (`optimal_...`), the ECG's R waves
  (`beats_s`) and how active each gene programme is.
- `sentences.parquet`, a row a sentence of a report: its words, and what they say (finding, status, lobe, size, change).
- `records.parquet`, a row a record of the hospital: patient, modality, kind, place.
- `masks/`: what is where in every CT, T2w MR and radiograph of the admission, by the UID of the series (of the radiograph: of the
  instance). The hospital has them of annotated patients only. CT and radiograph: 1 lung, 2 heart, 3 nodule, 4 consolidation,
  5 effusion; MR: 1 brain, 2 infarct.
- `graph.json`, `graph.dot`: each node's parents, equation, levels, unit, and whether the hospital records it.

The best possible answers, each from what it may look at:

- `optimal_pneumonia_labs`: P(pneumonia | age, sex, smoking, site, triage, days of symptoms, treatment, every measured value, and which
  were measured);
- `optimal_fibrillation_ecg`: P(atrial fibrillation | rhythm, block and axis of the ECG, age, sex);
- `optimal_nodule_xray`: P(nodule | the radiograph, age, smoking), of a reader who knows the anatomy and where and how large a nodule
  would be; `nodule_detectability_xray` is that reader's d';
- `optimal_risk`: the log hazard under the treatment that was given.

Adjusting for {adjust} identifies the effect of the treatment on survival; without it, who is sicker is treated more.
"""


class Truth:
    """The truth's files, written as patients come.

    Args:
        folder: where.
        seed: of the hospital.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self._writers: dict[str, Any] = {}
        self._waiting: dict[str, list[dict[str, Any]]] = {"patients": [], "sentences": [], "records": []}

    def __enter__(self) -> Truth:
        (self.folder / "graph.json").write_text(PEOPLE.as_json(), encoding="utf-8")
        (self.folder / "graph.dot").write_text(PEOPLE.as_dot(), encoding="utf-8")
        adjust = ", ".join(PEOPLE.adjustment_set("treatment"))
        (self.folder / "README.md").write_text(README.format(seed=self.seed, adjust=adjust), encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._waiting):
            self._flush(name)
        for writer in self._writers.values():
            writer.close()

    def add(self, part: Sequence[Written]) -> None:
        """The rows of some patients."""
        for one in part:
            self._waiting["patients"].append(_patient(one))
            self._waiting["sentences"] += _sentences(one)
            self._waiting["records"] += _records(one)
        for name, rows in self._waiting.items():
            if len(rows) >= ROWS:
                self._flush(name)

    def _flush(self, name: str) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = _schemas()[name]
        if name not in self._writers:
            self._writers[name] = pq.ParquetWriter(self.folder / f"{name}.parquet", schema)
        self._writers[name].write_table(pa.Table.from_pylist(self._waiting[name], schema=schema))
        self._waiting[name] = []


def _schemas() -> dict[str, Any]:
    import pyarrow as pa

    kind = lambda node: pa.bool_() if node.levels == ("no", "yes") else pa.string() if node.levels else pa.float64()
    people = [("patient", pa.string()), *((node.name, kind(node)) for node in PEOPLE)]
    people += [(name, pa.float64()) for name in (*_OPTIMAL, *(f"programme_{p}" for p in PROGRAMMES))]
    numbers = {"sentence": pa.int32(), "size_mm": pa.int32(), "before_mm": pa.int32()}
    return {
        "patients": pa.schema([*people, ("beats_s", pa.list_(pa.float64()))]),
        "sentences": pa.schema([(name, numbers.get(name, pa.string())) for name in _SENTENCE]),
        "records": pa.schema([(name, pa.string()) for name in ("patient", "modality", "kind", "place")]),
    }


def _patient(one: Written) -> dict[str, Any]:
    row: dict[str, Any] = {"patient": name_of(one.index)}
    for node in PEOPLE:
        value = one.person[node.name]
        row[node.name] = bool(value) if node.levels == ("no", "yes") else node.levels[value] if node.levels else value
    return row | one.truth


def _sentences(one: Written) -> list[dict[str, Any]]:
    language = ("en", "es")[one.person["language"]]
    return [
        {"patient": name_of(one.index), "sentence": number, "section": said.section, "language": language, "text": said.text}
        | asdict(said.fact)
        for number, said in enumerate(one.sentences)
    ]  # fmt: skip


def _records(one: Written) -> list[dict[str, Any]]:
    return [
        {"patient": name_of(one.index), "modality": m, "kind": kind, "place": place} for m, kind, place in one.files
    ]
