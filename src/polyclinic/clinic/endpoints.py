"""The service's addresses, each a few lines about who is asked. FastAPI reads the annotations: imported where a service is made."""

from collections.abc import Mapping
from typing import Annotated, Any, Protocol, TypeVar

from fastapi import APIRouter, File, Form, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from ..training import RunError
from .desk import Carded, Desk
from .drawing import Drawings, gone
from .refusals import MOST_FILES, of
from .reply import Begun, Card, Drawing, Drawn, Ended, Health, Reply, Shown
from .uploads import laid_down
from .views import Pictures

Files = Annotated[list[UploadFile], File(description="One patient's files: DICOM, NIfTI, PNG, JPEG, text, CSV, FHIR …")]
Asked = Annotated[
    Pictures,
    Form(description="`png`, to be looked at, or `samples`: values in sixteen bits, for grey levels of one's own"),
]
Named = Annotated[str | None, Form(description="Which of several runs is asked, by its name")]
One = TypeVar("One")


class Described(Carded, Protocol):
    """What every run that is served has."""

    @property
    def described(self) -> str:
        """The run's card as Markdown."""
        ...


def chosen(served: Mapping[str, One], name: str | None, does: str = "") -> One:
    """Who was asked: the only one, or the one that was named.

    Args:
        served: who can be asked.
        name: who was.
        does: what they can be asked for, in words.
    Raises:
        RunError: nobody can, none was named of several, or there is none of that name.
    """
    if not served:
        raise RunError(f"no run{does} in this service", "at least one", f"serve a run{does}")
    if name is None and len(served) == 1:
        return next(iter(served.values()))
    if name is None or name not in served:
        found = "no name of a run" if name is None else f"no run {name!r}{does}"
        raise RunError(found, "one of " + ", ".join(served), "name it in the field `run`")
    return served[name]


def answering(served: Mapping[str, Any]) -> APIRouter:
    """`/predict`."""
    router, answer = APIRouter(), {name: one for name, one in served.items() if one.card.answers}

    @router.post(
        "/predict",
        response_model=Reply,
        responses=of(403, 413, 421, 422, 500, 507),
        summary="The answer about one patient",
    )
    async def predict(files: Files, run: Named = None, pictures: Asked = "png") -> Any:
        """Any subset of the modalities that the model reads is a patient; the answer says which were used."""
        async with laid_down(files) as (paths, names):
            return await run_in_threadpool(chosen(answer, run, " that answers").answer, paths, names, pictures)

    return router


def drawing(served: Mapping[str, Any]) -> APIRouter:
    """`/segment` and what belongs to it."""
    router, draw = APIRouter(prefix="/segment"), {n: d for n, one in served.items() if (d := drawings_of(one))}

    def whose(drawing: str) -> Drawings:
        """Who has a record.

        Raises:
            GoneError: nobody.
        """
        for one in draw.values():
            if one.has(drawing):
                return one
        raise gone()

    @router.post(
        "/begin", response_model=Begun, responses=of(403, 413, 421, 422, 500, 507), summary="A record to draw on"
    )
    async def begin(files: Files, run: Named = None, pictures: Asked = "png") -> Any:
        """One patient's files, with just one record to draw on. It is read once, and kept in memory for the prompts that follow."""
        async with laid_down(files) as (paths, names):
            begun = chosen(draw, run, " that draws what it is shown").begin
            return await run_in_threadpool(begun, paths, names, pictures)

    @router.post(
        "", response_model=Drawn, responses=of(403, 410, 413, 421, 422, 500), summary="The mask of what is shown"
    )
    async def segment(shown: Shown) -> Any:
        """Points on the structure and beside it, a box around it, its name, or several at once. To mend, send all again and more."""
        return await run_in_threadpool(whose(shown.drawing).draw, shown)

    @router.post(
        "/file",
        responses=of(403, 410, 413, 421, 422, 500)
        | {200: {"content": {"application/gzip": {}, "image/png": {}}, "description": "the file"}},
        response_class=Response,
        summary="The mask of what is shown, as a file",
    )
    async def file(shown: Shown) -> Response:
        """Of a volume NIfTI (.nii.gz) that lies where the volume lies, of an image PNG; who drew it from what stands in the file."""
        made, ending = await run_in_threadpool(whose(shown.drawing).file, shown)
        kind = "image/png" if ending == ".png" else "application/gzip"
        return Response(made, media_type=kind, headers={"Content-Disposition": f'attachment; filename="mask{ending}"'})

    @router.post("/end", response_model=Ended, responses=of(403, 421, 422), summary="Forget a record")
    def end(drawing: Drawing) -> Ended:
        """At once, instead of when nobody has asked for a while."""
        return Ended(ended=any(one.end(drawing.drawing) for one in draw.values()))

    return router


def about(served: Mapping[str, Described], limit: int) -> APIRouter:
    """`/health` and `/card`."""
    from .. import __version__

    router = APIRouter()

    @router.get(
        "/health", response_model=Health, responses=of(403, 421), summary="Whether the model is loaded, and which"
    )
    def health() -> Health:
        """Answers when the models can."""
        cards = [one.card for one in served.values()]
        return Health(
            status="ok", version=__version__, model=cards[0], models=cards, limit_bytes=limit, most_files=MOST_FILES
        )

    @router.get("/card", response_model=Card, responses=of(403, 421, 422), summary="The model card")
    def card(run: str | None = None) -> Any:
        """What it is, its figures with n and intervals, what it must not be used for. Of several runs `run` names one."""
        one = chosen(served, run)
        return Card(model=one.card, markdown=one.described)

    return router


def drawings_of(one: Any) -> Drawings | None:
    """What draws, of a run that is served."""
    return one if isinstance(one, Drawings) else one.drawings if isinstance(one, Desk) else None
