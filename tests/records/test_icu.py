from __future__ import annotations

import csv
import gzip
from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from polyclinic.records import icu
from polyclinic.records.source import RecordError
from polyclinic.records.vocabularies import dotted
from polyclinic.schema import Events, Record, Rejected
from reading import by

read = partial(by, icu)


def rows(path: Path) -> list[dict[str, Any]]:
    return [row for item in read(path) if isinstance(item, Events) for row in item.table.to_pylist()]


def reasons(path: Path) -> list[str]:
    return [item.found for item in read(path) if isinstance(item, Rejected)]


def told(found: list[dict[str, Any]], *columns: str) -> set[tuple[Any, ...]]:
    return {tuple(r.get(c) for c in columns) for r in found}


def write(folder: Path, **tables: str) -> None:
    for name, text in tables.items():
        (folder / f"{name}.csv").write_text("\n".join(line.strip() for line in text.strip().splitlines()) + "\n")


@pytest.mark.parametrize(
    ("code", "system", "whole"),
    [
        ("99591", "ICD9CM", "995.91"), ("E8498", "ICD9CM", "E849.8"), ("V1582", "ICD9CM", "V15.82"), ("486", "ICD9CM", "486"),
        ("3605", "ICD9Proc", "36.05"), ("E1165", "ICD10CM", "E11.65"), ("I10", "ICD10CM", "I10"), ("02HV33Z", "ICD10PCS", "02HV33Z"),
    ],
)  # fmt: skip
def test_icd_codes_get_their_dot_back_in_sql_as_in_words(tmp_path: Path, code: str, system: str, whole: str) -> None:
    assert dotted(code, system) == whole
    table = "procedures_icd" if system in ("ICD9Proc", "ICD10PCS") else "diagnoses_icd"
    version = 10 if system.startswith("ICD10") else 9
    write(
        tmp_path,
        admissions="subject_id,hadm_id,admittime,dischtime\n1,2,2150-01-01 10:00:00,2150-01-05 12:00:00",
        **{table: f"subject_id,hadm_id,seq_num,icd_code,icd_version\n1,2,1,{code},{version}"},
    )
    assert told(rows(tmp_path / f"{table}.csv"), "code", "time", "patient") == {
        (f"{system} {whole}", datetime(2150, 1, 5, 12), "1")
    }


def test_mimic_iv_ages_masked_births_and_deaths_once(tmp_path: Path) -> None:
    write(
        tmp_path,
        patients="""subject_id,gender,anchor_age,anchor_year,anchor_year_group,dod
            1,F,60,2150,2014 - 2016,
            2,M,91,2150,2014 - 2016,2151-05-01
            3,M,40,2150,2014 - 2016,2150-02-02""",
        admissions="""subject_id,hadm_id,admittime,dischtime,deathtime,admission_type,discharge_location,race
            3,9,2150-02-01 08:00:00,2150-02-02 03:00:00,2150-02-02 03:00:00,URGENT,DIED,WHITE
            1,8,2150-02-01 08:00:00,2150-02-03 03:00:00,,EW EMER.,,UNKNOWN""",
    )
    people, stays = rows(tmp_path / "patients.csv"), rows(tmp_path / "admissions.csv")
    assert told(people, "patient", "code", "time") == {
        ("1", "GENDER//F", None), ("2", "GENDER//M", None), ("3", "GENDER//M", None), ("1", "MEDS_BIRTH", datetime(2090, 7, 1)),
        ("3", "MEDS_BIRTH", datetime(2110, 7, 1)), ("2", "AGE//over 89", None), ("2", "MEDS_DEATH", datetime(2151, 5, 1)),
    }  # fmt: skip
    assert told(stays, "patient", "code") == {
        ("3", "HOSPITAL_ADMISSION//URGENT"), ("3", "HOSPITAL_DISCHARGE//DIED"), ("3", "MEDS_DEATH"), ("3", "RACE//WHITE"),
        ("1", "HOSPITAL_ADMISSION//EW EMER."), ("1", "HOSPITAL_DISCHARGE"),
    }  # fmt: skip


