"""A report as a typed record."""

from __future__ import annotations

import json
from dataclasses import asdict

from polyclinic.records.findings.structured import structured

TEXT = "FINDINGS: Small left pleural effusion, unchanged. No pneumothorax.\nIMPRESSION: Possible pneumonia in the right lower lobe."


def test_entries() -> None:
    effusion, pneumothorax, pneumonia = structured(TEXT)
    assert (effusion.finding, effusion.status, effusion.side, effusion.compared) == (
        "effusion",
        "present",
        "left",
        "unchanged",
    )
    assert effusion.codes == {"RadLex": "RID34539", "ICD10": "J90"}
    assert (effusion.chexpert, effusion.section) == ("Pleural Effusion", "findings")
    assert effusion.words == "Small left pleural effusion, unchanged."
    assert TEXT[effusion.start : effusion.end] == "pleural effusion"
    assert (pneumothorax.status, pneumothorax.codes["ICD10"]) == ("absent", "J93.9")
    assert (pneumonia.status, pneumonia.side, pneumonia.places, pneumonia.section) == (
        "uncertain",
        "right",
        ("lower lobe",),
        "impression",
    )


def test_it_is_json() -> None:
    assert json.loads(json.dumps([asdict(e) for e in structured(TEXT)]))[0]["codes"]["ICD10"] == "J90"


def test_spanish_has_the_same_codes() -> None:
    (entry,) = structured("Derrame pleural derecho.", "es")
    assert (entry.codes["RadLex"], entry.side) == ("RID34539", "right")
