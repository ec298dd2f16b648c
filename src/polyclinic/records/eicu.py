"""eICU Collaborative Research Database tables as CSV: events in minutes from the unit's door, put on a calendar that is told here.

The source gives no dates: only the year of the hospital's discharge, hours of the day, and minutes from the admission to the unit.
A hospital stay is put at 1 January of that year, at the hour of its admission; stays of one patient in one year follow one another,
a day apart, in the order of their numbers, since their true order is not known. Within a stay every minute is the source's.
Whose a row is, and when, the `patient` table beside it knows. An age `> 89` becomes `AGE//over 89` instead of a birth.

Source: eICU-CRD v2.0 documentation (eicu-crd.mit.edu); Pollard et al. 2018, Sci Data 5:180178.
"""

from __future__ import annotations

from .events import BIRTH, DEATH, SEX
from .history import ADMITTED, AGE, DISCHARGED, ETHNICITY
from .relational import Layout

_STAYS = """
    with hospital as (
        select patienthealthsystemstayid as stay, any_value(coalesce(uniquepid, patienthealthsystemstayid)) as person,
            any_value(coalesce(hospitaldischargeyear, '2015')) as year, any_value(hospitaladmittime24) as hour,
            max(try_cast(hospitaldischargeoffset as double) - try_cast(hospitaladmitoffset as double)) as length
        from patient group by patienthealthsystemstayid),
    placed as (
        select stay, person, try_cast(year || '-01-01 ' || coalesce(hour, '00:00:00') as timestamp) + to_days(coalesce(cast(sum(
                cast(ceil(coalesce(length, 0) / 1440) as integer) + 1) over (
                partition by person, year order by try_cast(stay as bigint), stay rows between unbounded preceding and 1 preceding
                ) as integer), 0)) as admitted
        from hospital),
    stays as (
        select p.*, h.person, h.admitted, h.admitted - minutes(coalesce(p.hospitaladmitoffset, '0')) as unit_door
        from patient p join placed h on h.stay = p.patienthealthsystemstayid)"""
"""Each unit stay with its person and the moment of its door."""

_AT = "s.unit_door + minutes"
_OF = "s.person as patient, s.hospitalid as site, s.patienthealthsystemstayid as encounter"


def _rows(table: str, offset: str, code: str, more: str = "", where: str = "true") -> str:
    """What stands in a table at so many minutes from the door."""
    return f"""{_STAYS}
        select {_OF}, {_AT}(t.{offset}) as time, {code} as code{more}
        from {table} t left join stays s on s.patientunitstayid = t.patientunitstayid where {where}"""


def _wide(table: str, columns: dict[str, tuple[str, str]]) -> str:
    """Vital signs that stand side by side: each column a code in a unit."""
    parts = (
        f"select {_OF}, {_AT}(t.observationoffset) as time, '{code}' as code, num(t.{name}) as numeric_value, '{unit}' as unit "
        f"from {table} t left join stays s on s.patientunitstayid = t.patientunitstayid where t.{name} is not null"
        for name, (code, unit) in columns.items()
    )
    return _STAYS + " union all ".join(parts)


def _value(column: str) -> str:
    return f", num({column}) as numeric_value, words({column}) as text_value"


