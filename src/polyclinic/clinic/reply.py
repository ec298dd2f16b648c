"""What the desk answers: plain, documented data, the same for the service, the page and the command line."""

from __future__ import annotations

from pydantic import BaseModel, Field

NOTICE = "Research use only. Not a medical device. A person decides."


class Edges(BaseModel):
    """The letters at a picture's edges: R right, L left, A anterior, P posterior, H head, F feet (DICOM PS3.3 C.7.6.1.1.1)."""

    left: str
    right: str
    top: str
    bottom: str


class Slice(BaseModel):
    """One picture: grey PNG and, where there is a mask, a PNG whose pixels are label numbers; both base64."""

    image: str
    mask: str | None = None
    place: int = Field(description="which slice of the source's axis, from 1, from the feet up")


class View(BaseModel):
    """A record as a person sees it: an image, or a volume's axial slices in radiological convention."""

    title: str
    modality: str
    slices: list[Slice]
    start: int = Field(description="the slice to show first: the one with most of the answer")
    of: int = Field(description="slices of the source; more than are here where it is tall")
    edges: Edges | None = Field(description="null where the file does not say how the patient lay")
    scale: str = Field(description="the sample spacing in mm, or that the file has none")
    note: str = ""


class Structure(BaseModel):
    """One label of a mask: its number, name, colour and size."""

    number: int
    name: str
    colour: str
    size: float
    unit: str


class NotUsed(BaseModel):
    """A file that was understood and not read."""

    file: str
    why: str


class ModelCard(BaseModel):
    """Which model answered; hashes are blake2b-128."""

    run: str
    task: str
    kind: str
    method: str
    labels: int = Field(description="how many labelled patients the head learned from")
    inputs: list[str]
    backbone: str = Field(description="hash of the pretrained weights")
    adapter: str = Field(description="hash of the head and what was adapted")
    split: str = Field(description="hash of the split: who trained, who tested")


class Evidence(BaseModel):
    """What is known of such answers, from patients that the model never saw."""

    note: str
    predicted: float | None = Field(
        default=None, description="mean score of the test patients whose scores were nearest"
    )
    observed: float | None = Field(default=None, description="the share of them in whom it came true")
    low: float | None = None
    high: float | None = None
    n: int = 0


class Reply(BaseModel):
    """The answer about one patient."""

    task: str
    headline: str
    values: dict[str, float | str]
    used: list[str] = Field(description="the modalities that were read")
    not_used: list[NotUsed]
    structures: list[Structure] = []
    uncertainty: str = Field(description="what is known of such answers; never silent")
    evidence: Evidence
    overlay: str | None = Field(
        None, description="PNG, base64: the slice with most of the mask, the mask in colour on it"
    )
    views: list[View]
    model: ModelCard
    notice: str = NOTICE


class Refusal(BaseModel):
    """Why there is no answer."""

    found: str
    expected: str
    do: str
