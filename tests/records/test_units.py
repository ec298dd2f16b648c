from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ucumvert import PintUcumRegistry

from polyclinic.records.units import _PARTS, _SPELLINGS, _STANDARDS, conversion, readings, standardise, ucum


@pytest.fixture(scope="module")
def registry() -> PintUcumRegistry:
    return PintUcumRegistry()


@pytest.mark.parametrize(
    ("spelling", "unit"),
    [
        ("mg/dl", "mg/dL"), ("MG/DL", "mg/dL"), ("mmol/l", "mmol/L"), ("K/uL", "10*3/uL"), ("K/mcL", "10*3/uL"), ("M/mcL", "10*6/uL"),
        ("x10^3/uL", "10*3/uL"), ("10E3/uL", "10*3/uL"), ("10^9/l", "10*9/L"), ("x10E09/L", "10*9/L"), ("thou/cumm", "10*3/uL"),
        ("mmHg", "mm[Hg]"), ("mm Hg", "mm[Hg]"), ("degF", "[degF]"), ("Deg. F", "[degF]"), ("°C", "Cel"), ("%", "%"), ("IU/L", "[IU]/L"),
        ("uIU/mL", "u[IU]/mL"), ("μg/L", "ug/L"), ("µmol/L", "umol/L"), ("mcg/kg/min", "ug/kg/min"), ("kg/m²", "kg/m2"), ("gm/dL", "g/dL"),
        ("mEq/L", "meq/L"), ("mL/min/1.73m2", "mL/min/{1.73_m2}"), ("beats/min", "/min"), ("mM", "mmol/L"),
        ("units/hr", "U/h"), ("g/L", "g/L"),
    ],
)  # fmt: skip
def test_a_hospitals_spelling_is_ucum(spelling: str, unit: str) -> None:
    assert ucum(spelling) == unit


@pytest.mark.parametrize(
    "strange", ["", "foo", "TAB", "VIAL", "/HPF", "see note", "G/L", "m" * 200, "mg/dL per patient", "\x00", "÷/L"]
)
def test_what_is_not_known_is_not_guessed(strange: str) -> None:
    assert ucum(strange) is None
    assert conversion("x", strange) == (1.0, 0.0, strange)


def test_every_unit_that_the_tables_give_is_ucum(registry: PintUcumRegistry) -> None:
    units = {standard.unit for standard, _, _ in _STANDARDS} | set(_SPELLINGS.values()) | set(_PARTS.values())
    for unit in units - {"[pH]"}:  # which UCUM has and pint has no quantity for
        registry.from_ucum(unit)


