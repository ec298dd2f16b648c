"""A decoder of words: it says which word comes next, after words and, where it is given one, of a context.

    words ──embed (+ place)──┐
                             ├─ Transformer, causal ── logits of the next word
    context (m c) ──cross────┘

GPT (Radford et al. 2019) and LLaMA (Touvron et al. 2023) are this without a context, CoCa's multimodal half (Yu et al. 2022) with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..tokens import Context, Layout, Memory, Style, Transformer

GPT = Style(activation="gelu_tanh", causal=True)
"""GPT-2's."""
UNTOLD = -100
"""Instead of a word's number: not asked for."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What else the texts of a batch are about.

    Args:
        values: (m c) tokens.
        text: (m,) int64, ascending: of which of the texts.
    """

    values: Tensor
    text: Tensor


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next word is drawn.

    Args:
        temperature: of the logits; 0 takes the likeliest.
        top_k: only of the k likeliest; None for all.
        top_p: only of the likeliest whose probabilities reach p (Holtzman et al. 2020).
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0

    def draw(self, logits: Tensor, generator: torch.Generator | None) -> Tensor:
        """(s v) → (s,) word numbers."""
        if self.temperature <= 0:
            return logits.argmax(1)
        sorted_, order = (logits.float() / self.temperature).sort(1, descending=True)
        if self.top_k is not None:
            sorted_[:, self.top_k :] = -torch.inf
        chances = sorted_.softmax(1)
        chances = chances.masked_fill(chances.cumsum(1) - chances >= self.top_p, 0)  # the first always stays
        return order.gather(1, torch.multinomial(chances, 1, generator=generator))[:, 0]


class WordDecoder(nn.Module):
    """A language model over packed texts.

    Args:
        vocabulary: v.
        width, depth, heads, mlp_ratio: of its Transformer.
        style: of it; causal.
        places: how many learned positions (GPT's); None where the style has its own.
        context: width c of what cross-attention sees; None for none.
        tied: a word's logit is the product with its embedding (Press & Wolf 2017).
        recompute: see `Transformer`.
    """

    def __init__(
        self, vocabulary: int, width: int, depth: int, heads: int, mlp_ratio: float = 4.0,
        style: Style = GPT, places: int | None = None, context: int | None = None,
        tied: bool = True, recompute: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        if not style.causal:
            raise ValueError("a decoder of words whose style is not causal: it would see the word that it is asked for")
        self.vocabulary, self.longest = vocabulary, places
        self.words = nn.Embedding(vocabulary, width)
        self.places = nn.Embedding(places, width) if places is not None else None
        self.blocks = Transformer(width, depth, heads, mlp_ratio, style, context, recompute)
        self.leave = nn.Linear(width, vocabulary, bias=False)
        nn.init.normal_(self.words.weight, std=0.02)
        nn.init.normal_(self.leave.weight, std=0.02)
        if self.places is not None:
            nn.init.normal_(self.places.weight, std=0.01)
        if tied:
            self.leave.weight = self.words.weight

    def hidden(
        self, words: Tensor, layout: Layout, context: Context | None = None, memory: Memory | None = None
    ) -> Tensor:
        """Word numbers (n,) → (n d) before the logits.

        Args:
            words, layout: packed texts; further words of a memory's texts, one a text.
            context, memory: see `Transformer`.
        Raises:
            ValueError: a text is longer than there are places.
        """
        x = self.words(words)
        if self.places is not None:
            order = layout.order() if memory is None or memory.lengths is None else memory.lengths
            if len(order) and int(order.max()) >= self.places.num_embeddings:
                raise ValueError(
                    f"a text of {int(order.max()) + 1} words for a decoder of {self.places.num_embeddings} places: cut it"
                )
            x = x + self.places(order)
        return self.blocks(x, layout, context=context, memory=memory)

    def forward(self, texts: Sequence[Tensor], seen: Seen | None = None) -> Tensor:
        """Logits (n v) after each of all texts' words.

        Args:
            texts: (w,) int64 each, none empty.
            seen: what they are about; a text without any is written from its words alone.
        """
        text = numbers(texts)
        context = None if seen is None else Context.of(text, seen.values, seen.text)
        return self.leave(self.hidden(torch.cat(list(texts)), Layout.of(text), context))

    def loss(self, texts: Sequence[Tensor], seen: Seen | None = None, told: Sequence[Tensor] | None = None) -> Tensor:
        """Mean cross-entropy of each text's next words, () nats a word; 0 where nothing is asked.

        Args:
            texts, seen: see `forward`.
            told: (w,) bool each, which words are asked for; all but each text's first where None.
        """
        text = numbers(texts)
        wanted = torch.cat(list(texts))
        if told is not None:
            wanted = torch.where(torch.cat(list(told)), wanted, UNTOLD)
        asked = (text[1:] == text[:-1]) & (wanted[1:] != UNTOLD)
        context = None if seen is None else Context.of(text, seen.values, seen.text)
        hidden = self.hidden(torch.cat(list(texts)), Layout.of(text), context)[:-1][asked]
        # Only the words that are asked for take logits: a vocabulary is wide.
        return F.cross_entropy(self.leave(hidden).float(), wanted[1:][asked], reduction="sum") / asked.sum().clamp(
            min=1
        )

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[Tensor], end: int | None, most: int, seen: Seen | None = None,
        sampling: Sampling = Sampling(), generator: torch.Generator | None = None,
    ) -> list[Tensor]:  # fmt: skip
        """What comes after each prompt, without the end.

        Args:
            prompts: (w,) int64 each, none empty.
            end: the word that ends a text; None for none.
            most: words a text.
            seen: what they are about.
            sampling, generator: of the draws.
        Raises:
            ValueError: a prompt and `most` words are more than there are places.
        """
        text, device = numbers(prompts), prompts[0].device
        of = lambda group: None if seen is None else Context.of(group, seen.values, seen.text, together=True)
        memory, rows = self.blocks.memory(), torch.arange(len(prompts), device=device)
        hidden = self.hidden(torch.cat(list(prompts)), Layout.of(text, together=True), of(text), memory)
        assert memory.lengths is not None
        last = hidden[memory.lengths.cumsum(0) - 1]
        written = torch.empty(len(prompts), most, dtype=torch.int64, device=device)
        counts = torch.full((len(prompts),), most, device=device)
        for step in range(most):
            words = sampling.draw(self.leave(last), generator)
            if end is not None and bool((ended := words == end).any()):
                counts[rows[ended]] = step
                going = torch.nonzero(~ended).flatten()
                if not len(going):
                    break
                rows, words = rows[going], words[going]
                memory.keep(going)
            written[rows, step] = words
            if step + 1 < most:
                last = self.hidden(words, Layout.of(torch.arange(len(rows), device=device)), of(rows), memory)
        return [row[:n] for row, n in zip(written, counts.tolist(), strict=True)]


def numbers(texts: Sequence[Tensor]) -> Tensor:
    """(n,) which text each of all texts' words is of: 0 0 0 1 1 2 …"""
    lengths = torch.tensor([len(text) for text in texts])
    if not len(lengths) or int(lengths.min()) == 0:
        raise ValueError("a text without any word: give at least the word that begins one")
    return torch.arange(len(texts)).repeat_interleave(lengths).to(texts[0].device)
