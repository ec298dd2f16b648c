"""Captions: a note is written from the patient's other records, of each patient's own, on top of the encoder or beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from polyclinic.fusion import Late
from polyclinic.harmonise import Fingerprint, harmonise
from polyclinic.harmonise.text import spelled, train_tokenizer
from polyclinic.models import Model, TwoTower, build_model
from polyclinic.objectives import Caption, CaptionObjective, Contrastive, Hybrid, ObjectiveError, Retell, Sampling
from polyclinic.objectives.caption import AttentionalPool
from polyclinic.objectives.embeddings import embeddings
from polyclinic.objectives.language import words_of
from polyclinic.phantom.report import Fact, realise
from polyclinic.schema import Batch, Modality, Payload, Ragged, Record
from polyclinic.tokens import Bert, Gpt, Llama, Vit, phantom

SIZE: dict[str, Any] = {"width": 16, "depth": 1, "heads": 2}
TEXT = {"bert": Bert(words=8, **SIZE), "gpt": Gpt(words=8, **SIZE), "llama": Llama(words=8, **SIZE)}
every_text = pytest.mark.parametrize("text", TEXT)


def model(text: str) -> Model:
    encoders = {Modality.IMAGE: Vit(size=32, patch=16, **SIZE), Modality.TEXT: TEXT[text]}
    return build_model(TwoTower(width=16, embedding=16, fusion=Late()), encoders, phantom.fingerprint(), 0)


def ragged(values: Any, patient: list[int], patients: int) -> Ragged:
    n = len(patient)
    return Ragged(values, torch.tensor(patient), torch.zeros(n), None, patients, [str(i) for i in range(n)])


def batch(images: Tensor | None, whose: list[int], texts: list[list[int]], of: list[int], patients: int) -> Batch:
    payloads = {Modality.IMAGE: ragged(images, whose, patients)} if images is not None else {}
    if texts:
        payloads[Modality.TEXT] = ragged([torch.tensor(t) for t in texts], of, patients)
    return Batch(payloads, {}, [str(p) for p in range(patients)])


def built(spec: Caption, net: Model) -> CaptionObjective:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return spec.build(net, {})


def pictures(kinds: Tensor, draws: torch.Generator) -> Tensor:
    """One of four quarters is bright."""
    out = 0.1 * torch.randn(len(kinds), 1, 32, 32, generator=draws)
    for image, kind in zip(out, kinds.tolist(), strict=True):
        image[0, 16 * (kind // 2) :, 16 * (kind % 2) :][:16, :16] += 2
    return out


NAMES = [[2, 10, 11, 12], [2, 10, 14], [2, 20, 21, 12, 13], [2, 30]]


@every_text
@pytest.mark.parametrize("queries", [0, 2])
def test_it_learns_to_say_what_it_is_shown(text: str, queries: int) -> None:
    net = model(text)
    objective = built(Caption(width=32, depth=2, heads=2, queries=queries), net)
    adam = torch.optim.AdamW([*net.parameters(), *objective.parameters()], 5e-3)
    draws = torch.Generator().manual_seed(0)
    for _ in range(150):
        kinds = torch.randint(0, 4, (16,), generator=draws)
        data = batch(pictures(kinds, draws), list(range(16)), [NAMES[k] for k in kinds.tolist()], list(range(16)), 16)
        total = objective(net, data, draws).total
        assert total is not None
        adam.zero_grad()
        total.backward()
        adam.step()
    # Patient 1 has no image and is not written of; patient 2 has two notes already, which are not read.
    data = batch(pictures(torch.tensor([3, 0, 2]), draws), [0, 2, 3], [[2, 4, 4], [2, 5]], [2, 2], 4)
    found = objective.write(net, data, 12)
    assert {who: words.tolist() for who, words in found.items()} == {0: NAMES[3][1:], 2: NAMES[0][1:], 3: NAMES[2][1:]}
    one, again = (
        objective.write(net, data, 5, None, Sampling(3.0), torch.Generator().manual_seed(1)) for _ in range(2)
    )
    assert all(torch.equal(one[who], again[who]) for who in one)


@pytest.mark.parametrize("kind", [Bert, Gpt, Llama])
def test_it_writes_the_language_that_is_asked_for(kind: type[Bert | Gpt | Llama]) -> None:
    """The phantom's radiologist says the same in English and Spanish; hardly a note begins with the word of no language."""
    facts = [
        Fact("nodule", "absent"),
        Fact("effusion", "present", "left"),
        Fact("nodule", "uncertain"),
        Fact("none", ""),
    ]
    spec = kind(words=24, vocabulary=256, languages=("en", "es"), **SIZE)
    said = {language: [realise(fact, 0, language) for fact in facts] for language in ("en", "es")}
    fingerprint = Fingerprint(train_tokenizer([*said["en"], *said["es"]] * 2, 256, ("en", "es")))

    def words(text: str, language: str) -> list[int]:
        note = Record("", "", None, Modality.TEXT, "note", "", attributes={"language": language})
        return harmonise(Payload(np.zeros(0), text=text), note, spec.standard(), fingerprint).array.tolist()

    notes = {language: [words(text, language) for text in texts] for language, texts in said.items()}
    encoders = {Modality.IMAGE: Vit(size=32, patch=16, **SIZE), Modality.TEXT: spec}
    net = build_model(TwoTower(width=16, embedding=16, fusion=Late()), encoders, fingerprint, 0)
    objective = built(Caption(width=32, depth=2, heads=2), net)
    adam = torch.optim.AdamW([*net.parameters(), *objective.parameters()], 5e-3)
    draws = torch.Generator().manual_seed(0)
    for _ in range(120):
        kinds = torch.arange(8) % 4
        told = [notes["en" if n < 4 else "es"][k] for n, k in enumerate(kinds.tolist())]
        total = objective(net, batch(pictures(kinds, draws), list(range(8)), told, list(range(8)), 8), draws).total
        assert total is not None
        adam.zero_grad()
        total.backward()
        adam.step()
    data = batch(pictures(torch.arange(4), draws), [0, 1, 2, 3], [], [], 4)
    for language in ("en", "es"):
        found = objective.write(net, data, 23, language)
        assert {who: said.tolist() for who, said in found.items()} == {n: w[1:] for n, w in enumerate(notes[language])}
        assert [spelled(found[n].tolist(), fingerprint) for n in range(4)] == [t.lower() for t in said[language]]
    with pytest.raises(ObjectiveError, match=r"a note in the language 'fr'(.|\n)*one of en, es"):
        objective.write(net, data, 23, "fr")


