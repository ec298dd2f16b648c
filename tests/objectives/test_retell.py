"""Retelling: learned of notes alone, written of whatever lies at a note's place; a language's word chooses the language."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from polyclinic.fusion import Late, Tower
from polyclinic.harmonise.text import FIRST
from polyclinic.models import Model, TwoTower, build_model
from polyclinic.objectives import ObjectiveError, Retell, RetellObjective
from polyclinic.schema import Batch, Modality, Ragged, Tokens
from polyclinic.tokens import Bert, Vit, phantom

SIZE: dict[str, Any] = {"width": 16, "depth": 1, "heads": 2}
EN, ES = 4, 5
NOTES = [[EN, 10, 11, 12], [EN, 10, 14], [ES, 20, 21, 12, 13], [ES, 30]]


def model(languages: tuple[str, ...] = ("en", "es")) -> Model:
    encoders = {
        Modality.IMAGE: Vit(size=32, patch=16, **SIZE),
        Modality.TEXT: Bert(words=8, languages=languages, **SIZE),
    }
    return build_model(TwoTower(width=16, embedding=16, fusion=Late()), encoders, phantom.fingerprint(), 0)


def ragged(values: Any, patient: list[int], patients: int) -> Ragged:
    n = len(patient)
    return Ragged(values, torch.tensor(patient), torch.zeros(n), None, patients, [str(i) for i in range(n)])


def notes(texts: list[list[int]], of: list[int] | None = None, patients: int | None = None) -> Batch:
    of = list(range(len(texts))) if of is None else of
    b = len(texts) if patients is None else patients
    return Batch({Modality.TEXT: ragged([torch.tensor(t) for t in texts], of, b)}, {}, [str(p) for p in range(b)])


def built(spec: Retell, net: Model) -> RetellObjective:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return spec.build(net, {})


def trained(net: Model, objective: RetellObjective, data: Batch, steps: int) -> None:
    adam = torch.optim.AdamW([*net.parameters(), *objective.parameters()], 5e-3)
    draws = torch.Generator().manual_seed(0)
    for _ in range(steps):
        total = objective(net, data, draws).total
        assert total is not None
        adam.zero_grad()
        total.backward()
        adam.step()


class OneSpace(nn.Module):
    """A model whose vectors are given: what a note says, and nothing of its language. An image of the kind k lies where notes of it do."""

    width = embedding = 16
    own_trunks = True
    modalities = (Modality.IMAGE, Modality.TEXT)

    def __init__(self, net: Model) -> None:
        super().__init__()
        self.net = net

    def encoder(self, modality: Modality) -> Any:
        return self.net.encoder(modality)

    def encode(self, batch: Batch) -> dict[Modality, Tokens]:
        return {m: _bare(m, r) for m, r in batch.payloads.items()}

    def towers(self, tokens: dict[Modality, Tokens]) -> dict[Modality, Tower]:
        return {m: Tower(torch.eye(16)[t.values[:, 0].long()], t.patient) for m, t in tokens.items()}


def _bare(modality: Modality, ragged: Ragged) -> Tokens:
    """A token a record, which holds its kind: a note's last word, an image's first pixel."""
    kinds = [int(v[-1]) % 10 if modality is Modality.TEXT else int(v.flatten()[0]) for v in ragged.values]
    n, at = len(kinds), ragged.patient
    rows = torch.arange(n)
    lengths = torch.bincount(at, minlength=ragged.patients)
    return Tokens(
        torch.tensor(kinds)[:, None].float(), at, torch.zeros(n), rows, torch.zeros(n, 4), torch.zeros(n), lengths
    )


def images(kinds: list[int], of: list[int], patients: int) -> Ragged:
    return ragged(torch.tensor(kinds).view(-1, 1, 1, 1).expand(-1, 1, 32, 32).float(), of, patients)


def test_an_image_is_written_of_in_either_language_though_it_never_had_a_note() -> None:
    """Kinds 0 to 2 in both languages, as notes of different people; no image is seen in training."""
    said = {EN: [[10, 20], [11, 21], [12, 12, 22]], ES: [[30, 40], [31, 41], [32, 32, 42]]}
    net = OneSpace(model())
    objective = built(Retell(width=32, heads=2, noise=0.5), net)  # type: ignore[arg-type]
    data = notes([[language, *words] for language, texts in said.items() for words in texts])
    trained(net, objective, data, 120)  # type: ignore[arg-type]
    # Patient 1 has no image and is not written of; patient 2's note of another kind is not read.
    batch = Batch(
        {Modality.IMAGE: images([2, 0, 1], [0, 2, 3], 4), **notes([[EN, 99]], [2], 4).payloads}, {}, list("abcd")
    )
    for language, word in (("en", EN), ("es", ES)):
        found = objective.write(net, batch, 6, language)  # type: ignore[arg-type]
        assert {who: words.tolist() for who, words in found.items()} == {
            0: said[word][2],
            2: said[word][0],
            3: said[word][1],
        }
    # A note is translated where text is asked for, and two modalities of a patient are one vector.
    spanish = objective.write(net, notes([[EN, 12, 22]]), 6, "es", modalities=[Modality.TEXT])  # type: ignore[arg-type]
    assert spanish[0].tolist() == said[ES][2]
    both = Batch({Modality.IMAGE: images([1, 1], [0, 0], 1), **notes([[EN, 11, 21]]).payloads}, {}, ["a"])
    assert objective.write(net, both, 6, "en", list(Modality))[0].tolist() == said[EN][1]  # type: ignore[arg-type]


@pytest.mark.parametrize("teach", [False, True])
def test_the_encoder_stays_as_it_is_unless_it_is_to_learn(teach: bool) -> None:
    net = model()
    objective = built(Retell(width=16, heads=2, teach=teach), net)
    before = [p.clone() for p in net.parameters()]
    trained(net, objective, notes(NOTES), 2)
    moved = [n for (n, p), was in zip(net.named_parameters(), before, strict=True) if not torch.equal(p, was)]
    assert bool(moved) == teach
    assert not [n for n in moved if ".image." in n]


def test_each_note_is_of_its_own_vector() -> None:
    """Several notes of a patient are written each from itself: another's does not matter."""
    net, draws = model(), lambda: torch.Generator().manual_seed(0)
    objective = built(Retell(width=16, heads=2, noise=0.0), net)
    term = lambda *which: objective(net, notes([NOTES[n] for n in which], [0] * len(which), 1), draws()).terms[
        "retell/text"
    ]
    words = [len(text) for text in NOTES]  # each word is asked for what comes next, the last for the end
    together = (words[0] * term(0) + words[2] * term(2)) / (words[0] + words[2])
    torch.testing.assert_close(term(0, 2), together)


