"""The service: `/predict`, `/health`, `/card`, the page, and their description. It keeps no upload and logs no value."""

# Annotations are evaluated here: FastAPI reads those of the endpoints, whose names are imported where a service is made.
import base64
import hashlib
import logging
import re
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.resources import files as shipped
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Protocol

from ..adaptation import Adapted
from ..schema import MissingExtraError, PolyclinicError
from ..training import Run, RunError
from .desk import desks
from .guards import LOG, Guard, only_our_words
from .manual import manual
from .reply import NOTICE, Card, Health, ModelCard, Refusal, Reply

LIMIT_MB = 256
MOST_FILES = 1000
"""Starlette parses no more by itself; a series of thin CT slices has fewer."""
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
SERVER: dict[str, Any] = {
    "log_level": "warning", "access_log": False, "server_header": False, "proxy_headers": False, "timeout_graceful_shutdown": 5,
}  # fmt: skip
"""How uvicorn runs it: its own log would name the paths."""
REFUSALS: dict[int | str, dict[str, Any]] = {
    403: {"model": Refusal, "description": "a request from a page of another site"},
    413: {"model": Refusal, "description": "more bytes or files than allowed"},
    421: {"model": Refusal, "description": "a request by a name that is not this machine's own"},
    422: {
        "model": Refusal,
        "description": "a file that cannot be used, or no such run: what was found, what was expected, what to do",
    },
    500: {"model": Refusal, "description": "a fault of the service; no detail of the request is kept"},
    507: {"model": Refusal, "description": "no room for the upload on the service's disk"},
}


class Answerer(Protocol):
    """What the service asks: a `Desk`."""

    card: ModelCard

    @property
    def described(self) -> str:
        """The run's card as Markdown."""
        ...

    def answer(self, files: Sequence[str | Path], names: Sequence[str] | None = None) -> Reply:
        """The answer about one patient."""
        ...


Served = Run | Adapted | Answerer | str | Path


def answerers(run: Served | Sequence[Served]) -> dict[str, Answerer]:
    """Who answers, by the name of its run.

    Raises:
        RunError, AdaptError: there is no adapted run, two are called alike, or they are of several backbones.
    """
    several: list[Any] = list(run) if isinstance(run, list | tuple) else [run]
    if not several:
        raise RunError("no run to serve", "at least one adapted run", "name one")
    opened = [one for one in several if isinstance(one, Run | Adapted | str | Path)]
    others: dict[str, Answerer] = {one.card.run: one for one in several if one not in opened}
    return {**(desks(opened) if opened else {}), **others}


def page() -> tuple[str, str]:
    """The page and its Content-Security-Policy: nothing but its own script and style, known by their hashes."""
    text = shipped("polyclinic.clinic").joinpath("page.html").read_text(encoding="utf-8")
    return text, policy(text)


def policy(text: str) -> str:
    """A policy under which only the text's own inline script and style run."""

    def hashes(tag: str) -> str:
        found = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        return (
            " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()}'" for part in found)
            or "'none'"
        )

    return (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; img-src data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )


