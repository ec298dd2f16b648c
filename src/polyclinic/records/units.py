"""Units: a hospital's spelling → UCUM, and a code's value → its standard unit; what is not known stays as written.

Source: the Unified Code for Units of Measure 2.2 through `ucumvert` and `pint`; a code's standard unit is LOINC's example UCUM
unit (LOINC table, EXAMPLE_UCUM_UNITS); molar masses from IUPAC's standard atomic weights of 2021.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute

from ..schema import MissingExtraError
from .source import quiet

pc: Any = pyarrow.compute  # it makes its functions when it is imported, where no type checker sees them
LARGEST_VALUE = 1e30
"""No instrument shows more; float32 would overflow soon after."""
MOLAR_HEMOGLOBIN = 16114.0
"""g/mol of one haem's share, by which laboratories count mmol(Fe)/L (IFCC; 1 mmol/L = 1.6114 g/dL)."""


@dataclass(frozen=True, slots=True)
class Standard:
    """A code's standard unit, and what crossing from moles to grams or from equivalents to moles takes.

    Args:
        unit: in UCUM.
        molar_mass: g/mol; None where the analyte has none.
        valence: equivalents a mole.
        enzyme: an enzyme's international unit is its catalytic U (1 µmol/min), which UCUM keeps apart.
        ifcc: HbA1c, whose mmol/mol and % differ by the master equation.
    """

    unit: str
    molar_mass: float | None = None
    valence: int = 1
    enzyme: bool = False
    ifcc: bool = False


_STANDARDS: tuple[tuple[Standard, str, str], ...] = (
    # standard, LOINC codes of that property, local names (as eICU and plain exports write them)
    (Standard("mg/dL", 180.156), "2345-7 2339-0 1558-6 2340-8 41653-7", "glucose; bedside glucose"),
    (Standard("mmol/L", 180.156), "14749-6 15074-8 14771-0", ""),
    (Standard("mg/dL", 113.120), "2160-0 38483-4", "creatinine"),
    (Standard("umol/L", 113.120), "14682-9", ""),
    (Standard("mg/dL", 28.014), "3094-0 6299-2", "bun; urea nitrogen"),  # two nitrogens, not the whole urea
    (Standard("mmol/L", 60.056), "22664-7 14937-7", "urea"),
    (Standard("mg/dL", 386.664), "2093-3 2085-9 13457-7 18262-6 2089-1", "total cholesterol; cholesterol; hdl; ldl"),
    (Standard("mmol/L", 386.664), "14647-2 14646-4 22748-8", ""),
    (Standard("mg/dL", 885.449), "2571-8", "triglycerides"),  # as triolein, C57H104O6
    (Standard("mmol/L", 885.449), "14927-8", ""),
    (Standard("mg/dL", 584.673), "1975-2 1968-7 1971-1", "total bilirubin; direct bilirubin; bilirubin"),
    (Standard("umol/L", 584.673), "14631-6 14629-0", ""),
    (Standard("mg/dL", 40.078, valence=2), "17861-6", "calcium"),
    (Standard("mmol/L", 40.078, valence=2), "2000-8 1995-0", "ionized calcium"),
    (Standard("mg/dL", 24.305, valence=2), "19123-9", "magnesium"),
    (Standard("mmol/L", 24.305, valence=2), "2601-3", ""),
    (Standard("mg/dL", 30.974), "2777-1", "phosphate"),
    (Standard("mmol/L", 30.974), "14879-1", ""),
    (Standard("mg/dL", 168.112), "3084-1", "uric acid"),
    (Standard("mmol/L", 90.078), "2524-7 32693-4 2518-9", "lactate"),
    (Standard("ug/dL", 55.845), "2498-4 2500-7", "iron; fe"),
    (Standard("g/dL", MOLAR_HEMOGLOBIN), "718-7 30313-1", "hgb; hemoglobin; haemoglobin"),
    (Standard("g/dL"), "1751-7 2885-2", "albumin; total protein"),
    (Standard("mmol/L", 22.990), "2951-2 2947-0", "sodium"),
    (Standard("mmol/L", 39.098), "2823-3 6298-4", "potassium"),
    (Standard("mmol/L", 35.450), "2075-0 2069-3", "chloride"),
    (Standard("mmol/L"), "1963-8 2028-9 20565-8", "bicarbonate; total co2"),
    (Standard("ug/dL", 362.466), "2143-6", "cortisol"),
    (Standard("ug/dL", 776.874), "3026-2", ""),
    (Standard("ng/dL", 776.874), "3024-7", "free t4"),
    (Standard("ng/dL", 288.431), "2986-8", ""),
    (Standard("pg/mL", 1355.388), "2132-9", "vitamin b12"),
    (Standard("ng/mL", 441.404), "2284-8", "folate"),
    (Standard("ng/mL", 400.647), "1989-3 62292-8", ""),
    (Standard("%", ifcc=True), "4548-4 17856-6", "hemoglobin a1c; hba1c"),
    (Standard("U/L", enzyme=True), "1742-6 1920-8 6768-6 2157-6 2532-0 2324-2 1798-8 3040-3",
     "alt (sgpt); ast (sgot); alkaline phos.; cpk; amylase; lipase; ldh"),
    (Standard("m[IU]/L"), "3016-3", "tsh"),
    (Standard("mg/L"), "1988-5", "crp"),
    (Standard("ng/mL"), "6598-7 10839-9 49563-0 2276-4 33959-8", "troponin - t; troponin - i; ferritin"),
    (Standard("ng/L"), "67151-1 89579-7", ""),
    (Standard("pg/mL"), "33762-6 30934-4", "bnp"),
    (Standard("10*3/uL"), "6690-2 26464-8 777-3 26515-7 751-8 731-0 742-7", "wbc x 1000; wbc; platelets x 1000; platelets"),
    (Standard("10*6/uL"), "789-8 26453-1", "rbc"),
    (Standard("%"), "4544-3 20570-8 2708-6 59408-5 3150-6 770-8 736-9",
     "hct; hematocrit; fio2; o2 sat (%); -lymphs; -polys; -monos; -eos; -basos"),
    (Standard("fL"), "787-2", "mcv"),
    (Standard("pg"), "785-6", "mch"),
    (Standard("mm[Hg]"), "8480-6 8462-4 8478-0 2703-7 2019-8 11557-6", "pao2; paco2"),
    (Standard("/min"), "8867-4 9279-1", "heart rate; respiratory rate"),
    (Standard("Cel"), "8310-5 8331-1 8332-9", "temperature; body temperature; temp"),
    (Standard("cm"), "8302-2 8287-5", "height; body height"),
    (Standard("kg"), "29463-7 3141-9", "weight; body weight"),
    (Standard("kg/m2"), "39156-5", "bmi"),
)  # fmt: skip
_BY_CODE = {
    code: standard
    for standard, loinc, names in _STANDARDS
    for code in (
        *(f"loinc {number}" for number in loinc.split()),
        *(f"{prefix}{name.strip()}" for name in names.split(";") if name.strip() for prefix in ("", "lab ", "local ")),
    )
}


