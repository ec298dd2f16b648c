"""What every contrastive objective promises of who is in a batch: their order, and who lacks what, change nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from polyclinic.fusion import Intermediate
from polyclinic.models import TwoTower, build_model
from polyclinic.objectives import Objective, ObjectiveSpec
from polyclinic.schema import Modality
from polyclinic.tokens import phantom

ENCODERS = phantom.encoders()
STANDARDS = {m: s.standard() for m, s in ENCODERS.items()}
IMAGE, TEXT, OMICS, TABLE = Modality.IMAGE, Modality.TEXT, Modality.OMICS, Modality.TABLE
SMALL = {"smalls": 2, "prototypes": 8, "width": 16}
SPECS: dict[str, dict[str, Any]] = {
    "clip": {"kind": "contrastive", "pairs": [["image", "text"], ["omics", "image"]]},
    "siglip": {"kind": "contrastive", "loss": "siglip", "pairs": [["image", "text"], ["omics", "image"]]},
    "anchored": {"kind": "contrastive", "pairs": "image"},
    "supcon": {"kind": "contrastive", "loss": "supcon", "pairs": [["image", "text"], ["image", "image"]]},
    "local": {"kind": "local", "pairs": [["text", "image"], ["image", "text"]]},
    "symile": {"kind": "symile", "modalities": ["image", "text", "omics"]},
    "dino": {"kind": "dino", **SMALL},
    "ibot": {"kind": "ibot", **SMALL},
}
PATIENT = st.dictionaries(st.sampled_from([IMAGE, TEXT, OMICS]), st.integers(1, 2), max_size=3)
MODEL = build_model(
    TwoTower(width=16, embedding=16, fusion=Intermediate(depth=1, heads=2)), ENCODERS, phantom.fingerprint(), 0
)


def objective(name: str) -> Objective:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return TypeAdapter(ObjectiveSpec).validate_python(SPECS[name]).build(MODEL, {})


BUILT = {name: objective(name) for name in SPECS}


def terms(name: str, has: dict[str, dict[Modality, int]]) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return BUILT[name](MODEL, phantom.batch(STANDARDS, has), torch.Generator().manual_seed(3)).terms


@pytest.mark.parametrize("name", SPECS)
@given(patients=st.lists(PATIENT, min_size=2, max_size=5), order=st.randoms(use_true_random=False))
@settings(max_examples=8, deadline=None)
def test_the_order_of_patients_changes_nothing(name: str, patients: list[dict[Modality, int]], order: Any) -> None:
    has = {f"p{n}": own for n, own in enumerate(patients)}
    names = list(has)
    order.shuffle(names)
    torch.testing.assert_close(terms(name, {p: has[p] for p in names}), terms(name, has), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", SPECS)
@given(patients=st.lists(PATIENT, min_size=2, max_size=4), place=st.integers(0, 4))
@settings(max_examples=8, deadline=None)
def test_a_patient_without_records_changes_nothing(name: str, patients: list[dict[Modality, int]], place: int) -> None:
    has = list({f"p{n}": own for n, own in enumerate(patients)}.items())
    more = dict([*has[:place], ("absent", {}), *has[place:]])
    torch.testing.assert_close(terms(name, more), terms(name, dict(has)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("name", "lacks"), [
    ("clip", {TEXT: 2, OMICS: 1}), ("siglip", {TEXT: 1}), ("anchored", {TEXT: 1, OMICS: 1, TABLE: 2}), ("supcon", {TEXT: 2}),
    ("local", {IMAGE: 1}), ("local", {TEXT: 1}), ("symile", {IMAGE: 1, TEXT: 2}), ("symile", {OMICS: 1}), ("dino", {TABLE: 1}),
])  # fmt: skip
def test_who_lacks_a_modality_is_nobodys_negative(name: str, lacks: dict[Modality, int]) -> None:
    """Three patients are compared; one more, who is in no pair, is neither a row nor a column."""
    has = {f"p{n}": {IMAGE: 2, TEXT: 1, OMICS: 1} for n in range(3)}
    found = terms(name, has)
    assert found
    more = {"p0": has["p0"], "lacks": lacks, "p1": has["p1"], "p2": has["p2"]}
    torch.testing.assert_close(terms(name, more), found, atol=1e-5, rtol=1e-5)