_PATIENT = f"""{_STAYS},
    one as (select *, row_number() over (partition by patienthealthsystemstayid order by unit_door) as nth from stays)
    select person as patient, hospitalid as site, patienthealthsystemstayid as encounter, time, code, numeric_value, unit from (
        select *, '{ADMITTED}' || coalesce('//' || hospitaladmitsource, '') as code, admitted as time,
            null::double as numeric_value, null as unit from one where nth = 1
        union all select *, '{DISCHARGED}' || coalesce('//' || hospitaldischargelocation, ''),
            unit_door + minutes(hospitaldischargeoffset), null, null from one where nth = 1
        union all select *, '{DEATH}', unit_door + minutes(hospitaldischargeoffset), null, null from one
            where nth = 1 and hospitaldischargestatus = 'Expired'
        union all select *, 'ICU_ADMISSION' || coalesce('//' || unittype, ''), unit_door, null, null from one
        union all select *, 'ICU_DISCHARGE' || coalesce('//' || unitdischargelocation, ''),
            unit_door + minutes(unitdischargeoffset), null, null from one
        union all select *, 'ADMISSION_DIAGNOSIS//' || apacheadmissiondx, unit_door, null, null from one where apacheadmissiondx is not null
        union all select *, 'LOINC 8302-2', unit_door, num(admissionheight), 'cm' from one where num(admissionheight) > 0
        union all select *, 'LOINC 29463-7', unit_door, num(admissionweight), 'kg' from one where num(admissionweight) > 0
        union all select *, '{BIRTH}', admitted - to_days(cast(365.25 * try_cast(age as double) + 182 as integer)), null, null
            from one where nth = 1 and try_cast(age as double) is not null
            qualify row_number() over (partition by person order by admitted) = 1
        union all select *, '{AGE}over 89', null, null, null from one where starts_with(age, '>')
            qualify row_number() over (partition by person order by admitted) = 1
        union all select *, case gender when 'Female' then '{SEX}F' when 'Male' then '{SEX}M' end, null, null, null from one
            where gender in ('Female', 'Male') qualify row_number() over (partition by person order by admitted) = 1
        union all select *, '{ETHNICITY}' || ethnicity, null, null, null from one
            where not ethnicity like '%Unknown%' qualify row_number() over (partition by person order by admitted) = 1
    )"""
_ICD = "trim(split_part(t.icd9code, ',', 1))"
_DIAGNOSIS = (
    f"case when t.icd9code is null then 'eICU DX ' || t.diagnosisstring when regexp_matches({_ICD}, '^[A-DF-Z]') "
    f"and not regexp_matches({_ICD}, '^V\\d\\d(\\.|$)') then 'ICD10CM ' || {_ICD} else 'ICD9CM ' || {_ICD} end"
)
"""The cell has both editions of one diagnosis, ICD-9-CM first: one event."""

TABLES = {
    "patient": "patientunitstayid patienthealthsystemstayid uniquepid gender age ethnicity hospitalid apacheadmissiondx admissionheight "
    "admissionweight hospitaladmittime24 hospitaladmitoffset hospitaladmitsource hospitaldischargeyear hospitaldischargeoffset "
    "hospitaldischargelocation hospitaldischargestatus unittype unitdischargeoffset unitdischargelocation",
    "lab": "patientunitstayid labresultoffset labname labresult labresulttext labmeasurenamesystem labmeasurenameinterface",
    "medication": "patientunitstayid drugstartoffset drugname drughiclseqno drugordercancelled",
    "diagnosis": "patientunitstayid diagnosisoffset diagnosisstring icd9code",
    "treatment": "patientunitstayid treatmentoffset treatmentstring",
    "admissiondx": "patientunitstayid admitdxenteredoffset admitdxpath admitdxname",
    "physicalexam": "patientunitstayid physicalexamoffset physicalexampath physicalexamvalue physicalexamtext",
    "pasthistory": "patientunitstayid pasthistoryoffset pasthistorypath",
    "allergy": "patientunitstayid allergyoffset allergyname",
    "infusiondrug": "patientunitstayid infusionoffset drugname drugrate",
    "intakeoutput": "patientunitstayid intakeoutputoffset celllabel cellvaluenumeric",
    "nursecharting": "patientunitstayid nursingchartoffset nursingchartcelltypevalname nursingchartvalue",
    "vitalperiodic": "patientunitstayid observationoffset temperature sao2 heartrate respiration systemicsystolic "
    "systemicdiastolic systemicmean",
    "vitalaperiodic": "patientunitstayid observationoffset noninvasivesystolic noninvasivediastolic noninvasivemean",
}  # fmt: skip
_PERIODIC = {
    "temperature": ("LOINC 8310-5", "Cel"), "sao2": ("LOINC 2708-6", "%"), "heartrate": ("LOINC 8867-4", "/min"),
    "respiration": ("LOINC 9279-1", "/min"), "systemicsystolic": ("LOINC 8480-6", "mm[Hg]"),
    "systemicdiastolic": ("LOINC 8462-4", "mm[Hg]"),
    "systemicmean": ("LOINC 8478-0", "mm[Hg]"),
}  # fmt: skip
_APERIODIC = {
    "noninvasivesystolic": ("LOINC 8480-6", "mm[Hg]"), "noninvasivediastolic": ("LOINC 8462-4", "mm[Hg]"),
    "noninvasivemean": ("LOINC 8478-0", "mm[Hg]"),
}  # fmt: skip
_LAB = """, num(coalesce(t.labresult, t.labresulttext)) as numeric_value,
    coalesce(t.labmeasurenamesystem, t.labmeasurenameinterface) as unit,
    case when t.labresult is null then words(t.labresulttext) else sign(t.labresulttext) end as text_value"""
