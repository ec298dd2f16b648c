"""The sentences of a report with the places where they stand."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..sections import sections

_ABBREVIATED = {
    "dr", "mr", "mrs", "ms", "vs", "approx", "fig", "e.g", "i.e", "cf", "ca", "st", "prof", "sr", "sra", "aprox", "max", "min", "incl",
    "nr", "al", "resp",
}  # fmt: skip
_END = re.compile(r"(?<=[^\s?])[.!?]+[\"')\]]*(?=\s+|$)|(?<=\w )\.(?=\s|$)|(?<=[a-záéíóúñ)])\.(?=[A-Z][a-z])")
_LINE = re.compile(r"\n(?=\s*\n|\s*(?:[-•*–]|\d{1,2}[.)])\s)|(?<=[.:;!?])[ \t]*\n|\n(?=[^\n:]{1,40}:)")
_BULLET = re.compile(r"\s*(?:[-•*–]\s|\d{1,2}[.)]\s)?\s*")


_HEADING = re.compile(
    r"(?<=[.!?])[ \t](?=(?:findings?|impressions?|conclusions?|comparison|indication|technique|recommendations?|hallazgos|impresión|"
    r"conclusión|comparación|indicación|técnica|recomendación)[ \t]?:)",
    re.IGNORECASE,
)  # fmt: skip


def sentences(text: str) -> Iterator[tuple[str, int, int]]:
    """(section, start, end) of each sentence; the section is one of `sections.NAMES`, empty where the report has no heading."""
    at = 0
    text = _HEADING.sub("\n", text)  # a text that a model wrote has no lines
    for part in sections(text):
        if part.words:
            at = text.index(part.words, at)
            for start, end in _split(part.words):
                yield part.name, at + start, at + end
            at += len(part.words)


def _split(words: str) -> Iterator[tuple[int, int]]:
    ends = {m.start() for m in _LINE.finditer(words)} | {m.end() for m in _END.finditer(words) if _is_end(words, m)}
    start = 0
    for end in [*sorted(ends), len(words)]:
        begin = start + (_BULLET.match(words[start:end]) or re.match("", "")).end()  # type: ignore[union-attr]
        if words[begin:end].strip():
            yield begin, begin + len(words[begin:end].rstrip())
        start = end


def _is_end(words: str, mark: re.Match[str]) -> bool:
    """Whether a full stop ends a sentence: not after an abbreviation that goes on, nor after the number of a list."""
    before = words[: mark.start()]
    if not mark.group().startswith(".") or before.endswith(" "):
        return True
    last = before.split()[-1].lower().lstrip("(")
    if last in _ABBREVIATED and words[mark.end() :].strip():
        return False
    return re.fullmatch(r"(?s)(.*\n)?\s*\d{1,2}", before) is None
