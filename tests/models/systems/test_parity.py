"""Systems with a namesake in `transformers` give its outputs with its weights, and give its weights back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from polyclinic.models.systems import SYSTEMS, Bert, Clip, Gpt, Llama, Vit, load_system, save_system
from polyclinic.models.weights import WeightsError

transformers = pytest.importorskip("transformers")
VOCABULARY, LENGTHS = 61, [5, 1, 12, 7]
SIZES = {"hidden_size": 24, "intermediate_size": 52, "num_hidden_layers": 3, "num_attention_heads": 4}
LLAMA = {"vocab_size": VOCABULARY, "num_key_value_heads": 2, **SIZES}
STRETCH = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 24, "n_layer": 3, "n_head": 4, "n_positions": 64}
BERT = {"vocab_size": VOCABULARY, "max_position_embeddings": 32, **SIZES}
VIT = {"image_size": 30, "patch_size": 8, **SIZES}  # the last pixels fill no patch
CLIP_TEXT = {"vocab_size": VOCABULARY, "max_position_embeddings": 16, "eos_token_id": VOCABULARY - 1, **SIZES}
CLIP = {"text_config": CLIP_TEXT, "vision_config": {**VIT, "hidden_size": 32}, "projection_dim": 20}
DECODERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", GPT2),
    "gpt2, narrow": ("GPT2Config", "GPT2LMHeadModel", {**GPT2, "n_inner": 40}),
    "llama": ("LlamaConfig", "LlamaForCausalLM", LLAMA),
    "llama, stretched": ("LlamaConfig", "LlamaForCausalLM", {**LLAMA, "rope_parameters": STRETCH, "head_dim": 8}),
    "llama, tied": ("LlamaConfig", "LlamaForCausalLM", {**LLAMA, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", {**LLAMA, "num_key_value_heads": 1}),
}
OTHERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("BertConfig", "BertForMaskedLM", BERT),
    "bert, bare": ("BertConfig", "BertModel", BERT),
    "vit": ("ViTConfig", "ViTForImageClassification", VIT),
    "vit, bare": ("ViTConfig", "ViTModel", VIT),
    "clip": ("CLIPConfig", "CLIPModel", CLIP),
    "clip, legacy": ("CLIPConfig", "CLIPModel", {**CLIP, "text_config": {**CLIP_TEXT, "eos_token_id": 2}}),
}
EVERY = DECODERS | OTHERS


def peer(name: str, folder: Path) -> Any:
    """Theirs, with weights of a trained network's size, saved."""
    config, kind, fields = EVERY[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, kind)(getattr(transformers, config)(**fields)).eval()
        for key, p in model.named_parameters():
            if key != "logit_scale":
                p.data.add_(torch.randn_like(p) * 0.1)
    model.save_pretrained(folder)
    return model


def texts(longest: int = 12) -> list[Tensor]:
    draws = torch.Generator().manual_seed(1)
    return [torch.randint(3, VOCABULARY - 1, (min(n, longest),), generator=draws) for n in LENGTHS]


def padded(own: list[Tensor]) -> dict[str, Tensor]:
    words = torch.nn.utils.rnn.pad_sequence(own, batch_first=True)
    return {
        "input_ids": words,
        "attention_mask": (torch.arange(words.shape[1]) < torch.tensor([len(t) for t in own])[:, None]).long(),
    }


