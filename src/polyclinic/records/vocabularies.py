"""Code systems by one name, however a format names them: a URI in FHIR, an OID in CDA, a table's word in HL7 v2.

Source: HL7 Terminology (THO) code systems; HL7 v2 table 0396; the OID registry of HL7; OMOP's `vocabulary_id`, which are the
names here, so that `LOINC 2160-0` is one code from whatever file.
"""

from __future__ import annotations

from functools import lru_cache

LONGEST = 120
"""Characters of a code that is a local word: a longer one is prose, and would name a person rather than a thing."""

_OID = "2.16.840.1.113883."
_NAMES = {
    "LOINC": ("http://loinc.org", _OID + "6.1", "LN", "LNC"),
    "SNOMED": ("http://snomed.info/sct", _OID + "6.96", "SCT", "SNM", "SNOMEDCT"),
    "RxNorm": ("http://www.nlm.nih.gov/research/umls/rxnorm", _OID + "6.88", "RXNORM"),
    "CVX": ("http://hl7.org/fhir/sid/cvx", _OID + "12.292"),
    "ICD10": ("http://hl7.org/fhir/sid/icd-10", _OID + "6.3", "I10", "ICD-10"),
    "ICD10CM": ("http://hl7.org/fhir/sid/icd-10-cm", _OID + "6.90", "I10C", "ICD-10-CM"),
    "ICD10GM": ("http://fhir.de/CodeSystem/bfarm/icd-10-gm", "http://fhir.de/CodeSystem/dimdi/icd-10-gm", "1.2.276.0.76.5.311"),
    "ICD10PCS": ("http://www.cms.gov/Medicare/Coding/ICD10", "http://hl7.org/fhir/sid/icd-10-pcs", _OID + "6.4", "I10P", "ICD-10-PCS"),
    "ICD9CM": ("http://hl7.org/fhir/sid/icd-9-cm", _OID + "6.103", "I9", "I9C", "I9CDX", "ICD-9-CM"),
    "ICD9Proc": (_OID + "6.104", "I9CP"),
    "CPT4": ("http://www.ama-assn.org/go/cpt", _OID + "6.12", "C4", "CPT"),
    "HCPCS": ("http://www.cms.gov/Medicare/Coding/HCPCSReleaseCodeSets", _OID + "6.285", "HPC"),
    "NDC": ("http://hl7.org/fhir/sid/ndc", _OID + "6.69"),
    "ATC": ("http://www.whocc.no/atc", _OID + "6.73", "WC"),
    "OPS": ("http://fhir.de/CodeSystem/bfarm/ops", "http://fhir.de/CodeSystem/dimdi/ops"),
    "UCUM": ("http://unitsofmeasure.org", _OID + "6.8"),
    "ActCode": ("http://terminology.hl7.org/CodeSystem/v3-ActCode", _OID + "5.4"),
}  # fmt: skip
_BY_SPELLING = {spelling.lower(): name for name, spellings in _NAMES.items() for spelling in (name, *spellings)}


@lru_cache(maxsize=4096)
def vocabulary(system: str) -> str:
    """The one name of a code system; of an unknown one the last part of its URI, `local` where it has none.

    Args:
        system: a URI, an OID (also as `urn:oid:`), a word of HL7 v2 table 0396, an OMOP `vocabulary_id`.
    """
    spelling = system.strip().removeprefix("urn:oid:").rstrip("/")
    return _BY_SPELLING.get(spelling.lower()) or spelling.rsplit("/", 1)[-1] or "local"


def is_known(system: str) -> bool:
    """Whether the code system is one that other hospitals have too."""
    return system.strip().removeprefix("urn:oid:").rstrip("/").lower() in _BY_SPELLING


def local(words: str) -> str | None:
    """The code of what has words and no code; None for prose."""
    words = " ".join(words.split())
    return f"local {words}" if 0 < len(words) <= LONGEST else None


def dotted(code: str, system: str) -> str:
    """An ICD code with the dot that exports leave out: `99591` → `995.91` (ICD-9-CM), `E1165` → `E11.65`, `3605` → `36.05`.

    Source: ICD-9-CM Official Guidelines (three characters before the dot, four of an E code, two of a procedure);
    ICD-10-CM (three). ICD-10-PCS has none.
    """
    before = {"ICD9CM": 4 if code[:1] in "Ee" else 3, "ICD10CM": 3, "ICD10": 3, "ICD9Proc": 2}.get(system)
    code = code.strip()
    if before is None or "." in code or len(code) <= before:
        return code
    return f"{code[:before]}.{code[before:]}"
