from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from polyclinic.cohort import Cohort, CohortError
from polyclinic.cohort.catalogue import write_whole
from polyclinic.cohort.parts import Rows, commit
from polyclinic.schema import Modality, Record

ADD = """
import sys
from pathlib import Path
from polyclinic.cohort import Cohort
from polyclinic.cohort.parts import Rows
from polyclinic.schema import Modality, Record
cohort = Cohort.create(sys.argv[1])
for i in range(15):
    rows, name = Rows(Path("/x")), f"{sys.argv[2]}{i}"
    rows.take([Record(name, name, None, Modality.TABLE, "t", name)], name, "1")
    rows.finish({name: "1"}, name, "1")
    cohort.commit(rows)
"""


def test_two_processes_add_to_one_catalogue(tmp_path: Path) -> None:
    both = [subprocess.Popen([sys.executable, "-c", ADD, tmp_path / "c", name]) for name in "ab"]
    assert [p.wait(timeout=60) for p in both] == [0, 0]
    assert len(Cohort.open(tmp_path / "c").ids()) == 30


def test_what_a_killed_process_began_is_not_seen_and_goes_after_a_day(tmp_path: Path) -> None:
    cohort = Cohort.create(tmp_path)
    begun = tmp_path / "parts/.123"
    begun.mkdir()
    (begun / "records.parquet").write_bytes(b"half")
    rows = Rows(tmp_path)
    rows.take([Record("a", "P", None, Modality.TABLE, "t", "u")], "u", "1")
    commit(tmp_path, rows)
    assert begun.exists()  # it may be another's
    assert cohort.ids() == set()  # and a unit that was not finished does not count
    os.utime(begun, (0, 0))
    rows.finish({"u": "1"}, "u", "1")
    commit(tmp_path, rows)
    assert not begun.exists()
    assert cohort.ids() == {"a"}


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_whole(path, pa.table({"x": [1]}))
    code = (
        "import resource, sys, pyarrow as pa; from pathlib import Path; from polyclinic.cohort.catalogue import write_whole\n"
        "import random; big = pa.table({'x': [random.random() for _ in range(100_000)]})\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "write_whole(Path(sys.argv[1]), big)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False)
    assert "no room on the disk" in done.stderr
    assert pq.read_table(path).to_pydict() == {"x": [1]}
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_may_not_be_made_is_not_called_full(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError):
        Cohort.create(tmp_path / "file/c")
    with pytest.raises(CohortError):
        Cohort.open(tmp_path / "file")
