from __future__ import annotations

from typing import Any, cast

import pytest
import torch

from polyclinic.harmonise import LEADS, TextStandard
from polyclinic.schema import Modality, PolyclinicError
from polyclinic.tokens import phantom

STANDARDS = {m: s.standard() for m, s in phantom.encoders().items()}


def test_a_record_does_not_depend_on_what_is_beside_it() -> None:
    whole = phantom.batch(STANDARDS, {"a": dict.fromkeys(STANDARDS, 2), "b": dict.fromkeys(STANDARDS, 1)}, seed=4)
    alone = phantom.batch(STANDARDS, {"b": {Modality.OMICS: 1, Modality.TEXT: 1}}, seed=4)
    for modality, ragged in alone.payloads.items():
        place = whole.payloads[modality].ids.index(ragged.ids[0])
        one, other = ragged.values[0], whole.payloads[modality].values[place]
        assert torch.equal(one.nan_to_num(-9), other.nan_to_num(-9))
        assert torch.equal(ragged.time_h[0], whole.payloads[modality].time_h[place])
    assert whole.payloads[Modality.TEXT].patient.tolist() == [0, 0, 1]
    assert set(alone.payloads) == {Modality.OMICS, Modality.TEXT}


def test_a_patients_records_take_their_kinds_in_turn() -> None:
    has = {"a": 3, "b": 1, "c": 2}
    assert phantom.ragged(STANDARDS[Modality.IMAGE], has).kinds == ["made-up image"] * 6
    two = phantom.batch(
        STANDARDS, {p: {Modality.VOLUME: n} for p, n in has.items()}, kinds={Modality.VOLUME: ("MR", "CT")}
    )
    assert two.payloads[Modality.VOLUME].kinds == ["MR", "CT", "MR", "MR", "MR", "CT"]


def test_full_records_fill_their_standards() -> None:
    """What is known of each standard beside: how many tokens its encoder makes of a record at most."""
    known = phantom.fingerprint()
    specs = phantom.encoders()
    found = phantom.batch(STANDARDS, {"a": dict.fromkeys(STANDARDS, 2), "b": dict.fromkeys(STANDARDS, 1)}, full=known)
    tokens = {m: specs[m].build(known).embed(ragged).lengths.tolist() for m, ragged in found.payloads.items()}
    arms, windows, assays = 3, 4, 4 + 2  # 25 genes and 15, eight at a time
    expected = {
        Modality.IMAGE: (32 // 8) ** 2, Modality.VOLUME: 2 * 2 * 3, Modality.SLIDE: 4, Modality.VIDEO: 6 // 2 * (16 // 8) ** 2,
        Modality.TEXT: 12, Modality.TABLE: 512, Modality.SIGNAL: len(LEADS) * 5, Modality.OMICS: assays,
        Modality.KINEMATICS: arms * windows,
    }  # fmt: skip
    assert tokens == {m: [2 * n, n] for m, n in expected.items()}


def test_a_standard_without_made_up_records_says_where_to_add_them() -> None:
    class Smells(TextStandard):
        pass

    assert phantom.ragged(Smells(), {"a": 1}).ids == ["text-a-0"]  # a standard made from another is one

    class Gait:
        kind = "gait"

    with pytest.raises(PolyclinicError, match=r"phantom\.py"):
        phantom.ragged(cast(Any, Gait()), {"a": 1})
