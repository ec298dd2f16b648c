"""OMOP Common Data Model 5.3 and 5.4, its tables as Parquet or CSV: events by their concepts' codes, notes as TEXT records.

The `concept` table beside them names the codes (`LOINC 2160-0`); without it an event keeps its source code, whose vocabulary is
not known (`source 2160-0`), and without that its concept's number (`OMOP 3016723`).

Source: OHDSI Common Data Model v5.4, field-level specification.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..schema import Events, Payload, Record, Rejected
from . import note_tables, relational
from .events import BIRTH, DEATH, SEX
from .history import ETHNICITY, RACE
from .relational import Layout, layout_of, opened, read_events
from .source import RecordError, place_of

_CODE = """
    coalesce({c}.vocabulary_id || ' ' || {c}.concept_code, 'source ' || name(t.{what}_source_value),
             'OMOP ' || nullif(t.{what}_concept_id, '0'))"""
_OPERATOR = """
    case t.operator_concept_id when '4171756' then '<' when '4172704' then '>' when '4171754' then '<=' when '4171755' then '>=' end"""


def _named(table: str, *columns: str) -> str:
    """Of the concepts, of which there may be millions, those that a table speaks of."""
    ids = " union ".join(f"select {column} from {table}" for column in columns)
    return f"with named as materialized (select * from concept where concept_id <> '0' and concept_id in ({ids}))"


def _query(table: str, what: str, when: str) -> str:
    """What happened: a condition, a drug, a procedure, a device."""
    return f"""{_named(table, f"{what}_concept_id")}
        select t.person_id as patient, coalesce(t.{when}_datetime, t.{when}_date) as time, {_CODE.format(c="c", what=what)} as code,
            t.visit_occurrence_id as encounter
        from {table} t left join named c on c.concept_id = t.{what}_concept_id"""


def _found(table: str, text: str, operator: str) -> str:
    """What was measured or observed: a number in a unit, a concept, or words."""
    return f"""{_named(table, f"{table}_concept_id", "value_as_concept_id", "unit_concept_id")}
        select t.person_id as patient, coalesce(t.{table}_datetime, t.{table}_date) as time,
            {_CODE.format(c="c", what=table)} as code, num(t.value_as_number) as numeric_value,
            coalesce(case when u.vocabulary_id = 'UCUM' then u.concept_code end, t.unit_source_value) as unit,
            case when num(t.value_as_number) is not null then {operator}
                 else coalesce(v.vocabulary_id || ' ' || v.concept_code, {text}, 'OMOP ' || nullif(t.value_as_concept_id, '0'))
                 end as text_value,
            t.visit_occurrence_id as encounter
        from {table} t left join named c on c.concept_id = t.{table}_concept_id
            left join named v on v.concept_id = t.value_as_concept_id
            left join named u on u.concept_id = t.unit_concept_id"""


_VISIT = f"""
    {_named("visit_occurrence", "visit_concept_id")}, visits as (
        select t.*, {_CODE.format(c="c", what="visit")} as code, coalesce(t.visit_start_datetime, t.visit_start_date) as start,
            coalesce(t.visit_end_datetime, t.visit_end_date) as stop
        from visit_occurrence t left join named c on c.concept_id = t.visit_concept_id)
    select person_id as patient, start as time, code, visit_occurrence_id as encounter from visits
    union all
    select person_id, stop, code || ' end', visit_occurrence_id from visits where try_cast(stop as date) > try_cast(start as date)"""
_PERSON = f"""
    select person_id as patient, code, time from (
        select person_id, '{BIRTH}' as code, coalesce(birth_datetime, case
            when month_of_birth is null then year_of_birth || '-07-01'
            when day_of_birth is null then year_of_birth || '-' || lpad(month_of_birth, 2, '0') || '-15'
            else year_of_birth || '-' || lpad(month_of_birth, 2, '0') || '-' || lpad(day_of_birth, 2, '0') end) as time from person
        union all
        select person_id, case gender_concept_id when '8507' then '{SEX}M' when '8532' then '{SEX}F' when '8521' then '{SEX}O' end, null
        from person
        union all
        select person_id, '{RACE}' || race_source_value, null from person
        union all
        select person_id, '{ETHNICITY}' || ethnicity_source_value, null from person
    ) where code is not null"""
_DEATH = f"select person_id as patient, coalesce(death_datetime, death_date) as time, '{DEATH}' as code from death"
_NOTE = (
    "select person_id, coalesce(note_datetime, note_date), coalesce(note_title, note_source_value), note_text from note"
)

_HAPPENED = {  # table: what its columns begin with, and what its date's do
    "condition_occurrence": ("condition", "condition_start"),
    "drug_exposure": ("drug", "drug_exposure_start"),
    "procedure_occurrence": ("procedure", "procedure"),
    "device_exposure": ("device", "device_exposure_start"),
}
_TABLES = {
    table: f"person_id {what}_concept_id {what}_source_value {when}_datetime {when}_date visit_occurrence_id"
    for table, (what, when) in _HAPPENED.items()
} | {
    "measurement": "person_id measurement_concept_id measurement_source_value measurement_datetime measurement_date visit_occurrence_id "
    "value_as_number value_as_concept_id unit_concept_id unit_source_value operator_concept_id value_source_value",
    "observation": "person_id observation_concept_id observation_source_value observation_datetime observation_date visit_occurrence_id "
    "value_as_number value_as_concept_id unit_concept_id unit_source_value value_as_string value_source_value",
    "visit_occurrence": "person_id visit_occurrence_id visit_concept_id visit_source_value visit_start_datetime visit_start_date "
    "visit_end_datetime visit_end_date",
    "person": "person_id gender_concept_id year_of_birth month_of_birth day_of_birth birth_datetime race_source_value "
    "ethnicity_source_value",
    "death": "person_id death_datetime death_date",
    "note": "person_id note_datetime note_date note_title note_text note_source_value",
    "concept": "concept_id vocabulary_id concept_code",
}  # fmt: skip
_NAMED = ("concept",)
_OF_CODES = (
    ("concept_class", "concept_class_id concept_class_concept_id"), ("concept_synonym", "concept_id concept_synonym_name"),
    ("domain", "domain_id domain_concept_id"), ("relationship", "relationship_id is_hierarchical"),
    ("drug_strength", "drug_concept_id ingredient_concept_id"), ("source_to_concept_map", "source_code target_concept_id"),
)  # fmt: skip
_DERIVED = (
    ("dose_era", "dose_era_id person_id"), ("cohort", "cohort_definition_id subject_id"),
    ("cohort_definition", "cohort_definition_id cohort_definition_name"), ("note_nlp", "note_nlp_id note_id"),
    ("episode", "episode_id person_id"), ("episode_event", "episode_id event_id"),
)  # fmt: skip
_NO_EVENTS = (
    ("cost", "cost_id cost_event_id"), ("payer_plan_period", "payer_plan_period_id person_id"), ("specimen", "specimen_id person_id"),
    ("fact_relationship", "fact_id_1 fact_id_2"),
)  # fmt: skip
LAYOUTS = (
    *(
        Layout(table, frozenset({"person_id", f"{what}_concept_id", f"{when}_date"}), _query(table, what, when), helped=_NAMED)
        for table, (what, when) in _HAPPENED.items()
    ),
    Layout("measurement", frozenset({"person_id", "measurement_concept_id", "value_as_number"}),
           _found("measurement", "t.value_source_value", _OPERATOR), helped=_NAMED),
    Layout("observation", frozenset({"person_id", "observation_concept_id", "value_as_number"}),
           _found("observation", "coalesce(t.value_as_string, t.value_source_value)", "null"), helped=_NAMED),
    Layout("visit_occurrence", frozenset({"person_id", "visit_concept_id", "visit_start_date"}), _VISIT, helped=_NAMED),
    Layout("person", frozenset({"person_id", "gender_concept_id", "year_of_birth"}), _PERSON),
    Layout("death", frozenset({"person_id", "death_date"}), _DEATH),
    Layout("note", frozenset({"person_id", "note_id", "note_text"}), _NOTE),
    *(
        Layout(name, frozenset(key.split()), why=why)
        for name, key, why in (
            ("concept", "concept_id vocabulary_id concept_code", "which names the codes of the tables beside it"),
            ("concept_relationship", "concept_id_1 concept_id_2", "which is about codes"),
            ("concept_ancestor", "ancestor_concept_id descendant_concept_id", "which is about codes"),
            ("vocabulary", "vocabulary_id vocabulary_concept_id", "which is about codes"),
            ("visit_detail", "visit_detail_id visit_detail_concept_id", "whose visits visit_occurrence has"),
            ("observation_period", "observation_period_id person_id", "which says when somebody was observed, not what"),
            ("condition_era", "condition_era_id person_id", "which is derived from condition_occurrence"),
            ("drug_era", "drug_era_id person_id", "which is derived from drug_exposure"),
            ("provider", "provider_id npi", "which is about staff"),
            ("location", "location_id zip", "which is about places"),
            ("care_site", "care_site_id care_site_name", "which is about places"),
            ("cdm_source", "cdm_source_name cdm_version", "which is about the export"),
            ("metadata", "metadata_concept_id metadata_type_concept_id", "which is about the export"),
            *((name, key, "which is about codes") for name, key in _OF_CODES),
            *((name, key, "which is derived from the other tables") for name, key in _DERIVED),
            *((name, key, "whose rows are no events") for name, key in _NO_EVENTS),
        )
    ),
)  # fmt: skip


def recognises(path: Path, head: bytes) -> bool:
    """Whether it has the columns of an OMOP table."""
    return layout_of(path, head, LAYOUTS) is not None


def _layout(path: Path) -> Layout:
    with path.open("rb") as file:
        layout = layout_of(path, file.read(4096), LAYOUTS)
    if layout is None:
        raise RecordError("a table that is none of OMOP's", "its columns", "export it again")
    return layout


def companions(path: Path) -> tuple[Path, ...]:
    """The files beside it that its rows are read with."""
    return relational.companions(path, _layout(path))


def read(path: Path, root: Path) -> Iterator[Record | Rejected | Events]:
    """A table's events in chunks, or a note a row; a table that holds none is set aside, saying what it is for."""
    layout, place = _layout(path), place_of(path, root)
    if layout.why:
        yield Rejected(
            place, f"an OMOP table ({layout.name}), {layout.why}", "a table of events", "keep it where it is"
        )
    elif layout.name == "note":
        yield from note_tables.read(path, layout, _TABLES, place)
    else:
        with opened(path, layout, _TABLES) as connection:
            yield from read_events(connection, layout.query, place)


def load(record: Record) -> Payload:
    """A note's words in `Payload.text`."""
    path = Path(record.uri.rsplit("#", 1)[0])
    return note_tables.load(record, path, _layout(path), _TABLES)
