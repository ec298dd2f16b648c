"""The OpenAPI description as one page that loads nothing: FastAPI's own pulls its viewer from another host."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --line: #d5dae1; --soft: #f4f6f8; --mark: #0b62a8 }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --paper: #14171b; --line: #333a43; --soft: #1d2228; --mark: #7db8ec } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper) }
body { max-width: 62rem; margin: 2rem auto; padding: 0 1.25rem }
a { color: var(--mark) } code, pre { font-family: ui-monospace, monospace; font-size: .9em }
pre { background: var(--soft); border: 1px solid var(--line); border-radius: 6px; padding: .8rem; overflow-x: auto }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1.5rem }
th, td { text-align: left; vertical-align: top; padding: .35rem .6rem; border-bottom: 1px solid var(--line) }
h2 { margin-top: 2.2rem } .verb { color: var(--mark); font-weight: 700 }
"""


def manual(described: Mapping[str, Any]) -> str:
    """The description as HTML, without a script.

    Args:
        described: an OpenAPI 3.1 document.
    """
    info = described["info"]
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">',
        f"<title>{escape(info['title'])}: what the service answers</title>",
        f"<style>{_STYLE}</style></head><body>",
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>",
        f"<p><strong>{escape(info.get('description', ''))}</strong></p>",
        '<p><a href="/">The page</a> · <a href="/openapi.json">openapi.json</a></p>',
        "<pre>curl -F files=@chest.dcm -F files=@note.txt http://127.0.0.1:8000/predict</pre>",
    ]
    shapes = described.get("components", {}).get("schemas", {})
    for path, verbs in described["paths"].items():
        for verb, about in verbs.items():
            parts += _endpoint(path, verb, about, shapes)
    parts.append("<h2>Shapes</h2>")
    for name, schema in shapes.items():
        if not name.startswith(("Body_", "HTTPValidation", "ValidationError")):
            parts += _shape(name, schema)
    return "\n".join([*parts, "</body></html>"])


def _endpoint(path: str, verb: str, about: Mapping[str, Any], shapes: Mapping[str, Any]) -> list[str]:
    parts = [
        f'<h2><span class="verb">{escape(verb.upper())}</span> <code>{escape(path)}</code></h2>',
        f"<p>{escape(about.get('summary', ''))}. {escape(about.get('description', ''))}</p>",
    ]
    body = about.get("requestBody", {}).get("content", {})
    if body:
        kind, told = next(iter(body.items()))
        how = (
            _kind(told.get("schema", {}))
            if kind == "application/json"
            else _fields(shapes[told["schema"]["$ref"].rsplit("/", 1)[1]])
        )
        parts.append(f"<p>Body: <code>{escape(kind)}</code>; {how}.</p>")
    rows = [
        (
            escape(code),
            escape(r.get("description", "")),
            _kind(next(iter(r.get("content", {}).values()), {}).get("schema", {})),
        )
        for code, r in about["responses"].items()
    ]
    return [*parts, _table(("status", "when", "answer"), rows)]


def _fields(form: Mapping[str, Any]) -> str:
    """Of a form: the files, and what else may be said."""
    more = [(k, v.get("description", "")) for k, v in form["properties"].items() if k != "files"]
    return "; ".join(
        ["field <code>files</code>, once for each file"]
        + [f"optional <code>{escape(k)}</code>: {escape(words[:1].lower() + words[1:])}" for k, words in more]
    )


def _shape(name: str, schema: Mapping[str, Any]) -> list[str]:
    rows = [
        (f"<code>{escape(key)}</code>", _kind(value), escape(value.get("description", "")))
        for key, value in schema.get("properties", {}).items()
    ]
    return [
        f'<h3 id="{escape(name)}">{escape(name)}</h3>',
        f"<p>{escape(schema.get('description', ''))}</p>",
        _table(("field", "kind", "meaning"), rows),
    ]


def _kind(schema: Mapping[str, Any]) -> str:
    """A schema in a word, linked where it has its own table."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f'<a href="#{escape(name)}">{escape(name)}</a>'
    if "anyOf" in schema:
        return " or ".join(_kind(s) for s in schema["anyOf"])
    if "prefixItems" in schema:
        return f"{len(schema['prefixItems'])} times {_kind(schema['prefixItems'][0])}"
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    return escape(str(schema.get("type", "object")))


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    cells = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{''.join(f'<th>{h}</th>' for h in head)}</tr>{cells}</table>"
