"""MIMIC-III and MIMIC-IV tables as CSV (also gzipped) or Parquet: events by ICD, LOINC or the items' own numbers, notes as TEXT.

Diagnoses and procedures are coded when a patient leaves: they stand at the discharge of their admission, which ADMISSIONS, beside
them, knows. Dates are shifted per patient by the source; ages over 89 were masked there (300 years in MIMIC-III, 91 in MIMIC-IV),
and become `AGE//over 89` instead of a birth.

Source: MIMIC-III v1.4 and MIMIC-IV v2.2 documentation (mimic.mit.edu).
"""

from __future__ import annotations

from .events import BIRTH, DEATH, SEX
from .history import ADMITTED, AGE, DISCHARGED, ETHNICITY, RACE
from .relational import Layout

_STAY = "left join admissions a on a.hadm_id = t.hadm_id"


def _dotted(code: str, before: str) -> str:
    """SQL of an ICD code with its dot, as `vocabularies.dotted` puts it."""
    parted = f"left({code}, {before}) || '.' || substr({code}, {before} + 1)"
    return f"case when length({code}) > {before} and not contains({code}, '.') then {parted} else {code} end"


def _icd(table: str, nine: str, ten: str, before: str, when: str) -> str:
    code = "coalesce(t.icd_code, t.icd9_code)"
    nine_dotted = _dotted(code, before)
    ten_dotted = _dotted(code, "3") if ten == "ICD10CM" else code
    return f"""
        select coalesce(t.subject_id, a.subject_id) as patient, {when} as time, t.hadm_id as encounter,
            case when t.icd_version = '10' then '{ten} ' || {ten_dotted} else '{nine} ' || {nine_dotted} end as code
        from {table} t {_STAY}"""


_PATIENTS = f"""
    with p as (
        select t.subject_id, t.gender, t.dod, a.first, a.died,
            coalesce(t.dob, case when try_cast(t.anchor_age as integer) < 90
                then ((try_cast(t.anchor_year as integer) - try_cast(t.anchor_age as integer))::varchar || '-07-01') end) as dob,
            try_cast(t.anchor_age as integer) >= 90
                or date_diff('year', try_cast(t.dob as timestamp), coalesce(a.first, try_cast(t.dod as timestamp))) > 120 as masked
        from patients t left join (
            select subject_id, min(try_cast(admittime as timestamp)) as first, max(deathtime) as died from admissions group by subject_id
        ) a on a.subject_id = t.subject_id)
    select subject_id as patient, dob as time, '{BIRTH}' as code from p where dob is not null and not coalesce(masked, false)
    union all select subject_id, null, '{AGE}over 89' from p where masked
    union all select subject_id, null, '{SEX}' || upper(gender) from p where upper(gender) in ('F', 'M')
    union all select subject_id, dod, '{DEATH}' from p where dod is not null and died is null"""
_ADMISSIONS = f"""
    select subject_id as patient, admittime as time, '{ADMITTED}' || coalesce('//' || admission_type, '') as code, hadm_id as encounter
        from admissions
    union all select subject_id, dischtime, '{DISCHARGED}' || coalesce('//' || discharge_location, ''), hadm_id
        from admissions where dischtime is not null
    union all select subject_id, deathtime, '{DEATH}', hadm_id from admissions where deathtime is not null
    union all select distinct subject_id, null, '{RACE}' || race, null from admissions
        where not regexp_matches(upper(race), '^(UNK|UNABLE|PATIENT DECL)')
    union all select distinct subject_id, null, '{ETHNICITY}' || ethnicity, null from admissions
        where not regexp_matches(upper(ethnicity), '^(UNK|UNABLE|PATIENT DECL)')"""
_LAB = """
    select t.subject_id as patient, t.charttime as time, coalesce('LOINC ' || d.loinc_code, 'MIMIC ' || t.itemid) as code,
        coalesce(num(t.valuenum), num(t.value)) as numeric_value, t.valueuom as unit,
        case when num(t.valuenum) is null then words(t.value) else sign(t.value) end as text_value, t.hadm_id as encounter
    from labevents t left join d_labitems d on d.itemid = t.itemid"""
_CHART = """
    select subject_id as patient, charttime as time, 'MIMIC ' || itemid as code, coalesce(num(valuenum), num(value)) as numeric_value,
        valueuom as unit, case when num(valuenum) is null then words(value) end as text_value, hadm_id as encounter
    from chartevents where coalesce(error, '0') <> '1'"""
_PRESCRIPTIONS = """
    select subject_id as patient, coalesce(starttime, startdate) as time, 'DRUG ' || drug as code, num(dose_val_rx) as numeric_value,
        dose_unit_rx as unit, case when num(dose_val_rx) is null then dose_val_rx end as text_value, hadm_id as encounter
    from prescriptions"""


def _amounts(table: str, when: str, amount: str, unit: str) -> str:
    return f"""
        select subject_id as patient, {when} as time, 'MIMIC ' || itemid as code, num({amount}) as numeric_value, {unit} as unit,
            hadm_id as encounter from {table}"""


def _stays(table: str, unit: str) -> str:
    return f"""
        select subject_id as patient, intime as time, 'ICU_ADMISSION' || coalesce('//' || first_{unit}, '') as code, hadm_id as encounter
            from {table}
        union all select subject_id, outtime, 'ICU_DISCHARGE' || coalesce('//' || last_{unit}, ''), hadm_id
            from {table} where outtime is not null"""


