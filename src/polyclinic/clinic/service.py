"""The service: `/predict`, `/health`, `/card`, the page, and their description. It keeps no upload and logs no value."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import re
import sys
from collections.abc import Callable, Sequence
from importlib.resources import files as shipped
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Protocol

from ..adaptation import Adapted
from ..schema import MissingExtraError, PolyclinicError
from ..training import Run
from .desk import Desk
from .guards import LOG, Guard
from .manual import manual
from .reply import NOTICE, ModelCard, Refusal, Reply

LIMIT_MB, MOST_FILES = 256, 1024
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class Answerer(Protocol):
    """What the service asks: a `Desk`."""

    card: ModelCard

    def answer(self, files: Sequence[str | Path]) -> Reply:
        """The answer about one patient."""
        ...


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
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; img-src 'self' data: blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def create_app(
    run: Run | Adapted | Answerer | str | Path, *, limit_mb: float = LIMIT_MB, hosts: frozenset[str] | None = LOOPBACK
) -> Any:
    """The service of an adapted run, as an ASGI application.

    Args:
        run: adapted, or its folder.
        limit_mb: MiB of a request, all files together.
        hosts: the names by which it may be called; None for any.
    Raises:
        RunError, AdaptError: there is no adapted run.
        MissingExtraError: FastAPI is not installed.
    """
    try:
        from fastapi import FastAPI, File, Request, UploadFile
        from fastapi.concurrency import run_in_threadpool
        from fastapi.exceptions import RequestValidationError
        from fastapi.responses import HTMLResponse, JSONResponse
    except ImportError as error:
        raise MissingExtraError(error.name or "fastapi", "clinic") from error
    desk: Answerer = Desk(run) if isinstance(run, Run | Adapted | str | Path) else run
    from .. import __version__

    app = FastAPI(
        title="polyclinic",
        version=__version__,
        description=NOTICE,
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
    )
    refused: dict[int | str, dict[str, Any]] = {
        413: {"model": Refusal, "description": "more bytes or files than allowed"},
        422: {
            "model": Refusal,
            "description": "a file that cannot be used: what was found, what was expected, what to do",
        },
        500: {"model": Refusal, "description": "a fault of the service; no detail of the request is kept"},
    }

    @app.post("/predict", response_model=Reply, responses=refused, summary="The answer about one patient")
    async def predict(
        files: Annotated[
            list[UploadFile], File(description="One patient's files: DICOM, NIfTI, PNG, JPEG, text, CSV, FHIR …")
        ],
    ) -> Any:
        """Any subset of the modalities that the model reads is a patient; the answer says which were used."""
        if len(files) > MOST_FILES:
            return JSONResponse(
                {"found": f"{len(files)} files", "expected": f"at most {MOST_FILES}", "do": "send one patient's files"},
                413,
            )
        with TemporaryDirectory(
            prefix="polyclinic-"
        ) as folder:  # readable by this user alone; gone when the answer is made
            try:
                paths = [await _keep(file, Path(folder), number) for number, file in enumerate(files)]
                return await run_in_threadpool(desk.answer, paths)
            except PolyclinicError as error:
                return JSONResponse({"found": error.found, "expected": error.expected, "do": error.remedy}, 422)

    @app.get("/health", summary="Whether the model is loaded, and which")
    def health() -> dict[str, Any]:
        """Answers when the model can."""
        return {"status": "ok", "version": __version__, "model": desk.card.model_dump(), "notice": NOTICE}

    @app.get("/card", summary="The model card")
    def card() -> dict[str, Any]:
        """What it is, its figures with n and intervals, what it must not be used for."""
        return {"model": desk.card.model_dump(), "markdown": _card(desk), "notice": NOTICE}

    text, csp = page()

    @app.get("/", include_in_schema=False)
    def front() -> HTMLResponse:
        return HTMLResponse(text, headers={"Content-Security-Policy": csp})

    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        described = manual(app.openapi())
        return HTMLResponse(described, headers={"Content-Security-Policy": policy(described)})

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        told = {
            "found": "a request without files",
            "expected": "multipart/form-data with one or more fields named `files`",
            "do": "see /docs",
        }
        return JSONResponse(told, 422)

    @app.exception_handler(Exception)
    async def fault(request: Request, error: Exception) -> JSONResponse:
        # The kind of the fault and where in our code; a message may quote the file.
        at = error.__traceback__
        while at is not None and at.tb_next is not None:
            at = at.tb_next
        place = f"{Path(at.tb_frame.f_code.co_filename).name}:{at.tb_lineno}" if at else "?"
        LOG.error(json.dumps({"event": "fault", "kind": type(error).__name__, "at": place}))
        return JSONResponse(
            {
                "found": f"a fault of the service ({type(error).__name__})",
                "expected": "an answer",
                "do": "report it with the time",
            },
            500,
        )

    app.add_middleware(Guard, limit=int(limit_mb * 2**20), hosts=hosts)
    return app


async def _keep(file: Any, folder: Path, number: int) -> Path:
    """The upload as a file: its name kept as far as it is harmless, because readers look at endings and at pairs of names."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", Path(str(file.filename or "")).name).lstrip(".")[-120:] or f"file{number}"
    place = folder / plain
    if place.exists():
        (folder / str(number)).mkdir()
        place = folder / str(number) / plain
    with place.open("wb") as out:
        while block := await file.read(1 << 20):
            out.write(block)
    return place


