"""Prompts and prefixes against what they say they are, written out by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import snapshots
from polyclinic.harmonise import Fingerprint
from polyclinic.models.adapters import Bottleneck, Prefix, Prompt, additions, put
from polyclinic.schema import Ragged
from polyclinic.tokens import Layout, PretrainedImage, Rotary, Style, Transformer

PLAIN = Style()
DECODER = Style(norm="rms", activation="swiglu", bias=False, causal=True, groups=1, rotary=Rotary())
styles = pytest.mark.parametrize("style", [PLAIN, DECODER], ids=["encoder", "decoder"])


def transformer(style: Style) -> Transformer:
    torch.manual_seed(0)
    return Transformer(16, depth=2, heads=2, style=style).eval()


def tokens(*lengths: int) -> tuple[Tensor, Layout]:
    x = torch.randn(sum(lengths), 16, generator=torch.Generator().manual_seed(1))
    return x, Layout.of(torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)))


def weights(module: Any) -> list[Any]:
    return [one for _, _, one in additions(module)]


def test_a_prompt_is_so_many_tokens_before_the_sequence() -> None:
    trunk, (x, layout) = transformer(PLAIN), tokens(3, 30, 7)
    learned = torch.randn(4, 16)
    whole = trunk(torch.cat([learned, x[33:]]), Layout.of(torch.zeros(11, dtype=torch.int64)))[4:]
    put(trunk, [Prompt(length=4)], 0)
    weights(trunk)[0].tokens.data.copy_(learned)
    torch.testing.assert_close(trunk(x, layout)[33:], whole, atol=1e-5, rtol=1e-5)
    assert trunk(x, layout=layout).shape == x.shape


def test_a_prefix_is_so_many_keys_and_values_before_the_tokens() -> None:
    """Softmax over the learned keys and the sequence's own (Li & Liang 2021, section 4.2)."""
    trunk, (x, layout) = transformer(PLAIN), tokens(3, 7)
    put(trunk, [Prefix(length=4)], 0)
    block = trunk.layers[0]
    own = weights(trunk)[0]
    torch.nn.init.normal_(own.keys)
    torch.nn.init.normal_(own.values)
    q, k, v = block.attention.qkv(x[3:]).view(7, 3, 2, 8).permute(1, 2, 0, 3)
    keys, values = (torch.cat([p.view(4, 2, 8).transpose(0, 1), t], 1) for p, t in ((own.keys, k), (own.values, v)))
    wanted = block.attention.out(F.scaled_dot_product_attention(q, keys, values).transpose(0, 1).flatten(1))
    torch.testing.assert_close(block.attention(x, trunk.sight(layout))[3:], wanted, atol=1e-5, rtol=1e-5)


@styles
@pytest.mark.parametrize(
    "spec", [Prompt(length=3), Prefix(length=3), Bottleneck(size=4)], ids=["prompt", "prefix", "adapter"]
)
@pytest.mark.parametrize("lengths", [(5, 5), (3, 40, 7)], ids=["alike", "unlike"])
def test_side_by_side_is_one_at_a_time(style: Style, spec: Any, lengths: tuple[int, ...]) -> None:
    trunk, (x, layout) = transformer(style), tokens(*lengths)
    plain = trunk(x, layout)
    put(trunk, [spec], 0)
    for one in weights(trunk):
        for parameter in one.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    together = trunk(x, layout)
    assert not torch.allclose(together, plain, atol=1e-2)
    for number, part in enumerate(x.split(lengths)):
        alone = trunk(part, Layout.of(torch.zeros(len(part), dtype=torch.int64)))
        torch.testing.assert_close(together.split(lengths)[number], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("spec", [Prompt(length=3), Prefix(length=3)], ids=["prompt", "prefix"])
@pytest.mark.parametrize("lengths", [(4, 4), (2, 6, 3)], ids=["alike", "unlike"])
def test_a_decoder_that_remembers_says_what_it_says_of_the_whole(spec: Any, lengths: tuple[int, ...]) -> None:
    """The learned tokens come once, before the first, and further tokens see them."""
    trunk, (x, layout) = transformer(DECODER), tokens(*lengths)
    put(trunk, [spec], 0)
    ends, whole = torch.tensor(lengths).cumsum(0) - 1, trunk(x, layout)
    starts = torch.ones(len(x), dtype=torch.bool)
    starts[ends] = False
    group, memory = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)), trunk.memory()
    with torch.no_grad():  # as a decoder writes: attention of one word has a kernel of its own there
        first = trunk(x[starts], Layout.of(group[starts], together=True), memory=memory)
        further = trunk(x[ends], Layout.of(torch.arange(len(lengths))), memory=memory)
    torch.testing.assert_close(first, whole[starts], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(further, whole[ends], atol=1e-5, rtol=1e-5)


def test_in_an_imported_network_a_prefix_is_before_the_keys_of_every_head() -> None:
    """Of its first layer, by hand: what the layer's own projections make of normed embeddings, and torch's attention."""
    encoder = PretrainedImage(folder=str(snapshots.folder("vit")), layer=1).build(Fingerprint()).eval()
    network: Any = encoder.backbone.network
    put(encoder, [Prefix(length=4)], 0)
    layer = network.layers[0]
    seen: dict[str, Tensor] = {}
    layer.attention.register_forward_hook(lambda _, args, named, out: seen.update(x=named.get("hidden_states", *args[:1]), out=out[0]),
                                          with_kwargs=True)  # fmt: skip
    picture = torch.randn(1, 1, 32, 32)
    encoder(Ragged(picture, torch.zeros(1, dtype=torch.int64), torch.zeros(1), None, 1, ["0"]))
    heads = lambda t: t.view(-1, 2, 8).transpose(0, 1)
    q, k, v = (heads(getattr(layer.attention, f"{n}_proj")(seen["x"][0])) for n in "qkv")
    own = layer.attention.prefix
    keys, values = torch.cat([heads(own.keys), k], 1), torch.cat([heads(own.values), v], 1)
    wanted = layer.attention.o_proj(F.scaled_dot_product_attention(q, keys, values).transpose(0, 1).flatten(1))
    torch.testing.assert_close(seen["out"][0], wanted, atol=1e-5, rtol=1e-5)


def test_a_bottleneck_is_down_gelu_up_beside_what_attention_and_perceptron_say() -> None:
    """h + U gelu(D h) (Houlsby et al. 2019, section 2.1), two a block and nowhere else."""
    trunk = transformer(PLAIN)
    put(trunk, [Bottleneck(size=4)], 0)
    hosts = {name for name, _, _ in additions(trunk)}
    assert hosts == {f"blocks.{n}.{end}" for n in (0, 1) for end in ("attention.out", "down")}
    layer = trunk.layers[1].down
    one: Any = layer.adapter
    for parameter in one.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(5, 64)
    h = F.linear(x, layer.weight, layer.bias)
    wanted = h + F.gelu(h @ one.narrow.T + one.narrow_bias) @ one.widen.T + one.widen_bias
    torch.testing.assert_close(layer(x), wanted, atol=1e-5, rtol=1e-5)
