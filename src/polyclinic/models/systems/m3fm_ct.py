"""M3FM for lung cancer screening (Niu et al., Nature Communications 16:1523, 2025; arXiv 2304.02649): one network answers many
questions, put to it in words, from a chest CT at several scales and clinical data, whichever of them a patient has.

It is no network of its own. The recipe `m3fm-ct` trains it of parts that are elsewhere: `vit3d` with `scales`
(`tokens/volume.py`), `masked` and `masked_language`, then `question` (`objectives/question.py`). Here is its use. No other M3FM
is meant than this: `m3fm.py` is of Liu et al., of the same year.

| | the paper | ours | why | from |
|---|---|---|---|---|
| volumes | regions of organs, found by a localiser | the whole CT | there is no localiser here | fig |
| scales | a region comes at one of 4 sizes; a projection each, one trunk | the same, but a CT comes at all `scales` | all are seen | img |
| voxels' size | its sines are added to the tokens | places in mm | the harmoniser resamples | data |
| CTViT | 24 blocks, width 1024, 16 heads, [CLS] | the recipe's, no [CLS] | | net |
| clinical data | sentences, for the text encoder | `events` | a number stays one | readme |
| text encoder | RoBERTa base, for data and questions | `bert`, for notes and questions | no weights are downloaded | net |
| first | masked voxels; masked words | both at once | | fig |
| a question is | its first token, projected | all its words, marked | a word is a token | net |
| task encoder | 4 blocks over question, 3 registers, CT and data | the fusion, no registers | it is one already | net, task |
| is answered at | the question's place | the mean of its words' | as all modalities have it | net |
| predictors | dense, GELU, norm, linear; one for a task or several | one for yes or no, one for survival | words tell tasks apart | pred |
| classes | softmax, weights of classes | yes or no, without weights | tasks here have two | pred |
| cancer risk | cumulative logits of 6 years, where known | Cox's log hazard | what all evidence means by survival | pred |
| tasks | one a device; their mean, (loss / base) ^ 0.1 where a base is set | all in a batch, their mean | | fig, pred |
| what is missing | a CT of zeros, masked in attention | no token | | net |

From: "fig" is figure 1 and its legend; the others are files of github.com/niuchuangnn/M3FM: models/`m3fm.py` (net, whose defaults the
sizes are), `tokennizer_img.py` (img), `task_encoder.py` (task), `predictors.py` (pred), and `data.py`, `README.md`. The methods' text
could not be read: optimiser, schedules, shares of what is hidden and the questions' wordings are not compared. The published weights
are not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...harmonise import Fingerprint, TextStandard
from ...objectives import Outcome
from ...objectives.question import Asked, QuestionObjective, readable
from ...schema import Batch, Modality
from ...tokens.text import as_note
from ..model import Model


@dataclass(frozen=True, slots=True)
class M3fmCt:
    """A model that learned to answer questions, for use.

    Args:
        model: in evaluation mode.
        questions: the stage's objective, in evaluation mode.
        standard: of the model's words.
        fingerprint: of the run.
    """

    model: Model
    questions: QuestionObjective
    standard: TextStandard
    fingerprint: Fingerprint

    @torch.no_grad()
    def answer(
        self, batch: Batch, question: str, outcome: Outcome = "class", inputs: Sequence[Modality] | None = None
    ) -> Tensor:
        """What it says to a question, whether or not it was trained on it.

        Args:
            batch: b patients, with any of the modalities.
            question: in words.
            outcome: "class" to be answered by yes or no, "survival" by how soon.
            inputs: what may be read of the patients; None for all.
        Returns:
            (b,) logits of yes, or log hazards; NaN for a patient of whom nothing can be read.
        Raises:
            ObjectiveError: no task that it was trained on has this kind of answer.
        """
        tokens, found = self.model.encode(batch), torch.full((len(batch.patients),), torch.nan)
        reads = tuple(inputs) if inputs is not None else None
        who = torch.nonzero(readable(tokens, reads)).flatten() if tokens else torch.zeros(0, dtype=torch.int64)
        (said,) = self.questions.answer(
            self.model, tokens, [Asked(as_note(question, self.standard, self.fingerprint), outcome, who, reads)]
        )
        found[who] = said.float().cpu()
        return found
