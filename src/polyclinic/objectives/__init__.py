"""Tokens → a loss: contrastive, generative, segmentation, hybrid, and the decoders that answer.

An objective is handed a model and does not import one. Imports `fusion` and above.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .caption import AttentionalPool, Caption, CaptionObjective
from .contrastive import Contrastive, ContrastiveObjective, clip_loss, siglip_loss, supcon_loss
from .decoders import MaskDecoder, PatchDecoder
from .generative import Masked, MaskedObjective
from .hybrid import Hybrid, HybridObjective, Single
from .instruct import Instruct, InstructObjective, Pair
from .language import CausalLanguage, CausalLanguageObjective, MaskedLanguage, MaskedLanguageObjective
from .latent_diffusion import LatentDiffusion, LatentDiffusionObjective
from .local import Local, LocalObjective, local_loss
from .objective import Backbone, Finding, Objective, ObjectiveError, ObjectiveFields, Outcome, Structure
from .outcomes import cox_loss
from .promptable import Prompt, Promptable, PromptableObjective
from .question import Question, QuestionObjective
from .retell import Retell, RetellObjective
from .segmentation import SegmentationObjective, SegmentationPart, dice_cross_entropy
from .self_distillation import Dino, Ibot, SelfDistillationObjective
from .supervised import Supervised, SupervisedObjective
from .symile import Symile, SymileObjective, symile_loss
from .translation import Translation, TranslationObjective
from .words import Sampling, Seen, WordDecoder, numbers

ObjectiveSpec = Annotated[Single | Hybrid, Field(discriminator="kind")]

__all__ = [
    "AttentionalPool", "Backbone", "Caption", "CaptionObjective", "CausalLanguage", "CausalLanguageObjective", "Contrastive",
    "ContrastiveObjective", "Dino", "Finding", "Hybrid", "HybridObjective", "Ibot", "Instruct", "InstructObjective",
    "LatentDiffusion", "LatentDiffusionObjective", "Local", "LocalObjective", "MaskDecoder", "Masked", "MaskedLanguage",
    "MaskedLanguageObjective", "MaskedObjective", "Objective", "ObjectiveError", "ObjectiveFields", "ObjectiveSpec", "Outcome", "Pair",
    "PatchDecoder", "Prompt", "Promptable", "PromptableObjective", "Question", "QuestionObjective", "Retell", "RetellObjective",
    "Sampling", "Seen", "SegmentationObjective", "SegmentationPart", "SelfDistillationObjective", "Structure", "Supervised",
    "SupervisedObjective", "Symile", "SymileObjective", "Translation", "TranslationObjective", "WordDecoder", "clip_loss",
    "cox_loss", "dice_cross_entropy", "local_loss", "numbers", "siglip_loss", "supcon_loss", "symile_loss",
]  # fmt: skip
