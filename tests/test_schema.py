from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from polyclinic.schema import Batch, Losses, MissingExtraError, Modality, Payload, PolyclinicError, Ragged, Record


def subclasses(kind: type[PolyclinicError]) -> list[type[PolyclinicError]]:
    found = [kind]
    for inner in kind.__subclasses__():
        found += subclasses(inner)
    return found


def test_every_error_travels_between_processes_whole() -> None:
    import polyclinic.cohort
    import polyclinic.inference
    import polyclinic.training  # noqa: F401

    kinds = subclasses(PolyclinicError)
    assert len(kinds) > 8
    for kind in kinds:
        error = MissingExtraError("pydicom", "dicom") if kind is MissingExtraError else kind("this", "that", "do so")
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is kind
        assert (again.found, again.expected, again.remedy, str(again)) == (
            error.found,
            error.expected,
            error.remedy,
            str(error),
        )


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("this", "that", "do so"), "Found: this\nExpected: that\nDo: do so"),
        (("this",), "Found: this"),
        (("this", "", "do so"), "Found: this\nDo: do so"),
    ],
)
def test_an_error_says_what_was_found_what_was_expected_and_what_to_do(words: tuple[str, ...], text: str) -> None:
    assert str(PolyclinicError(*words)) == text


def test_a_missing_library_names_its_extra() -> None:
    assert "pip install 'polyclinic[volumes]'" in str(MissingExtraError("nibabel", "volumes"))


def test_a_modality_is_its_word_and_its_number() -> None:
    assert [m.number for m in Modality] == list(range(9))
    assert Modality("image") == "image"
    assert f"{Modality.IMAGE}" == "image"


def test_losses_weigh_what_the_batch_spoke_to() -> None:
    one, two = torch.tensor(2.0, requires_grad=True), torch.tensor(3.0)
    total = Losses({"a": one, "b": two}, {"a": 0.5, "c": 9.0}).total
    assert total is not None
    assert total.item() == 4.0
    total.backward()
    assert one.grad is not None
    assert float(one.grad) == 0.5
    assert Losses({}, {"a": 1.0}).total is None


def test_data_is_frozen_and_counts_itself() -> None:
    record = Record("a", "P", None, Modality.IMAGE, "CR", "a")
    with pytest.raises(AttributeError):
        record.patient = "Q"  # type: ignore[misc]
    assert record.attributes == {}
    assert Payload(np.zeros(1)).history == ()
    ragged = Ragged([torch.zeros(2), torch.zeros(3)], torch.tensor([0, 2]), torch.zeros(2), None, 3, ["a", "b"])
    assert len(ragged) == 2
    assert Batch({Modality.TEXT: ragged}, {}, ["x", "y", "z"]).payloads[Modality.TEXT].patients == 3


def test_some_of_the_records_are_of_the_same_patients() -> None:
    values, patient = torch.arange(6.0).view(3, 2), torch.tensor([0, 0, 3])
    whole = Ragged(
        values, patient, torch.arange(3.0), torch.ones(3, 1), 4, list("abc"), list(values), ["CT", "MR", "CT"]
    )
    some = whole.only([0, 2])
    assert torch.equal(torch.as_tensor(some.values), values[[0, 2]])
    assert (some.patient.tolist(), some.time_h.tolist(), some.patients) == ([0, 3], [0.0, 2.0], 4)
    assert (some.ids, some.kinds) == (["a", "c"], ["CT", "CT"])
    assert some.places is not None
    assert torch.equal(torch.stack(some.places), values[[0, 2]])
    words = Ragged(list(values), patient, torch.arange(3.0), None, 4, list("abc")).only([1])
    assert isinstance(words.values, list)
    assert torch.equal(words.values[0], values[1])
    assert (words.spacing, words.places, words.kinds) == (None, None, None)
    assert len(whole.only([])) == 0
