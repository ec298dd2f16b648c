"""DICOM waveforms: ECG and other signals, one record a multiplex group.

Source: DICOM PS3.3 C.10.9 (waveform), PS3.16 CID 3001 (ECG leads).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..schema import Modality, Payload, Record, Rejected
from .dicom_header import first, person_of, record_of, text
from .source import RecordError, check_size, content_id, parse_time, part_number, place_of

_TYPES = {"SB": "i1", "UB": "u1", "SS": "i2", "US": "u2", "SL": "i4", "UL": "u4"}
_MILLIVOLT = {"nV": 1e-6, "uV": 1e-3, "mV": 1.0, "V": 1e3}
"""UCUM codes of voltages."""
_LEADS = {
    1: "I", 2: "II", 61: "III", 62: "aVR", 63: "aVL", 64: "aVF", 3: "V1", 4: "V2", 5: "V3", 6: "V4", 7: "V5", 8: "V6",
}  # fmt: skip
"""The last number of a lead's code, the same in SCP-ECG (5.6.3-9-1) and ISO 11073 (2:1)."""


def mine(dataset: Any) -> bool:
    """Whether it holds waveforms."""
    return "WaveformSequence" in dataset


def _lead(channel: Any) -> str | None:
    source = first(channel, "ChannelSourceSequence")
    code = re.fullmatch(r"(?:5\.6\.3-9-|2:)(\d+)", text(source, "CodeValue"))
    return _LEADS.get(int(code[1])) if code else None


def _name(channel: Any) -> str:
    source = first(channel, "ChannelSourceSequence")
    meaning = re.sub(r"^lead\s+|\s*\(.*\)$", "", text(source, "CodeMeaning"), flags=re.IGNORECASE)
    return _lead(channel) or meaning or text(channel, "ChannelLabel") or "channel"


def _unit(channel: Any) -> str:
    """UCUM, voltages as mV; empty for numbers without a unit."""
    units = first(channel, "ChannelSensitivityUnitsSequence")
    code = text(units, "CodeValue") if "ChannelSensitivity" in channel else ""
    return "mV" if code in _MILLIVOLT else "" if code == "1" else code


def _rate(group: Any) -> float:
    """Samples a second.

    Raises:
        RecordError: the group is not whole, or not samples one after the other.
    """
    channels, samples = int(group.get("NumberOfWaveformChannels") or 0), int(group.get("NumberOfWaveformSamples") or 0)
    check_size((channels, samples), 8)
    kind = text(group, "WaveformSampleInterpretation")
    bits = int(group.get("WaveformBitsAllocated") or 0)
    if kind not in _TYPES or np.dtype(_TYPES[kind]).itemsize * 8 != bits:
        raise RecordError(
            f"waveform samples of type {kind or 'unknown'} in {bits} bits",
            "SB, UB, SS, US, SL or UL",
            "export it as SS",
        )
    size = channels * samples * bits // 8
    data = group.get("WaveformData") or b""
    if len(data) < size:
        raise RecordError(
            f"a waveform that was cut short: {len(data)} of {size} bytes", "as many samples as the header says", "send it again"
        )  # fmt: skip
    if len(group.get("ChannelDefinitionSequence") or ()) != channels:
        raise RecordError(
            f"a waveform of {channels} channels that does not define each", "one definition a channel", "send it again"
        )
    rate = float(group.get("SamplingFrequency") or 0)
    if not 0 < rate < 1e7:
        raise RecordError("a waveform without a rate", "SamplingFrequency in Hz", "send it again")
    return rate


def read(dataset: Any, path: Path, root: Path) -> Iterator[Record | Rejected]:
    """One record a multiplex group: a rhythm, a median beat; kind "ECG 12-lead" where the leads say so."""
    if text(dataset, "Modality") == "AU":
        raise RecordError("a voice recording", "a signal of the patient's body", "leave it out")
    groups = list(dataset.WaveformSequence)
    whole, place = record_of(dataset, path, root), place_of(path, root)
    taken = parse_time(text(dataset, "AcquisitionDateTime").split(".")[0][:14]) or whole.time
    for number, group in enumerate(groups, start=1):
        several = len(groups) > 1
        try:
            rate = _rate(group)
        except RecordError as error:
            named = f"group {number} of {len(groups)}: " if several else ""
            yield Rejected(place, named + error.found, error.expected, error.remedy)
            continue
        channels = group.ChannelDefinitionSequence
        leads = sum(_lead(c) is not None for c in channels) or (
            len(channels) if text(dataset, "Modality") == "ECG" else 0
        )
        kind = f"ECG {leads}-lead" if leads else "signal " + " ".join(_name(c).lower() for c in channels[:3])
        derived = text(group, "WaveformOriginality") == "DERIVED"
        fragment = f"group={number}" if several else ""
        yield replace(
            whole,
            id=content_id(path, fragment),
            time=taken,
            modality=Modality.SIGNAL,
            kind=f"{kind} {text(group, 'MultiplexGroupLabel').lower() or 'derived'}" if derived else kind,
            uri=f"{place}#{fragment}" if several else place,
            attributes=person_of(dataset) | {
                "rate_hz": rate, "channels": len(channels), "seconds": int(group.NumberOfWaveformSamples) / rate,
                "unit": " ".join(sorted({_unit(c) for c in channels} - {""})) or None,
                "label": text(group, "MultiplexGroupLabel") or None, "derived": derived,
            },
        )  # fmt: skip


def load(dataset: Any, record: Record) -> Payload:
    """array (c t) float32 in mV (or the channel's own unit), NaN where padded, to_world[0, 0] seconds a sample, names the leads."""
    group = dataset.WaveformSequence[(part_number(record.uri, "group") or 1) - 1]
    rate, channels = _rate(group), group.ChannelDefinitionSequence
    order = "<" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">"
    kind = np.dtype(order + _TYPES[group.WaveformSampleInterpretation])
    raw = np.frombuffer(group.WaveformData, kind, len(channels) * int(group.NumberOfWaveformSamples))
    raw = raw.reshape(-1, len(channels)).T
    array = raw.astype(np.float32)
    for row, channel in zip(array, channels, strict=True):
        if "ChannelSensitivity" in channel:
            units = text(first(channel, "ChannelSensitivityUnitsSequence"), "CodeValue")
            scale = _MILLIVOLT.get(units, 1.0)
            row *= (
                float(channel.ChannelSensitivity)
                * float(channel.get("ChannelSensitivityCorrectionFactor") or 1)
                * scale
            )
            row += float(channel.get("ChannelBaseline") or 0) * scale
    padding = group.get("WaveformPaddingValue")
    if padding:
        array[raw == np.frombuffer(padding, kind, 1)[0]] = np.nan
    return Payload(array, np.diag([1.0 / rate, 1.0, 1.0, 1.0]), names=tuple(_name(c) for c in channels))
