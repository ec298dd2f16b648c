"""What stands between the network and the service: size, origin, headers, and a log without patient data."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
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
        start, status, sent = time.monotonic(), [0], [False]
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
        seen = 0

        async def counted() -> Any:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.limit:
                raise _TooLargeError
            return message

        async def answered(message: Any) -> None:
            if message["type"] == "http.response.start":
                sent[0], status[0] = True, message["status"]
                have = {k.lower() for k, _ in message["headers"]}
                more = {"Content-Security-Policy": NOTHING_ELSE, **HEADERS}
                message["headers"] = [
                    *message["headers"],
                    *((k.lower().encode(), v.encode()) for k, v in more.items() if k.lower().encode() not in have),
                ]
            await send(message)

        try:
            refused = self._refusal(headers)
            if refused:
                await _refuse(answered, *refused)
            else:
                await self.app(scope, counted, answered)
        except _TooLargeError:
            if not sent[0]:
                await _refuse(answered, *self._too_large())
        finally:
            # The path and the size, never a name, a query or a value.
            path = (
                scope["path"]
                if scope["path"] in {"/", "/predict", "/health", "/card", "/docs", "/openapi.json"}
                else "(other)"
            )
            line = {"event": "request", "method": scope["method"], "path": path, "status": status[0], "bytes": seen}
            LOG.info(json.dumps(line | {"ms": round(1000 * (time.monotonic() - start))}))

    def _too_large(self) -> tuple[int, dict[str, str]]:
        size = f"{self.limit / 2**20:.0f} MiB" if self.limit >= 2**20 else f"{self.limit} bytes"
        return 413, {
            "found": f"more than {size}",
            "expected": f"at most {size}, all files together",
            "do": "send fewer files, or start the service with a larger --limit-mb",
        }

    def _refusal(self, headers: Mapping[str, str]) -> tuple[int, dict[str, str]] | None:
        host = headers.get("host", "")
        if self.hosts is not None and (urlsplit(f"//{host}").hostname or "") not in self.hosts:
            return 421, {
                "found": "a request for another host",
                "expected": "this machine's own address",
                "do": "use the address that `polyclinic serve` printed",
            }
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return 403, {
                "found": "a request from another site's page",
                "expected": "this service's own page, or a program",
                "do": "open the service's page",
            }
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self.limit:
            return self._too_large()
        return None


async def _refuse(send: Any, status: int, told: Mapping[str, str]) -> None:
    body = json.dumps(told).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
