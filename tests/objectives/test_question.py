from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from polyclinic.fusion import Early, Intermediate
from polyclinic.models import Model, TwoTower, build_model
from polyclinic.objectives import Finding, ObjectiveError, Question, QuestionObjective
from polyclinic.objectives.question import Asked
from polyclinic.schema import Batch, Modality, Ragged, Target
from polyclinic.tokens import phantom
from polyclinic.tokens.packing import copies

ENCODERS = phantom.encoders()
STANDARDS = {m: s.standard() for m, s in ENCODERS.items()}
ONE, OTHER, THIRD = torch.tensor([2, 5, 7]), torch.tensor([2, 6]), torch.tensor([2, 4, 9, 8])
TASKS = {
    "finding": Finding(Modality.TABLE, ("finding",), (ONE, OTHER)),
    "death": Finding(Modality.TABLE, ("death",), (THIRD,), "survival", (Modality.IMAGE, Modality.TABLE)),
}
IMAGE, TEXT = {Modality.IMAGE: 1}, {Modality.TEXT: 2}
STYLES = ("self_attention", "class_tokens", "cross_attention", "bottleneck")
FUSIONS = [Early(depth=1, heads=2), *(Intermediate(style=style, depth=2, heads=2) for style in STYLES)]


def model(fusion: Any = FUSIONS[1]) -> Model:
    return build_model(TwoTower(width=16, embedding=16, fusion=fusion), ENCODERS, phantom.fingerprint(), 0).eval()


def built(net: Model, tasks: tuple[str, ...] = ("finding", "death")) -> QuestionObjective:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = Question(tasks=tasks).build(net, TASKS)
    assert isinstance(made, QuestionObjective)
    return made


def batch(has: list[dict[Modality, int]]) -> Batch:
    return phantom.batch(STANDARDS, {f"p{n}": own for n, own in enumerate(has)})


def answer(net: Model, data: Batch, *asked: Asked) -> list[Tensor]:
    with torch.no_grad():
        return built(net).answer(net, net.encode(data), list(asked))


@pytest.mark.parametrize("fusion", FUSIONS, ids=lambda f: getattr(f, "style", f.kind))
def test_an_answer_depends_on_the_question_and_the_patient_and_on_nobody_else(fusion: Any) -> None:
    """Many questions of many patients at once are each one alone."""
    net, has = model(fusion), [IMAGE | TEXT, TEXT, {Modality.TABLE: 1}, IMAGE | {Modality.VOLUME: 1}]
    data = batch(has)
    asked = [
        Asked(ONE, "class", torch.tensor([0, 1, 3])),
        Asked(OTHER, "class", torch.tensor([0, 1, 2, 3])),
        Asked(THIRD, "survival", torch.tensor([0, 3])),
    ]
    together = answer(net, data, *asked)
    assert [len(said) for said in together] == [3, 4, 2]
    for question, said in zip(asked, together, strict=True):
        for row, patient in enumerate(question.patients.tolist()):
            only = {m: r.only(torch.nonzero(r.patient == patient).flatten().tolist()) for m, r in data.payloads.items()}
            only = {m: replace(r, patient=torch.zeros_like(r.patient), patients=1) for m, r in only.items() if len(r)}
            (alone,) = answer(net, Batch(only, {}, ["a"]), replace(question, patients=torch.tensor([0])))
            torch.testing.assert_close(said[row : row + 1], alone, atol=1e-5, rtol=1e-5)
    first, second = together[0], together[1][[0, 1, 3]]
    assert not torch.isclose(first, second, atol=1e-4).any()  # another question
    assert len(set(first.tolist())) == 3  # another patient


def test_each_question_is_read_once() -> None:
    """The stage's own, by which all are standardised, and another that is asked; a question that is both is not read twice."""
    net, read = model(), []
    net.encoder(Modality.TEXT).register_forward_hook(
        lambda _, given, __: read.append([w.tolist() for w in given[0].values])
    )
    new = torch.tensor([2, 9, 5])
    asked = [Asked(words, "class", torch.tensor([0, 1])) for words in (OTHER, new, OTHER, new)]
    first, second, *again = answer(net, batch([IMAGE, IMAGE]), *asked)
    assert read == [[w.tolist() for w in (ONE, OTHER, THIRD, new)]]
    torch.testing.assert_close(again, [first, second])
    assert not torch.isclose(first, second, atol=1e-4).any()


