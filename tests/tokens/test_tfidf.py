from __future__ import annotations

import torch

from polyclinic.harmonise import Fingerprint
from polyclinic.schema import Ragged
from polyclinic.tokens import Tfidf, TfidfEncoder, phantom


def encoder(width: int = 16, directions: int = 100) -> TfidfEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Tfidf(width=width, heads=2, directions=directions).build(phantom.fingerprint()).eval()


def notes(values: torch.Tensor, patient: list[int]) -> Ragged:
    m = len(values)
    return Ragged(
        list(values), torch.tensor(patient), torch.zeros(m), None, 1 + max(patient), [str(n) for n in range(m)]
    )


def test_a_note_of_which_nothing_is_known_is_no_token() -> None:
    """As a patient without it: what is not there has no tokens."""
    rows = torch.zeros(3, phantom.WORDS)
    rows[0, 3], rows[2, 5] = 1.0, 1.0
    tokens = encoder()(notes(rows, [0, 1, 1]))
    assert tokens.record.tolist() == [0, 2]
    assert tokens.lengths.tolist() == [1, 1]
    nothing = encoder()(notes(rows[1:2], [0]))
    assert nothing.lengths.tolist() == [0]


def test_how_far_two_notes_are_apart_is_kept() -> None:
    """Where the width has room the map is an isometry but for its scale: a head's ridge is then one on the terms themselves."""
    made, rows = encoder(), torch.rand(6, phantom.WORDS)
    embedded = made.embed(notes(rows, list(range(6)))).values
    apart = torch.pdist(rows @ made.directions.T)
    torch.testing.assert_close(torch.pdist(embedded) / apart, torch.full_like(apart, 0.3 * 16**0.5), rtol=1e-4, atol=0)


def test_of_no_notes_there_are_no_tokens() -> None:
    empty = Ragged([], torch.zeros(0, dtype=torch.int64), torch.zeros(0), None, 2, [])
    assert encoder()(empty).lengths.tolist() == [0, 0]


def test_before_a_note_was_read_the_number_of_directions_is_the_specifications() -> None:
    made = Tfidf(width=16, heads=2, directions=7).build(Fingerprint(terms={"a": 1.0, "b": 1.0}))
    assert made.directions.shape == (7, 2)
    assert made.weight.shape == (7, 16)