def test_laboratory_and_chart_values(tmp_path: Path) -> None:
    write(
        tmp_path,
        d_labitems="itemid,label,fluid,category,loinc_code\n50912,Creatinine,Blood,Chemistry,2160-0",
        labevents="""row_id,subject_id,hadm_id,itemid,charttime,value,valuenum,valueuom,flag
            1,1,2,50912,2150-01-01 10:00:00,1.2,1.2,mg/dL,
            2,1,,50912,2150-01-02 10:00:00,<0.2,0.2,mg/dL,abnormal
            3,1,,51486,2150-01-02 10:00:00,NEG,,,""",
        chartevents="""subject_id,hadm_id,itemid,charttime,value,valuenum,valueuom,warning,error
            1,2,223761,2150-01-01 10:00:00,98.6,98.6,Deg. F,0,0
            1,2,223761,2150-01-01 11:00:00,9.8,9.8,Deg. F,0,1""",
    )
    assert told(rows(tmp_path / "labevents.csv"), "code", "unit", "text_value", "encounter") == {
        ("LOINC 2160-0", "mg/dL", None, "2"), ("LOINC 2160-0", "mg/dL", "<", None), ("MIMIC 51486", None, "NEG", None),
    }  # fmt: skip
    (fever,) = rows(tmp_path / "chartevents.csv")
    assert (fever["code"], fever["numeric_value"], fever["unit"]) == ("MIMIC 223761", pytest.approx(98.6), "[degF]")


def test_tables_of_mimic_iv_lie_in_folders_side_by_side(tmp_path: Path) -> None:
    for name in ("hosp", "icu"):
        (tmp_path / name).mkdir()
    write(tmp_path / "hosp", admissions="subject_id,hadm_id,admittime,dischtime\n1,2,2150-01-01,2150-01-05")
    write(tmp_path / "icu", diagnoses_icd="subject_id,hadm_id,seq_num,icd9_code\n1,2,1,486")
    assert len(rows(tmp_path / "icu/diagnoses_icd.csv")) == 1


def test_without_the_table_that_says_when_it_is_refused(tmp_path: Path) -> None:
    write(tmp_path, DIAGNOSES_ICD="row_id,subject_id,hadm_id,seq_num,icd9_code\n1,1,2,1,486")
    with pytest.raises(RecordError, match="without the table admissions beside it"):
        rows(tmp_path / "DIAGNOSES_ICD.csv")


def test_a_row_of_an_unknown_stay_is_counted(tmp_path: Path) -> None:
    write(
        tmp_path, diagnoses_icd="subject_id,hadm_id,seq_num,icd9_code\n1,99,1,486",
        admissions="subject_id,hadm_id,admittime,dischtime\n1,2,2150-01-01,2150-01-05",
    )  # fmt: skip
    assert reasons(tmp_path / "diagnoses_icd.csv") == ["1 rows without a time"]


def test_notes_of_mimic_are_text_records(tmp_path: Path) -> None:
    write(
        tmp_path,
        noteevents="""subject_id,hadm_id,chartdate,charttime,category,description,iserror,text
            1,2,2150-01-01,,Radiology,CHEST (PA & LAT),,"No effusion, no ""mass""."
            1,2,2150-01-01,,Nursing,Report,1,wrong patient""",
    )
    (note,) = (item for item in read(tmp_path / "noteevents.csv") if isinstance(item, Record))
    assert (note.patient, note.kind, note.time) == ("1", "note CHEST (PA & LAT)", datetime(2150, 1, 1))
    assert icu.load(replace(note, uri=str(tmp_path / note.uri))).text == 'No effusion, no "mass".'


EICU_PATIENT = """patientunitstayid,patienthealthsystemstayid,gender,age,ethnicity,hospitalid,hospitaladmittime24,hospitaladmitoffset,\
hospitaldischargeyear,hospitaldischargeoffset,hospitaldischargestatus,unittype,unitdischargeoffset,uniquepid
11,101,Female,70,Asian,59,08:00:00,-120,2015,2880,Alive,MICU,600,P-1
12,101,Female,70,Asian,59,08:00:00,-1440,2015,1560,Alive,SICU,600,P-1
13,102,Female,70,Asian,59,09:00:00,0,2015,600,Expired,MICU,600,P-1
14,103,Male,> 89,Other/Unknown,60,00:30:00,-60,2014,600,Alive,MICU,600,P-2
"""


