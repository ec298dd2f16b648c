"""Me-LLaMA: a LLaMA that goes on with a medical mixture and learns to answer (Xie et al., arXiv:2402.12749, 2024 and 2025).

    general texts ── causal_language ──┐  continual pretraining                                  instruction tuning
    (LLaMA 2, in the paper)            └─ 15 biomedical : 1 clinical : 4 general ─ causal_language ─ pairs ─ instruct, LoRA ─►

Its parts are the library's: the encoder `llama`, a stage's `mixture` and `lora`, the objectives `causal_language` and `instruct`, and
`trust.forgetting` for what the general part says afterwards. `recipes/me_llama.yaml` puts them together; this file has what of the
paper is a number. Where it differs:

    what               the paper                             here                               why
    network            LLaMA 2, 13B and 70B                  its layers in any size;            13B does not train where this
                                                             ε 1e-6, hidden width 8/3 · d       is tested
    begins from        Meta's weights                        a `general` stage of its own       no stage can train an encoder
                                                                                                from LLaMA's weights yet
    word pieces        LLaMA 2's 32,000                      learned of the training texts      as every recipe's
    texts              129 billion tokens: PubMed, MIMIC     the cohort's
                       notes, guidelines, RedPajama
    15 : 1 : 4         of the data                           of the texts in a batch, each      a batch is of patients; for
                                                             cut at `words`                     texts of one length the same
    optimiser          AdamW, `ADAMW`, `CONTINUAL`; one      the recipe's rates are higher,     fresh weights learn nothing
                       epoch, warm-up over 5% of its steps   20 steps of warm-up                at 8e-6
    instruction pairs  214,000 samples of many tasks,        two records of a patient, told     what a cohort has
                       general, biomedical and clinical      by their kinds
    LoRA               3 epochs at `INSTRUCT`                by steps; on every linear layer    the README does not say of
                                                             of the blocks, then added          which layers, nor the rank
    short answers      yes, no, maybe; choices               none yet: answers are texts        a short answer is an attribute
                                                                                                and no text record
    forgetting         benchmarks of general knowledge       nats a word of held-out general    a small model answers no
                                                             texts, after each stage            benchmark

Numbers of the paper: github.com/BIDS-Xu-Lab/Me-LLaMA, README, "Training Procedure", held against it line by line. Not checked, for the
paper itself could not be read: LoRA's layers and rank, which benchmarks told of forgetting, and how short answers were put.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

SHARES: Mapping[str, int] = MappingProxyType({"biomedical": 15, "clinical": 1, "general": 4})
"""Of the continual mixture."""
ADAMW: Mapping[str, object] = MappingProxyType({"betas": (0.9, 0.95), "weight_decay": 1e-5, "schedule": "cosine"})
"""Continual pretraining's, as fields of a stage."""
CONTINUAL, INSTRUCT = 8e-6, 1e-5
"""Learning rates of the two stages, of 13 billion weights and more."""