@every_text
def test_the_term_is_of_those_who_are_shown_anything(text: str) -> None:
    net, draws = model(text), torch.Generator().manual_seed(0)
    objective = built(Caption(width=32, heads=2), net)
    term = lambda data: objective(net, data, draws).terms["caption/text"]
    images = pictures(torch.tensor([0, 1]), draws)
    both = batch(images, [0, 1], [NAMES[0], NAMES[1]], [0, 1], 2)
    # Another patient with a note and no image changes nothing, nor does one with an image and no note.
    more = batch(images[[0, 1, 0]], [0, 1, 3], [NAMES[0], NAMES[1], NAMES[2]], [0, 1, 2], 4)
    torch.testing.assert_close(term(more), term(both))
    # Each patient's own: two patients are the mean of each alone, by words.
    alone = [term(batch(images[[n]], [0], [NAMES[n]], [0], 1)) for n in (0, 1)]
    torch.testing.assert_close(term(both), (4 * alone[0] + 3 * alone[1]) / 7)
    assert objective(net, batch(None, [], NAMES, [0, 1, 2, 3], 4), draws).terms == {}
    assert objective.write(net, batch(None, [], NAMES, [0, 1, 2, 3], 4), 5) == {}


def test_coca_goes_on_from_the_causal_encoder() -> None:
    net, draws = model("gpt"), torch.Generator().manual_seed(0)
    objective = built(Caption(width=32, heads=2), net)
    data = batch(pictures(torch.tensor([0]), draws), [0], [NAMES[0]], [0], 1)
    objective(net, data, draws).terms["caption/text"].backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in net.encoder(Modality.TEXT).blocks.parameters())
    bert = model("bert")
    beside = built(Caption(width=32, heads=2), bert)
    beside(bert, data, draws).terms["caption/text"].backward()
    assert all(p.grad is None for p in bert.encoder(Modality.TEXT).parameters())


def as_gpt2(encoder: Any) -> Any:
    """The trunk of a gpt encoder as the published network, without places of its own."""
    from transformers import GPT2Config, GPT2Model

    config = GPT2Config(vocab_size=4, n_positions=16, n_embd=16, n_layer=len(encoder.blocks.layers), n_head=2)
    other = GPT2Model(config).eval()
    theirs, ours = other.state_dict(), encoder.blocks.state_dict()
    theirs["wpe.weight"].zero_()
    names = {"norm1": "ln_1", "norm2": "ln_2", "attention.qkv": "attn.c_attn", "attention.out": "attn.c_proj"}
    names |= {"up": "mlp.c_fc", "down": "mlp.c_proj"}
    for name, value in ours.items():
        place = name.replace("blocks.", "h.").replace("norm.", "ln_f.") if name.startswith("norm.") else name
        for mine, other_name in names.items():
            place = place.replace(f"blocks.{name.split('.')[1]}.{mine}.", f"h.{name.split('.')[1]}.{other_name}.")
        theirs[place].copy_(value.T if value.ndim == 2 else value)
    return other


