"""Of an instruction and its answer only the answer is asked for, and an answer only of its own instruction."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from polyclinic.fusion import Late
from polyclinic.harmonise import Fingerprint
from polyclinic.harmonise.text import FIRST, train_tokenizer
from polyclinic.models import Model, TwoTower, build_model
from polyclinic.objectives import Instruct, InstructObjective, ObjectiveError
from polyclinic.objectives.instruct import ANSWER
from polyclinic.objectives.language import END, words_of
from polyclinic.objectives.words import GREEDY, UNTOLD, Sampling
from polyclinic.schema import Batch, Modality, Ragged
from polyclinic.tokens import Bert, Gpt, Llama

LONGEST = 24
TOKENIZER = train_tokenizer(["write the note of what is said: answer now"] * 3, 128)
PAIRS: list[dict[str, Any]] = [
    {"instruction": "dialogue", "answer": "section", "prompt": "write the note: {text} now"},
    {"instruction": "question", "answer": "long answer"},
]


def model(encoder: Any = None) -> Model:
    encoder = encoder or Llama(words=LONGEST, vocabulary=128, width=16, depth=2, heads=2)
    spec = TwoTower(width=16, embedding=16, fusion=Late())
    return build_model(spec, {Modality.TEXT: encoder}, Fingerprint(tokenizer=TOKENIZER), 0)


def texts(rows: list[tuple[int, float, str, list[int]]]) -> Ragged:
    """Rows of patient, hour, kind, words after the first."""
    return Ragged(
        [torch.tensor([FIRST, *words]) for *_, words in rows], torch.tensor([p for p, *_ in rows]),
        torch.tensor([h for _, h, *_ in rows]), None, 1 + max(p for p, *_ in rows), [str(n) for n in range(len(rows))],
        kinds=[kind for _, _, kind, _ in rows],
    )  # fmt: skip


ROWS = [
    (0, 0.0, "section", [11, 12, 13]),
    (0, 0.0, "dialogue", [20, 21, 22, 23]),
    (0, 0.0, "advertisement", [44]),
    (1, 0.0, "question", [30, 31]),
    (1, 0.0, "long answer", [14]),
    (2, 0.0, "question", [32]),
]


def objective(of: Model, pairs: list[dict[str, Any]] = PAIRS) -> InstructObjective:
    return InstructObjective(Instruct.model_validate({"pairs": pairs}), of)


def test_the_loss_is_that_of_the_answers_words_read_one_text_at_a_time() -> None:
    """By hand: each text alone, the log-probability of each word of the answer and of its end."""
    llama = model()
    encoder = words_of(llama, "it")
    assert encoder.spelling is not None
    before, after = encoder.spelling("write the note: ").tolist(), encoder.spelling(" now").tolist()
    assert before
    assert after
    nats, words = 0.0, 0
    for prompt, answer in (
        ([*before, 20, 21, 22, 23, *after], [11, 12, 13]),
        ([30, 31], [14]),
    ):
        text = [FIRST, *prompt, ANSWER, *answer]
        alone = Ragged([torch.tensor(text)], torch.zeros(1, dtype=torch.int64), torch.zeros(1), None, 1, ["x"])
        chances = (encoder(alone).values @ encoder.words.weight.T).log_softmax(1)
        for place, word in enumerate([*answer, END], start=len(prompt) + 1):
            nats -= float(chances[place, word].detach())
            words += 1
    batch = Batch({Modality.TEXT: texts(ROWS)}, {}, ["a", "b", "c"])
    losses = objective(llama)(llama, batch, torch.Generator())
    assert words == 6
    assert float(losses.terms["instruct/text"].detach()) == pytest.approx(nats / words, rel=1e-5)


def test_only_what_belongs_together_is_asked() -> None:
    own = objective(model())
    assert own.found(texts(ROWS)) == [(0, 1, 0), (1, 3, 4)]
    two = [(0, 0.0, "question", [5]), (0, 0.0, "question", [6]), (0, 0.0, "long answer", [7])]
    assert own.found(texts(two)) == []  # which of both questions it answers, nobody knows
    later = [(0, 0.0, "question", [5]), (0, 8.0, "question", [6]), (0, 8.0, "long answer", [7])]
    assert own.found(texts(later)) == [(1, 1, 2)]
    other = [(0, 0.0, "question", [5]), (1, 0.0, "long answer", [7])]
    assert own.found(texts(other)) == []
    unknown = texts(ROWS)
    unknown.kinds = None
    assert own.found(unknown) == []


@settings(max_examples=60, deadline=None)
@given(said=st.integers(0, LONGEST - 1), replied=st.integers(0, LONGEST - 1), pair=st.integers(0, 1))
def test_what_does_not_fit_is_cut_and_a_cut_answer_has_no_end(said: int, replied: int, pair: int) -> None:
    own = OBJECTIVE
    rows = [(0, 0.0, "a", list(range(20, 20 + said))), (0, 0.0, "b", list(range(60, 60 + replied)))]
    ragged = texts(rows)
    text, wanted = own.put(ragged, pair, 0, 1, LONGEST)
    before, after, room = own.around[pair]
    assert len(text) == len(wanted) <= LONGEST
    begin = int((text == ANSWER).nonzero()[0])
    reply = text[begin + 1 :].tolist()
    assert reply == list(range(60, 60 + len(reply)))
    assert len(reply) >= min(replied, room // 2)
    kept = text[1 + len(before) : begin - len(after)].tolist()
    assert kept == list(range(20, 20 + len(kept)))
    assert len(reply) + len(kept) == min(said + replied, room) or len(reply) == replied
    assert wanted[:begin].eq(UNTOLD).all()
    assert wanted[begin:-1].tolist() == reply
    whole = len(reply) == replied and replied + 1 < LONGEST
    assert int(wanted[-1]) == (END if whole else UNTOLD)


OBJECTIVE = objective(model())


def test_a_reader_that_cannot_be_asked_is_refused() -> None:
    with pytest.raises(ObjectiveError, match="reads both ways"):
        objective(model(Bert(words=LONGEST, vocabulary=128, width=16, depth=1, heads=2)))
    with pytest.raises(ObjectiveError, match="prompt of"):
        objective(model(Gpt(words=6, vocabulary=128, width=16, depth=1, heads=2)))
    with pytest.raises(ValidationError, match="2 times"):
        objective(model(), [{"instruction": "a", "answer": "b", "prompt": "{text} {text}"}])


def test_the_answer_is_not_seen_by_what_comes_before_it() -> None:
    """Another answer leaves what the model says before it."""
    llama = model()
    own, encoder = objective(llama), words_of(llama, "it")

    def hidden(answer: list[int]) -> Tensor:
        ragged = texts([(0, 0.0, "question", [30, 31]), (0, 0.0, "long answer", answer)])
        text, _ = own.put(ragged, 1, 0, 1, LONGEST)
        return encoder(Ragged([text], ragged.patient[:1], ragged.time_h[:1], None, 1, ["x"])).values[:4]

    assert torch.equal(hidden([14, 15]), hidden([16, 17]))
    assert math.isfinite(float(hidden([14]).detach().sum()))


@pytest.mark.parametrize("kind", [Llama, Gpt])
@pytest.mark.parametrize("sampling", [GREEDY, Sampling(2.0, top_k=20)])
def test_what_is_remembered_is_what_reading_all_of_it_again_says(kind: type[Llama | Gpt], sampling: Sampling) -> None:
    """Instructions of several lengths, of which each answer ends in its own time."""
    net = model(kind(words=LONGEST, vocabulary=128, width=16, depth=2, heads=2))
    own, encoder, drawn = objective(net), words_of(net, "it"), torch.Generator().manual_seed(3)
    asked = texts([(n, 24.0 * n, "question", list(range(20, 21 + 3 * n))) for n in range(4)])
    with torch.no_grad():
        towards = encoder(asked).values.mean(0)
        encoder.words.weight[END] = (
            sampling.temperature * towards / towards.square().sum()
        )  # or an answer would hardly end
    before, after, room = own.around[0]
    whole = [torch.cat([t[:1], before, t[1 : 1 + room - 6], after, torch.tensor([ANSWER])]) for t in asked.values]
    going, answers = [0, 1, 2, 3], [list[int]() for _ in whole]
    for _ in range(6):
        again = replace(
            asked.only(going),
            values=[torch.cat([whole[n], torch.tensor(answers[n], dtype=torch.int64)]) for n in going],
        )
        tokens = encoder(again)
        last = torch.bincount(tokens.record).cumsum(0) - 1
        words = sampling.draw(tokens.values[last] @ encoder.words.weight.T, drawn).tolist()
        for n, word in zip(going, words, strict=True):
            answers[n] += [word] if word != END else []
        going = [n for n, word in zip(going, words, strict=True) if word != END]
        if not going:
            break
    found = own.write(net, asked, 0, 6, sampling, torch.Generator().manual_seed(3))
    assert [t.tolist() for t in found] == answers
    assert len({len(answer) for answer in answers}) > 1 or sampling is GREEDY


def test_what_was_learned_is_written() -> None:
    """Two questions with answers of their own, one of them longer than what may be written."""
    llama = model()
    own = objective(llama)
    rows = [
        (0, 0.0, "question", [30, 31]),
        (0, 0.0, "long answer", [14, 15]),
        (1, 0.0, "question", [32]),
        (1, 0.0, "long answer", [16, 17, 18, 19]),
    ]
    data, adam = Batch({Modality.TEXT: texts(rows)}, {}, ["a", "b"]), torch.optim.AdamW(llama.parameters(), 3e-3)
    for _ in range(200):
        total = own(llama, data, torch.Generator()).total
        assert total is not None
        adam.zero_grad()
        total.backward()
        adam.step()
    asked = texts([rows[0], rows[2]])
    assert [t.tolist() for t in own.write(llama, asked, 1, 8)] == [[14, 15], [16, 17, 18, 19]]
    assert [t.tolist() for t in own.write(llama, asked, 1, 3)] == [[14, 15], [16, 17, 18]]
