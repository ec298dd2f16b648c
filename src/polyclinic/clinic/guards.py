"""What stands between the network and the service: size, origin, headers, faults, and a log without patient data."""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

LOG = logging.getLogger("polyclinic.clinic")
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",  # an answer about a patient stays in no cache
}
NOTHING_ELSE = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
PATHS = frozenset(
    {"/", "/predict", "/segment", "/segment/begin", "/segment/file", "/segment/end", "/health", "/card", "/docs", "/openapi.json"}
)  # fmt: skip
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


@contextmanager
def only_our_words() -> Iterator[None]:
    """While it lasts, no library's log or warning is shown: pydicom's, for one, name the file."""
    root = logging.getLogger()
    silent = logging.NullHandler()  # without any handler, Python would print warnings by itself
    ours = lambda record: record.name.startswith(("polyclinic", "uvicorn"))
    others = list(root.handlers)
    for handler in others:
        handler.addFilter(ours)
    root.addHandler(silent)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeHandler(silent)
        for handler in others:
            handler.removeFilter(ours)


class _TooLargeError(Exception):
    """More bytes came than are allowed."""


class Guard:
    """An ASGI layer around the service.

    Args:
        app: the service.
        limit: bytes of a request's body, counted as they come: a Content-Length can lie.
        hosts: the names that a Host header may have; None for any. A page of another site that got its name to point here
            (DNS rebinding) is refused by it.
    """

    def __init__(self, app: Any, limit: int, hosts: frozenset[str] | None) -> None:
        self.app, self.limit, self.hosts = app, limit, hosts

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status, seen, over = time.monotonic(), 0, 0, False

        async def counted() -> Any:
            nonlocal seen, over
            message = await receive()
            seen += len(message.get("body", b""))
            over = seen > self.limit
            if over:
                raise _TooLargeError
            return message

        async def answered(message: Any) -> None:
            nonlocal status
            if over and status == 0:
                raise _TooLargeError  # whatever the service made of the body's sudden end, this is why
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = _with_ours(message["headers"])
            await send(message)

        try:
            headers = _headers(scope)
            refused = self._refusal(headers)
            if refused is None:
                await self.app(scope, counted, answered)
            else:
                if "expect" not in headers:  # else it waits for a word before it sends
                    await _drain(receive, 4 * self.limit)
                await _refuse(answered, *refused)
        except _TooLargeError:
            over = False
            await _drain(receive, 4 * self.limit)
            await _refuse(answered, *self._too_large())
        except Exception as error:
            # Ours to answer: the server would log the message, which may quote the file.
            LOG.error(json.dumps({"event": "fault", "time": _now(), "kind": type(error).__name__, "at": _place(error)}))
            if status == 0:
                await _refuse(answered, 500, _told(error))
        finally:
            # The path and the size, never a name, a query or a value.
            line = {
                "event": "request", "time": _now(), "method": scope["method"] if scope["method"] in METHODS else "(other)",
                "path": scope["path"] if scope["path"] in PATHS else "(other)", "status": status, "bytes": seen,
                "ms": round(1000 * (time.monotonic() - start)),
            }  # fmt: skip
            LOG.info(json.dumps(line))

    def _too_large(self) -> tuple[int, dict[str, str]]:
        size = f"{self.limit / 2**20:.0f} MiB" if self.limit >= 2**20 else f"{self.limit} bytes"
        return 413, {
            "found": f"more than {size}",
            "expected": f"at most {size}, all files together",
            "do": "send fewer files, or start the service with a larger --limit-mb",
        }

    def _refusal(self, headers: Mapping[str, str]) -> tuple[int, dict[str, str]] | None:
        host = headers.get("host", "")
        if self.hosts is not None and _hostname(f"//{host}") not in self.hosts:
            return 421, {
                "found": "a request for another host",
                "expected": "this machine's own address",
                "do": "use the address that `polyclinic serve` printed",
            }
        origin = headers.get("origin")
        if origin is not None and not origin.endswith(f"://{host}"):
            return 403, {
                "found": "a request from another site's page",
                "expected": "this service's own page, or a program",
                "do": "open the service's page",
            }
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > self.limit:
            return self._too_large()
        return None


def _headers(scope: Any) -> dict[str, str]:
    return {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}


def _hostname(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:  # "[::1" and the like
        return ""


def _with_ours(headers: Any) -> list[tuple[bytes, bytes]]:
    have = {k.lower() for k, _ in headers}
    ours = {"Content-Security-Policy": NOTHING_ELSE, **HEADERS}
    return [*headers, *((k.lower().encode(), v.encode()) for k, v in ours.items() if k.lower().encode() not in have)]


async def _drain(receive: Any, most: int) -> None:
    """Let the sender finish, as far as that is bearable: one that is cut off sees a broken connection and no reason."""
    while most > 0:
        message = await receive()
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            return
        most -= len(message.get("body", b""))


async def _refuse(send: Any, status: int, told: Mapping[str, str]) -> None:
    body = json.dumps(told).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _told(error: Exception) -> dict[str, str]:
    return {
        "found": f"a fault of the service ({type(error).__name__})",
        "expected": "an answer",
        "do": "report it with the time; the service's log says where it happened",
    }


def _place(error: Exception) -> str:
    """Where it was raised: a file and a line, never what was in it."""
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    return f"{Path(at.tb_frame.f_code.co_filename).name}:{at.tb_lineno}" if at else "?"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