_EXAM = "'EXAM ' || regexp_replace(regexp_replace(t.physicalexampath, '/[^/]*$', ''), '^notes/Progress Notes/Physical Exam/', '')"
_QUERIES = {
    "lab": ("labresultoffset labname labresult", _rows("lab", "labresultoffset", "'LAB ' || t.labname", _LAB)),
    "medication": ("drugstartoffset drugordercancelled", _rows(
        "medication", "drugstartoffset", "coalesce('DRUG ' || t.drugname, 'HICL ' || regexp_replace(t.drughiclseqno, '\\.0$', ''))",
        where="coalesce(t.drugordercancelled, 'No') <> 'Yes'")),
    "diagnosis": ("diagnosisoffset diagnosisstring", _rows("diagnosis", "diagnosisoffset", _DIAGNOSIS)),
    "treatment": ("treatmentoffset treatmentstring", _rows("treatment", "treatmentoffset", "'TREATMENT ' || t.treatmentstring")),
    "admissiondx": ("admitdxenteredoffset admitdxpath", _rows("admissiondx", "admitdxenteredoffset", "'ADMISSION_DX ' || t.admitdxpath")),
    "physicalexam": ("physicalexamoffset physicalexampath", _rows(
        "physicalexam", "physicalexamoffset", _EXAM, _value("t.physicalexamvalue"))),
    "pasthistory": ("pasthistoryoffset pasthistorypath", _rows("pasthistory", "pasthistoryoffset", "'HISTORY ' || t.pasthistorypath")),
    "allergy": ("allergyoffset allergyname", _rows("allergy", "allergyoffset", "'ALLERGY//' || t.allergyname")),
    "infusiondrug": ("infusionoffset drugrate", _rows("infusiondrug", "infusionoffset", "'INFUSION ' || t.drugname", _value("t.drugrate"))),
    "intakeoutput": ("intakeoutputoffset celllabel", _rows(
        "intakeoutput", "intakeoutputoffset", "'BALANCE ' || t.celllabel", _value("t.cellvaluenumeric"))),
    "nursecharting": ("nursingchartoffset nursingchartvalue", _rows(
        "nursecharting", "nursingchartoffset", "'CHART ' || t.nursingchartcelltypevalname", _value("t.nursingchartvalue"))),
    "vitalperiodic": ("observationoffset heartrate sao2", _wide("vitalperiodic", _PERIODIC)),
    "vitalaperiodic": ("observationoffset noninvasivesystolic", _wide("vitalaperiodic", _APERIODIC)),
}  # fmt: skip
LAYOUTS = (
    Layout("patient", frozenset({"patientunitstayid", "patienthealthsystemstayid", "hospitaladmitoffset"}), _PATIENT),
    *(
        Layout(name, frozenset(["patientunitstayid", *key.split()]), query, ("patient",))
        for name, (key, query) in _QUERIES.items()
    ),
    Layout("hospital", frozenset({"hospitalid", "numbedscategory", "teachingstatus"}), why="which is about hospitals"),
)
