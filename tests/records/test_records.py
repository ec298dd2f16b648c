"""Finding out what a file is, and reading together what belongs together."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from polyclinic import records
from polyclinic.schema import Record
from reading import refused


def test_what_is_no_file_is_set_aside(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    (tmp_path / "report.pdf").write_bytes(b"%PDF-1.4")
    assert refused(tmp_path / "pipe.csv") == "neither a file nor a folder"  # and nobody waits for what it may say
    assert refused(tmp_path / "broken") == "a file that is no longer there"
    assert refused(tmp_path / "report.pdf") == "a file of unknown format (.pdf)"


def test_a_header_and_its_signals_are_one_group(hospital: Path) -> None:
    groups = records.together(sorted((hospital / "cardiology").iterdir()))
    assert [[p.name for p in g.paths] for g in groups] == [
        ["100.hea", "100.dat"], ["12726.hea"], ["s0010_re.hea", "s0010_re.dat"],
    ]  # fmt: skip
    assert groups[0].place(hospital) == "cardiology/100.hea"


def test_a_signal_without_its_header_is_said_to_be_unknown(hospital: Path, tmp_path: Path) -> None:
    shutil.copy(hospital / "cardiology/100.dat", tmp_path)
    assert refused(tmp_path / "100.dat") == "a file of unknown format (.dat)"


def test_load_says_what_became_of_the_source(hospital: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(hospital / "neurology/hippocampus/images/hippocampus_001.nii.gz", tmp_path))
    (record,) = records.read(path)
    assert isinstance(record, Record)
    assert records.load(record, tmp_path).array.dtype == np.float32
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(records.RecordError, match=r"cut short .* at hippocampus_001\.nii\.gz"):
        records.load(record, tmp_path)
    path.unlink()
    with pytest.raises(records.RecordError, match="no file at hippocampus_001"):
        records.load(record, tmp_path)
