"""The service: the addresses of `endpoints`, the page, and their description. It keeps no upload on the disk and logs no value."""

from __future__ import annotations

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
from typing import Any, Protocol

from ..adaptation import Adapted
from ..schema import MissingExtraError
from ..training import Run, RunError
from .desk import by_name, desks
from .drawing import Drawings, draws_on
from .guards import LOG, Guard, only_our_words
from .manual import manual
from .reply import NOTICE, ModelCard, Reply
from .views import Pictures

LIMIT_MB = 256
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
SERVER: dict[str, Any] = {
    "log_level": "warning", "access_log": False, "server_header": False, "proxy_headers": False, "timeout_graceful_shutdown": 5,
}  # fmt: skip
"""How uvicorn runs it: its own log would name the paths."""


class Answerer(Protocol):
    """What the service asks about a patient: a `Desk`."""

    card: ModelCard

    @property
    def described(self) -> str:
        """The run's card as Markdown."""
        ...

    def answer(
        self, files: Sequence[str | Path], names: Sequence[str] | None = None, pictures: Pictures = "png"
    ) -> Reply:
        """The answer about one patient."""
        ...


Served = Run | Adapted | Answerer | Drawings | str | Path


def served(run: Served | Sequence[Served]) -> dict[str, Answerer | Drawings]:
    """Who is asked, by the name of its run.

    Raises:
        RunError, AdaptError: a run is neither adapted nor draws what it is shown, two are called alike, or the adapted ones are of
            several backbones.
    """
    several: list[Any] = list(run) if isinstance(run, list | tuple) else [run]
    if not several:
        raise RunError("no run to serve", "at least one that is adapted or draws what it is shown", "name one")
    opened = [Run.open(one) if isinstance(one, str | Path) else one for one in several]
    draws = [one for one in opened if isinstance(one, Run) and not one.adapter and draws_on(one)]
    answers = [one for one in opened if isinstance(one, Run | Adapted) and one not in draws]
    made = [*desks(answers).values(), *map(Drawings, draws)] if answers else [*map(Drawings, draws)]
    made += [one for one in opened if not isinstance(one, Run | Adapted)]
    return by_name(made)


def page() -> tuple[str, str]:
    """The page and its Content-Security-Policy: nothing but its own scripts and styles, known by their hashes."""
    folder = shipped("polyclinic.clinic")
    text = folder.joinpath("page.html").read_text(encoding="utf-8")
    for name, kind in re.findall(r"<!-- (\w+\.(css|js)) -->", text):
        tag = {"css": "style", "js": "script"}[kind]
        text = text.replace(f"<!-- {name} -->", f"<{tag}>\n{folder.joinpath(name).read_text(encoding='utf-8')}</{tag}>")
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
    """The service of a run, or of several, as an ASGI application.

    Args:
        run: adapted, or one that draws what it is shown (`promptable`), or its folder; or several, each asked by the name of its
            folder, the adapted ones on one backbone.
        limit_mb: MiB of a request, all files together.
        hosts: the names by which it may be called; None for any.
    Raises:
        RunError, AdaptError: a run is neither adapted nor draws what it is shown, two are called alike, or the adapted ones are of
            several backbones.
        MissingExtraError: FastAPI is not installed.
    """
    try:
        import python_multipart  # noqa: F401  # FastAPI asks for it when the first upload is declared
        from fastapi import FastAPI
        from fastapi.responses import HTMLResponse

        from . import endpoints, refusals
    except ImportError as error:
        raise MissingExtraError(error.name or "fastapi", "clinic") from error
    asked, limit = served(run), int(limit_mb * 2**20)
    from .. import __version__

    app = FastAPI(
        title="polyclinic", version=__version__, description=NOTICE, docs_url=None, redoc_url=None, swagger_ui_oauth2_redirect_url=None,
    )  # fmt: skip
    for router in (endpoints.answering(asked), endpoints.drawing(asked), endpoints.about(asked, limit)):
        app.include_router(router)
    refusals.refuse_in_words(app)
    text, csp = page()

    @app.get("/", include_in_schema=False)
    def front() -> HTMLResponse:
        return HTMLResponse(text, headers={"Content-Security-Policy": csp})

    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        described = manual(app.openapi())
        return HTMLResponse(described, headers={"Content-Security-Policy": policy(described)})

    app.add_middleware(Guard, limit=limit, hosts=hosts)
    return app


def serve(
    run: Run | Adapted | str | Path | Sequence[Run | Adapted | str | Path], port: int = 8000, *, host: str = "127.0.0.1",
    limit_mb: float = LIMIT_MB, say: Callable[[str], None] | None = None,
) -> None:  # fmt: skip
    """Serve a run, or several, until Ctrl-C.

    Args:
        run: adapted, or one that draws what it is shown (`promptable`), or its folder; or several, each asked by the name of its
            folder, the adapted ones on one backbone.
        port: 0 takes a free one.
        host: anything but loopback is warned about: there is no login.
        limit_mb: MiB of a request.
        say: where the address is told; stderr by default.
    Raises:
        RunError, AdaptError: a run is neither adapted nor draws what it is shown, two are called alike, or the adapted ones are of
            several backbones.
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
