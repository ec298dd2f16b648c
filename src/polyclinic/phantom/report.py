"""Radiology reports in two languages from one grammar: a fact chooses a rule, a rule chooses its words in either language.

Every sentence carries the fact that it states (finding, present, absent or uncertain, where, how large, how changed), so that a
labeller can be held against what was written, and a reader of images against what is there: the two differ where the radiologist
of the graph (`says_…`) missed something or was unsure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .people import LOBES, PEOPLE, PRIORS, READING


@dataclass(frozen=True, slots=True)
class Fact:
    """What one sentence says.

    Args:
        finding: one of `FINDINGS`; "none" where an impression says that there is nothing.
        status: "present", "absent" or "uncertain".
        lobe: of `people.LOBES`, or a side, "right" or "left".
        size_mm: as measured.
        change: "new", "larger" or "unchanged" since the prior study.
        before_mm: what it measured then.
    """

    finding: str
    status: str
    lobe: str | None = None
    size_mm: int | None = None
    change: str | None = None
    before_mm: int | None = None


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence, its section ("findings" or "impression") and its fact."""

    text: str
    section: str
    fact: Fact


FINDINGS = ("consolidation", "nodule", "effusion", "cardiomegaly", "emphysema")
_NOUNS = {
    "en": {"consolidation": ("", "consolidation"), "nodule": ("a ", "nodule"), "effusion": ("a ", "pleural effusion"),
           "cardiomegaly": ("", "cardiomegaly"), "emphysema": ("", "emphysema")},
    "es": {"consolidation": ("una ", "consolidación"), "nodule": ("un ", "nódulo"), "effusion": ("un ", "derrame pleural"),
           "cardiomegaly": ("", "cardiomegalia"), "emphysema": ("", "enfisema")},
}  # fmt: skip
"""Finding → its article and its noun."""
_PLACES = {
    "en": {**{lobe: f" in the {lobe} lobe" for lobe in LOBES}, "right": " on the right", "left": " on the left"},
    "es": {
        "right upper": " en el lóbulo superior derecho", "right middle": " en el lóbulo medio",
        "right lower": " en el lóbulo inferior derecho",
        "left upper": " en el lóbulo superior izquierdo", "left lower": " en el lóbulo inferior izquierdo",
        "right": " en el lado derecho", "left": " en el lado izquierdo",
    },
}  # fmt: skip
RULES = {
    "present": (("There is {a}{of}{at}.", "Se observa {a}{of}{at}."), ("{A}{of} is seen{at}.", "{A}{of}{at}."),
                ("Findings consistent with {a}{of}{at}.", "Hallazgos compatibles con {a}{of}{at}.")),
    "absent": (("No {n}.", "Sin {n}."), ("There is no {n}.", "No hay {n}."), ("No evidence of {n}.", "Sin evidencia de {n}."),
               ("{N} is not seen.", "No se observa {n}.")),
    "uncertain": (("Possible {n}{at}.", "Posible {n}{at}."), ("{A}{at} cannot be excluded.", "No se puede descartar {a}{at}."),
                  ("Questionable {n}{at}.", "Imagen dudosa de {n}{at}.")),
    "new": (("It is new since the prior study.", "Es de nueva aparición respecto al estudio previo."),
            ("Not present on the prior study.", "No estaba presente en el estudio previo.")),
    "larger": (("It measured {before} mm on the prior study and has grown.", "Medía {before} mm en el estudio previo y ha crecido."),
               ("Increased from {before} mm.", "Aumentado desde {before} mm.")),
    "unchanged": (("Unchanged since the prior study.", "Sin cambios respecto al estudio previo."),
                  ("Stable compared with the prior study.", "Estable en comparación con el estudio previo.")),
    "none": (("No acute finding.", "Sin hallazgos agudos."), ("No acute cardiopulmonary disease.", "Sin enfermedad cardiopulmonar aguda.")),
}  # fmt: skip
"""What is to be said → its rules, each as English and Spanish say it."""
NEW_BELOW_MM = 4
"""A nodule that was smaller on the earlier study is called new."""
READS = next(node for node in PEOPLE if node.name == "says_nodule").law
"""(there, diameter in mm) → chances of `READING`."""
_HEADS = {
    "en": (
        "Indication",
        "Comparison",
        "Findings",
        "Impression",
        "Dyspnoea.",
        "Prior study {months} months ago.",
        "None.",
    ),
    "es": (
        "Indicación",
        "Comparación",
        "Hallazgos",
        "Impresión",
        "Disnea.",
        "Estudio previo hace {months} meses.",
        "Ninguna.",
    ),
}


