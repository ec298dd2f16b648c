"""Documents inside a record of another format: their words, whether they are plain, HTML or a clinical document (CDA)."""

from __future__ import annotations

import base64
import binascii
import html.parser
import re

from .source import RecordError, encoding_of

LARGEST = 8 * 2**20
"""A document's bytes, as of a note."""
_BLOCK = frozenset("p div br tr li h1 h2 h3 h4 h5 h6 table ul ol section article hr dt dd".split())  # noqa: SIM905
_SILENT = frozenset({"script", "style", "head", "title"})


class _Words(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.silent = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.silent += tag in _SILENT
        self.parts += ["\n"] if tag in _BLOCK else [" "] if tag in {"td", "th"} else []

    def handle_endtag(self, tag: str) -> None:
        self.silent = max(0, self.silent - (tag in _SILENT))
        self.parts += ["\n"] if tag in _BLOCK else []

    def handle_data(self, data: str) -> None:
        if not self.silent:
            self.parts.append(re.sub(r"\s+", " ", data))


def of_html(text: str) -> str:
    """A page's words: a block a line, scripts and styles left out. Nothing is fetched."""
    words = _Words()
    words.feed(text)
    words.close()
    return tidy("".join(words.parts))


def tidy(text: str) -> str:
    """Words without spaces at the ends of their lines, and with one empty line between parts at most."""
    lines = [" ".join(line.split()) for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def decoded(data: str) -> bytes:
    """The bytes of a base64 text.

    Raises:
        RecordError: it is none, or holds over 8 MiB.
    """
    if len(data) > LARGEST * 4 // 3 + 4:
        raise RecordError("a document of over 8 MiB", "a note", "export it as a file of its own")
    try:
        return base64.b64decode("".join(data.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise RecordError("a document that is no base64", "base64", "export it again") from error


def words_of(data: bytes, content_type: str) -> str:
    """The words of a document.

    Args:
        data: as it was embedded.
        content_type: MIME; `text/plain; charset=latin1`.
    Raises:
        RecordError: a kind without words of its own (PDF, an image), or nothing in it.
    """
    kind, _, parameters = content_type.lower().partition(";")
    charset = re.search(r"charset=\"?([\w.-]+)", parameters)
    if kind.strip() in {
        "text/xml",
        "application/xml",
        "application/hl7-sda+xml",
        "application/cda+xml",
        "text/cda+xml",
    } or (data.lstrip()[:5] == b"<?xml" and b"ClinicalDocument" in data[:4096]):
        from .cda import words_of_document

        return words_of_document(data)
    if kind.strip() not in {"", "text/plain", "text/html", "application/xhtml+xml", "text/markdown", "text"}:
        shown = kind.strip() if re.fullmatch(r"[\w.+-]+/[\w.+-]+", kind.strip()) else "unknown kind"
        raise RecordError(f"a document of {shown}", "plain text, HTML or CDA", "export it as a file of its own")
    try:
        text = data.decode(charset[1] if charset else encoding_of(data), errors="replace")
    except LookupError:
        text = data.decode(encoding_of(data), errors="replace")
    if "\x00" in text:
        raise RecordError("a document that is no text", "plain text, HTML or CDA", "export it again")
    text = of_html(text) if "html" in kind or text.lstrip()[:9].lower() in {"<!doctype", "<html>"} else tidy(text)
    if not text:
        raise RecordError("a document without words", "text", "export it again")
    return text
