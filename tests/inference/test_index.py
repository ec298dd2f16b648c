"""An index finds whom the vectors say, goes on after an interruption, and refuses another model's."""

from __future__ import annotations

import shutil
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from damaged import of, path_of
from polyclinic.cli import app
from polyclinic.cohort import Cohort
from polyclinic.harmonise.unread import UnreadError
from polyclinic.inference import Index, SearchError, embed, index
from polyclinic.schema import Modality
from polyclinic.training import Run

MODULE = import_module("polyclinic.inference.index")


@pytest.fixture(scope="module")
def made(tiny_run: Run, tiny_cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Index:
    return index(tiny_run, tiny_cohort, into=tmp_path_factory.mktemp("index") / "made")


@pytest.fixture(scope="module")
def vectors(tiny_run: Run, tiny_cohort: Cohort) -> dict[Modality, tuple[list[str], np.ndarray]]:
    """The same by another way: all patients at once."""
    return embed(tiny_run, tiny_cohort, patients=tiny_cohort.patients(tiny_run.recipe.cohort.where))


def test_everybody_has_a_place(made: Index, vectors: dict[Modality, tuple[list[str], np.ndarray]]) -> None:
    assert set(made.modalities) == {*(m.value for m in vectors), "patient"}
    for modality, (names, _) in vectors.items():
        assert made.about["rows"][modality.value] == len(names)
    everybody = {p for names, _ in vectors.values() for p in names}
    assert made.about["rows"]["patient"] == len(everybody)


def test_the_nearest_are_the_vectors(made: Index, vectors: dict[Modality, tuple[list[str], np.ndarray]]) -> None:
    names, mine = vectors[Modality.IMAGE]
    others, texts = vectors[Modality.TEXT]
    hits = made.similar(names[0], of="image", to="text", k=5)
    alike = texts @ mine[0]
    allowed = [i for i in np.argsort(-alike, kind="stable") if others[i] != names[0]][:5]
    assert [h.patient for h in hits] == [others[i] for i in allowed]
    assert np.allclose([h.similarity for h in hits], alike[allowed], atol=1e-5)
    assert [h.rank for h in hits] == list(range(1, len(hits) + 1))


def test_a_patient_is_not_among_the_own_nearest(made: Index) -> None:
    names = {h.patient for h in made.similar(_someone(made), k=10_000)}
    assert _someone(made) not in names
    assert len(names) == made.about["rows"]["patient"] - 1


def _someone(made: Index) -> str:
    return made.nearest(np.eye(1, made._side("patient")[0].vector(0).shape[0])[0], k=1)[0].patient


def test_a_hit_names_its_records(made: Index, tiny_cohort: Cohort) -> None:
    by_id = {r.id: r for r in tiny_cohort.records()}
    for hit in made.similar(_someone(made), to="patient", k=3):
        assert hit.records
        assert {by_id[i].patient for i in hit.records} == {hit.patient}


def test_words_find_the_note_that_says_them(made: Index, tiny_run: Run, tiny_cohort: Cohort) -> None:
    notes = [r for r in tiny_cohort.records(tiny_run.recipe.cohort.where) if r.modality is Modality.TEXT]
    alone = [r for r in notes if sum(o.patient == r.patient for o in notes) == 1]
    said = tiny_cohort.load(alone[0]).text
    assert said
    found = made.say(said, to="text", k=3)
    assert max(h.similarity for h in found) > 1 - 1e-4  # itself, or one that the model reads alike
    with pytest.raises(SearchError, match="nothing said"):
        made.say("   ")


def test_interrupted_it_goes_on(
    tiny_run: Run, tiny_cohort: Cohort, made: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MODULE, "CHUNK", 16)
    place = tmp_path / "index"

    def stop(done: int, total: int, what: str) -> None:
        if done >= 32:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index(tiny_run, tiny_cohort, into=place, progress=stop)
    kept = {p: p.stat().st_mtime_ns for p in place.glob("vectors-*.parquet")}
    assert len(kept) == 2
    with pytest.raises(SearchError, match="no index in"):
        Index.open(place)
    whole = index(tiny_run, tiny_cohort, into=place)
    assert all(p.stat().st_mtime_ns == at for p, at in kept.items())
    assert whole.about["rows"] == made.about["rows"]
    one, other = (i.similar(_someone(made), k=5) for i in (whole, made))
    assert [h.patient for h in one] == [h.patient for h in other]
    index(tiny_run, tiny_cohort, patients=tiny_cohort.patients()[:20], into=place)  # others: all anew
    assert len(list(place.glob("vectors-*.parquet"))) == 2


def test_what_cannot_be_asked_is_refused(made: Index, tiny_run: Run, tmp_path: Path) -> None:
    with pytest.raises(SearchError, match="no patient of a patient of this name"):
        made.similar("nobody")
    with pytest.raises(SearchError, match="'slide', of which the index has nothing"):
        made.similar(_someone(made), to="slide")
    with pytest.raises(SearchError, match="the 0 nearest"):
        made.similar(_someone(made), k=0)
    with pytest.raises(SearchError, match="no index in"):
        Index.open(tmp_path)
    copy = tmp_path / "run"
    shutil.copytree(tiny_run.path, copy)
    moved = shutil.copytree(made.path, copy / "index")
    about = (moved / "index.json").read_text().replace(f'"{made.about["run"]}"', '".."')
    (moved / "index.json").write_text(about)
    assert Index.open(copy).about["rows"] == made.about["rows"]  # a run's folder, moved with its index
    with (copy / "model/model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    with pytest.raises(SearchError, match="other weights"):
        Index.open(copy)


def test_who_cannot_be_read_is_named(own_run: Run, own_cohort: Cohort, own_hospital: Path, tmp_path: Path) -> None:
    gone = of(own_cohort, tuple(own_cohort.patients(None)), Modality.IMAGE)
    path_of(gone, own_hospital).unlink()
    built = index(own_run, own_cohort, into=tmp_path / "index")
    (told,) = built.about["unread"]
    assert (told["patient"], told["record"]) == (gone.patient, gone.id)
    assert "no file at" in told["why"]
    with pytest.raises(SearchError):
        built.similar(gone.patient)
    again = index(own_run, own_cohort, into=tmp_path / "index")  # nothing is asked again
    assert again.about == built.about
    words = ["index", str(own_run.path), "--cohort", str(own_cohort.path), "--into", str(tmp_path / "index")]
    shown = CliRunner().invoke(app, words)
    assert f"set aside, cannot be read: {gone.patient}: {told['why']}" in " ".join(shown.stdout.split())


def test_a_disk_that_is_not_there_is_asked_again(
    own_run: Run, own_cohort: Cohort, own_hospital: Path, tmp_path: Path, made: Index
) -> None:
    away = own_hospital.rename(tmp_path / "away")
    with pytest.raises(UnreadError, match="patients who cannot be read"):
        index(own_run, own_cohort, into=tmp_path / "index")
    away.rename(own_hospital)
    assert index(own_run, own_cohort, into=tmp_path / "index").about["rows"] == made.about["rows"]