def _by_spelling(table: dict[str, str]) -> dict[str, str]:
    return {spelling: unit for unit, spellings in table.items() for spelling in spellings.split()}


_SPELLINGS = _by_spelling(
    {
        "%": "% percent pct",
        "mm[Hg]": "mmhg mm[hg] torr",
        "cm[H2O]": "cmh2o cm[h2o]",
        "Cel": "c cel °c ºc degc deg.c celsius degreesc degreecelsius",
        "[degF]": "f [degf] °f ºf degf deg.f fahrenheit degreesf",
        "/min": "bpm 1/min /minute permin beats/min beats/minute {beats}/min {beats}/minute breaths/min {breaths}/min insp/min",
        "/uL": "cells/ul #/ul {cells}/ul /mm3 /cumm cells/mm3",
        "g/d": "g/24h g/24hr",
        "mg/d": "mg/24h mg/24hr",
        "mL/d": "ml/24h ml/24hr",
        "mL/min/{1.73_m2}": "ml/min/1.73m2 ml/min/1.73sqm ml/min/1.73 ml/min/{1.73_m2}",
        "[pH]": "ph phunits [ph]",
        "{score}": "score {score}",
        "{ratio}": "ratio {ratio}",
        "{INR}": "inr {inr}",
        "{index}": "index {index}",
        "mosm/kg": "mosm/kg mosmol/kg",
        "[lb_av]": "lb lbs pound pounds [lb_av]",
        "[oz_av]": "oz [oz_av]",
        "[in_i]": "in inch inches [in_i]",
        "[ft_i]": "ft [ft_i]",
        "a": "year years yr yrs",
        "wk": "week weeks",
        "mo": "month months",
        "d": "day days",
    }
)
"""A whole unit without its spaces, in small letters. C and F are degrees: no record speaks of coulombs or farads."""