def packed(values: Tensor, own: list[Tensor]) -> Tensor:
    return torch.cat([v[: len(t)] for v, t in zip(values, own, strict=True)])


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_gives_the_same_logits_and_gradients(name: str, tmp_path: Path) -> None:
    theirs, own = peer(name, tmp_path), texts()
    ours = load_system(tmp_path)
    assert isinstance(ours, Gpt | Llama)
    wanted, found = packed(theirs(**padded(own)).logits, own), ours(own)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
    labels = padded(own)["input_ids"].masked_fill(padded(own)["attention_mask"] == 0, -100)
    loss = theirs(**padded(own), labels=labels).loss
    torch.testing.assert_close(ours.loss(own), loss, atol=1e-5, rtol=0)
    loss.backward()
    ours.loss(own).backward()
    words = theirs.get_input_embeddings().weight.grad
    torch.testing.assert_close(ours.words.weight.grad, words, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("end", [None, 7])
def test_a_decoder_writes_the_same_words(name: str, end: int | None, tmp_path: Path) -> None:
    theirs, own = peer(name, tmp_path), texts()
    ours = load_system(tmp_path)
    assert isinstance(ours, Gpt | Llama)
    found = ours.generate(own, end, 30)
    for prompt, words in zip(own, found, strict=True):
        ask = {"do_sample": False, "max_new_tokens": 30, "eos_token_id": end, "pad_token_id": 0}
        more = theirs.generate(prompt[None], attention_mask=torch.ones(1, len(prompt)), **ask)
        wanted = more[0, len(prompt) :].tolist()
        assert words.tolist() == (wanted[: wanted.index(end)] if end in wanted else wanted)


@pytest.mark.parametrize("name", ["bert", "bert, bare"])
def test_bert_gives_the_same_answers(name: str, tmp_path: Path) -> None:
    theirs, own = peer(name, tmp_path), texts()
    ours = load_system(tmp_path)
    assert isinstance(ours, Bert)
    kinds = [(torch.arange(len(t)) > 2).long() for t in own]
    batch = padded(own) | {"token_type_ids": torch.nn.utils.rnn.pad_sequence(kinds, batch_first=True)}
    answers = theirs(**batch, output_hidden_states=True)
    torch.testing.assert_close(ours.hidden(own, kinds), packed(answers.hidden_states[-1], own), atol=1e-4, rtol=0)
    wanted = packed(answers.logits, own) if name == "bert" else answers.pooler_output
    torch.testing.assert_close(ours(own, kinds), wanted, atol=1e-4, rtol=0)
    torch.testing.assert_close(ours(own), ours(own, [torch.zeros_like(t) for t in own]))


@pytest.mark.parametrize("name", ["vit", "vit, bare"])
def test_vit_gives_the_same_answers(name: str, tmp_path: Path) -> None:
    theirs = peer(name, tmp_path)
    ours = load_system(tmp_path)
    assert isinstance(ours, Vit)
    images = torch.randn(3, 3, 30, 30, generator=torch.Generator().manual_seed(1))
    answers = theirs(images, output_hidden_states=True)
    if name == "vit":
        torch.testing.assert_close(ours(images), answers.logits, atol=1e-4, rtol=0)
    else:
        torch.testing.assert_close(ours(images), answers.pooler_output, atol=1e-4, rtol=0)
        torch.testing.assert_close(ours.hidden(images), answers.last_hidden_state.flatten(0, 1), atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="resize them"):
        ours(images[:, :, :24])


@pytest.mark.parametrize("name", ["clip", "clip, legacy"])
def test_clip_gives_the_same_logits(name: str, tmp_path: Path) -> None:
    theirs = peer(name, tmp_path)
    ours = load_system(tmp_path)
    assert isinstance(ours, Clip)
    own = [torch.cat([t, torch.tensor([VOCABULARY - 1])]) for t in texts()]
    images = torch.randn(3, 3, 30, 30, generator=torch.Generator().manual_seed(1))
    answers = theirs(pixel_values=images, **padded(own))
    torch.testing.assert_close(ours(images, own), answers.logits_per_image, atol=1e-4, rtol=0)
    torch.testing.assert_close(ours.texts(own), answers.text_embeds, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", EVERY)
def test_what_is_written_back_is_what_was_read(name: str, tmp_path: Path) -> None:
    theirs = peer(name, tmp_path / "theirs")
    ours = load_system(tmp_path / "theirs")
    save_system(ours, tmp_path / "ours")
    again = type(theirs).from_pretrained(tmp_path / "ours", local_files_only=True).state_dict()
    assert again.keys() == theirs.state_dict().keys()
    assert all(torch.equal(again[key], value) for key, value in theirs.state_dict().items())


def test_weights_in_several_files(tmp_path: Path) -> None:
    theirs = peer("llama", tmp_path / "whole")
    theirs.save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    one, other = load_system(tmp_path / "whole"), load_system(tmp_path / "parts")
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def refused(folder: Path) -> str:
    with pytest.raises(WeightsError) as told:
        load_system(folder)
    return str(told.value)


def changed(folder: Path, **fields: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))


def test_a_folder_that_is_none_of_these_says_so(tmp_path: Path) -> None:
    assert "config.json" in refused(tmp_path)
    peer("llama", tmp_path)
    changed(tmp_path, model_type="mamba")
    assert "mamba" in (told := refused(tmp_path))
    assert all(kind in told for kind in SYSTEMS)
    changed(tmp_path, model_type="llama", hidden_act="relu")
    assert "hidden_act" in refused(tmp_path)
    changed(tmp_path, hidden_act="silu", intermediate_size=48)
    assert "(52, 24)" in refused(tmp_path)
    changed(tmp_path, intermediate_size=52, num_hidden_layers=2)
    assert "model.layers.2" in refused(tmp_path)
    changed(tmp_path, num_hidden_layers=4)
    assert "model.layers.3" in refused(tmp_path)
    changed(tmp_path, num_hidden_layers=3, rope_parameters={"rope_type": "yarn", "rope_theta": 1e4})
    assert "yarn" in refused(tmp_path)
    changed(tmp_path, rope_parameters={"rope_type": "default", "rope_theta": 1e4})
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "copy them again" in refused(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    assert "pickle" in refused(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../secret.safetensors"}}')
    assert "outside" in refused(tmp_path)