def create_app(
    run: Served | Sequence[Served], *, limit_mb: float = LIMIT_MB, hosts: frozenset[str] | None = LOOPBACK
) -> Any:
    """The service of an adapted run, or of several on one backbone, as an ASGI application.

    Args:
        run: adapted, or its folder; or several, each asked by the name of its folder.
        limit_mb: MiB of a request, all files together.
        hosts: the names by which it may be called; None for any.
    Raises:
        RunError, AdaptError: there is no adapted run, two are called alike, or they are of several backbones.
        MissingExtraError: FastAPI is not installed.
    """
    try:
        import python_multipart  # noqa: F401  # FastAPI asks for it when the first upload is declared
        from fastapi import FastAPI, File, Form, UploadFile
        from fastapi.concurrency import run_in_threadpool
        from fastapi.exceptions import RequestValidationError
        from fastapi.responses import HTMLResponse, JSONResponse
        from starlette.exceptions import HTTPException
    except ImportError as error:
        raise MissingExtraError(error.name or "fastapi", "clinic") from error
    served = answerers(run)
    from .. import __version__

    limit = int(limit_mb * 2**20)
    app = FastAPI(
        title="polyclinic",
        version=__version__,
        description=NOTICE,
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        responses={code: REFUSALS[code] for code in (403, 421)},
    )

    def refusal(status: int, found: str, expected: str, do: str) -> JSONResponse:
        return JSONResponse(Refusal(found=found, expected=expected, do=do).model_dump(), status)

    def no_room() -> JSONResponse:
        return refusal(507, "no room for the upload on the service's disk", "space", "free some, or send less")

    def chosen(name: str | None) -> Answerer:
        """Who was asked: the only one, or the one that was named."""
        if name is None and len(served) == 1:
            return next(iter(served.values()))
        if name not in served:
            found = "no name of a run" if name is None else f"no run {name!r}"
            raise RunError(found, "one of " + ", ".join(served), "name it in the field `run`")
        return served[name]

    @app.post("/predict", response_model=Reply, responses=REFUSALS, summary="The answer about one patient")
    async def predict(
        files: Annotated[
            list[UploadFile], File(description="One patient's files: DICOM, NIfTI, PNG, JPEG, text, CSV, FHIR …")
        ],
        run: Annotated[str | None, Form(description="Which of several runs is asked, by its name")] = None,
    ) -> Any:
        """Any subset of the modalities that the model reads is a patient; the answer says which were used."""
        # Readable by this user alone; gone when the answer is made.
        with TemporaryDirectory(prefix="polyclinic-") as whole:
            folder = Path(whole, "0")  # without a letter: a NIfTI file's kind has its folder's name in it
            folder.mkdir()
            try:
                paths = [await keep(file, folder, number) for number, file in enumerate(files)]
            except OSError:
                return no_room()
            names = [own_name(file) or path.name for file, path in zip(files, paths, strict=True)]
            try:
                return await run_in_threadpool(chosen(run).answer, paths, names)
            except PolyclinicError as error:
                return refusal(422, error.found, error.expected, error.remedy)

    @app.get("/health", response_model=Health, summary="Whether the model is loaded, and which")
    def health() -> Health:
        """Answers when the models can."""
        cards = [desk.card for desk in served.values()]
        return Health(
            status="ok", version=__version__, model=cards[0], models=cards, limit_bytes=limit, most_files=MOST_FILES
        )

    @app.get("/card", response_model=Card, responses={422: REFUSALS[422]}, summary="The model card")
    def card(run: str | None = None) -> Any:
        """What it is, its figures with n and intervals, what it must not be used for. Of several runs `run` names one."""
        try:
            desk = chosen(run)
        except RunError as error:
            return refusal(422, error.found, error.expected, error.remedy)
        return Card(model=desk.card, markdown=desk.described)

    text, csp = page()

    @app.get("/", include_in_schema=False)
    def front() -> HTMLResponse:
        return HTMLResponse(text, headers={"Content-Security-Policy": csp})

    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        described = manual(app.openapi())
        return HTMLResponse(described, headers={"Content-Security-Policy": policy(described)})

    async def malformed(request: Any, error: Exception) -> JSONResponse:
        expected = "multipart/form-data with one or more files in fields named `files`"
        return refusal(422, "a request without files", expected, "see /docs")

    async def unknown(request: Any, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        if error.detail.startswith("Too many files"):
            return refusal(413, f"more than {MOST_FILES} files", f"at most {MOST_FILES}", "send one patient's files")
        if isinstance(error.__cause__, OSError):  # the parser keeps large parts on the disk
            return no_room()
        if error.status_code == 400:
            return refusal(422, "a body that does not parse", "multipart/form-data", "see /docs")
        return refusal(error.status_code, error.detail.lower(), "an address and a method of /docs", "see /docs")

    app.add_exception_handler(RequestValidationError, malformed)
    app.add_exception_handler(HTTPException, unknown)
    app.add_middleware(Guard, limit=limit, hosts=hosts)
    return app


def own_name(file: Any) -> str:
    """What the sender calls the file, without the folders."""
    return re.split(r"[/\\]", str(file.filename or ""))[-1]


async def keep(file: Any, folder: Path, number: int) -> Path:
    """The upload as a file in the folder.

    Its name is kept as far as it is harmless, because readers look at endings and at pairs of names; and all lie in one
    folder, because the slices of a series do.
    """
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", own_name(file))[-120:].lstrip(".") or f"file{number}"
    while (folder / plain).exists():
        plain = f"{number}-{plain}"
    with (folder / plain).open("xb") as out:
        while block := await file.read(1 << 20):
            out.write(block)
    return folder / plain


def serve(
    run: Run | Adapted | str | Path | Sequence[Run | Adapted | str | Path], port: int = 8000, *, host: str = "127.0.0.1",
    limit_mb: float = LIMIT_MB, say: Callable[[str], None] | None = None,
) -> None:  # fmt: skip
    """Serve an adapted run, or several on one backbone, until Ctrl-C.

    Args:
        run: adapted, or its folder; or several, each asked by the name of its folder.
        port: 0 takes a free one.
        host: anything but loopback is warned about: there is no login.
        limit_mb: MiB of a request.
        say: where the address is told; stderr by default.
    Raises:
        RunError, AdaptError: there is no adapted run, two are called alike, or they are of several backbones.
        OSError: the address cannot be used.
    """
    try:
        import uvicorn
    except ImportError as error:
        raise MissingExtraError("uvicorn", "clinic") from error
    tell = say or (lambda line: print(line, file=sys.stderr, flush=True))
    open_to_all = host not in LOOPBACK
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))  # first: an address in use is known before the model is read
        app = create_app(run, limit_mb=limit_mb, hosts=None if open_to_all else LOOPBACK)
        listener.listen(64)
        if open_to_all:
            bar = "!" * 78
            tell(
                f"{bar}\nWARNING: bound to {host}. This service has NO LOGIN and NO ENCRYPTION: whoever reaches the\n"
                f"address can use it. Put it behind one that has both, or leave out --host.\n{bar}"
            )
        shown = f"[{host}]" if ":" in host else host
        tell(
            f"polyclinic serves {_names(run)} at http://{shown}:{listener.getsockname()[1]}/\n{NOTICE} Ctrl-C ends it."
        )
        if not LOG.handlers:
            LOG.addHandler(logging.StreamHandler())
            LOG.setLevel(logging.INFO)
        server = uvicorn.Server(uvicorn.Config(app, **SERVER))
        with only_our_words(), suppress(KeyboardInterrupt):  # uvicorn hands Ctrl-C on when it has ended everything
            server.run(sockets=[listener])


def _names(run: Any) -> str:
    each = run if isinstance(run, list | tuple) else [run]
    place = lambda one: (
        one.run.path if isinstance(one, Adapted) else one.path if isinstance(one, Run) else Path(one).resolve()
    )
    return ", ".join(place(one).name for one in each)
