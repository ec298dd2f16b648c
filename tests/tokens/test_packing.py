"""Patients' bags of tokens are joined in order, cut and counted."""

from __future__ import annotations

import torch

from polyclinic.schema import Modality, Tokens
from polyclinic.tokens.packing import counts, join, select, with_values


def bag(modality: Modality, patient: list[int], record: list[int], patients: int, first: float) -> Tokens:
    """Tokens whose value, place and hour are all the token's own number."""
    n = len(patient)
    mark = torch.arange(n) + first
    number = torch.full((n,), modality.number)
    who = torch.tensor(patient, dtype=torch.int64)
    return Tokens(
        mark[:, None], who, number, torch.tensor(record), mark[:, None].repeat(1, 4), mark, counts(who, patients)
    )


def test_join_sorts_by_patient_and_keeps_records_apart() -> None:
    image = bag(Modality.IMAGE, [0, 0, 2], [0, 0, 1], 3, 10)
    text = bag(Modality.TEXT, [0, 1, 1, 2], [0, 1, 2, 3], 3, 20)
    both = join([image, text])
    assert both.values.flatten().tolist() == [10, 11, 20, 21, 22, 12, 23]
    assert both.patient.tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert both.record.tolist() == [0, 0, 2, 3, 4, 1, 5]  # two image records, then text's
    assert both.modality.tolist() == [0, 0, 4, 4, 4, 0, 4]
    assert both.lengths.tolist() == [3, 2, 2]
    assert both.position[:, 3].tolist() == both.time_h.tolist() == both.values.flatten().tolist()


def test_join_with_a_modality_nobody_has() -> None:
    image = bag(Modality.IMAGE, [0, 2], [0, 1], 3, 10)
    none = bag(Modality.TEXT, [], [], 3, 0)
    for parts in ([image, none], [none, image]):
        both = join(parts)
        assert both.values.flatten().tolist() == [10, 11]
        assert both.record.tolist() == [0, 1]
        assert both.lengths.tolist() == [1, 0, 1]


def test_select_keeps_whole_rows_and_counts_them() -> None:
    text = bag(Modality.TEXT, [0, 1, 1, 2], [0, 1, 2, 3], 4, 20)
    some = select(text, torch.tensor([False, True, False, True]))
    assert some.values.flatten().tolist() == some.time_h.tolist() == some.position[:, 0].tolist() == [21, 23]
    assert some.patient.tolist() == [1, 2]
    assert some.record.tolist() == [1, 3]
    assert some.lengths.tolist() == [0, 1, 1, 0]


def test_with_values_changes_nothing_else() -> None:
    text = bag(Modality.TEXT, [0, 1], [0, 1], 2, 0)
    other = with_values(text, torch.ones(2, 5))
    assert other.values.shape == (2, 5)
    assert other.patient is text.patient
    assert text.values.shape == (2, 1)