def test_only_what_may_be_read_is_read() -> None:
    net = model()
    data, less = batch([IMAGE | TEXT, IMAGE | TEXT]), batch([IMAGE, IMAGE])
    question = Asked(ONE, "class", torch.tensor([0, 1]), (Modality.IMAGE,))
    torch.testing.assert_close(answer(net, data, question), answer(net, less, question))
    free = answer(net, data, replace(question, inputs=None))
    assert not torch.allclose(free[0], answer(net, data, question)[0], atol=1e-4)


def test_a_question_is_no_note_of_the_patients() -> None:
    """The same words, as a note and as a question, are told apart."""
    net = model()
    note = Ragged([ONE], torch.tensor([0]), torch.zeros(1), None, 1, ["n"])
    objective, data = built(net), Batch({Modality.TEXT: note}, {}, ["a"])
    with torch.no_grad():
        (marked,) = objective.answer(net, net.encode(data), [Asked(ONE, "class", torch.tensor([0]))])
        objective.mark.zero_()
        (unmarked,) = objective.answer(net, net.encode(data), [Asked(ONE, "class", torch.tensor([0]))])
    assert not torch.isclose(marked, unmarked, atol=1e-4).any()


def test_who_is_not_labelled_or_cannot_be_read_is_in_no_loss() -> None:
    net, draws = model(), torch.Generator()
    objective = built(net, ("death",))
    data = batch([IMAGE, TEXT, IMAGE, IMAGE])
    data.targets["death"] = Target(
        torch.tensor([[3.0, 1], [1, 1], [5, 0], [9, 9]]), torch.tensor([True, True, True, False])
    )
    fewer = batch([IMAGE, {}, IMAGE])
    fewer.targets["death"] = Target(torch.tensor([[3.0, 1], [1, 1], [5, 0]]), torch.tensor([True, False, True]))
    torch.testing.assert_close(
        objective(net, data, draws).terms["question/death"], objective(net, fewer, draws).terms["question/death"]
    )
    nobody = batch([TEXT, TEXT])
    nobody.targets["death"] = Target(torch.tensor([[3.0, 1], [5, 0]]), torch.tensor([True, True]))
    assert objective(net, nobody, draws).terms == {}


def test_each_of_several_findings_is_a_question_of_its_own() -> None:
    """With the share of its task's weight, of those of whom it is known; one task is as many questions as it has findings."""
    net, draws = model(), torch.Generator()
    one, other = (Finding(Modality.TABLE, (name,), (words,)) for name, words in (("large", OTHER), ("grown", THIRD)))
    tasks = {
        "signs": Finding(Modality.TABLE, ("large", "grown"), outcome="findings", parts=(one, other)),
        "ill": TASKS["finding"],
    }
    tasks["ill"] = replace(tasks["ill"], words=(ONE,))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        objective = Question(tasks=("signs", "ill"), weight=2.0).build(net, tasks)
    data = batch([IMAGE, TEXT, IMAGE, IMAGE])
    signs = torch.tensor([[1.0, float("nan")], [0, 1], [9, 9], [1, 0]])
    data.targets |= {
        "signs": Target(signs, torch.tensor([True, True, False, True])),
        "ill": Target(torch.tensor([1.0, 0, 0, 1]), torch.ones(4, dtype=torch.bool)),
    }
    found = objective(net, data, draws)
    assert {name: float(weight) for name, weight in found.weights.items()} == {
        "question/signs/large": 0.5, "question/signs/grown": 0.5, "question/ill": 1.0,
    }  # fmt: skip
    with torch.no_grad():
        asked = [Asked(OTHER, "class", torch.tensor([0, 1, 3])), Asked(THIRD, "class", torch.tensor([1, 3]))]
        large, grown = objective.answer(net, net.encode(data), asked)
    loss = torch.nn.functional.binary_cross_entropy_with_logits
    torch.testing.assert_close(found.terms["question/signs/large"].detach(), loss(large, torch.tensor([1.0, 0, 1])))
    torch.testing.assert_close(found.terms["question/signs/grown"].detach(), loss(grown, torch.tensor([1.0, 0])))
    data.targets["signs"].values[2] = torch.tensor([0.0, 0.0])  # type: ignore[index]
    torch.testing.assert_close(objective(net, data, draws).terms, found.terms)


