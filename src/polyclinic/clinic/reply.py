"""What the desk answers: plain, documented data, the same for the service, the page and the command line."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

NOTICE = "Research use only. Not a medical device. A person decides."
MOST_POINTS = 200
Point = Annotated[list[FiniteFloat], Field(min_length=2, max_length=3)]


class Edges(BaseModel):
    """The letters at a picture's edges: R right, L left, A anterior, P posterior, H head, F feet (DICOM PS3.3 C.7.6.1.1.1)."""

    left: str
    right: str
    top: str
    bottom: str


class Slice(BaseModel):
    """One picture, as asked for by `pictures`, and, where the answer has drawn on it, a PNG whose pixels are label numbers; all base64."""

    image: str | None = Field(
        None,
        description="PNG at the first of the view's `presets`; of colours always; else null where samples were asked for",
    )
    samples: str | None = Field(
        None,
        description="the values: zlib of (2 height width) bytes, the high and the low ones of each pixel's difference from its left "
        "neighbour, modulo 65536 and folded (0, -1, 1, -2 … are 0, 1, 2, 3 …); null where they were not asked for, and of colours",
    )
    mask: str | None = None
    place: int = Field(description="which slice of the source, from 1, from the feet up")


class Preset(BaseModel):
    """A window: which values are black and which white (DICOM PS3.3 C.11.2.1.2)."""

    model_config = ConfigDict(frozen=True)

    name: str
    center: float
    width: float
    function: str = Field(description="between them: LINEAR, LINEAR_EXACT or SIGMOID (PS3.3 C.11.2.1.3)")


class Levels(BaseModel):
    """What grey values mean, and windows to look at them; a sample s of `samples` is the value `s * slope + intercept`."""

    unit: str = Field(description="HU, or nothing: the file's own units")
    slope: float
    intercept: float
    low: float = Field(description="the least value")
    high: float = Field(description="the greatest value")
    presets: list[Preset] = Field(description="the first is the one to begin with: the file's own where it has one")


class View(BaseModel):
    """A record as a person sees it: an image, or a volume's axial slices in radiological convention."""

    file: str = Field(description="the file that it shows")
    title: str
    modality: str
    slices: list[Slice]
    start: int = Field(description="the slice to show first, from 0: the one with most of the answer")
    of: int = Field(description="slices of the source; more than are here where it is tall")
    width: int = Field(description="of the pictures, in pixels")
    height: int
    columns: int = Field(description="samples of the source along the pictures' width")
    rows: int = Field(description="the same along their height")
    step: float | None = Field(
        description="from one of the source's slices to the next, in these pictures' pixels; null of an image"
    )
    levels: Levels | None = Field(description="null of a picture in colours")
    edges: Edges | None = Field(description="null where it is not known how the patient lay")
    pixel_mm: float | None = Field(description="the side of these pictures' square pixels; null without a scale")
    scale: str = Field(description="the file's own sample spacing in mm, or that it has none")
    note: str = Field("", description="what to know before looking: tilt, slices or samples left out")
    caution: str = Field("", description="what the answer does not cover")


class Axis(BaseModel):
    """Of one of a record's own axes, where a picture shows it: a share `s` of the picture's width or height is the sample
    `s * samples - 0.5`, slice `place` is `place - 1`; reversed, that is taken from `samples - 1`."""

    along: str = Field(
        description="column: the picture's width; row: its height, from the top; slice: from one to the next"
    )
    samples: int
    reversed: bool


class Structure(BaseModel):
    """One label of a mask: its number, name, colour and size."""

    number: int
    name: str
    colour: str
    size: float
    unit: str


class Used(BaseModel):
    """A file that was read."""

    file: str
    modality: str
    kind: str = Field(description="what it is, in the field's words")


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
    answers: bool = Field(default=True, description="whether `/predict` can be asked")
    draws: str | None = Field(
        default=None, description="the modality on which it draws what it is shown; null where it learned none"
    )
    backbone: str = Field(description="hash of the pretrained weights")
    adapter: str = Field(description="hash of the head and what was adapted, or of what draws")
    split: str = Field(description="hash of the split: who trained, who tested")


class Region(BaseModel):
    """A part of a picture, as shares of its width and height from its upper left corner."""

    left: float
    top: float
    right: float
    bottom: float