def test_minutes_of_eicu_stand_on_a_calendar_that_keeps_their_distances(tmp_path: Path) -> None:
    (tmp_path / "patient.csv").write_text(EICU_PATIENT)
    write(
        tmp_path,
        lab="""labid,patientunitstayid,labresultoffset,labname,labresult,labresulttext,labmeasurenamesystem
            1,11,30,glucose,5.5,5.5,mmol/L
            2,12,-1290,troponin - I,,<0.01,ng/mL
            3,13,0,glucose,90,90,mg/dL
            4,99,0,glucose,90,90,mg/dL""",
    )
    people = rows(tmp_path / "patient.csv")
    at = {r["code"]: r["time"] for r in people if r["patient"] == "P-1" and r["encounter"] == "101"}
    assert at["HOSPITAL_ADMISSION"] == datetime(2015, 1, 1, 8)
    assert at["HOSPITAL_DISCHARGE"] == datetime(2015, 1, 1, 8) + timedelta(minutes=120 + 2880)
    assert (at["ICU_ADMISSION//MICU"], at["ICU_ADMISSION//SICU"]) == (datetime(2015, 1, 1, 10), datetime(2015, 1, 2, 8))
    second = {r["code"]: r["time"] for r in people if r["encounter"] == "102"}
    assert second["HOSPITAL_ADMISSION"] > at["HOSPITAL_DISCHARGE"], "stays of a year follow one another"
    assert second["MEDS_DEATH"] == second["HOSPITAL_ADMISSION"] + timedelta(minutes=600)
    (birth,) = (r["time"] for r in people if r["code"] == "MEDS_BIRTH")
    assert (datetime(2015, 1, 1) - birth).days / 365.25 == pytest.approx(70.5, abs=0.1)
    assert told([r for r in people if r["time"] is None], "patient", "code") == {
        ("P-1", "GENDER//F"), ("P-1", "ETHNICITY//Asian"), ("P-2", "GENDER//M"), ("P-2", "AGE//over 89"),
    }  # fmt: skip
    found = {(r["time"], r["code"]): r for r in rows(tmp_path / "lab.csv")}
    glucose = found[datetime(2015, 1, 1, 10, 30), "LAB glucose"]
    assert (glucose["numeric_value"], glucose["unit"], glucose["site"]) == (
        pytest.approx(99.09, abs=0.01),
        "mg/dL",
        "59",
    )
    troponin = found[datetime(2015, 1, 1, 10, 30), "LAB troponin - I"]  # 1,290 minutes before the second unit's door
    assert (troponin["numeric_value"], troponin["text_value"]) == (pytest.approx(0.01), "<")
    assert reasons(tmp_path / "lab.csv") == ["1 rows without a patient or a code"]


def test_eicus_vital_signs_side_by_side_and_its_two_editions_of_a_diagnosis(tmp_path: Path) -> None:
    (tmp_path / "patient.csv").write_text(EICU_PATIENT)
    write(
        tmp_path,
        vitalPeriodic="vitalperiodicid,patientunitstayid,observationoffset,temperature,sao2,heartrate,respiration\n"
        "1,11,5,,97,88,\n2,11,10,38.5,,,",
        diagnosis="""diagnosisid,patientunitstayid,diagnosisoffset,diagnosisstring,icd9code
            1,11,0,a|b,"253.2, E23.0"
            2,11,0,a|c,
            3,11,0,a|d,V15.82
            4,11,0,a|e,J96.01""",
    )
    assert told(rows(tmp_path / "vitalPeriodic.csv"), "code", "numeric_value", "unit") == {
        ("LOINC 2708-6", 97.0, "%"), ("LOINC 8867-4", 88.0, "/min"), ("LOINC 8310-5", 38.5, "Cel"),
    }  # fmt: skip
    assert {c for (c,) in told(rows(tmp_path / "diagnosis.csv"), "code")} == {
        "ICD9CM 253.2", "eICU DX a|c", "ICD9CM V15.82", "ICD10CM J96.01",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.csv", "patient_id,time,test,value,unit\n1,2020-01-01T10:00:00Z,glucose,5.5,mmol/l\n",
         [("1", datetime(2020, 1, 1, 10), "glucose", 99.09, "mg/dL", None)]),
        ("b.csv", "MRN;Date;Item;Result\n7;31.01.2020;Nitrit;neg\n", [("7", datetime(2020, 1, 31), "Nitrit", None, None, "neg")]),
        ("c.tsv", "subject\tcharttime\tloinc\tvaluenum\n7\t20200131 1015\t2160-0\t>1.5\n",
         [("7", datetime(2020, 1, 31, 10, 15), "LOINC 2160-0", 1.5, None, ">")]),
    ],
)  # fmt: skip
def test_a_long_table_is_events(tmp_path: Path, name: str, text: str, expected: list[tuple[Any, ...]]) -> None:
    (tmp_path / name).write_text(text)
    found = [
        tuple(r.get(c) for c in ("patient", "time", "code", "numeric_value", "unit", "text_value"))
        for r in rows(tmp_path / name)
    ]
    assert found == [(p, t, c, v if v is None else pytest.approx(v, rel=1e-4), u, w) for p, t, c, v, u, w in expected]


