"""DICOM objects that hold a document: the words of an encapsulated PDF (`pypdf`) as a text record.

A PDF is a program of sorts, so it is read by a process of its own, with bounds on its time and memory. What was scanned has
no words and is refused; reading letters off pictures is not for this library.

Source: DICOM PS3.3 C.24.2 (encapsulated document), A.45 (encapsulated PDF, CDA, STL).
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..schema import MissingExtraError, Modality, Payload, Record, Rejected
from .dicom_header import check_whole, first, person_of, record_of, text
from .source import RecordError, parse_time

MOST_PAGES, MOST_LETTERS = 500, 8 * 2**20
MOST_SECONDS, MOST_BYTES = 60, 2**31
FEWEST_LETTERS = 20
"""A page of a scan may carry a stamp or a number as text: that is no report."""

_READ = """
import io, json, logging, sys
seconds, most_bytes, pages, letters = map(int, sys.argv[1:])
try:
    import resource
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_AS, (most_bytes, most_bytes))
except ImportError:
    pass
import pypdf
logging.disable(logging.CRITICAL)
try:
    reader = pypdf.PdfReader(io.BytesIO(sys.stdin.buffer.read()))
    told = {"encrypted": bool(reader.is_encrypted and not reader.decrypt(""))}
    if not told["encrypted"]:
        told["pages"], told["words"] = len(reader.pages), []
        for page in reader.pages[:pages]:
            told["words"].append(page.extract_text()[:letters])
            letters -= len(told["words"][-1])
            if letters <= 0:
                break
except BaseException as error:
    told = {"error": type(error).__name__}
sys.stdout.buffer.write(json.dumps(told).encode())
"""


def mine(dataset: Any) -> bool:
    """Whether it holds a document."""
    return "MIMETypeOfEncapsulatedDocument" in dataset or "EncapsulatedDocument" in dataset


def pdf_words(data: bytes) -> str:
    """The words of a PDF, a blank line from page to page.

    Raises:
        RecordError: it does not open, is locked, has no words, or takes more time or memory than a report does.
    """
    if find_spec("pypdf") is None:
        raise MissingExtraError("pypdf", "ehr")
    bounds = [str(v) for v in (MOST_SECONDS, MOST_BYTES, MOST_PAGES, MOST_LETTERS)]
    try:
        done = subprocess.run(
            [sys.executable, "-c", _READ, *bounds],
            input=data,
            capture_output=True,
            timeout=2 * MOST_SECONDS,
            check=True,
        )
        told = json.loads(done.stdout)
    except (subprocess.SubprocessError, ValueError) as error:
        raise RecordError(
            f"a PDF that takes over {MOST_SECONDS} s or {MOST_BYTES >> 30} GiB to read", "a report", "export it as text"
        ) from error
    if "error" in told:
        raise RecordError(f"a PDF that does not open ({told['error']})", "a whole PDF", "send it again from the PACS")
    if told["encrypted"]:
        raise RecordError("a PDF under a password", "one that opens without", "unlock it before export")
    if told["pages"] > MOST_PAGES:
        raise RecordError(f"a PDF of {told['pages']} pages", f"at most {MOST_PAGES}", "split it")
    words = "\n\n".join(re.sub(r"[^\S\n]+", " ", page).strip() for page in told["words"]).strip()
    if len(re.findall(r"\w", words)) < FEWEST_LETTERS:
        raise RecordError("a PDF without words: a scan, or pictures", "a report's words", "give the report as text")
    return words


def _words(dataset: Any) -> str:
    kind = text(dataset, "MIMETypeOfEncapsulatedDocument").lower()
    if kind != "application/pdf":
        raise RecordError(
            f"an encapsulated document of type {kind or 'unknown'}", "a PDF", "export a CDA as a file of its own, or the words as text"
        )  # fmt: skip
    data = dataset.get("EncapsulatedDocument") or b""
    length = int(dataset.get("EncapsulatedDocumentLength") or 0)
    return pdf_words(data[:length] if 0 < length <= len(data) else data)


def read(dataset: Any, path: Path, root: Path) -> Iterator[Record | Rejected]:
    """One text record; kind `report` and what the document's coded name says. Its title is left: it may name the patient."""
    check_whole(dataset)
    words, whole = _words(dataset), record_of(dataset, path, root)
    day, hour = text(dataset, "ContentDate"), text(dataset, "ContentTime").split(".")[0]
    name = text(first(dataset, "ConceptNameCodeSequence"), "CodeMeaning").lower()
    yield replace(
        whole,
        time=parse_time(day + hour.ljust(6, "0")) or parse_time(day) or whole.time,
        modality=Modality.TEXT,
        kind=name if "report" in name else f"report {name}".strip(),
        attributes=person_of(dataset) | {"words": len(words.split())},
    )


def load(dataset: Any, record: Record) -> Payload:
    """The words in `Payload.text`; the array is empty until they are tokenised."""
    return Payload(np.empty(0, dtype=np.int64), text=_words(dataset))
