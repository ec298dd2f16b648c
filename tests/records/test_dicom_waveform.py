from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian

from polyclinic import records
from polyclinic.harmonise.fingerprint import Fingerprint
from polyclinic.harmonise.signal import SignalStandard, harmonise
from polyclinic.schema import Modality
from reading import load_taken, reasons, taken

ECG = Path(str(get_testdata_file("waveform_ecg.dcm", download=False)))
TWELVE = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")


def channel(meaning: str, code: str = "", unit: str | None = "uV", **elements: object) -> Dataset:
    source, item = Dataset(), Dataset()
    source.CodeValue, source.CodeMeaning, source.CodingSchemeDesignator = code, meaning, "SCPECG"
    item.ChannelSourceSequence = [source]
    if unit is not None:
        units = Dataset()
        units.CodeValue, item.ChannelSensitivity = unit, 2.5
        item.ChannelSensitivityUnitsSequence = [units]
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return item


def write(path: Path, samples: np.ndarray, channels: list[Dataset], modality: str = "ECG", **elements: object) -> None:
    """One group of samples (t c) int16; elements are the group's."""
    dataset = pydicom.dcmread(ECG)
    group = Dataset()
    group.WaveformOriginality, group.SamplingFrequency = "ORIGINAL", 250
    group.NumberOfWaveformChannels, group.NumberOfWaveformSamples = samples.shape[1], samples.shape[0]
    group.WaveformSampleInterpretation, group.WaveformBitsAllocated = "SS", 16
    group.ChannelDefinitionSequence = channels
    group.add_new("WaveformData", "OW", samples.tobytes())
    for keyword, value in elements.items():
        setattr(group, keyword, value)
    dataset.Modality, dataset.WaveformSequence = modality, [group]
    dataset.save_as(path)


def test_the_groups_of_an_ecg_are_those_of_pydicom_in_millivolts() -> None:
    rhythm, beat = taken(ECG)
    assert (rhythm.kind, beat.kind) == ("ECG 12-lead", "ECG 12-lead median beat")
    assert rhythm.modality is Modality.SIGNAL
    assert rhythm.patient == "642341"
    assert rhythm.time == datetime(2013, 1, 25, 10, 59, 19)
    assert rhythm.id != beat.id
    attributes = {k: rhythm.attributes[k] for k in ("rate_hz", "channels", "seconds", "unit", "sex", "age")}
    assert attributes == {"rate_hz": 1000, "channels": 12, "seconds": 10, "unit": "mV", "sex": "F", "age": 42}
    raw = pydicom.dcmread(ECG)
    for number, record in enumerate((rhythm, beat)):
        payload = records.load(record, ECG.parent)
        assert payload.names == TWELVE
        assert payload.to_world is not None
        assert payload.to_world[0, 0] == pytest.approx(1e-3)
        assert np.allclose(payload.array, raw.waveform_array(number).T / 1000, atol=1e-6)  # its unit is uV


def test_einthoven_and_goldberger_hold() -> None:
    """II = I + III and aVR + aVL + aVF = 0: the leads are called what they are."""
    payload = records.load(taken(ECG)[0], ECG.parent)
    lead = dict(zip(payload.names, payload.array, strict=True))
    assert np.abs(lead["I"] + lead["III"] - lead["II"]).max() < 0.006
    assert np.abs(lead["aVR"] + lead["aVL"] + lead["aVF"]).max() < 0.006


def test_it_is_harmonised_as_any_twelve_leads_are() -> None:
    record = taken(ECG)[0]
    payload = harmonise(records.load(record, ECG.parent), record, SignalStandard(), Fingerprint())
    assert np.isfinite(payload.array[:12]).all()
    assert np.isnan(payload.array[12:]).all()


def test_sensitivity_baseline_correction_and_unit(tmp_path: Path) -> None:
    samples = np.array([[0, 0, 0, 7], [10, -10, 100, 8]], np.int16)
    channels = [
        channel("Lead II", "2:2", ChannelSensitivityCorrectionFactor=2, ChannelBaseline=100),
        channel("Lead V3", "2:5", "V"),
        channel("Arterial pressure", "", "mm[Hg]", ChannelBaseline=-5),
        channel("Marker", unit=None),
    ]
    write(tmp_path / "a.dcm", samples, channels)
    payload = load_taken(tmp_path / "a.dcm")
    assert payload.names == ("II", "V3", "Arterial pressure", "Marker")
    # PS3.3 C.10.9.1.4: sensitivity × correction × sample + baseline, in the channel's unit.
    expected = [[0.1, 0.15], [0, -25000], [-5, 245], [7, 8]]
    assert np.allclose(payload.array, expected)
    (record,) = taken(tmp_path / "a.dcm")
    assert record.kind == "ECG 2-lead"
    assert record.attributes["unit"] == "mV mm[Hg]"


