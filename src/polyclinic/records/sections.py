"""The sections of a note by their headings, in English, German and Spanish; no word of it is lost.

A heading is a known title at the beginning of a line, with a colon or alone on its line, or in capitals with a colon after the end
of a sentence. What stands before the first one has no name.

Source: LOINC document ontology and RadLex report sections; HL7 C-CDA R2.1 section titles; the headings that ACR, DRG and SERAM
recommend for radiology reports.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_TITLES = {
    "indication": "indication|indications|clinical indication|reason for exam|reason for examination|reason for study|fragestellung|"
    "klinische fragestellung|indikation|rechtfertigende indikation|indicación|motivo de consulta|motivo de la exploración",
    "history": "history|clinical history|clinical information|history of present illness|hpi|present illness|interval history|anamnese|"
    "klinische angaben|klinik|vorgeschichte|historia|historia clínica|antecedentes|enfermedad actual|datos clínicos",
    "comparison": "comparison|comparisons|comparison study|prior studies|vergleich|voraufnahmen|voruntersuchung|comparación|"
    "estudios previos",
    "technique": "technique|procedure|exam|protocol|methods|method|technik|methode|untersuchungstechnik|technischer hinweis|técnica|"
    "procedimiento|métodos",
    "findings": "findings|finding|results|result|report|befund|befunde|hallazgos|resultados|informe",
    "impression": "impression|impressions|conclusion|conclusions|opinion|summary|beurteilung|zusammenfassung|schlussfolgerung|impresión|"
    "impresión diagnóstica|conclusión|conclusiones|resumen",
    "recommendation": "recommendation|recommendations|empfehlung|empfehlungen|procedere|recomendación|recomendaciones",
    "background": "background|objective|objectives|aim|aims|introduction|hintergrund|zielsetzung|introducción|objetivo",
    "complaint": "chief complaint|cc|presenting complaint|reason for visit|hauptbeschwerde|aktuelle beschwerden|beschwerden|síntomas",
    "past_history": "past medical history|pmh|past history|past surgical history|psh|surgical history|vorerkrankungen|voroperationen|"
    "antecedentes personales|antecedentes médicos|antecedentes quirúrgicos",
    "family_history": "family history|fh|familienanamnese|antecedentes familiares",
    "social_history": "social history|sh|sozialanamnese|historia social|hábitos",
    "medication": "medications|medication|current medications|home medications|discharge medications|medikation|medikamente|medicación|"
    "medicamentos|tratamiento",
    "allergies": "allergies|allergy|allergien|allergie|alergias|alergia",
    "review": "review of systems|ros|systemanamnese|revisión por sistemas",
    "examination": "physical examination|physical exam|examination|pe|vital signs|vitals|körperliche untersuchung|untersuchungsbefund|"
    "exploración física|exploración|signos vitales",
    "laboratory": "labs|laboratory|laboratory data|laboratory results|labor|laborwerte|laborbefunde|laboratorio|analítica",
    "course": "hospital course|brief hospital course|ed course|emergency department course|verlauf|therapie und verlauf|evolución",
    "assessment": "assessment|assessment and plan|a/p|diagnosis|diagnoses|discharge diagnosis|final diagnosis|diagnose|diagnosen|"
    "diagnóstico|diagnósticos|juicio clínico",
    "plan": "plan|plan of care|disposition|therapie|therapieempfehlung|plan de tratamiento",
    "addendum": "addendum|nachtrag|adenda",
}  # fmt: skip
NAMES = tuple(_TITLES)
_BY_TITLE = {title: name for name, titles in _TITLES.items() for title in titles.split("|")}
_ANY = "|".join(sorted(map(re.escape, _BY_TITLE), key=len, reverse=True))
_HEADING = re.compile(
    rf"^[ \t]*(?:\*\*|#+[ \t]*)?(?:\d{{1,2}}[.)][ \t]*)?(?P<line>{_ANY})(?:\*\*)?[ \t]*(?:(?::|[ \t][-–][ \t])(?:\*\*)?|(?=\r?$))"
    rf"|(?<=[.!?)])[ \t]+(?P<inline>{_ANY})[ \t]*:",
    re.IGNORECASE | re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a note.

    Args:
        name: one of `NAMES`; empty before the first heading.
        words: what stands under the heading.
        title: the heading as it is written.
    """

    name: str
    words: str
    title: str = ""


def sections(text: str) -> list[Section]:
    """The parts of a note in their order; one without a name where it has no heading."""
    starts = [
        m for m in _HEADING.finditer(text) if _title(m).casefold() in _BY_TITLE and (m["line"] or m["inline"].isupper())
    ]
    before = text[: starts[0].start()] if starts else text
    found = [Section("", before.strip())] if before.strip() or not starts else []
    for match, following in zip(starts, [*starts[1:], None], strict=True) if starts else ():
        words = text[match.end() : following.start() if following else len(text)]
        found.append(Section(_BY_TITLE[_title(match).casefold()], words.strip(), _title(match)))
    return found


def _title(match: re.Match[str]) -> str:
    return match["line"] or match["inline"]


def kept(text: str, names: tuple[str, ...]) -> str:
    """Only the sections of these names, each under its heading; a note without any heading is kept whole.

    Args:
        text: the note.
        names: of `NAMES`; none keeps everything.
    """
    if not names:
        return text
    parts = sections(text)
    if all(not part.name for part in parts):
        return text
    return "\n\n".join(f"{part.title}:\n{part.words}" for part in parts if part.name in names and part.words)
