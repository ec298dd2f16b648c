from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from polyclinic.fusion.beside import Beside
from polyclinic.fusion.streams import merged, own, streams
from polyclinic.schema import Modality, Tokens

IMAGE, TEXT, OMICS = Modality.IMAGE, Modality.TEXT, Modality.OMICS


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(Modality)), max_size=12))
def test_taken_apart_and_merged_is_the_bag(rows: list[tuple[int, Modality]]) -> None:
    """In whatever order a patient's modalities stand."""
    rows = sorted(rows, key=lambda row: row[0])
    patient = torch.tensor([p for p, _ in rows], dtype=torch.int64)
    modality = torch.tensor([m.number for _, m in rows], dtype=torch.int64)
    n, values = len(rows), torch.arange(len(rows)).float()[:, None]
    lengths = torch.bincount(patient, minlength=4)
    tokens = Tokens(values, patient, modality, patient, torch.zeros(n, 4), torch.zeros(n), lengths)
    parts = streams(tokens)
    assert list(parts) == [m for m in Modality if m in {found for _, found in rows}]
    for m, part in parts.items():
        assert part.of(values)[:, 0].tolist() == [i for i, (_, found) in enumerate(rows) if found is m]
        assert part.patient.tolist() == [p for p, found in rows if found is m]
    twice = merged(tokens, parts, {m: 2 * part.of(values) for m, part in parts.items()})
    assert torch.equal(twice.values, 2 * values)


@given(st.lists(st.integers(0, 4), max_size=10).map(sorted), st.integers(1, 3))
def test_learned_tokens_sit_beside_their_patients(patient: list[int], count: int) -> None:
    owners = torch.tensor(patient, dtype=torch.int64)
    beside, values = Beside.of(owners, count), torch.arange(len(patient)).float()[:, None]
    who = sorted(set(patient))
    assert beside.who.tolist() == who
    learned = torch.tensor([[[100.0 * p + k] for k in range(count)] for p in who]).view(len(who), count, 1)
    both = beside.join(values, learned)
    expected: list[float] = []
    for p in who:
        expected += [float(i) for i, owner in enumerate(patient) if owner == p] + [100.0 * p + k for k in range(count)]
    assert both[:, 0].tolist() == expected
    back = beside.part(both)
    assert torch.equal(back[0], values)
    assert torch.equal(back[1], learned)


def test_a_modalitys_first_weights_depend_on_the_seed_and_on_no_other_modality() -> None:
    def drawn(seed: int, *modalities: Modality) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = own(modalities, lambda: nn.Linear(3, 2))
            return made.state_dict(), torch.rand(3)

    whole, after = drawn(0, IMAGE, TEXT, OMICS)
    for some in ((TEXT,), (OMICS, IMAGE), ()):
        fewer, then = drawn(0, *some)
        assert all(torch.equal(whole[name], value) for name, value in fewer.items())
        assert torch.equal(then, after)  # nor do those of what is built next
    assert not torch.equal(whole["image.weight"], whole["text.weight"])
    assert not torch.equal(whole["image.weight"], drawn(1, IMAGE)[0]["image.weight"])
