"""The page around the sections: one file, no script, nothing fetched (its content policy forbids it), light and dark, printable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

STYLE = Path(__file__).with_name("report.css")


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page.

    Args:
        name: its anchor.
        heading: in plain words.
        inside: its markup.
        short: its heading in the contents.
    """

    name: str
    heading: str
    inside: str
    short: str = ""


def page(title: str, head: str, sections: Sequence[Section], foot: str) -> str:
    """The whole file.

    Args:
        title: of the page, in plain words.
        head: markup above the sections.
        sections: in their order.
        foot: markup below them.
    """
    contents = "".join(f'<li><a href="#{s.name}">{escape(s.short or s.heading)}</a></li>' for s in sections)
    body = "".join(
        f'<section id="{s.name}" aria-labelledby="{s.name}-h"><h2 id="{s.name}-h">{escape(s.heading)}</h2>{s.inside}</section>\n'
        for s in sections
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>
<meta name="viewport" content="width=device-width,initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'">
<meta name="color-scheme" content="light dark"><meta name="referrer" content="no-referrer">
<style>{STYLE.read_text(encoding="utf-8")}</style></head>
<body><a class="skip" href="#main">Skip to the report</a><div class="layout">
<nav aria-label="Contents"><strong>Contents</strong><ol>{contents}</ol></nav>
<main id="main">{head}
{body}{foot}</main></div></body></html>
"""  # noqa: E501


def table(
    caption: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    numeric: Sequence[int] = (),
    wrap: Sequence[int] = (),
) -> str:
    """A table of markup cells, the first of a row its heading.

    Where it does not fit it scrolls sideways; one of long words becomes a list of blocks instead.

    Args:
        caption: what it shows.
        head: its columns.
        rows: their cells, which are markup.
        numeric: columns that are right-aligned; wrap: columns of long words.
    """
    kind = lambda n: ' class="n"' if n in numeric else ' class="wrap"' if n in wrap else ""
    # A table that is laid out as blocks would lose its roles for a screen reader: they are written down.
    top = "".join(f'<th scope="col" role="columnheader"{kind(n)}>{escape(h)}</th>' for n, h in enumerate(head))
    body = ""
    for row in rows:
        body += f'<tr role="row"><th scope="row" role="rowheader"{kind(0)}>{row[0]}</th>'
        for n, cell in enumerate(row[1:], start=1):
            body += f'<td role="cell"{kind(n)} data-label="{escape(head[n], quote=True)}">{cell}</td>'
        body += "</tr>"
    layout = "blocks" if wrap else "compact" if len(head) <= 4 else ""
    return (
        f'<div class="scroll {layout}" tabindex="0" role="region" aria-label="{escape(caption, quote=True)}"><table role="table">'
        f'<caption>{escape(caption)}</caption><thead role="rowgroup"><tr role="row">{top}</tr></thead>'
        f'<tbody role="rowgroup">{body}</tbody></table></div>'
    )


@dataclass(frozen=True, slots=True)
class Column:
    """Of a table of strips.

    Args:
        heading: markup; of a column of strips its axis.
        kind: "name", "strip", "value" or "n".
        label: what stands before the value where there is no room for headings.
    """

    heading: str
    kind: str
    label: str = ""


def strips(
    caption: str,
    columns: Sequence[Column],
    groups: Sequence[tuple[str, Sequence[Sequence[str]]]],
    hide_caption: bool = False,
) -> str:
    """A forest plot as a table: its lines are drawn inside the cells, its numbers are the table's; on a phone rows become blocks.

    Args:
        caption: what it shows.
        columns: the first is the row's name.
        groups: a heading (markup, may be empty) and its rows of markup cells.
        hide_caption: only a screen reader needs it.
    """
    top = "".join(f'<th scope="col" role="columnheader" class="{c.kind}">{c.heading}</th>' for c in columns)
    body = ""
    for heading, rows in groups:
        if heading:
            across = f'<th scope="colgroup" role="columnheader" colspan="{len(columns)}">{heading}</th>'
            body += f'<tr class="group" role="row">{across}</tr>'
        for row in rows:
            body += f'<tr role="row"><th scope="row" role="rowheader">{row[0]}</th>'
            for column, cell in zip(columns[1:], row[1:], strict=True):
                label = f' data-label="{escape(column.label, quote=True)}"' if column.label and cell else ""
                body += f'<td role="cell" class="{column.kind}"{label}>{cell}</td>'
            body += "</tr>"
    hidden = ' class="vh"' if hide_caption else ""
    return (
        f'<div class="strips"><table role="table"><caption{hidden}>{escape(caption)}</caption>'
        f'<thead role="rowgroup"><tr role="row">{top}</tr></thead><tbody role="rowgroup">{body}</tbody></table></div>'
    )


def details(words: str, inside: str) -> str:
    """Something to open; words and inside are markup."""
    return f"<details><summary>{words}</summary>{inside}</details>"


def lead(inside: str) -> str:
    """What a section shows and how to read it; markup."""
    return f'<p class="lead">{inside}</p>'


def small(inside: str) -> str:
    """What is worth a footnote; markup."""
    return f'<p class="small">{inside}</p>'


def verbatim(words: str) -> str:
    """Words of a file, as they stand there."""
    return f'<span class="verbatim">{escape(words)}</span>'


def mono(words: str) -> str:
    """A hash or a path, as it stands there."""
    return f'<code class="mono">{escape(words)}</code>'


def warning(inside: str) -> str:
    """What a reader must not overlook.

    Args:
        inside: markup.
    """
    return f'<p class="warn">{inside}</p>'


def told(sentences: Sequence[str]) -> str:
    """What was found, a sentence a line; plain words."""
    return '<ul class="told">' + "".join(f"<li>{escape(one)}</li>" for one in sentences) + "</ul>"


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """What something is, by its name; both are markup."""
    return '<dl class="facts">' + "".join(f"<dt>{name}</dt><dd>{what}</dd>" for name, what in pairs) + "</dl>"
