"""Questions about an article with their answers, as PubMedQA has them.

The question with its abstract is a TEXT record, the long answer another. Both belong to the article, which stands in a patient's
place. The short answer, yes, no or maybe, is an attribute and no word of the text. A file of answers beside it
(`test_ground_truth.json`) says which questions are the official test part.

Source: Jin et al. 2019, PubMedQA: A Dataset for Biomedical Research Question Answering, and github.com/pubmedqa/pubmedqa.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..schema import Modality, Payload, Record, Rejected, Scalar
from .annotation import LARGEST
from .documents import tidy
from .naming import fold_of
from .source import RecordError, content_id, part_number, place_id, place_of

ANSWERS = ("yes", "no", "maybe")
_SIGNS = (b'"QUESTION"', b'"CONTEXTS"')
_ANSWERS_ALONE = re.compile(rb'\A(?:\xef\xbb\xbf)?\s*\{\s*"[^"\\]+"\s*:\s*"(?:yes|no|maybe)"\s*[,}]')
_KINDS = ("question", "long answer")


@dataclass(frozen=True, slots=True)
class _Question:
    """One of them.

    Args:
        article: what it is about: a PubMed id, as a rule.
        question: in words.
        text: the question and the abstract, each part under its heading.
        long_answer: the article's own conclusion; empty where there is none.
        about: what else is said of it.
    """

    article: str
    question: str
    text: str
    long_answer: str
    about: dict[str, Scalar]


def recognises(path: Path, head: bytes) -> bool:
    """Whether it is JSON of questions as PubMedQA's, or of their answers alone."""
    if path.suffix.lower() != ".json":
        return False
    return all(sign in head for sign in _SIGNS) or _ANSWERS_ALONE.match(head) is not None


def companions(path: Path) -> tuple[Path, ...]:
    """The files of answers beside it."""
    return tuple(p for p in sorted(path.parent.glob("*ground_truth*.json")) if p != path and p.is_file())


def _json(path: Path) -> dict[str, Any]:
    if path.stat().st_size > LARGEST:
        raise RecordError(f"questions of over {LARGEST >> 20} MiB", "less", "split the file")
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise RecordError("JSON that does not parse", "a whole file of questions", "copy it again") from error
    if not isinstance(found, dict):
        raise RecordError("JSON that is no list of questions by their articles", "PubMedQA's form", "convert it")
    return found


def _words(value: Any, what: str) -> str:
    text = tidy(value.encode("utf-8", "replace").decode()) if isinstance(value, str) else ""
    if not text:
        raise RecordError(f"a question without its {what}", "words", "export it again")
    return text


def _question(article: str, item: Any) -> _Question:
    if not isinstance(item, dict):
        raise RecordError("a question that is none", "QUESTION and CONTEXTS", "export it again")
    question = _words(item.get("QUESTION"), "words")
    contexts, labels = item.get("CONTEXTS"), item.get("LABELS")
    if not isinstance(contexts, list) or not contexts:
        raise RecordError("a question without its abstract", "CONTEXTS", "export it again")
    headed = isinstance(labels, list) and len(labels) == len(contexts)
    heads = [f"{_words(label, 'headings')}:\n" for label in labels] if headed else [""] * len(contexts)  # type: ignore[union-attr]
    parts = [head + _words(part, "abstract") for head, part in zip(heads, contexts, strict=True)]
    answer, year = item.get("final_decision"), item.get("YEAR")
    about: dict[str, Scalar] = {
        "answer": answer.strip().lower() if isinstance(answer, str) and answer.strip().lower() in ANSWERS else None,
        "year": int(year) if isinstance(year, str) and re.fullmatch(r"[12]\d{3}", year) else None,
    }
    long_answer = _words(item["LONG_ANSWER"], "long answer") if item.get("LONG_ANSWER") else ""
    return _Question(_words(article, "article"), question, "\n\n".join([question, *parts]), long_answer, about)


@lru_cache(maxsize=2)
def _questions(path: Path, changed: int) -> Mapping[int, _Question | RecordError]:
    """Number → question, or why it is none; kept, because records of one file are loaded one after the other."""
    found: dict[int, _Question | RecordError] = {}
    for number, (article, item) in enumerate(_json(path).items()):
        try:
            found[number] = _question(article, item)
        except RecordError as reason:
            found[number] = reason
    return found


def _test_part(path: Path) -> dict[str, str] | None:
    """Article → answer of the test part; None where no file beside it says which that is."""
    files = companions(path)
    return {k: v for file in files for k, v in _json(file).items() if isinstance(v, str)} if files else None


def read(path: Path, root: Path) -> Iterator[Record | Rejected]:
    """Two records a question: `#item=6` the question with its abstract, `#item=7` the long answer. `fold` is its official part."""
    with path.open("rb") as file:
        if _ANSWERS_ALONE.match(file.read(4096)):
            raise RecordError(
                "answers without their questions",
                "the questions beside it, which are read with them",
                "keep it where it is",
            )
    source, place, test = content_id(path), place_of(path, root), _test_part(path)
    for number, one in _questions(path, path.stat().st_mtime_ns).items():
        if isinstance(one, RecordError):
            yield Rejected(place, f"{one.found} (item {number})", one.expected, one.remedy)
            continue
        answer, fold = one.about["answer"], fold_of(place)
        if test is not None:
            told, fold = test.get(one.article), "test" if one.article in test else "train"
            if None not in (told, answer) and told != answer:
                yield Rejected(
                    place, f"a question of which the test part has another answer (item {number})", "one answer", "correct one of them"
                )  # fmt: skip
                continue
            answer = told if told in ANSWERS else answer
        for kind, text in zip(_KINDS, (one.text, one.long_answer), strict=True):
            item = f"item={number * len(_KINDS) + _KINDS.index(kind)}"
            if text:
                yield Record(
                    id=place_id(source, item),
                    patient=f"PMID {one.article}" if one.article.isdecimal() else one.article,
                    time=None,
                    modality=Modality.TEXT,
                    kind=kind,
                    uri=f"{place}#{item}",
                    attributes={
                        "article": one.article, "question": one.question, **one.about, "answer": answer, "fold": fold,
                        "words": len(text.split()), "anonymous": True,
                    },
                )  # fmt: skip


def load(record: Record) -> Payload:
    """The question with its abstract, or the long answer, in `Payload.text`.

    Raises:
        RecordError: the item is gone.
    """
    path = Path(record.uri.rpartition("#")[0])
    number, kind = divmod(part_number(record.uri, "item") or 0, len(_KINDS))
    one = _questions(path, path.stat().st_mtime_ns).get(number)
    text = "" if one is None or isinstance(one, RecordError) else (one.text, one.long_answer)[kind]
    if not text:
        raise RecordError(f"no question {number} in {path.name}", "the file as ingested", "ingest it again")
    return Payload(np.empty(0, dtype=np.int64), text=text)