_MICROBIOLOGY = """
    select subject_id as patient, coalesce(charttime, chartdate) as time, 'CULTURE ' || spec_type_desc as code,
        coalesce(org_name, 'no growth') as text_value, hadm_id as encounter from microbiologyevents"""
_TRANSFERS = """
    select subject_id as patient, intime as time, 'TRANSFER//' || coalesce(careunit, curr_careunit, eventtype) as code, hadm_id as encounter
    from transfers where intime is not null"""
_NOTES = {
    "noteevents": "select subject_id, coalesce(charttime, chartdate), coalesce(description, category), text from noteevents "
    "where coalesce(iserror, '0') <> '1'",
    "discharge": "select subject_id, charttime, 'discharge summary', text from discharge",
    "radiology": "select subject_id, charttime, 'radiology report', text from radiology",
}

TABLES = {
    "patients": "subject_id gender dob dod anchor_age anchor_year",
    "admissions": "subject_id hadm_id admittime dischtime deathtime admission_type discharge_location race ethnicity",
    "diagnoses_icd": "subject_id hadm_id icd_code icd9_code icd_version",
    "procedures_icd": "subject_id hadm_id icd_code icd9_code icd_version chartdate",
    "labevents": "subject_id hadm_id itemid charttime value valuenum valueuom",
    "d_labitems": "itemid loinc_code",
    "chartevents": "subject_id hadm_id itemid charttime value valuenum valueuom error",
    "prescriptions": "subject_id hadm_id startdate starttime drug dose_val_rx dose_unit_rx",
    "inputevents": "subject_id hadm_id itemid starttime amount amountuom",
    "inputevents_mv": "subject_id hadm_id itemid starttime amount amountuom",
    "inputevents_cv": "subject_id hadm_id itemid charttime amount amountuom",
    "outputevents": "subject_id hadm_id itemid charttime value valueuom",
    "icustays": "subject_id hadm_id intime outtime first_careunit last_careunit",
    "microbiologyevents": "subject_id hadm_id charttime chartdate spec_type_desc org_name",
    "transfers": "subject_id hadm_id intime careunit curr_careunit eventtype",
    "noteevents": "subject_id charttime chartdate description category iserror text",
    "discharge": "subject_id charttime text",
    "radiology": "subject_id charttime text",
}

NOTE_LAYOUTS = (
    Layout("noteevents", frozenset({"subject_id", "chartdate", "category", "text"}), _NOTES["noteevents"]),
    *(
        Layout(name, frozenset({"note_id", "subject_id", "note_type", "text"}), _NOTES[name])
        for name in ("discharge", "radiology")
    ),
)


def _layout(name: str, key: str, query: str, needs: tuple[str, ...] = (), helped: tuple[str, ...] = ()) -> Layout:
    return Layout(name, frozenset(key.split()), query, needs, helped)


_DISCHARGE = "coalesce(a.dischtime, a.admittime)"
_CODED_AT = ("admissions",)
_THREE_OR_FOUR = "(case when left(coalesce(t.icd_code, t.icd9_code), 1) = 'E' then 4 else 3 end)"
LAYOUTS = (
    _layout("patients", "subject_id gender dob dod", _PATIENTS, helped=("admissions",)),
    _layout("patients", "subject_id gender anchor_age anchor_year", _PATIENTS, helped=("admissions",)),
    _layout("admissions", "subject_id hadm_id admittime dischtime", _ADMISSIONS),
    *(
        _layout(name, f"subject_id hadm_id seq_num {column}", _icd(name, nine, ten, before, when), needs=_CODED_AT)
        for name, nine, ten, before, when in (
            ("diagnoses_icd", "ICD9CM", "ICD10CM", _THREE_OR_FOUR, _DISCHARGE),
            ("procedures_icd", "ICD9Proc", "ICD10PCS", "2", f"coalesce(t.chartdate, {_DISCHARGE})"),
        )
        for column in ("icd9_code", "icd_code")
    ),
    _layout("labevents", "subject_id itemid charttime valuenum valueuom flag", _LAB, helped=("d_labitems",)),
    _layout("chartevents", "subject_id itemid charttime valuenum valueuom", _CHART),
    _layout("prescriptions", "subject_id hadm_id drug dose_val_rx", _PRESCRIPTIONS),
    *(
        _layout(name, f"subject_id itemid {when} {amount} {unit}", _amounts(name, when, amount, unit))
        for name, when, amount, unit in (
            ("inputevents", "starttime", "amount", "amountuom"), ("inputevents_mv", "starttime", "amount", "amountuom"),
            ("inputevents_cv", "charttime", "amount", "amountuom"), ("outputevents", "charttime", "value", "valueuom"),
        )
    ),
    _layout("icustays", "subject_id icustay_id intime outtime", _stays("icustays", "careunit")),
    _layout("icustays", "subject_id stay_id intime outtime", _stays("icustays", "careunit")),
    _layout("microbiologyevents", "subject_id spec_type_desc org_name", _MICROBIOLOGY),
    _layout("transfers", "subject_id hadm_id intime outtime eventtype", _TRANSFERS),
    *(
        Layout(name, frozenset(key.split()), why=why)
        for name, key, why in (
            ("d_labitems", "itemid label fluid category", "which names the items of labevents"),
            ("d_items", "itemid label linksto", "which names the items of chartevents"),
            ("d_icd_diagnoses", "long_title icd9_code", "which names ICD codes"),
            ("d_icd_diagnoses", "long_title icd_code icd_version", "which names ICD codes"),
        )
    ),
)  # fmt: skip