_PLAIN = (
    "dL", "cL", "nL", "pL", "mg", "kg", "ng", "pg", "fg", "mol", "mmol", "nmol", "pmol", "meq", "eq", "ueq", "osm", "mosm", "d",
    "mm", "cm", "m", "kPa", "Pa", "mU", "kU", "ms", "mV", "Hz", "ukat", "nkat", "kcal", "10*3", "10*6", "10*9", "10*12",
)  # fmt: skip
_PARTS = {unit.lower(): unit for unit in _PLAIN} | _by_spelling(
    {
        "L": "l",
        "mL": "ml cc",
        "uL": "ul mcl µl cmm mm3",
        "fL": "fl",
        "g": "g gm gms gr gram grams",
        "ug": "ug mcg µg",
        "umol": "umol µmol mcmol",
        "h": "h hr hrs hour hours",
        "min": "min mins minute minutes",
        "s": "s sec secs second seconds",
        "m2": "m2 m^2 m² sqm",
        "U": "u unit units",
        "[IU]": "iu [iu]",
        "m[IU]": "miu m[iu]",
        "u[IU]": "uiu u[iu] µiu",
        "k[IU]": "kiu k[iu]",
    }
)
"""A part of a unit, between its slashes. What UCUM's own case would say (Mg, PG, G: megagram, petagram, gauss) no record means."""

_COUNTS = _by_spelling({"10*3": "k th thou thous thousand", "10*6": "m mil mill million"})
"""Of cells: thousands and millions a microlitre; K and M alone would be kelvins and metres."""

_TWO_WAYS = {
    "G/L": ("10*9/L", "g/L"),
    "T/L": ("10*12/L",),
    "mM": ("mmol/L",),
    "uM": ("umol/L",),
    "µM": ("umol/L",),
    "nM": ("nmol/L",),
}
"""Spellings whose case speaks, and those that mean one thing of a count and another of a mass: the code decides."""

_POWER = re.compile(r"^(?:x|×)?10(?:\^|\*\*?|e\+?0?|e)(\d+)$")


@lru_cache(maxsize=1)
def _registry() -> Any:
    try:
        from ucumvert import PintUcumRegistry
    except ImportError as error:
        raise MissingExtraError("ucumvert", "ehr") from error
    return PintUcumRegistry()


@lru_cache(maxsize=4096)
@quiet("pint")
def _quantity(unit: str) -> Any:
    """The unit as pint's quantity; None where it is not UCUM, or no unit of measure ({score}, [pH])."""
    try:
        found = _registry().from_ucum(unit)
        return found if hasattr(found, "dimensionality") else None
    except MissingExtraError:
        raise
    except Exception:
        return None


@lru_cache(maxsize=4096)
def readings(spelling: str) -> tuple[str, ...]:
    """What a hospital's spelling of a unit may mean, in UCUM: none where it is not known, two where only the code tells."""
    text = " ".join(spelling.replace("μ", "µ").split())
    if text in _TWO_WAYS:
        return _TWO_WAYS[text]
    small = text.lower().replace(" ", "")
    if small in _SPELLINGS:
        return (_SPELLINGS[small],)
    if re.fullmatch(r"\{[!-z|~]{1,60}\}", text):  # UCUM 2.2 §12: an annotation alone is a unit, of one
        return (text,)
    if (power := _POWER.match(small.split("/")[0])) or "/" in small:
        head, *rest = small.split("/")
        head = f"10*{int(power[1])}" if power else head
        if rest and rest[-1] in {"ul", "mcl", "µl", "cmm", "mm3", "cumm"}:
            head, rest = _COUNTS.get(head, head), [*rest[:-1], "ul"]
        small = "/".join([head, *rest])
    parts = small.split("/")
    known = [_PARTS.get(part) if part or place else "" for place, part in enumerate(parts)]
    if len(text) <= 64 and None not in known and any(known):
        return ("/".join(part or "" for part in known),)
    whole = re.sub(r"(?<![A-Za-z\[{_])([munpfdc]?)l(?![A-Za-z\]}_])", r"\1L", text)
    return (whole,) if len(text) <= 64 and whole.isascii() and _quantity(whole) is not None else ()


def ucum(spelling: str) -> str | None:
    """The unit in UCUM: `mg/dl` → `mg/dL`, `K/uL` → `10*3/uL`, `mmHg` → `mm[Hg]`; None where nothing tells what it is."""
    found = readings(spelling)
    return found[0] if len(found) == 1 else None