def test_what_is_no_ecg_is_named_by_its_channels(tmp_path: Path) -> None:
    write(tmp_path / "a.dcm", np.zeros((9, 1), np.int16), [channel("Pulmonary artery pressure", "", "mm[Hg]")], "HD")
    assert taken(tmp_path / "a.dcm")[0].kind == "signal pulmonary artery pressure"


def test_padding_is_nothing_measured(tmp_path: Path) -> None:
    samples = np.array([[1], [-32768], [3]], np.int16)
    padding = np.int16(-32768).tobytes()
    write(tmp_path / "a.dcm", samples, [channel("Lead I", "2:1")])
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    dataset.WaveformSequence[0].add_new("WaveformPaddingValue", "OW", padding)
    dataset.save_as(tmp_path / "a.dcm")
    assert np.isnan(load_taken(tmp_path / "a.dcm").array[0]).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("kind", "bits", "dtype"), [("SB", 8, np.int8), ("UB", 8, np.uint8), ("US", 16, np.uint16), ("SL", 32, np.int32)]
)
def test_every_type_of_sample(tmp_path: Path, kind: str, bits: int, dtype: Any) -> None:
    samples = np.array([[1, 2], [100, 4], [5, 127], [7, 8]], dtype)
    channels = [channel("Lead I", "2:1"), channel("Lead II", "2:2")]
    write(tmp_path / "a.dcm", samples, channels, WaveformSampleInterpretation=kind, WaveformBitsAllocated=bits)
    assert np.allclose(load_taken(tmp_path / "a.dcm").array, samples.T * 2.5e-3)


def test_big_endian_samples(tmp_path: Path) -> None:
    samples = np.array([[1], [300], [-2]], np.int16)
    write(tmp_path / "a.dcm", samples.byteswap(), [channel("Lead I", "2:1")])
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    pydicom.dcmwrite(tmp_path / "b.dcm", dataset, implicit_vr=False, little_endian=False)
    assert np.allclose(load_taken(tmp_path / "b.dcm").array[0], samples[:, 0] * 2.5e-3)


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"NumberOfWaveformSamples": 2**32 - 1}, "a header that promises"),
        ({"NumberOfWaveformSamples": 200_000_000}, "a waveform that was cut short: 8 of"),
        ({"NumberOfWaveformSamples": 0}, "a dimension of 0"),
        ({"NumberOfWaveformChannels": 65535, "NumberOfWaveformSamples": 4000}, "a waveform that was cut short"),
        (
            {"NumberOfWaveformChannels": 2, "NumberOfWaveformSamples": 2},
            "a waveform of 2 channels that does not define",
        ),
        ({"SamplingFrequency": 0}, "a waveform without a rate"),
        ({"WaveformSampleInterpretation": "MB", "WaveformBitsAllocated": 8}, "waveform samples of type MB in 8 bits"),
        ({"WaveformBitsAllocated": 8}, "waveform samples of type SS in 8 bits"),
        ({"WaveformData": b""}, "a waveform that was cut short: 0 of 8 bytes"),
    ],
)
def test_a_header_that_promises_what_is_not_there_is_refused(
    tmp_path: Path, elements: dict[str, Any], reason: str
) -> None:
    write(tmp_path / "a.dcm", np.zeros((4, 1), np.int16), [channel("Lead I", "2:1")], **elements)
    (found,) = reasons(tmp_path / "a.dcm")
    assert found.startswith(reason)


def test_a_broken_group_does_not_take_the_other_with_it(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(ECG)
    dataset.WaveformSequence[0].WaveformData = b"\0\0"
    dataset.save_as(tmp_path / "a.dcm")
    assert [r.uri for r in taken(tmp_path / "a.dcm")] == ["a.dcm#group=2"]
    assert reasons(tmp_path / "a.dcm") == ["group 1 of 2: a waveform that was cut short: 2 of 240000 bytes"]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_waveform_that_was_cut_short_is_refused(tmp_path: Path, share: float) -> None:
    data = ECG.read_bytes()
    (tmp_path / "a.dcm").write_bytes(data[: int(len(data) * share)])
    assert not taken(tmp_path / "a.dcm")
    assert reasons(tmp_path / "a.dcm")


def test_a_voice_and_a_document_are_refused_by_name(tmp_path: Path, write_slice: Any) -> None:
    write(tmp_path / "a.dcm", np.zeros((4, 1), np.int16), [channel("Voice")], "AU")
    assert reasons(tmp_path / "a.dcm") == ["a voice recording"]
    write_slice(
        tmp_path / "b.dcm", np.zeros((4, 4)), Modality="DOC", MIMETypeOfEncapsulatedDocument="application/pdf",
        EncapsulatedDocument=b"%PDF-1.4",
    )  # fmt: skip
    assert reasons(tmp_path / "b.dcm") == ["a PDF that does not open (PdfStreamError)"]