def test_the_noise_is_as_long_as_it_says() -> None:
    net, heard = model(), list[Tensor]()
    objective = built(Retell(width=16, heads=2, noise=0.5), net)
    objective.spread.register_forward_hook(lambda _, inputs, out: heard.append(inputs[0].detach()))
    data = notes([NOTES[0]] * 500)
    own = net.towers(net.encode(data))[Modality.TEXT].vectors[0].detach()
    objective(net, data, torch.Generator().manual_seed(0))
    torch.testing.assert_close(heard[0].norm(dim=1), torch.ones(500))
    # Of a sum of a unit vector and noise of the length s at right angles, brought to unit length, 1 / √(1 + s²) is left.
    assert float((heard[0] @ own).mean().detach()) == pytest.approx(1 / (1 + 0.25) ** 0.5, abs=0.02)
    assert float(F.cosine_similarity(heard[0].mean(0), own, dim=0)) > 0.99


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValidationError, match="3 heads do not divide a width of 128"):
        Retell(heads=3)
    net = model(())
    objective = built(Retell(width=16, heads=2), net)
    with pytest.raises(ObjectiveError, match=r"a note in the language 'es'(.|\n)*one of none"):
        objective.write(net, notes(NOTES), 3, "es", [Modality.TEXT])
    assert objective.write(net, notes(NOTES), 3) == {}
    assert sorted(objective.write(net, notes([[FIRST, 9], [FIRST]]), 3, None, [Modality.TEXT])) == [0, 1]