@pytest.mark.parametrize(
    "head",
    [
        "patient_id,time,age,sex,finding\n", "patient_id,value\n", "a,b\n",
        "patient_id,time,test,value," + ",".join(f"x{i}" for i in range(20)) + "\n",
        "", "patient_id,time,test,value",
    ],
)  # fmt: skip
def test_a_wide_table_is_not_a_long_one(tmp_path: Path, head: str) -> None:
    (tmp_path / "a.csv").write_text(head)
    assert not icu.recognises(tmp_path / "a.csv", head.encode())


def cells(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_real_mimic_demo(shared_data: Path) -> None:
    folder = shared_data / "mimic3-demo"
    found = {path.name.split(".")[0]: rows(path) for path in sorted(folder.glob("*.csv.gz"))}
    assert reasons(folder / "ICUSTAYS.csv.gz") == ["a table without rows"]
    diagnoses = Counter(dotted(r["icd9_code"], "ICD9CM") for r in cells(folder / "DIAGNOSES_ICD.csv.gz"))
    assert Counter(r["code"].removeprefix("ICD9CM ") for r in found["DIAGNOSES_ICD"]) == diagnoses
    assert len(found["PRESCRIPTIONS"]) == len(cells(folder / "PRESCRIPTIONS.csv.gz"))
    people, stays = cells(folder / "PATIENTS.csv.gz"), cells(folder / "ADMISSIONS.csv.gz")
    dead = {r["patient"] for name in ("PATIENTS", "ADMISSIONS") for r in found[name] if r["code"] == "MEDS_DEATH"}
    assert dead == {p["subject_id"] for p in people if p["dod"]}
    assert sum(r["code"] == "MEDS_DEATH" for name in ("PATIENTS", "ADMISSIONS") for r in found[name]) == len(dead)
    first = {s["subject_id"]: s["admittime"] for s in sorted(stays, key=lambda s: s["admittime"], reverse=True)}
    masked = {p["subject_id"] for p in people if int(first[p["subject_id"]][:4]) - int(p["dob"][:4]) > 120}
    assert {r["patient"] for r in found["PATIENTS"] if r["code"] == "AGE//over 89"} == masked != set()
    born = {r["patient"] for r in found["PATIENTS"] if r["code"] == "MEDS_BIRTH"}
    assert born == {p["subject_id"] for p in people} - masked


def test_the_real_eicu_demo(shared_data: Path) -> None:
    folder = shared_data / "eicu-demo"
    stays = cells(folder / "patient.csv")
    people = rows(folder / "patient.csv")
    assert {r["patient"] for r in people} == {s["uniquepid"] for s in stays}
    assert {r["site"] for r in people} == {s["hospitalid"] for s in stays}
    assert sum(r["code"] == "MEDS_DEATH" for r in people) == len(
        {s["patienthealthsystemstayid"] for s in stays if s["hospitaldischargestatus"] == "Expired"}
    )
    assert sum(r["code"] == "AGE//over 89" for r in people) == len(
        {s["uniquepid"] for s in stays if s["age"].startswith(">")}
    )
    lab = rows(folder / "lab.csv")
    assert Counter(r["code"] for r in lab) == Counter(f"LAB {c['labname']}" for c in cells(folder / "lab.csv"))
    assert all(r["unit"] == "10*3/uL" for r in lab if r["code"] == "LAB WBC x 1000")
    with pytest.raises(RecordError, match="which is about hospitals"):
        rows(folder / "hospital.csv")
    for path in sorted(folder.glob("*.csv")):
        if path.name not in ("hospital.csv", "lab.csv", "patient.csv"):
            assert rows(path), path.name
