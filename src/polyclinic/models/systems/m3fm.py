"""M3FM (Liu et al., npj Digital Medicine 2025): images of several domains and reports in several languages in one space; of an image
it writes a report in any of them and answers questions by prompts, without a pair of an image and a report in that language.

It is no network of its own. The recipe `m3fm` trains it of parts that are elsewhere, in the paper's two stages; here is its use.

| | the paper | ours | why | from |
|---|---|---|---|---|
| images | CLIP's ViT, of radiographs and CT slices | `vit`, and `vit3d` of whole CT | a volume has a third axis | note, code |
| reports | XLM-RoBERTa Large of M-CLIP, which stands still in stage two | `bert` from nothing | no weights are downloaded | code |
| languages meet | in English reports and their machine translations | in patients with reports in both: `supcon` | | note |
| stage one | contrast of images and English reports | `contrastive` | | note |
| stage two | a decoder of reports from their vectors | `retell`, whose vector is several tokens | as ClipCap (Mokady et al. 2021) | code |
| the decoder | 3 layers, 8 heads, width 512, a relational memory | the recipe's, without that memory | | code |
| noise on the vector | an option that is off | on | modalities lie apart (CapDec, Nukrai et al. 2022) | README |
| a language is told by | the word that a report begins with | the same | | code |
| at use | an image's vector; English or Chinese | several modalities' mean; any `languages` | a patient may have both | code |

From: "README" is that of github.com/ai-in-health/M3FM and the options of its `M3FM.py`; "code" its modules and "note" the paper, both as
github.com/allison-eunse/neuro-omics-kb sums them up. The paper itself could not be read: whether its runs had noise, and every number of
its training, was not checked.

The published weights are not read: their parts (a CLIP, a multilingual BERT) can be had as `pretrained_image` and `pretrained_text`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...harmonise import Fingerprint, TextStandard
from ...harmonise.text import spelled
from ...objectives import RetellObjective
from ...schema import Batch, Modality, Ragged
from ...tokens.text import as_note
from ..model import Model

TEMPERATURE = 0.07
"""CLIP's at its start (Radford et al. 2021, section 2.5): it turns similarities into chances, and changes no order."""


@dataclass(frozen=True, slots=True)
class M3fm:
    """A model that both stages trained, for use.

    Args:
        model: in evaluation mode.
        retell: the second stage's objective.
        standard: of the model's notes.
        fingerprint: of the run.
    """

    model: Model
    retell: RetellObjective
    standard: TextStandard
    fingerprint: Fingerprint

    def write(
        self, batch: Batch, language: str, modalities: Sequence[Modality] | None = None, most: int = 1000
    ) -> dict[int, str]:
        """The likeliest report of each patient who has any of the modalities.

        Args:
            batch: b patients.
            language: one of the standard's.
            modalities: that are written of; None for all but text.
            most: words, if the text encoder reads so many.
        Returns:
            of each of the batch's patients who is written of, by number, the report.
        Raises:
            ObjectiveError: the model has no word for the language.
        """
        found = self.retell.write(self.model, batch, most, language, modalities)
        return {who: spelled(words.tolist(), self.fingerprint) for who, words in found.items()}

    @torch.no_grad()
    def diagnose(
        self, batch: Batch, questions: Mapping[str, Sequence[Sequence[str]]], language: str, modality: Modality,
        temperature: float = TEMPERATURE,
    ) -> dict[str, Tensor]:  # fmt: skip
        """What of each question's answers lies nearest to each patient: zero-shot, by prompts (CheXzero, Tiu et al. 2022).

        Args:
            batch: b patients.
            questions: name → its k answers, each as one or more prompts whose mean vector stands for it: `{"effusion": [["There is
                a pleural effusion."], ["No pleural effusion."]]}`.
            language: of the prompts; one without a word of its own begins as a note of no known language.
            modality: whose vector is asked.
            temperature: of the chances.
        Returns:
            of each question (b k) chances that add up to 1; NaN for a patient without the modality.
        """
        shown = {m: ragged for m, ragged in batch.payloads.items() if m is modality}
        towers = self.model.towers(self.model.encode(Batch(shown, {}, batch.patients)))
        chances = {}
        for name, answers in questions.items():
            prompts = torch.stack([F.normalize(self.placed(texts, language).mean(0), dim=0) for texts in answers])
            found = prompts.new_full((len(batch.patients), len(answers)), torch.nan)
            if modality in towers:
                found[towers[modality].patient] = (towers[modality].vectors @ prompts.T / temperature).softmax(1)
            chances[name] = found
        return chances

    @torch.no_grad()
    def placed(self, texts: Sequence[str], language: str) -> Tensor:
        """(s e) the unit vectors of texts in a language."""
        at = next(self.model.parameters()).device
        words = [as_note(text, self.standard, self.fingerprint, language).to(at) for text in texts]
        s, rows = len(words), torch.arange(len(words), device=at)
        ragged = Ragged(words, rows, torch.zeros(s, device=at), None, s, [str(n) for n in range(s)])
        tokens = self.model.encode(Batch({Modality.TEXT: ragged}, {}, ragged.ids))
        return self.model.towers(tokens)[Modality.TEXT].vectors
