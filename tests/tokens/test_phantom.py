from __future__ import annotations

from typing import Any, cast

import pytest
import torch

from polyclinic.harmonise import TextStandard
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


def test_a_standard_without_made_up_records_says_where_to_add_them() -> None:
    class Smells(TextStandard):
        pass

    assert phantom.ragged(Smells(), {"a": 1}).ids == ["text-a-0"]  # a standard made from another is one

    class Gait:
        kind = "gait"

    with pytest.raises(PolyclinicError, match=r"phantom\.py"):
        phantom.ragged(cast(Any, Gait()), {"a": 1})
