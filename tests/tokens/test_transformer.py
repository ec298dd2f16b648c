"""The one Transformer is the literature's: parity with torch's own layer, whatever the lengths, the kernel and the precision."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polyclinic.tokens import transformer
from polyclinic.tokens.packing import Layout
from polyclinic.tokens.transformer import Attention, Transformer, attend

WIDTH, DEPTH, HEADS = 48, 3, 4


def groups(lengths: list[int]) -> Tensor:
    return torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def reference() -> nn.TransformerEncoder:
    """Torch's own, pre-norm, with the weights of trained networks' size."""
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True)
    whole = nn.TransformerEncoder(layer, DEPTH, nn.LayerNorm(WIDTH), enable_nested_tensor=False)
    for p in whole.parameters():
        nn.init.normal_(p, std=0.15)
    return whole


def ours(theirs: nn.TransformerEncoder) -> Transformer:
    names = {
        "self_attn.in_proj_": "attention.qkv.", "self_attn.out_proj.": "attention.out.", "linear1.": "up.", "linear2.": "down.",
        "layers.": "blocks.",
    }  # fmt: skip
    state = {}
    for name, value in theirs.state_dict().items():
        for old, new in names.items():
            name = name.replace(old, new)
        state[name] = value
    model = Transformer(WIDTH, DEPTH, HEADS)
    model.load_state_dict(state)
    return model


@pytest.mark.parametrize("fused_from", [1, 10**9], ids=["fused kernel", "products"])
@pytest.mark.parametrize("lengths", [[7, 7, 7], [3, 40, 17, 1, 33]], ids=["one length", "mixed"])
def test_parity_with_torchs_encoder(lengths: list[int], fused_from: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformer, "FUSED_FROM", fused_from)
    theirs = reference()
    model = ours(theirs)
    inside = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    padded = torch.randn(*inside.shape, WIDTH, requires_grad=True)
    packed = padded.detach()[inside].requires_grad_()
    wanted = theirs(padded, src_key_padding_mask=~inside)[inside]
    found = model(packed, Layout.of(groups(lengths)))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    pull = torch.randn_like(found)
    (found * pull).sum().backward()
    (wanted * pull).sum().backward()
    assert padded.grad is not None
    torch.testing.assert_close(packed.grad, padded.grad[inside], atol=1e-4, rtol=1e-4)
    mine = dict(model.named_parameters())
    torch.testing.assert_close(
        mine["blocks.0.attention.qkv.weight"].grad,
        dict(theirs.named_parameters())["layers.0.self_attn.in_proj_weight"].grad,
        atol=1e-4,
        rtol=1e-4,
    )


@pytest.mark.parametrize("length", [5, transformer.FUSED_FROM - 1, transformer.FUSED_FROM])
@pytest.mark.parametrize("padded", [False, True])
def test_both_kernels_are_attention(length: int, padded: bool) -> None:
    q, k, v = torch.randn(3, 2, 2, length, 8, dtype=torch.float64)
    bias = torch.zeros(2, 1, 1, length, dtype=torch.float64)
    if padded:
        bias[1, :, :, length // 2 :] = float("-inf")
    weights = torch.softmax(q @ k.mT / 8**0.5 + bias, -1)
    found = attend(q, k, v, bias if padded else None)
    torch.testing.assert_close(found, weights @ v, atol=1e-10, rtol=0)


def test_tokens_of_a_sequence_have_no_order() -> None:
    model, lengths = Transformer(WIDTH, DEPTH, HEADS), [5, 19]
    x, layout = torch.randn(24, WIDTH), Layout.of(groups(lengths))
    order = torch.cat([torch.randperm(5), 5 + torch.randperm(19)])
    torch.testing.assert_close(model(x[order], layout), model(x, layout)[order], atol=1e-5, rtol=0)


def test_bfloat16_stays_near_float32() -> None:
    lengths = [3, 40, 17]
    x, layout, model = torch.randn(60, WIDTH), Layout.of(groups(lengths)), Transformer(WIDTH, DEPTH, HEADS)
    exact = model(x, layout)
    with torch.autocast("cpu", torch.bfloat16):
        near = model(x, layout)
    assert F.cosine_similarity(exact, near.float(), dim=1).min() > 0.999
    near.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.dtype is torch.float32 for p in model.parameters())
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)


def test_the_streams_size_at_the_start_does_not_grow_with_depth() -> None:
    # Radford et al. 2019, section 2.3: residual branches are initialised by the depth.
    x, layout = torch.randn(200, 64), Layout.of(groups([50] * 4))
    sizes = []
    for depth in (2, 32):
        model = Transformer(64, depth, 4)
        heads, stream = layout.heads(4), x
        for block in model.blocks:
            stream = block(stream, heads)
        sizes.append(float(stream.detach().std()))
    assert all(0.9 < size < 1.6 for size in sizes), sizes
    assert abs(sizes[0] - sizes[1]) < 0.2


def test_checkpointed_activations_give_the_same_gradients() -> None:
    from torch.utils.checkpoint import checkpoint

    model, heads = Transformer(WIDTH, DEPTH, HEADS), Layout.of(groups([3, 40, 17])).heads(HEADS)
    x = torch.randn(60, WIDTH)
    gradients = []
    for kept in (True, False):
        y = x.clone().requires_grad_()
        stream = y
        for block in model.blocks:
            stream = block(stream, heads) if kept else checkpoint(block, stream, heads, use_reentrant=False)
        assert isinstance(stream, Tensor)
        stream.square().sum().backward()
        gradients.append(y.grad)
    assert torch.equal(*gradients)


def test_inference_mode_gives_what_training_gives() -> None:
    model, layout, x = Transformer(WIDTH, DEPTH, HEADS), Layout.of(groups([3, 40])), torch.randn(43, WIDTH)
    with torch.inference_mode():
        plain = model(x, layout)
    assert torch.equal(plain, model(x, layout).detach())


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match="5 heads do not divide a width of 48"):
        Attention(48, 5)


def test_depth_zero_is_a_norm() -> None:
    x = torch.randn(6, WIDTH)
    torch.testing.assert_close(Transformer(WIDTH, 0, HEADS)(x, Layout.of(groups([2, 4]))), F.layer_norm(x, (WIDTH,)))


def test_a_token_hears_every_other_of_its_sequence() -> None:
    model, x = Transformer(WIDTH, 1, HEADS), torch.randn(7, WIDTH, requires_grad=True)
    answer = model(x, Layout.of(groups([3, 4])))
    for out, into in itertools.product(range(7), range(7)):
        (gradient,) = torch.autograd.grad(answer[out, 0], x, retain_graph=True)
        assert bool((gradient[into] != 0).any()) == ((out < 3) == (into < 3))
