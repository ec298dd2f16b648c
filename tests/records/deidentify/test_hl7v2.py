"""HL7 v2: nothing planted is left, in whatever field, repetition, subcomponent or escape; what was measured stays."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from polyclinic import records
from polyclinic.records.deidentify import Options, Report, open_key
from polyclinic.schema import Events, Record

PLANTED = (
    "Zebedee", "Quillon", "Ottoline", "Barnaby", "Vandermeer", "Marigold", "MRN8847213", "NAT5512987", "ACC4471239", "VIS90917",
    "555-867-5309", "zq@example.org", "Elsewhere", "943-47-8120", "POL778123", "19320411", "20190314", "20190301", "Thistlewood",
    "PLACER7712", "DRV99812", "Wilhelmina", "Grimsby", "SPEC66123", "MSGCTL88", "Clementine",
)  # fmt: skip
DOCUMENT = base64.b64encode(b"Seen with Dr. Barnaby Grimsby on 2019-03-14.").decode()
MESSAGE = "\r".join([
    "MSH|^~\\&|LAB^Elsewhere|Saint Elsewhere|EHR|Elsewhere Clinic|20190314101500+0100||ORU^R01^ORU_R01|MSGCTL88|P|2.5.1",
    "PID|1|NAT5512987|555001^^^Elsewhere&1.2.3&ISO^PI~MRN8847213^^^Saint Elsewhere^MR~943-47-8120^^^SSA^SS||Quillon^Zebedee^Q||19320411|M"
    "|Zeb^Ottoline|2106-3^White^HL70005|4 Marigold Lane^^Elsewhere^MA^02139||555-867-5309^^^zq@example.org||en|M|CHR|VIS90917|943-47-8120",
    "NK1|1|Quillon^Ottoline^^^^^L|SPO|4 Marigold Lane|555-867-5309",
    "PV1|1|I|4WEST^12^B^Elsewhere||||1234^Vandermeer^Barnaby^^^Dr~77^Grimsby^Clementine|||CAR||||||||IP|VIS90917^^^Elsewhere"
    "|||||||||||||||||||||||||20190301|20190314",
    "GT1|1||Quillon^Ottoline||4 Marigold Lane",
    "IN1|1|POL778123|99|Elsewhere Mutual",
    "ZZZ|Zebedee Quillon|MRN8847213",
    "DG1|1||I21.9^Acute myocardial infarction of Zebedee Quillon^I10|known to Dr. Vandermeer|20190314|W",
    "ORC|RE|PLACER7712^Elsewhere|ACC4471239||CM||||20190314|||1234^Vandermeer^Barnaby",
    "OBR|1|PLACER7712|ACC4471239|24323-8^Metabolic panel^LN|||20190314103000+0100|||77^Thistlewood^Wilhelmina"
    "||||||||||||20190314120000|||F|20190314||||||||1&Vandermeer&Barnaby",
    "OBX|1|NM|2160-0^Creatinine^LN||1.1|mg/dL^^UCUM|0.7-1.3|N|||F|||20190314103000",
    "OBX|2|NM|30525-0^Age^LN||93|a^^UCUM||||F",
    "OBX|3|ST|8302-2^Remark^LN||seen by Dr. Vander\\X6D\\eer at 555\\X2D\\867-5309||||||F",
    "OBX|4|CWE|600-7^Culture^LN||112283007^Escherichia coli^SCT^ECO^Zebedee's bug^L||||||F",
    "OBX|5|XPN|1^Name of patient^L||Quillon^Zebedee||||||F",
    "OBX|6|ST|76435-7^Patient phone^LN||call 555 867 5309||||||F",
    "OBX|7|ED|18842-5^Summary^LN||^TX^PLAIN^Base64^" + DOCUMENT + "||||||F",
    "OBX|8|ED|18842-5^Summary^LN||^AP^PDF^Base64^" + base64.b64encode(b"%PDF Zebedee").decode() + "||||||F",
    "OBX|9|DT|11368-8^Onset^LN||20190301||||||F",
    "OBR|2|||36643-5^Chest X-ray^LN|||20190314",
    "OBX|1|TX|36643-5&GDT^^LN||The lungs are clear\\.br\\in Mr. Zebedee||||||F",
    "OBX|2|TX|36643-5&GDT^^LN||Quillon \\T\\ his daughter Ottoline~No effusion.||||||F",
    "OBX|3|FT|36643-5&IMP^^LN||Compared with 3/1/2019, MRN8847213, unchanged. Dictated by||||||F",
    "OBX|4|FT|36643-5&IMP^^LN||Dr. Thistlewood, Elsewhere General Hospital||||||F",
    "NTE|1|L|Called Clementine Grimsby, RN",
    "SPM|1|SPEC66123^SPEC66123||119297000^Blood^SCT|||||||||||||20190314103000",
    "AL1|1|DA|7980^Penicillin^RXNORM|SV|rash seen by Dr. Vandermeer|20190301",
])  # fmt: skip


def events(folder: Path) -> list[dict[str, Any]]:
    return [
        row
        for path in sorted(folder.rglob("*.hl7"))
        for item in records.read(path)
        if isinstance(item, Events)
        for row in item.table.to_pylist()
    ]


@pytest.mark.parametrize(
    "frame", ["{}\r", "\x0b{}\x1c\r", "FHS|^~\\&|Elsewhere\rBHS|^~\\&|Zebedee\r{}\rBTS|1|Zebedee\r"]
)
def test_nothing_planted_is_left(
    place: Path, clean: Callable[..., Report], none_left: Callable[[Iterable[str]], None], frame: str
) -> None:
    (place / "in/Zebedee_MRN8847213.hl7").write_bytes(frame.format(MESSAGE).encode())
    report = clean()
    none_left(PLANTED)
    assert report.kinds == {"hl7v2": 1}
    none_left(["Zeb^", "4WEST", "POL778", "867-53"])


def test_what_was_measured_stays_and_dates_move_together(place: Path, clean: Callable[..., Report]) -> None:
    (place / "in/a.hl7").write_bytes((MESSAGE + "\r").encode())
    clean()
    before, after = events(place / "in"), events(place / "out")
    about_people = {"L 1", "LOINC 76435-7"}
    measured = lambda rows: sorted(
        str((r["code"], min(r["numeric_value"], 90.0) if "30525-0" in r["code"] else r["numeric_value"], r["unit"]))
        for r in rows
        if r["code"] not in about_people
    )
    assert measured(after) == measured(before)
    assert len(after) == len(before) - 2
    key = open_key(place / "key")
    assert {r["patient"] for r in after} == {key.pseudonym("MRN8847213")}
    timed = lambda rows: {r["code"]: r["time"] for r in rows if r["time"] and r["code"] != "MEDS_BIRTH"}
    days = {(timed(after)[code] - timed(before)[code]).days for code in timed(after)}
    assert days == {key.days("MRN8847213")}
    assert {r["numeric_value"] for r in after if "30525-0" in r["code"]} == {90}
    assert next(r["time"] for r in after if r["code"] == "MEDS_BIRTH").year == 1932


def test_reports_keep_their_words_and_lines(place: Path, clean: Callable[..., Report]) -> None:
    (place / "in/a.hl7").write_bytes((MESSAGE + "\r").encode())
    report = clean()
    path = place / "out" / report.files[0]
    said = [records.load(r, path.parent).text or "" for r in records.read(path, path.parent) if isinstance(r, Record)]
    assert "The lungs are clear" in said[1]
    assert "No effusion." in said[1]
    assert "unchanged" in said[1]
    assert "FINDINGS:" in said[1]
    assert "Seen with Dr. [NAME] on [DATE]." in said[0]


def test_character_sets_and_other_separators(
    place: Path, clean: Callable[..., Report], none_left: Callable[[Iterable[str]], None]
) -> None:
    text = "MSH|^~\\&|L|F|||20190314||ORU^R01|1|P|2.5.1||||||8859/1\rPID|1||M551^^^A^MR||Müßigänger^Zoë\r"
    text += "OBR|1|||1^x^L|||20190314\rOBX|1|TX|1^x^L||Frau Müßigänger geht es gut||||||F\r"
    (place / "in/a.hl7").write_bytes(text.encode("latin-1"))
    odd = "MSH#*%!@#L#F###20190314##ORU*R01#1#P#2.5.1\rPID#1##MRN8847213***A*MR##Quillon*Zebedee\r"
    odd += "OBX#1#ST#1*x*LN##Zebedee!T!Quillon######F\rOBX#2#NM#2160-0*Creatinine*LN##1.4#mg/dL#####F###20190314\r"
    (place / "in/b.hl7").write_bytes(odd.encode())
    clean()
    none_left(["Müßigänger", "Zoë", "Zebedee", "Quillon", "MRN8847213", "20190314", "8859"])
    assert any(r["numeric_value"] == pytest.approx(1.4) for r in events(place / "out"))


def test_a_message_named_as_a_note_is_no_note_and_dates_can_go(
    place: Path, clean: Callable[..., Report], none_left: Callable[[Iterable[str]], None]
) -> None:
    (place / "in/a.txt").write_bytes((MESSAGE + "\r").encode())
    report = clean(Options(dates="remove"))
    assert report.kinds == {"hl7v2": 1}
    none_left(PLANTED)
    year = str(datetime(2019, 1, 1).year)
    none_left([f"{year}0", f"{year}1"])
