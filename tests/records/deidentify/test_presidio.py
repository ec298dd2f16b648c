"""Presidio as a recogniser: it finds what the rules do not, says what it is in our words, and asks nobody."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from polyclinic.records.deidentify import deidentify, scrub
from polyclinic.records.deidentify.presidio import KINDS, Presidio, presidio
from polyclinic.schema import MissingExtraError

WALLET = "bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq"
"""A valid bitcoin address (BIP 173's example): the rules for notes leave it, its checksum tells Presidio."""


@pytest.fixture(scope="module")
def engine() -> Presidio:
    """Made and used once with sockets that fail."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", _refuse)
        patch.setattr(socket.socket, "connect_ex", _refuse)
        patch.setattr(socket, "create_connection", _refuse)
        patch.setattr(socket, "getaddrinfo", _refuse)
        made = presidio()
        list(made("write to jane.doe@hospital.example.org"))  # asks for the list of public suffixes
        return made


def _refuse(*_: Any, **__: Any) -> None:
    raise AssertionError("the network was asked")


def test_what_the_rules_miss_is_replaced(engine: Presidio) -> None:
    text = f"pays from {WALLET} every month"
    assert WALLET in scrub(text).text
    assert scrub(text, recognisers=[engine]).text == "pays from [ID] every month"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("mail jane@ex.org", "EMAIL"),
        ("call 212-555-0199", "PHONE"),
        ("seen 2020-03-04", "DATE"),
        ("iban DE89370400440532013000", "ID"),
        ("card 4111 1111 1111 1111", "ID"),
        ("host 192.168.7.14", "IP"),
    ],
)
def test_kinds_are_ours(text: str, kind: str, engine: Presidio) -> None:
    found = list(engine(text))
    assert kind in {span.kind for span in found}
    assert all(text[s.start : s.stop] in text.split(" ", 1)[1] for s in found)


def test_plain_words_stay(engine: Presidio) -> None:
    text = "no change in the size of the nodule; continue with 40 mg daily for two weeks"
    assert list(engine(text)) == []
    assert set(KINDS.values()) <= {"NAME", "EMAIL", "PHONE", "DATE", "URL", "IP", "PLACE"}


def test_a_folder_says_with_what_it_was_done(engine: Presidio, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/note.txt").write_text(f"Stable. pays from {WALLET} every month.\n")
    report = deidentify(tmp_path / "in", tmp_path / "out", tmp_path / "key", recognisers=[engine])
    assert WALLET not in (tmp_path / "out" / report.files[0]).read_text()
    assert any("no names" in w for w in report.warnings) is (engine.model == "")


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)
    with pytest.raises(MissingExtraError, match="presidio"):
        presidio()
