"""A modality is encoded when it is first asked for, and once."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from polyclinic.schema import Modality, Tokens
from polyclinic.tokens import Encoded, phantom

IMAGE, TEXT, TABLE = Modality.IMAGE, Modality.TEXT, Modality.TABLE


def made(reads: list[Modality]) -> Encoded:
    weight = torch.ones((), requires_grad=True)

    def read(modality: Modality) -> tuple[Tokens, Tokens]:
        reads.append(modality)
        spec = phantom.encoders()[modality]
        ragged = phantom.ragged(spec.standard(), {"a": 1, "b": 2})
        with torch.no_grad():
            tokens = spec.build(phantom.fingerprint()).embed(ragged)
        tokens = replace(tokens, values=weight * tokens.values)
        return tokens, tokens

    return Encoded([IMAGE, TEXT], read, lambda m, tokens: replace(tokens, values=tokens.values @ torch.ones(16, 3)))


def test_it_is_read_when_it_is_asked_for() -> None:
    reads: list[Modality] = []
    encoded = made(reads)
    assert (list(encoded), len(encoded), TEXT in encoded, TABLE in encoded, reads) == (
        [IMAGE, TEXT],
        2,
        True,
        False,
        [],
    )
    assert encoded[TEXT] is encoded[TEXT]
    assert encoded.own(TEXT) is encoded.own(TEXT)
    assert reads == [TEXT]
    torch.testing.assert_close(encoded[TEXT].values, encoded.own(TEXT).values.sum(1, keepdim=True).expand(-1, 3))
    assert dict(encoded).keys() == {IMAGE, TEXT}
    assert reads == [TEXT, IMAGE]
    for ask in (encoded.__getitem__, encoded.own):
        with pytest.raises(KeyError, match="table"):
            ask(TABLE)


def test_gradients_are_as_they_were_when_it_was_made() -> None:
    """One that asks without gradients does not take them from those who ask after it, nor the other way round."""
    encoded = made([])
    with torch.no_grad():
        first, fixed = encoded[TEXT], made([])
    assert first.values.requires_grad
    assert encoded.own(TEXT).values.requires_grad
    assert not fixed[TEXT].values.requires_grad