def _card(desk: Answerer) -> str:
    adapted = getattr(desk, "adapted", None)
    written = adapted.run.path / "card.md" if adapted is not None else None
    if written is not None and written.exists():
        return written.read_text()
    c = desk.card
    return (
        f"# {c.run}\n\nAnswers `{c.task}` ({c.kind}) by {c.method} from {c.labels} labelled patients, reading {', '.join(c.inputs)}.\n\n"
        "**It has not been examined**: no figure is known of it. Run `polyclinic evaluate` on it.\n\n"
        f"{NOTICE}\n"
    )


def serve(
    run: Run | Adapted | str | Path, port: int = 8000, *, host: str = "127.0.0.1", limit_mb: float = LIMIT_MB,
    say: Callable[[str], None] | None = None,
) -> None:  # fmt: skip
    """Serve an adapted run until Ctrl-C.

    Args:
        run: adapted, or its folder.
        port: 0 takes a free one.
        host: anything but loopback is warned about: there is no login.
        limit_mb: MiB of a request.
        say: where the address is told; stderr by default.
    """
    try:
        import uvicorn
    except ImportError as error:
        raise MissingExtraError("uvicorn", "clinic") from error
    import socket

    tell = say or (lambda line: print(line, file=sys.stderr, flush=True))
    open_to_all = host not in LOOPBACK
    app = create_app(run, limit_mb=limit_mb, hosts=None if open_to_all else LOOPBACK)
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    with listener:
        listener.bind((host, port))
        listener.listen(64)
        if open_to_all:
            bar = "!" * 78
            tell(
                f"{bar}\nWARNING: bound to {host}. This service has NO LOGIN and NO ENCRYPTION: whoever reaches the\n"
                f"address can use it. Put it behind one that has both, or leave out --host.\n{bar}"
            )
        shown = f"[{host}]" if ":" in host else host
        tell(
            f"polyclinic serves {Path(_name(run)).name} at http://{shown}:{listener.getsockname()[1]}/\n{NOTICE} Ctrl-C ends it."
        )
        if not LOG.handlers:
            LOG.addHandler(logging.StreamHandler())
            LOG.setLevel(logging.INFO)
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=5)
        )
        server.run(sockets=[listener])


def _name(run: Run | Adapted | str | Path) -> str:
    return str(run.run.path if isinstance(run, Adapted) else run.path if isinstance(run, Run) else run)