def realise(fact: Fact, rule: int, language: str) -> str:
    """The words of a fact by one of its rules; the same rule says the same in either language.

    Args:
        fact: what to say.
        rule: which rule of `RULES`, counted round.
        language: "en" or "es".
    """
    what = "none" if fact.finding == "none" else fact.change or fact.status
    pattern = RULES[what][rule % len(RULES[what])][language == "es"]
    article, noun = _NOUNS[language].get(fact.finding, ("", ""))
    capital = lambda words: words[:1].upper() + words[1:]
    size = {"en": " of {} mm", "es": " de {} mm"}[language].format(fact.size_mm) if fact.size_mm else ""
    return pattern.format(
        a=article + noun, A=capital(article + noun), n=noun, N=capital(noun), of=size,
        at=_PLACES[language].get(fact.lobe or "", ""), before=fact.before_mm,
    )  # fmt: skip


def facts(person: Mapping[str, Any], rng: np.random.Generator) -> Iterator[Fact]:
    """What the graph's radiologist says of a person, finding by finding; a change follows its finding."""
    months = PRIORS[person["prior_months"]]
    before = person["nodule_mm"] * 2 ** (-months * 30.44 / (3 * person["doubling_days"]))
    measured = max(1, round(person["nodule_mm"] + rng.standard_normal()))
    for finding in FINDINGS:
        status = READING[person[f"says_{finding}"]]
        lobe: str | None = {"consolidation": LOBES[person["lobe"]], "nodule": LOBES[person["nodule_lobe"]]}.get(finding)
        if finding == "effusion":
            lobe = LOBES[person["lobe"]].split()[0] if person["pneumonia"] else "right"
        if status == "absent":
            yield Fact(finding, status)
            continue
        yield Fact(finding, status, lobe, measured if (finding, status) == ("nodule", "present") else None)
        if status == "present" and months and finding in ("consolidation", "nodule"):
            # Without a nodule there is none to have grown: what was taken for one is taken for new.
            grown = person["nodule_mm"] > 1.15 * before
            change = (
                "new"
                if finding == "consolidation" or not person["nodule"] or before < NEW_BELOW_MM
                else "larger"
                if grown
                else "unchanged"
            )
            yield Fact(finding, status, lobe, None, change, round(before) if change == "larger" else None)


def before(person: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """The person at the earlier study, as its radiologist saw them: no pneumonia, no fluid, the nodule as it was then and read anew.

    Heart and emphysema were as they are, and are read alike. Of a nodule that the later report calls new there is none.

    Args:
        person: the graph's values, of somebody who has an earlier study.
        rng: of its reading.
    """
    months = PRIORS[person["prior_months"]]
    size = person["nodule_mm"] * 2 ** (-months * 30.44 / (3 * person["doubling_days"]))
    there = bool(person["nodule"]) and size >= NEW_BELOW_MM
    chances = READS(np.array([int(there)]), np.array([size]))[0]
    then = {
        "pneumonia": 0,
        "effusion": 0,
        "says_consolidation": 0,
        "says_effusion": 0,
        "prior_months": 0,
        "nodule_mm": size,
    }
    return {
        **person,
        **then,
        "nodule": int(there),
        "says_nodule": int(rng.choice(len(READING), p=chances)) if there else 0,
    }


def write(person: Mapping[str, Any], rng: np.random.Generator) -> tuple[str, list[Sentence]]:
    """A person's report.

    Args:
        person: the graph's values.
        rng: of the patient's report.
    Returns:
        the words, section by section, and every sentence with its fact.
    """
    language, said = ("en", "es")[person["language"]], list(facts(person, rng))
    speak = lambda fact, section: Sentence(realise(fact, int(rng.integers(12)), language), section, fact)
    groups = [[fact for fact in said if fact.finding == finding] for finding in rng.permutation(FINDINGS)]
    findings = [speak(fact, "findings") for group in groups for fact in group]
    worth = [fact for group in groups for fact in group if fact.status != "absent" and fact.change is None]
    impression = [speak(fact, "impression") for fact in worth or [Fact("none", "absent")]]
    heads, months = _HEADS[language], PRIORS[person["prior_months"]]
    prior = heads[5].format(months=months) if months else heads[6]
    parts = [(heads[0], heads[4]), (heads[1], prior), (heads[2], " ".join(s.text for s in findings)),
             (heads[3], " ".join(s.text for s in impression))]  # fmt: skip
    return "\n\n".join(f"{head}: {words}" for head, words in parts), findings + impression
