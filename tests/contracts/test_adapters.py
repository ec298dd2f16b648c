"""Every adapter, in our own networks and in imported ones, keeps the same promises."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import snapshots
from polyclinic.fusion import Early, Fusion, Intermediate, Late
from polyclinic.harmonise import Fingerprint
from polyclinic.harmonise.fingerprint import Scale
from polyclinic.models import Model, TwoTower, build_model, save_weights
from polyclinic.models.adapters import (
    AdapterError,
    AdapterSpec,
    Bitfit,
    Bottleneck,
    Dora,
    Lora,
    Prefix,
    Prompt,
    additions,
    fold,
    learned,
    put,
    replace,
    restore,
    settle,
    sharing,
)  # fmt: skip
from polyclinic.schema import Batch, Modality, Ragged
from polyclinic.tokens import PretrainedImage, PretrainedText, Programmes, Vit

KINDS: dict[str, Any] = {
    "lora": Lora(rank=2),
    "dora": Dora(rank=2),
    "adapter": Bottleneck(size=4),
    "prompt": Prompt(length=3),
    "prompt in the encoders": Prompt(length=3, where="encoders"),
    "prefix": Prefix(length=3),
    "bitfit": Bitfit(),
}
UNLIKE_AT_THE_START = ("prompt", "prefix")
"""Tokens and keys that are there change the answer before they have learned."""
every = pytest.mark.parametrize("kind", KINDS)
FINGERPRINT = Fingerprint(genes={f"g{n}": Scale(n, 0.0, 1.0, 10) for n in range(12)})


def test_the_union_is_all_here() -> None:
    assert {type(spec) for spec in KINDS.values()} == set(get_args(get_args(AdapterSpec)[0]))


def ours(fusion: Any = None) -> Model:
    encoders = {
        Modality.IMAGE: Vit(size=32, patch=8, width=16, depth=2, heads=2),
        Modality.OMICS: Programmes(genes=12, width=16, depth=1, heads=2),
    }
    fusion = fusion or Intermediate(style="self_attention", depth=2, heads=2)
    return build_model(TwoTower(width=16, embedding=8, fusion=fusion), encoders, FINGERPRINT, 0).eval()


def imported() -> Model:
    encoders: dict[Modality, Any] = {
        Modality.IMAGE: PretrainedImage(folder=str(snapshots.folder("dinov2"))),
        Modality.TEXT: PretrainedText(folder=str(snapshots.folder("bert"))),
    }
    spec = TwoTower(width=16, embedding=8, fusion=Intermediate(style="self_attention", depth=1, heads=2))
    return build_model(spec, encoders, FINGERPRINT, 0).eval()


NETWORKS: dict[str, Callable[[], Model]] = {"ours": ours, "imported": imported}
networks = pytest.mark.parametrize("network", NETWORKS)


def batch(model: Model, *has: tuple[Modality, ...]) -> Batch:
    """Patients who have these; each their own pictures, words or genes, whoever else is there."""
    payloads = {}
    for modality in model.modalities:
        who = [n for n, own in enumerate(has) if modality in own]
        if not who:
            continue
        values: list[Tensor] = []
        for n in who:
            draw = torch.Generator().manual_seed(n)
            match modality:
                case Modality.IMAGE:
                    values.append(torch.randn(1, 32, 32, generator=draw))
                case Modality.TEXT:
                    values.append(torch.randint(5, snapshots.VOCABULARY, (4 + 3 * n,), generator=draw))
                case _:
                    values.append(torch.randn(12, generator=draw))
        whole: Any = values if modality is Modality.TEXT else torch.stack(values)
        ragged = Ragged(whole, torch.tensor(who), torch.zeros(len(who)), None, len(has), [str(n) for n in who])
        payloads[modality] = ragged
    return Batch(payloads, {}, [str(n) for n in range(len(has))])


def everyone(model: Model) -> Batch:
    one, other = model.modalities
    return batch(model, (one, other), (one,), (other,), (one, other))


def said(model: Model, of: Batch | None = None) -> Tensor:
    with torch.no_grad():
        return model(everyone(model) if of is None else of).pooled


def teach(model: Model, seed: int = 0) -> None:
    """A few steps towards vectors drawn from a seed."""
    free = [p for p in model.parameters() if p.requires_grad]
    adam, of = torch.optim.Adam(free, lr=0.03), everyone(model)
    wanted = torch.randn(len(of.patients), 16, generator=torch.Generator().manual_seed(seed))
    for _ in range(4):
        (model(of).pooled - wanted).square().mean().backward()
        adam.step()
        adam.zero_grad(set_to_none=True)
    settle(model.requires_grad_(False))


def adapted(network: str, kind: str, seed: int = 0) -> Model:
    model = NETWORKS[network]()
    put(model, [KINDS[kind]], seed)
    teach(model, seed)
    return model


def plain(model: nn.Module) -> dict[str, Tensor]:
    own = {id(p) for _, _, one in additions(model) for p in one.parameters()}
    return {n: t.detach().clone() for n, t in (*model.named_parameters(), *model.named_buffers()) if id(t) not in own}


@networks
@every
def test_what_is_frozen_stays_to_the_bit_and_what_it_added_learns(network: str, kind: str) -> None:
    model = NETWORKS[network]()
    before, answer = plain(model), said(model)
    put(model, [KINDS[kind]], 0)
    free = {n for n, p in model.named_parameters() if p.requires_grad}
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    if not kind.startswith(UNLIKE_AT_THE_START):
        assert torch.equal(said(model), answer)
    teach(model)
    after = plain(model)
    assert before.keys() == after.keys()  # the names are what they were
    moved = {n for n, t in after.items() if not torch.equal(t, before[n])}
    assert all(n.endswith("bias") for n in moved) if kind == "bitfit" else not moved
    assert free == ({n for n in before if n.endswith("bias")} if kind == "bitfit" else free - before.keys())
    now = {n: p for n, p in model.named_parameters() if n in free}
    unread = ("project.",)  # nothing that a task reads comes through it
    still = {n for n, p in now.items() if torch.equal(p, start[n]) and not n.startswith(unread)}
    # Keys have a bias that no softmax hears.
    assert len(still) < 0.15 * len(now), sorted(still)
    assert not torch.allclose(said(model), answer, atol=1e-3)


@networks
@every
def test_written_and_put_back_it_gives_the_same_bits(network: str, kind: str, tmp_path: Any) -> None:
    model = adapted(network, kind)
    base = NETWORKS[network]()
    changed = {n: t for n, t in plain(model).items() if not torch.equal(t, plain(base)[n])}
    save_weights(tmp_path / "a.safetensors", learned(model) | {f"model.{n}": t for n, t in changed.items()}, {})
    kept = load_file(tmp_path / "a.safetensors")
    for name in [n for n in kept if n.startswith("model.")]:
        replace(base, name.removeprefix("model."), kept.pop(name))
    restore(base, [KINDS[kind]], kept)
    assert torch.equal(said(base), said(model))


@networks
@every
def test_an_adapter_is_a_small_part_of_its_network(network: str, kind: str) -> None:
    """At a width of 16 and a rank of 2; the share falls with the width."""
    model = adapted(network, kind)
    own = sum(t.numel() for t in learned(model).values())
    whole = sum(p.numel() for p in NETWORKS[network]().parameters())
    assert 0 < own < 0.35 * whole if kind != "bitfit" else own == 0


@networks
@every
def test_absence_and_isolation_still_hold(network: str, kind: str) -> None:
    model = adapted(network, kind)
    one, other = model.modalities
    has = [(one, other), (one,), (other,), (), (one, other)]
    whole = model(batch(model, *has))
    assert whole.present.tolist() == [True, True, True, False, True]
    assert not whole.pooled[3].any()
    assert len(whole.tokens.values) == int(whole.tokens.lengths.sum()) == len(whole.tokens.patient)
    for n, own in enumerate(has):
        alone = [() if k != n else own for k in range(len(has))]
        answer = said(model, batch(model, *alone))
        torch.testing.assert_close(answer[n], whole.pooled[n].detach(), atol=1e-5, rtol=1e-5)
    # A modality that is dropped changes nothing of who has none of it, and is as if it had never been.
    without = said(model, batch(model, *[tuple(m for m in own if m is one) for own in has]))
    torch.testing.assert_close(without[1], whole.pooled[1].detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(without[0], said(model, batch(model, (one,)))[0], atol=1e-5, rtol=1e-5)


@networks
@every
def test_folded_is_unfolded(network: str, kind: str) -> None:
    model = adapted(network, kind)
    answer, before = said(model), {n: t.clone() for n, t in learned(model).items()}
    fold(model)
    torch.testing.assert_close(said(model), answer, atol=1e-5, rtol=1e-5)
    left = {type(one).__name__ for _, _, one in additions(model)}
    assert bool(left) is (kind not in ("lora", "dora", "bitfit"))
    if left:
        assert learned(model).keys() == before.keys()
        for _, host, one in additions(model):
            with pytest.raises(AdapterError, match="to be merged"):
                one.fold(host)


@networks
def test_several_on_one_backbone_know_nothing_of_each_other(network: str) -> None:
    """Each answers as it does alone, folded or not, and the backbone as it did; the weights are there once."""
    backbone = NETWORKS[network]().requires_grad_(False)
    answer, weights = said(backbone), plain(backbone)
    alone, shelf = {}, {}
    for number, kind in enumerate(KINDS):
        made = adapted(network, kind, number)
        alone[kind] = said(made)
        one = sharing(backbone)
        for name, tensor in plain(made).items():
            if not torch.equal(tensor, weights[name]):
                replace(one, name, tensor)
        restore(one, [KINDS[kind]], learned(made))
        shelf[kind] = one.eval()
    for kind, one in shelf.items():
        assert torch.equal(said(one), alone[kind]), kind
        fold(one)
    for kind, one in shelf.items():
        torch.testing.assert_close(said(one), alone[kind], atol=1e-5, rtol=1e-5)
    assert torch.equal(said(backbone), answer)
    assert all(torch.equal(t, weights[n]) for n, t in plain(backbone).items())
    fresh = sharing(backbone)
    mine = {t.data_ptr() for t in backbone.parameters()}
    assert {t.data_ptr() for t in fresh.parameters()} == mine
    assert fresh.encoders is not backbone.encoders


@networks
@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("low", ["lora", "dora"])
def test_mixed_they_are_each_still_there(network: str, order: int, low: str) -> None:
    """In whatever order they are named, put back they give the same bits."""
    specs = [KINDS[kind] for kind in ("prefix", low, "prompt", "adapter", "bitfit")][::order]
    model, base = NETWORKS[network](), NETWORKS[network]()
    put(model, specs, 0)
    teach(model)
    assert {one.kind for _, _, one in additions(model)} == {"prefix", low, "prompt", "adapter"}
    for name, tensor in plain(model).items():
        if not torch.equal(tensor, plain(base)[name]):
            replace(base, name, tensor)
    restore(base, specs[::-1], learned(model))
    answer = said(model)
    assert torch.equal(said(base), answer)
    fold(base)
    torch.testing.assert_close(said(base), answer, atol=1e-5, rtol=1e-5)


@networks
@every
def test_the_same_seed_gives_the_same_first_weights_and_the_world_s_randomness_is_left_alone(
    network: str, kind: str
) -> None:
    found, state = [], torch.get_rng_state()
    for seed in (0, 0, 1):
        model = NETWORKS[network]()
        torch.set_rng_state(state)
        put(model, [KINDS[kind]], seed)
        assert torch.equal(torch.get_rng_state(), state)
        found.append(learned(model))
    assert found[0].keys() == found[1].keys() == found[2].keys()
    assert all(torch.equal(t, found[1][n]) for n, t in found[0].items())
    if kind != "bitfit":
        assert any(not torch.equal(t, found[2][n]) for n, t in found[0].items())


@every
def test_what_nothing_went_through_is_left_out(kind: str) -> None:
    model = ours()
    put(model, [KINDS[kind]], 0)
    of, free = batch(model, (Modality.IMAGE,), (Modality.IMAGE,)), [p for p in model.parameters() if p.requires_grad]
    for _ in range(2):
        model(of).pooled.square().mul(torch.arange(16)).sum().backward()
        with torch.no_grad():
            for p in free:
                if p.grad is not None:
                    p -= 1e-2 * p.grad
        model.zero_grad(set_to_none=True)
    settle(model)
    assert not [n for n in learned(model) if n.startswith("encoders.omics")]
    if kind not in ("bitfit", "prompt"):
        assert [n for n in learned(model) if n.startswith("encoders.image")]


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "bitfit"])
def test_weights_of_another_network_are_refused(kind: str) -> None:
    model = adapted("ours", kind)
    kept = learned(model)
    fewer = ours(Intermediate(style="self_attention", depth=1, heads=2))
    if kind != "prompt":  # one token more or less in depth is read by whatever comes after it
        other = kept if kind != "prompt in the encoders" else {n.replace("image", "volume"): t for n, t in kept.items()}
        with pytest.raises(AdapterError, match="of no adapter here"):
            restore(fewer, [KINDS[kind]], other)
    first = next(iter(kept))
    with pytest.raises(AdapterError, match="use the backbone that the adapter was made on"):
        restore(ours(), [KINDS[kind]], kept | {first: kept[first][:-1]})
    with pytest.raises(AdapterError, match="of no adapter here"):
        restore(ours(), [Bitfit()], kept)


def test_a_weight_of_another_network_is_refused() -> None:
    for name, tensor in (("bridge.image.bias", torch.zeros(3)), ("bridge.signal.bias", torch.zeros(16))):
        with pytest.raises(AdapterError, match="use the backbone that the adapter was made on"):
            replace(ours(), name, tensor)


FUSIONS: dict[str, Any] = {
    "early": Early(depth=1, heads=2),
    "late": Late(),
    **{s: Intermediate(style=s, depth=2, heads=2) for s in ("class_tokens", "cross_attention", "bottleneck", "perceiver")},  # type: ignore[arg-type]
}  # fmt: skip


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_prompt_in_the_bag_wants_a_trunk_that_reads_it_whole(fusion: str) -> None:
    model = ours(FUSIONS[fusion])
    if fusion in ("late", "cross_attention", "bottleneck"):
        with pytest.raises(AdapterError, match="where: encoders"):
            put(model, [Prompt()], 0)
        return
    before = said(model)
    put(model, [Prompt(length=3)], 0)
    assert not torch.allclose(said(model), before, atol=1e-4)
    teach(model)
    assert learned(model)
    assert said(model).isfinite().all()


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("kind", ["lora", "prefix", "adapter"])
def test_every_fusion_has_a_place_for_them(fusion: str, kind: str) -> None:
    model = ours(FUSIONS[fusion])
    before = said(model)
    put(model, [KINDS[kind]], 0)
    teach(model)
    assert not torch.allclose(said(model), before, atol=1e-3)
    assert isinstance(model.fusion, Fusion)


@pytest.mark.parametrize("name", snapshots.IMAGE)
@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("prompt", "bitfit")])
def test_every_imported_network_of_images(name: str, kind: str) -> None:
    _imported(PretrainedImage(folder=str(snapshots.folder(name))), kind, torch.randn(2, 1, 32, 32))


@pytest.mark.parametrize("name", snapshots.TEXT)
@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("prompt", "bitfit")])
def test_every_imported_network_of_texts(name: str, kind: str) -> None:
    """Of one length, and of several, where the shorter are padded."""
    words = [
        torch.randint(5, snapshots.VOCABULARY, (n,), generator=torch.Generator().manual_seed(n)) for n in (5, 5, 9)
    ]
    _imported(PretrainedText(folder=str(snapshots.folder(name))), kind, words)


def _imported(spec: Any, kind: str, values: Any) -> None:
    encoder = spec.build(Fingerprint()).eval()
    count = len(values)
    ragged = Ragged(values, torch.arange(count), torch.zeros(count), None, count, [str(n) for n in range(count)])
    before = encoder(ragged).values.detach()
    put(encoder, [KINDS[kind]], 0)
    hosts = [n for n, _, _ in additions(encoder)]
    assert len(hosts) >= (1 if kind.startswith("prompt") else 2 if kind == "prefix" else 4), hosts
    frozen = {n: p.clone() for n, p in encoder.named_parameters() if not p.requires_grad}
    free = [p for p in encoder.parameters() if p.requires_grad]
    assert free
    adam = torch.optim.Adam(free, lr=0.05)
    for _ in range(2):
        encoder(ragged).values.square().mul(torch.arange(snapshots.WIDTH)).sum().backward()
        assert any(p.grad is not None for p in free)
        adam.step()
        adam.zero_grad()
    encoder.requires_grad_(False)
    after = encoder(ragged).values
    assert after.shape == before.shape
    assert not torch.allclose(after, before, atol=1e-3)
    assert all(torch.equal(p, dict(encoder.named_parameters())[n]) for n, p in frozen.items())
    for n in range(count):  # each record as if it were alone
        one = values[n : n + 1]
        alone = encoder(Ragged(one, torch.zeros(1, dtype=torch.int64), torch.zeros(1), None, 1, ["0"])).values
        rows = encoder(ragged).record == n
        torch.testing.assert_close(alone, after[rows], atol=1e-5, rtol=1e-4)
    again = copy.deepcopy(encoder)
    assert torch.equal(again(ragged).values, after)


def test_a_causal_network_stays_causal_with_learned_keys_and_tokens() -> None:
    """A word's hidden state knows none after it."""
    for name in ("llama", "qwen3", "clip"):
        for kind in ("prefix", "prompt in the encoders"):
            encoder = PretrainedText(folder=str(snapshots.folder(name))).build(Fingerprint()).eval()
            put(encoder, [KINDS[kind]], 0)
            words = torch.arange(5, 15)
            changed = words.clone()
            changed[-1] = 40
            one, other = (
                encoder(Ragged([w], torch.zeros(1, dtype=torch.int64), torch.zeros(1), None, 1, ["0"])).values
                for w in (words, changed)
            )
            torch.testing.assert_close(one[:-1], other[:-1], atol=1e-6, rtol=1e-6)
            assert not torch.allclose(one[-1], other[-1], atol=1e-4)
