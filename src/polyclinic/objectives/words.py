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

from ..tokens import Context, Layout, Memory, Style, Transformer, frozen

GPT = Style(activation="gelu_tanh", causal=True)
"""GPT-2's."""
UNTOLD = -100
"""Instead of a word's number: not asked for."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What else the texts of a batch are about.

    Args:
        values: (m c) tokens.
        group: (m,) int64, ascending: of whom they are.
        texts: (s,) int64, ascending: whom each text is of; the i-th text is of i where None.
    """

    values: Tensor
    group: Tensor
    texts: Tensor | None = None

    def context(self, text: Tensor, together: bool = False) -> Context:
        """For words that are of these texts (n,)."""
        return Context.of(text if self.texts is None else self.texts[text], self.values, self.group, together)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next word is drawn.

    Args:
        temperature: of the logits; 0 takes the likeliest.
        top_k: only of the k likeliest; None for all.
        top_p: only of the likeliest whose probabilities reach p (Holtzman et al. 2020).
        once: no run of so many words is said a second time (Paulus et al. 2018); None for any.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    once: int | None = None

    def draw(self, logits: Tensor, generator: torch.Generator | None, said: Tensor | None = None) -> Tensor:
        """(s v) → (s,) word numbers.

        Args:
            logits: of the next word.
            generator: of the draws.
            said: (s w) what was said before; None for nothing.
        """
        if self.once is not None and said is not None and said.shape[1] >= self.once:
            logits = without_repeats(logits, said, self.once)
        if self.temperature <= 0:
            return logits.argmax(1)
        sorted_, order = (logits.float() / self.temperature).sort(1, descending=True)
        if self.top_k is not None:
            sorted_[:, self.top_k :] = -torch.inf
        chances = sorted_.softmax(1)
        chances = chances.masked_fill(chances.cumsum(1) - chances >= self.top_p, 0)  # the first always stays
        return order.gather(1, torch.multinomial(chances, 1, generator=generator))[:, 0]


GREEDY = Sampling()
"""The likeliest word each time."""


def without_repeats(logits: Tensor, said: Tensor, run: int) -> Tensor:
    """(s v) logits after (s w) words, minus infinity where the word would say a run of so many words again."""
    runs = said.unfold(1, run, 1)  # (s w−run+1 run)
    again = (runs[:, :, :-1] == said[:, None, said.shape[1] - run + 1 :]).all(2)
    row, at = torch.nonzero(again, as_tuple=True)
    logits = logits.clone()
    logits[row, runs[row, at, -1]] = -torch.inf
    return logits


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
        context = None if seen is None else seen.context(text)
        return self.leave(self.hidden(torch.cat(list(texts)), Layout.of(text), context))

    def loss(self, texts: Sequence[Tensor], seen: Seen | None = None, wanted: Tensor | None = None) -> Tensor:
        """Mean cross-entropy in nats a word; 0 where nothing is asked.

        Args:
            texts, seen: see `forward`.
            wanted: (n,) int64 what comes after each of all texts' words, `UNTOLD` where that is not asked; where None each
                text's next word.
        """
        text = numbers(texts)
        words = torch.cat(list(texts))
        if wanted is None:
            wanted = torch.cat([words[1:].where(text[1:] == text[:-1], UNTOLD), words.new_full((1,), UNTOLD)])
        asked = wanted != UNTOLD
        hidden = self.hidden(words, Layout.of(text), None if seen is None else seen.context(text))[asked]
        # Only the words that are asked for take logits: a vocabulary is wide.
        return F.cross_entropy(self.leave(hidden).float(), wanted[asked], reduction="sum") / asked.sum().clamp(min=1)

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[Tensor], end: int | None, most: int, seen: Seen | None = None,
        sampling: Sampling = GREEDY, generator: torch.Generator | None = None,
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
        with frozen(self):
            return self._written(
                prompts, Writing(len(prompts), most, end, prompts[0].device), seen, sampling, generator
            )

    def _written(
        self, prompts: Sequence[Tensor], writing: Writing, seen: Seen | None, sampling: Sampling, generator: torch.Generator | None
    ) -> list[Tensor]:  # fmt: skip
        text, device = numbers(prompts), prompts[0].device
        of = lambda group: None if seen is None else seen.context(group, together=True)
        memory, rows = self.blocks.memory(), torch.arange(len(prompts), device=device)
        hidden = self.hidden(torch.cat(list(prompts)), Layout.of(text, together=True), of(text), memory)
        assert memory.lengths is not None
        last, layout, context = hidden[memory.lengths.cumsum(0) - 1], Layout.each(len(rows), device), of(rows)
        while (going := writing.add(sampling.draw(self.leave(last), generator, writing.said))) is not None:
            if len(going) < len(rows):
                memory.keep(going)
                rows = rows[going]
                layout, context = Layout.each(len(rows), device), of(rows)
            last = self.hidden(writing.last, layout, context, memory)
        return writing.texts


class Writing:
    """Texts that grow by a word each at a time until each has met its end.

    Args:
        texts: s.
        most: words a text.
        end: the word that ends one, and is not written; None for none.
        device: of the words.
    """

    def __init__(self, texts: int, most: int, end: int | None, device: torch.device) -> None:
        self.most, self.end, self.step = most, end, 0
        self.rows = torch.arange(texts, device=device)
        self.words = torch.empty(texts, most, dtype=torch.int64, device=device)
        self.counts = torch.full((texts,), most, device=device)

    def add(self, words: Tensor) -> Tensor | None:
        """One further word of each text that goes on (k,) → which of these k go on still; None where none does."""
        going = torch.arange(len(words), device=words.device)
        if self.end is not None:
            going = torch.nonzero(words != self.end).flatten()
            self.counts[self.rows[words == self.end]] = self.step
        self.rows = self.rows[going]
        self.words[self.rows, self.step] = words[going]
        self.step += 1
        return going if len(going) and self.step < self.most else None

    @property
    def said(self) -> Tensor:
        """(k w) the words so far of those that go on."""
        return self.words[self.rows, : self.step]

    @property
    def last(self) -> Tensor:
        """(k,) the last words of those that go on."""
        return self.words[self.rows, self.step - 1]

    @property
    def texts(self) -> list[Tensor]:
        """The words of each."""
        return [row[:n] for row, n in zip(self.words, self.counts.tolist(), strict=True)]


def numbers(texts: Sequence[Tensor]) -> Tensor:
    """(n,) which text each of all texts' words is of: 0 0 0 1 1 2 …"""
    lengths = [len(text) for text in texts]
    if not lengths or min(lengths) == 0:
        raise ValueError("a text without any word: give at least the word that begins one")
    device = texts[0].device
    return torch.arange(len(texts), device=device).repeat_interleave(torch.tensor(lengths, device=device))