def standard_of(code: str) -> Standard | None:
    """The standard of a code such as `LOINC 2160-0`, or of a laboratory's own name for an analyte of blood."""
    return _BY_CODE.get(code.lower())


def _annotations(unit: str) -> list[str]:
    return sorted(re.findall(r"\{[^}]*\}", unit))


@lru_cache(maxsize=65536)
def conversion(code: str, unit: str) -> tuple[float, float, str]:
    """How a value of a code in a unit as written becomes one in its standard unit: slope, offset and that unit.

    Args:
        code: as in the event table.
        unit: as the source spells it.
    Returns:
        (1, 0, UCUM) where the code has no standard or nothing leads from the unit to it, (1, 0, as written) where the unit is not known.
    """
    standard, found = standard_of(code), readings(unit)
    if standard is not None:
        for reading in found:
            if (line := _line(reading, standard)) is not None:
                return *line, standard.unit
    return 1.0, 0.0, found[0] if len(found) == 1 else unit


def _line(unit: str, standard: Standard) -> tuple[float, float] | None:
    """Slope and offset from a UCUM unit to the standard's; None where they do not measure the same."""
    if unit == standard.unit:
        return 1.0, 0.0
    if standard.ifcc and unit == "mmol/mol":
        return 0.09148, 2.152  # NGSP = 0.09148 IFCC + 2.152: Hoelzel et al. 2004, Clin Chem 50:166
    if standard.enzyme:
        unit = unit.replace("[IU]", "U")
    if _annotations(unit) != _annotations(standard.unit):
        return None
    source, target = _quantity(unit), _quantity(standard.unit)
    if source is None or target is None:
        return None
    factor = 1.0 / standard.valence if "eq" in unit else 1.0
    if source.dimensionality == target.dimensionality:
        zero, one = (float((source.__class__(x, source.units)).to(target.units).magnitude) for x in (0.0, 1.0))
        slope = one if zero == 0 else one - zero
        return factor * slope * float(source.magnitude), zero
    return _across(source, target, standard.molar_mass, factor)


def _across(source: Any, target: Any, molar_mass: float | None, factor: float) -> tuple[float, float] | None:
    """Between moles and grams of one substance."""
    if molar_mass is None or ("[substance]" in source.dimensionality) == ("[substance]" in target.dimensionality):
        return None
    mass = type(source)(molar_mass, "gram / mole")
    for bridged in (source * mass, source / mass):
        if bridged.dimensionality == target.dimensionality:
            return factor * float(bridged.to(target.units).magnitude), 0.0
    return None


def standardise(table: pa.Table) -> pa.Table:
    """Events with their values in each code's standard unit, and what was written kept beside where that differs.

    Args:
        table: `code` string; `numeric_value` (any number type) and `unit` string as written, where there are such columns.
    Returns:
        The table with `numeric_value` float32, `unit`, `source_value` float64 and `source_unit`.
    """
    if "numeric_value" not in table.column_names:
        return table
    value = pc.cast(table["numeric_value"], pa.float64())
    value = pc.if_else(pc.less(pc.abs(value), LARGEST_VALUE), value, None)  # nor what is not finite
    written = table["unit"] if "unit" in table.column_names else pa.nulls(len(table), pa.string())
    written = pc.if_else(
        pc.equal(pc.utf8_trim_whitespace(written.cast(pa.string())), ""), None, written.cast(pa.string())
    )
    pair = pc.binary_join_element_wise(table["code"].cast(pa.string()), written, "\x1f")  # null where there is no unit
    coded = (pair.combine_chunks() if isinstance(pair, pa.ChunkedArray) else pair).dictionary_encode()
    lines = [conversion(*one.split("\x1f", 1)) for one in coded.dictionary.to_pylist()]
    slope, offset = (pa.array([line[i] for line in lines], pa.float64()).take(coded.indices) for i in (0, 1))
    unit = pa.array([line[2] for line in lines], pa.string()).take(coded.indices)
    new = pc.add(pc.multiply(value, pc.fill_null(slope, 1.0)), pc.fill_null(offset, 0.0))
    differs = pc.fill_null(pc.not_equal(unit, written), False)
    columns = {
        "numeric_value": pc.cast(new, pa.float32(), safe=False),
        "unit": unit,
        "source_value": pc.if_else(differs, value, None),
        "source_unit": pc.if_else(differs, written, None),
    }
    kept = table.drop_columns([name for name in columns if name in table.column_names])
    for name, column in columns.items():
        kept = kept.append_column(name, column)
    return kept