@torch.no_grad()
def test_cocas_class_token_is_what_is_compared() -> None:
    """Section 3.2 of Yu et al. 2022, by transformers' GPT-2 and CLIP: [CLS] stands behind the note, its unimodal output is the
    note's vector, and the caption is written from the words alone."""
    from transformers.models.clip.modeling_clip import image_text_contrastive_loss

    spec = Gpt(words=8, width=16, depth=2, heads=2, class_token=True)
    encoders = {Modality.IMAGE: Vit(size=32, patch=16, **SIZE), Modality.TEXT: spec}
    net = build_model(TwoTower(width=16, embedding=16, fusion=Late()), encoders, phantom.fingerprint(), 0)
    encoder = words_of(net, "it")
    assert encoder.class_token is not None
    encoder.class_token.mul_(10)
    data = batch(pictures(torch.arange(4), torch.Generator().manual_seed(0)), [0, 1, 2, 3], NAMES, [0, 1, 2, 3], 4)

    gpt2, project, vectors = as_gpt2(encoder), net.project["text"], []
    for note in NAMES:
        place = torch.zeros(len(note) + 1, 4)
        place[:, 3] = torch.arange(len(note) + 1)
        read = torch.cat([encoder.words.weight[note], encoder.class_token[None]])
        heard = gpt2(inputs_embeds=(read + encoder.position(place, torch.zeros(len(place))))[None]).last_hidden_state[
            0, -1
        ]
        vectors.append(F.normalize(project(net.bridge["text"](heard) + net.name["text"]), dim=0))
    images = F.normalize(net.project["image"](net.encode(data)[Modality.IMAGE].values.view(4, 4, 16).mean(1)), dim=1)
    expected = image_text_contrastive_loss(torch.stack(vectors) @ images.T / 0.07)

    hybrid = Hybrid(parts=(Contrastive(), Caption(width=32, heads=2, queries=2))).build(net, {})
    terms = hybrid(net, data, torch.Generator()).terms
    torch.testing.assert_close(terms["contrastive/image-text"], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        net.towers(net.encode(data))[Modality.TEXT].vectors, torch.stack(vectors), atol=1e-5, rtol=0
    )
    encoder.class_token = None
    without = hybrid(net, data, torch.Generator()).terms
    torch.testing.assert_close(terms["caption/text"], without["caption/text"], atol=1e-6, rtol=1e-5)
    assert abs(float(without["contrastive/image-text"] - expected)) > 1e-3


def test_several_notes_are_compared_by_the_mean_of_their_class_tokens_or_each_by_its_own() -> None:
    spec = Gpt(words=8, class_token=True, **SIZE)
    net = build_model(TwoTower(width=16, embedding=16, fusion=Late()), {Modality.TEXT: spec}, phantom.fingerprint(), 0)
    data = batch(None, [], NAMES, [0, 0, 2, 3], 4)
    ends = net.encode(data).ends(Modality.TEXT)
    tower = net.towers(net.encode(data))[Modality.TEXT]
    assert tower.patient.tolist() == [0, 2, 3]
    mean = torch.stack([ends.values[:2].mean(0), *ends.values[2:]])
    torch.testing.assert_close(tower.vectors, F.normalize(net.project["text"](mean), dim=1))
    each = embeddings(net, data, None, "record")[Modality.TEXT]
    torch.testing.assert_close(each.vectors, F.normalize(net.project["text"](ends.values), dim=1))
    retold = Retell(width=16, noise=0.0).build(net, {})
    assert retold(net, data, torch.Generator()).total is not None


def test_the_queries_look_at_their_own_patient() -> None:
    pool = AttentionalPool(16, 3, 2)
    net, draws = model("gpt"), torch.Generator().manual_seed(0)
    tokens = net.encode(batch(pictures(torch.tensor([0, 1]), draws), [0, 2], [], [], 3))[Modality.IMAGE]
    seen = pool(tokens)
    assert seen.group.tolist() == [0, 0, 0, 2, 2, 2]
    mine = tokens.values[tokens.patient == 2]
    h, e = 2, 8
    q = pool.look.query(pool.queries).view(3, h, e).transpose(0, 1)
    k, v = pool.look.kv(mine).view(len(mine), 2, h, e).permute(1, 2, 0, 3)
    heard = pool.look.out((torch.softmax(q @ k.mT / e**0.5, -1) @ v).transpose(0, 1).reshape(3, 16))
    torch.testing.assert_close(seen.values[3:], F.layer_norm(heard, (16,)), atol=1e-5, rtol=0)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValidationError, match="leave text out"):
        Caption(modalities=(Modality.TEXT,))
    with pytest.raises(ValidationError, match="3 heads do not divide a width of 128"):
        Caption(heads=3)
    assert words_of(model("gpt"), "it").causal