def test_what_the_tables_know_needs_no_library() -> None:
    code = (
        "import sys; sys.modules['ucumvert'] = sys.modules['pint'] = None\n"
        "from polyclinic.records.units import conversion\n"
        "for unit in ('mg/dl', 'MG/DL', '{T-score}', 'K/uL', 'mm Hg', 'mEq/L'): print(conversion('any', unit)[2])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["mg/dL", "mg/dL", "{T-score}", "10*3/uL", "mm[Hg]", "meq/L"]


@pytest.mark.parametrize(
    ("code", "unit", "factor"),
    [
        # conventional = SI × factor; SI conversion factors of the AMA Manual of Style, 10th ed., table 2, to their own digits
        ("LOINC 2345-7", "mmol/L", 1 / 0.0555), ("LOINC 2160-0", "umol/L", 1 / 88.4), ("LOINC 2093-3", "mmol/L", 1 / 0.0259),
        ("LOINC 2571-8", "mmol/L", 1 / 0.0113), ("LOINC 1975-2", "umol/L", 1 / 17.104), ("LOINC 3094-0", "mmol/L", 1 / 0.357),
        ("LOINC 17861-6", "mmol/L", 1 / 0.25), ("LOINC 19123-9", "mmol/L", 1 / 0.411), ("LOINC 2777-1", "mmol/L", 1 / 0.323),
        ("LOINC 3084-1", "umol/L", 1 / 59.485), ("LOINC 2498-4", "umol/L", 1 / 0.179), ("LOINC 718-7", "g/L", 0.1),
        ("LOINC 2143-6", "nmol/L", 1 / 27.588), ("LOINC 3026-2", "nmol/L", 1 / 12.871), ("LOINC 2132-9", "pmol/L", 1 / 0.7378),
        ("LOINC 2284-8", "nmol/L", 1 / 2.266), ("LOINC 1989-3", "nmol/L", 1 / 2.496), ("LOINC 2986-8", "nmol/L", 1 / 0.0347),
        ("LOINC 2524-7", "mg/dL", 0.111), ("LOINC 1742-6", "ukat/L", 1 / 0.0167), ("LOINC 1742-6", "IU/L", 1.0),
        ("LOINC 2951-2", "mEq/L", 1.0),
        ("LOINC 19123-9", "meq/L", 0.5 / 0.411), ("LOINC 2703-7", "kPa", 7.5006), ("LOINC 8302-2", "in", 2.54),
        ("LOINC 29463-7", "lb", 0.45359237),
        ("LOINC 6690-2", "G/L", 1.0), ("LOINC 6690-2", "/uL", 0.001), ("LOINC 718-7", "mmol/L", 1.6114), ("LOINC 718-7", "G/L", 0.1),
        ("lab Creatinine", "umol/L", 1 / 88.4), ("LOINC 14749-6", "mg/dL", 0.0555),
    ],
)  # fmt: skip
def test_published_factors(code: str, unit: str, factor: float) -> None:
    slope, offset, _ = conversion(code, unit)
    assert slope == pytest.approx(factor, rel=6e-3)
    assert offset == 0


def test_temperature_has_an_offset_and_hba1c_its_master_equation() -> None:
    slope, offset, unit = conversion("LOINC 8310-5", "degF")
    assert (98.6 * slope + offset, unit) == (pytest.approx(37.0), "Cel")
    assert 212 * slope + offset == pytest.approx(100)
    slope, offset, unit = conversion("LOINC 4548-4", "mmol/mol")
    assert (round(48 * slope + offset, 1), round(53 * slope + offset, 1), unit) == (
        6.5,
        7.0,
        "%",
    )  # the ADA's two thresholds


def test_where_no_moles_are_crossed_pint_itself_agrees(registry: PintUcumRegistry) -> None:
    for code, unit in [
        ("LOINC 2160-0", "mg/L"), ("LOINC 1988-5", "mg/dL"), ("LOINC 8480-6", "kPa"), ("LOINC 787-2", "fL"), ("LOINC 3016-3", "u[IU]/mL"),
        ("LOINC 8310-5", "K"), ("LOINC 29463-7", "g"), ("LOINC 6690-2", "10*9/L"), ("LOINC 4544-3", "1"), ("LOINC 6598-7", "pg/mL"),
    ]:  # fmt: skip
        slope, offset, standard = conversion(code, unit)
        target = registry.from_ucum(standard)
        for value in (0.5, 37.0, 4000.0):
            pints = registry.Quantity(value * registry.from_ucum(unit).magnitude, registry.from_ucum(unit).units)
            assert value * slope + offset == pytest.approx(
                pints.to(target.units).magnitude / target.magnitude, rel=1e-9
            )


def test_units_of_another_quantity_stay_as_they_are() -> None:
    assert conversion("LOINC 2345-7", "degC") == (1.0, 0.0, "Cel")
    assert conversion("LOINC 2160-0", "mmHg") == (1.0, 0.0, "mm[Hg]")
    assert conversion("LOINC 2160-0", "mg/dL{creat}")[2] == "mg/dL{creat}"  # an annotation tells another thing
    assert conversion("LOINC 99999-9", "mmol/l") == (1.0, 0.0, "mmol/L")


def test_a_table_keeps_what_was_written_where_it_differs() -> None:
    table = pa.table(
        {
            "code": ["LOINC 2345-7", "LOINC 2345-7", "LOINC 2345-7", "LOINC 2160-0", "x", "x", "x", "x"],
            "numeric_value": [5.5, 99.0, 99.0, 1.2, 7.0, None, math.inf, 1e300],
            "unit": ["mmol/l", "mg/dL", "mg/dl", "sticks", None, "mg", " ", "mg"],
        }
    )
    found = standardise(table)
    assert found.schema.field("numeric_value").type == pa.float32()
    assert found["numeric_value"].to_pylist()[:5] == pytest.approx([5.5 * 18.0156, 99, 99, 1.2, 7], rel=1e-6)
    assert found["numeric_value"].to_pylist()[5:] == [None, None, None]
    assert found["unit"].to_pylist() == ["mg/dL", "mg/dL", "mg/dL", "sticks", None, "mg", None, "mg"]
    assert found["source_value"].to_pylist() == [5.5, None, 99.0, None, None, None, None, None]
    assert found["source_unit"].to_pylist() == ["mmol/l", None, "mg/dl", None, None, None, None, None]
    assert standardise(table.slice(0, 0)).num_rows == 0
    assert standardise(table.drop_columns(["unit"]))["numeric_value"].to_pylist()[0] == 5.5


@settings(max_examples=25, deadline=None)
@given(st.text(max_size=40), st.sampled_from(["LOINC 2345-7", "LOINC 8310-5", "any"]))
def test_any_spelling_has_an_answer(spelling: str, code: str) -> None:
    slope, offset, unit = conversion(code, spelling)
    assert np.isfinite([slope, offset]).all()
    assert unit in readings(spelling) or unit == spelling or slope != 1.0 or code != "any"
