"""Any payload → the standard payload of its modality, and the way back; the cache; the loader that hands out `Batch`es.

Imports `cohort`, `records` and `schema`. Each modality's file has its standard (a typed specification) and `harmonise`.
"""

from __future__ import annotations

from ..schema import Payload, Record
from . import image, kinematics, omics, signal, slide, slide_features, table, text, tfidf, video, volume
from .cache import Cache
from .fingerprint import Fingerprint
from .fitting import fit
from .geometry import GridError, points_back, points_forth, way_back
from .image import ImageStandard
from .kinematics import KinematicsStandard
from .omics import OmicsStandard
from .signal import LEADS, SignalStandard
from .slide import SlideStandard
from .slide_features import SlideFeaturesStandard
from .table import TableStandard
from .text import TextStandard
from .tfidf import TfidfStandard
from .video import VideoStandard
from .volume import VolumeStandard

Standard = (
    ImageStandard
    | VolumeStandard
    | TextStandard
    | TfidfStandard
    | TableStandard
    | SignalStandard
    | OmicsStandard
    | SlideStandard
    | SlideFeaturesStandard
    | VideoStandard
    | KinematicsStandard
)

__all__ = [
    "LEADS", "Cache", "Fingerprint", "GridError", "ImageStandard", "KinematicsStandard", "OmicsStandard",
    "SignalStandard", "SlideFeaturesStandard", "SlideStandard", "Standard", "TableStandard", "TextStandard", "TfidfStandard",
    "VideoStandard", "VolumeStandard",
    "fit", "harmonise", "points_back", "points_forth", "way_back",
]  # fmt: skip


def harmonise(payload: Payload, record: Record, standard: Standard, fingerprint: Fingerprint) -> Payload:
    """The standard payload of any modality."""
    match standard:
        case ImageStandard():
            return image.harmonise(payload, record, standard, fingerprint)
        case VolumeStandard():
            return volume.harmonise(payload, record, standard, fingerprint)
        case TextStandard():
            return text.harmonise(payload, record, standard, fingerprint)
        case TfidfStandard():
            return tfidf.harmonise(payload, record, standard, fingerprint)
        case TableStandard():
            return table.harmonise(payload, record, standard, fingerprint)
        case SignalStandard():
            return signal.harmonise(payload, record, standard, fingerprint)
        case OmicsStandard():
            return omics.harmonise(payload, record, standard, fingerprint)
        case SlideStandard():
            return slide.harmonise(payload, record, standard, fingerprint)
        case SlideFeaturesStandard():
            return slide_features.harmonise(payload, record, standard, fingerprint)
        case VideoStandard():
            return video.harmonise(payload, record, standard, fingerprint)
        case KinematicsStandard():
            return kinematics.harmonise(payload, record, standard, fingerprint)
