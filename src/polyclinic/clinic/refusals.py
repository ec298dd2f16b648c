"""Whatever goes wrong as three words of one shape: what was found, what was expected, what to do. Imported where a service is made."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from ..schema import PolyclinicError
from .drawing import GoneError
from .reply import Refusal
from .uploads import NoRoomError

MOST_FILES = 1000
"""Starlette parses no more by itself; a series of thin CT slices has fewer."""
REFUSALS: dict[int | str, dict[str, Any]] = {
    403: {"model": Refusal, "description": "a request from a page of another site"},
    410: {"model": Refusal, "description": "a drawing that was forgotten: begin it again"},
    413: {"model": Refusal, "description": "more bytes or files than allowed"},
    421: {"model": Refusal, "description": "a request by a name that is not this machine's own"},
    422: {
        "model": Refusal,
        "description": "a file or a prompt that cannot be used, or no such run: what was found, what was expected, what to do",
    },
    500: {"model": Refusal, "description": "a fault of the service; no detail of the request is kept"},
    507: {"model": Refusal, "description": "no room for the upload on the service's disk"},
}


def of(*codes: int) -> dict[int | str, dict[str, Any]]:
    """How an endpoint describes its refusals."""
    return {code: REFUSALS[code] for code in codes}


def refusal(status: int, found: str, expected: str, do: str) -> JSONResponse:
    """A refusal as a response."""
    return JSONResponse(Refusal(found=found, expected=expected, do=do).model_dump(), status)


def refuse_in_words(app: FastAPI) -> None:
    """Make every error of an application a refusal."""
    app.add_exception_handler(PolyclinicError, _ours)
    app.add_exception_handler(NoRoomError, _no_room)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _unknown)


async def _ours(request: Any, error: Exception) -> JSONResponse:
    assert isinstance(error, PolyclinicError)
    return refusal(410 if isinstance(error, GoneError) else 422, error.found, error.expected, error.remedy)


async def _no_room(request: Any, error: Exception) -> JSONResponse:
    return refusal(507, "no room for the upload on the service's disk", "space", "free some, or send less")


async def _malformed(request: Any, error: Exception) -> JSONResponse:
    """A body of another form: of a JSON one which field, never its value."""
    assert isinstance(error, RequestValidationError)
    if "files" in {part for one in error.errors() for part in one["loc"]}:
        expected = "multipart/form-data with one or more files in fields named `files`"
        return refusal(422, "a request without files", expected, "see /docs")
    first = error.errors()[0]
    parts = [str(part) for part in first["loc"] if part != "body" and first["type"] != "json_invalid"]
    found = f"{'.'.join(parts) or 'the body'}: {first['msg'][:1].lower()}{first['msg'][1:]}"
    return refusal(422, found, "JSON of the described shape", "see /docs")


async def _unknown(request: Any, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if error.detail.startswith("Too many files"):
        return refusal(413, f"more than {MOST_FILES} files", f"at most {MOST_FILES}", "send one patient's files")
    if isinstance(error.__cause__, OSError):  # the parser keeps large parts on the disk
        return await _no_room(request, error)
    if error.status_code == 400:
        return refusal(
            422, "a body that does not parse", "multipart/form-data or JSON, as the address wants", "see /docs"
        )
    return refusal(error.status_code, error.detail.lower(), "an address and a method of /docs", "see /docs")
