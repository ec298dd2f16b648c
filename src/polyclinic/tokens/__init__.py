"""Standard payload → `Tokens`: one encoder a modality, the one `Transformer`, physical positions, packing.

Imports `harmonise` and above. A new encoder is one file with its specification and its module, and one line in the union below.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .attention import Context, Memory, Rotary
from .components import ComponentEncoder, Components
from .encoded import Encoded, compared
from .encoder import Encoder, EncoderFields
from .frozen import frozen
from .image import ImageEncoder, Vit
from .kinematics import KinematicsEncoder, MotionVit
from .layout import Layout
from .omics import OmicsEncoder, Programmes
from .packing import join, select
from .pretrained import PretrainedImage, PretrainedText
from .pretrained_slices import PretrainedSlices
from .signal import SignalEncoder, SignalVit
from .slide import SlideEncoder, SlideVit
from .slide_features import Titan, TitanEncoder
from .table import EventEncoder, Events
from .text import Bert, Gpt, Llama, TextEncoder
from .tfidf import Tfidf, TfidfEncoder
from .transformer import Style, Transformer
from .video import VideoEncoder, Vivit
from .volume import Vit3d, VolumeEncoder

EncoderSpec = Annotated[
    Vit
    | Vit3d
    | Bert
    | Gpt
    | Llama
    | Tfidf
    | Events
    | Programmes
    | Components
    | SignalVit
    | SlideVit
    | Titan
    | Vivit
    | MotionVit
    | PretrainedImage
    | PretrainedSlices
    | PretrainedText,
    Field(discriminator="kind"),
]

__all__ = [
    "Bert", "ComponentEncoder", "Components", "Context", "Encoded", "Encoder", "EncoderFields", "EncoderSpec", "EventEncoder", "Events",
    "Gpt", "ImageEncoder",
    "KinematicsEncoder", "Layout", "Llama", "Memory", "MotionVit", "OmicsEncoder", "PretrainedImage", "PretrainedSlices",
    "PretrainedText", "Programmes", "Rotary", "SignalEncoder", "SignalVit", "SlideEncoder",
    "SlideVit", "Style", "TextEncoder", "Tfidf", "TfidfEncoder", "Titan", "TitanEncoder", "Transformer",
    "VideoEncoder", "Vit", "Vit3d", "Vivit", "VolumeEncoder", "compared", "frozen", "join", "select",
]  # fmt: skip
