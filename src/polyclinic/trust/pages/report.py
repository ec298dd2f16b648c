"""The report: one HTML file with everything that can be said of a run, and `summary.json` with every figure in it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ...adaptation import open_adapted
from ...cohort import Cohort
from ...cohort.catalogue import describe
from ...cohort.catalogue import inputs as readable
from ...schema import Modality, Record
from ...tasks import Retrieval, SegmentationTask
from ...training import Run, RunError
from ...training.run import file_hash
from ..comparisons.comparison import Comparison
from ..evidence import Evidence
from ..measures.retrieval import RetrievalExample, retrieval_examples
from ..measures.synthesis import pairs
from .embeddings import embedding_maps
from .inputs import Curve, ReportInputs, curves_of
from .overlays import Overlay, overlays
from .placed import placed_pictures
from .sections import whole


def gather(
    run: Run | str | Path, cohort: Cohort | None = None, *, comparison: Comparison | None = None, evidence: Sequence[Evidence] = (),
    segmentation: Run | str | Path | None = None, placed: Sequence[Run | str | Path] = (), title: str = "",
    words: Mapping[str, str] | None = None, tasks: Mapping[str, str] | None = None, licences: Sequence[str] = (), machine: str = "",
    seconds: Mapping[str, float] | None = None, made: str = "", redact: bool = False,
) -> ReportInputs:  # fmt: skip
    """All that a report of a pretrained run shows, from the run and its cohort.

    Args:
        run: pretrained, or its folder.
        cohort: where it lies now.
        comparison: from `compare`.
        evidence: from `evaluate`, one an adapted run.
        segmentation: a run adapted to a segmentation, for the overlays.
        placed: runs adapted to a detection or to keypoints, for pictures of what they place.
        tasks: what a task asks, in this hospital's words; for the others the recipe's columns speak.
        redact: show no training record beside what a run draws: for a report that leaves the hospital.
        title, words, licences, machine, seconds, made: see `ReportInputs`.
    """
    run = (run if isinstance(run, Run) else Run.open(run)).backbone
    catalogue = cohort or run.cohort()
    records = catalogue.records(run.recipe.cohort.where)  # whom the run is about, who may be a part of the catalogue
    name = run.path.resolve().name  # an adapted run knows its backbone as ../..
    called = words if words is not None else modality_words(records)
    return ReportInputs(
        title=title or f"What {name} can and cannot do", run=name, split=run.split.hash,
        cohort=describe(records, catalogue.rejected()), sides=(len(run.split.train), len(run.split.test)),
        sites=patients_by_site(records), rejected=catalogue.rejected(), comparison=comparison, evidence=tuple(evidence),
        curves=_curves(run), maps=embedding_maps(run, catalogue), retrieval=_retrieved(run, catalogue),
        overlays=_masks(segmentation, catalogue) if segmentation is not None else (),
        placed=tuple(picture for one in placed for picture in placed_pictures(one, catalogue)),
        pairs=pairs(run, catalogue, redact=redact), words=called, notes_tell=_notes_tell(run), recipe=run.recipe.as_yaml(),
        packages=run.lock.get("packages", {}), machine=machine, seconds=dict(seconds or {}), licences=licences, made=made,
        weights=file_hash(run.weights), commit=run.lock.get("commit") or "",
        parameters=sum(p.numel() for p in run.model().parameters()),
        tasks={task: spec.asks(called) for task, spec in run.recipe.tasks.items()} | dict(tasks or {}),
    )  # fmt: skip


def _curves(run: Run) -> tuple[Curve, ...]:
    """Of pretraining; none of a run that was moved without them."""
    try:
        return curves_of(run.metrics())
    except (OSError, RunError):
        return ()


def _retrieved(run: Run, cohort: Cohort) -> tuple[RetrievalExample, ...]:
    """Examples of the recipe's first retrieval, where it has one."""
    first = next((s for s in run.recipe.tasks.values() if isinstance(s, Retrieval)), None)
    return retrieval_examples(run, cohort, first.query, first.answer) if first else ()


def _masks(run: Run | str | Path, cohort: Cohort) -> tuple[Overlay, ...]:
    """Of a run that is adapted to a segmentation."""
    adapted = open_adapted(run)
    return overlays(adapted, cohort) if isinstance(adapted.task, SegmentationTask) else ()


def _notes_tell(run: Run) -> bool:
    """Whether a classification may read the notes."""
    asked = [spec for spec in run.recipe.tasks.values() if spec.kind == "classification"]
    return any(Modality.TEXT in (spec.inputs or tuple(run.recipe.encoders)) for spec in asked)


def patients_by_site(records: Sequence[Record]) -> dict[str, int]:
    """Site → how many patients have a record of it, the largest first."""
    pairs = {(r.site, r.patient) for r in records if r.site}
    return dict(Counter(site for site, _ in sorted(pairs)).most_common())


PLAIN = {"text": "note", "volume": "volume", "image": "image", "signal": "signal", "table": "table", "omics": "omics"}
SPECIAL = {
    "image": ({"CR", "DX"}, "X-ray"),
    "volume": ({"MR"}, "MR volume"),
    "signal": ({"ECG"}, "ECG"),
}


def modality_words(records: Sequence[Record]) -> dict[str, str]:
    """What the modalities are called: X-ray, MR volume and ECG where that is all there is of them."""
    kinds: dict[str, set[str]] = {}
    for record in readable(records):
        kinds.setdefault(record.modality.value, set()).add(record.kind.split(" ")[0])
    special = {m: words for m, (wanted, words) in SPECIAL.items() if kinds.get(m) and kinds[m] <= wanted}
    return PLAIN | special


def write_report(path: str | Path, inputs: ReportInputs) -> Path:
    """Write the report, and `summary.json` beside it: both or neither.

    Args:
        path: of the HTML file.
        inputs: see `ReportInputs`; `gather` makes them of a run.
    Returns:
        the HTML file's path.
    Raises:
        RunError: the disk is full, or the folder cannot be written to; an earlier report is intact.
    """
    place = Path(path)
    text, summary = whole(inputs)
    figures = summary.json(run=inputs.run, title=inputs.title, weights=inputs.weights)
    contents = {place: text, place.with_name("summary.json"): figures}
    beside = {p: p.with_name(f".{p.name}.{os.getpid()}") for p in contents}
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        for final, words in contents.items():
            beside[final].write_text(words, encoding="utf-8")
        for final, made in beside.items():
            os.replace(made, final)
    except OSError as error:
        for made in beside.values():
            with suppress(OSError):
                made.unlink(missing_ok=True)
        raise RunError(
            f"{place.name} could not be written ({error.strerror})",
            "a folder that can be written to, with room on the disk",
            "free some space, or name another folder",
        ) from error
    return place
