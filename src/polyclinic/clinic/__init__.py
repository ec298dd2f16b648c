"""An evidence-bearing run ↔ people: the desk that answers about one patient, the service, the page.

Imports `trust` and above. FastAPI is imported when a service is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .desk import Desk, Reply

if TYPE_CHECKING:
    from .service import create_app, serve

__all__ = ["Desk", "Reply", "create_app", "serve"]


def __getattr__(name: str) -> Any:
    if name in {"create_app", "serve"}:
        from . import service

        return getattr(service, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