def test_ways_to_ask_are_drawn() -> None:
    net = model()
    objective, data = built(net, ("finding",)), batch([IMAGE, IMAGE, IMAGE])
    data.targets["finding"] = Target(torch.tensor([1.0, 0, 1]), torch.tensor([True] * 3))
    said = {
        float(objective(net, data, torch.Generator().manual_seed(n)).terms["question/finding"].detach())
        for n in range(8)
    }
    assert len(said) == 2


def test_it_learns_which_question_is_asked() -> None:
    """Of two patients the answers differ by the question: who does not hear it comes to a loss of log(2) / 2 and no lower."""
    torch.manual_seed(0)
    net = model(Intermediate(depth=2, heads=2)).train()
    tasks = {"yes": Finding(Modality.TABLE, ("yes",), (ONE,)), "no": Finding(Modality.TABLE, ("no",), (THIRD,))}
    objective = Question(tasks=("yes", "no")).build(net, tasks)
    data = batch([IMAGE, IMAGE, IMAGE, IMAGE])
    everyone = torch.ones(4, dtype=torch.bool)
    data.targets |= {
        "yes": Target(torch.tensor([1.0, 0, 0, 1]), everyone), "no": Target(torch.tensor([1.0, 1, 0, 0]), everyone),
    }  # fmt: skip
    optimiser = torch.optim.AdamW([*net.parameters(), *objective.parameters()], 3e-3)
    losses = []
    for step in range(240):
        total = objective(net, data, torch.Generator().manual_seed(step)).total
        assert total is not None
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        losses.append(float(total.detach()))
    assert losses[0] > 0.6
    assert losses[-1] < 0.15


def test_what_cannot_be_asked_is_refused() -> None:
    net = model()
    with pytest.raises(ObjectiveError, match="reads no words"):
        Question(tasks=("a",)).build(net, {"a": Finding(Modality.TABLE, ("a",))})
    with pytest.raises(ObjectiveError, match="'stage', of grade, as a question") as refused:
        Question(tasks=("stage",)).build(net, {"stage": Finding(Modality.TABLE, ("i", "ii"), outcome="grade")})
    assert "take `supervised`" in refused.value.remedy
    with pytest.raises(ObjectiveError, match="'a' and 'b' that read alike"):
        Question(tasks=("a", "b")).build(net, {name: Finding(Modality.TABLE, (name,), (ONE,)) for name in "ab"})
    with pytest.raises(ObjectiveError, match="of kind 'survival'"):
        built(net, ("finding",)).answer(net, net.encode(batch([IMAGE])), [Asked(THIRD, "survival", torch.tensor([0]))])


def test_copies_have_no_record_in_common() -> None:
    tokens = model().encode(batch([TEXT, IMAGE, TEXT]))[Modality.TEXT]
    made = copies(tokens, torch.tensor([2, -1, 0, 2]))
    assert made.lengths.tolist() == [tokens.lengths[2], 0, tokens.lengths[0], tokens.lengths[2]]
    assert torch.equal(made.values[: tokens.lengths[2]], tokens.values[tokens.patient == 2])
    assert torch.equal(made.values[-tokens.lengths[2] :], tokens.values[tokens.patient == 2])
    owners = [set(made.record[made.patient == n].tolist()) for n in range(4)]
    assert len(set().union(*owners)) == sum(map(len, owners)) == 6
    assert bool((made.record.diff() >= 0).all())
    assert copies(tokens, torch.zeros(0, dtype=torch.int64)).lengths.tolist() == []