class Sentence(BaseModel):
    """A sentence of a written report, with what it rests on and what the picture says against it."""

    text: str
    findings: dict[str, str] = Field(description="what it says: finding → present, absent or uncertain")
    part: str | None = Field(
        description="of the picture, as it is looked at, or of the volume on which it rests; null where on none"
    )
    region: Region | None = Field(description="the same on the picture, where there is just one")
    slices: tuple[int, int] | None = Field(
        None, description="of a volume, the first and last of the file's slices that the part takes, from 1"
    )
    against: list[str] = Field(
        description="findings on which the model's own comparison with the picture says otherwise"
    )


class Metric(BaseModel):
    """How well the model does on patients that it never saw, given these modalities of them."""

    name: str
    value: float | None
    low: float | None = Field(description="of the 95% interval")
    high: float | None
    n: int
    note: str = Field(description="how the interval was made, or why there is none")
    modalities: list[str]
    chance: float | None = Field(description="what a guess would reach, where that is known")


class Alike(BaseModel):
    """The test patients whose scores were nearest, read with everything that they had."""

    predicted: float = Field(description="their mean score")
    observed: float = Field(description="the share of them whose answer was yes")
    low: float = Field(description="of the share's 95% interval")
    high: float
    n: int


class Evidence(BaseModel):
    """What is known of such answers."""

    metric: Metric
    alike: Alike | None = Field(None, description="of a classification")


class Reply(BaseModel):
    """The answer about one patient."""

    task: str
    headline: str
    values: dict[str, float | str]
    used: list[str] = Field(description="the modalities that were read")
    read: list[Used] = Field(description="the files that were read")
    not_used: list[NotUsed]
    whose: str = Field(description="of several files: whether they say themselves that they are of one patient")
    structures: list[Structure] = []
    sentences: list[Sentence] = Field([], description="of a report, in their order")
    notes: list[str] = Field([], description="what of the answer could be looked into, and what could not")
    uncertainty: str = Field(description="what is known of such answers, in words; never silent")
    evidence: Evidence | None = Field(description="the same as numbers; null where nothing is known")
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


class Health(BaseModel):
    """That the models are loaded, which they are, and how much may be sent."""

    status: str
    version: str
    model: ModelCard = Field(description="the first")
    models: list[ModelCard] = Field(description="all, each asked by its `run`")
    limit_bytes: int = Field(description="of a request, all files together")
    most_files: int
    notice: str = NOTICE


class Card(BaseModel):
    """What it is, its figures with n and intervals, what it must not be used for."""

    model: ModelCard
    markdown: str
    notice: str = NOTICE


class Begun(BaseModel):
    """A record that is ready to be drawn on, and stays in the service's memory for a while."""

    drawing: str = Field(description="its name in `/segment`; nobody can guess it")
    view: View = Field(description="what it looks like")
    axes: list[Axis] = Field(
        description="x and y of an image, x, y and z of a volume: from a place in a picture to a place in it"
    )
    ways: list[str] = Field(description="the prompts that the run learned from: point, box, text")
    names: list[str] = Field(description="what can be asked for by name")
    read: list[Used]
    not_used: list[NotUsed]
    whose: str
    kept_s: int = Field(description="so long after the last request it is forgotten")
    uncertainty: str = Field(description="what is known of how well it draws, in words")
    evidence: Evidence | None
    model: ModelCard
    notice: str = NOTICE


class Drawing(BaseModel):
    """Which record."""

    drawing: str = Field(max_length=64, description="as `/segment/begin` called it")


class Shown(Drawing):
    """What shows the structure: all of it each time, for the service keeps no prompt. Places are counted in the record's own samples,
    from 0: (x, y) of an image, x to the right and y down; (x, y, z) of a volume along its stored axes."""

    model_config = ConfigDict(extra="forbid")

    points: list[Point] = Field(default=[], max_length=MOST_POINTS, description="on the structure")
    off: list[Point] = Field(default=[], max_length=MOST_POINTS, description="beside it")
    box: tuple[Point, Point] | None = Field(default=None, description="two opposite corners that hold it")
    name: str | None = Field(default=None, max_length=200, description="one of `names`")


class Drawn(BaseModel):
    """What was drawn of what was shown."""

    headline: str
    structure: Structure = Field(description="size 0 where nothing was drawn")
    area_cm2: float | None = Field(description="of an image whose file has a scale, at that scale")
    masks: list[str | None] = Field(
        description="of each of the view's slices a PNG, base64, of 0 and 1; null where nothing lies on it"
    )
    fullest: int = Field(description="the slice with most of it, from 0")
    seconds: float = Field(description="how long it took")
    model: ModelCard
    notice: str = NOTICE


class Ended(BaseModel):
    """That a drawing was forgotten."""

    ended: bool = Field(description="false where it had been before")
