"""The page around the sections: one file, no script, nothing fetched (its content policy forbids it), light and dark, printable."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

# Okabe & Ito's colours, which the colour-blind tell apart, darkened on white and lightened on black to a contrast of 3 or more.
STYLE = """
:root{color-scheme:light dark;--paper:#fff;--page:#f6f7f9;--ink:#16202c;--ink2:#566270;--line:#dfe3e8;--soft:#eef1f5;--accent:#0b5d95;
--warn:#8a4b00;--warnbg:#fff6e6;--warnline:#f0c987;
--s0:#0072b2;--s1:#c44e00;--s2:#00805e;--s3:#a5487f;--s4:#8a6d00;--s5:#3f8fc4;--s6:#5b4fc4;--s7:#7a7f87;--m0:#ffb000;--m1:#35b8ff;--m2:#ff6fb5;--m3:#4ee08a}
@media (prefers-color-scheme:dark){:root{--paper:#151b23;--page:#0d1117;--ink:#e8edf3;--ink2:#9aa7b5;--line:#2b3541;--soft:#1d2530;--accent:#6cb8ee;
--warn:#ffcf87;--warnbg:#2a2114;--warnline:#66502a;
--s0:#58b4ee;--s1:#ff9351;--s2:#2cc79b;--s3:#e091bf;--s4:#e0c040;--s5:#8fd0ff;--s6:#a79dff;--s7:#98a1ac}}
*{box-sizing:border-box}html{scroll-behavior:smooth;-webkit-text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
a{color:var(--accent)}a:focus-visible,summary:focus-visible,.scroll:focus-visible{outline:3px solid var(--accent);outline-offset:2px}
.skip{position:absolute;left:-99rem}.skip:focus{left:1rem;top:1rem;background:var(--paper);padding:.5rem 1rem;z-index:9}
.layout{display:grid;grid-template-columns:210px minmax(0,1100px);gap:2.5rem;justify-content:center;padding:0 1.5rem}
nav{position:sticky;top:0;align-self:start;padding:2.4rem 0;max-height:100vh;overflow:auto;font-size:.875rem}
nav strong{display:block;font-size:.75rem;letter-spacing:.08em;text-transform:uppercase;color:var(--ink2);margin-bottom:.6rem}
nav ol{list-style:none;margin:0;padding:0;border-left:2px solid var(--line)}nav a{display:block;padding:.28rem .9rem;color:var(--ink2);text-decoration:none;margin-left:-2px;border-left:2px solid transparent}
nav a:hover{color:var(--accent);border-color:var(--accent)}
main{padding:2.2rem 0 4rem;min-width:0}
header p{margin:.2rem 0}h1{font-size:2.05rem;line-height:1.18;letter-spacing:-.02em;margin:.1rem 0 .4rem}
.eyebrow{font-size:.78rem;letter-spacing:.09em;text-transform:uppercase;color:var(--accent);font-weight:650}
.sub{color:var(--ink2)}h2{font-size:1.32rem;letter-spacing:-.01em;margin:0 0 .35rem}h3{font-size:1.02rem;margin:1.6rem 0 .3rem}
section{background:var(--paper);border:1px solid var(--line);border-radius:12px;padding:1.6rem 1.8rem;margin-top:1.2rem}
section>p{max-width:74ch}.lead{color:var(--ink2);margin:.1rem 0 1rem;max-width:74ch}
.verdict{border-left:5px solid var(--accent)}.verdict p{font-size:1.14rem;line-height:1.45;margin:.35rem 0;max-width:70ch}.verdict p.small{font-size:.9rem;color:var(--ink2)}
.warn{background:var(--warnbg);border:1px solid var(--warnline);border-radius:8px;padding:.8rem 1rem;margin:1rem 0;max-width:82ch}.warn strong{color:var(--warn)}
.keys{display:grid;grid-template-columns:repeat(auto-fit,minmax(190px,1fr));gap:.9rem;margin-top:1.2rem}
.key{background:var(--paper);border:1px solid var(--line);border-radius:12px;padding:1rem 1.1rem}
.key h3{margin:0;font-size:.86rem;font-weight:600;line-height:1.3}.key .big{font-size:1.95rem;font-weight:680;letter-spacing:-.02em;line-height:1.2;margin:.3rem 0 0}
.key .ci{font-size:.86rem;color:var(--ink2);margin:0}.key .plot{margin:.35rem 0 .1rem}
.tiles{display:flex;flex-wrap:wrap;gap:.4rem 2.2rem;margin:.4rem 0 1rem}.tiles div{min-width:5rem}.tiles b{display:block;font-size:1.45rem;letter-spacing:-.01em;font-weight:660}.tiles span{font-size:.84rem;color:var(--ink2)}
data,.value,td.n{font-variant-numeric:tabular-nums}
.scroll{overflow-x:auto;margin:.6rem 0}table{border-collapse:collapse;width:100%;font-size:.875rem}caption{text-align:left;color:var(--ink2);font-size:.84rem;padding-bottom:.35rem}
th,td{text-align:left;padding:.4rem .7rem .4rem 0;border-bottom:1px solid var(--line);vertical-align:top}thead th{font-weight:600;color:var(--ink2);white-space:nowrap;border-bottom-width:2px}
td.n,th.n{text-align:right;white-space:nowrap}td.wrap{min-width:13rem;overflow-wrap:anywhere}
details{margin:.7rem 0}summary{cursor:pointer;color:var(--accent);font-size:.9rem}
.plot{overflow-x:auto;margin:.7rem 0}.plot svg,.picture{display:block;width:100%;height:auto}
svg{font-family:inherit}svg text{fill:var(--ink);font-size:12.5px}svg text.tick{fill:var(--ink2);font-size:11px}svg text.axis{fill:var(--ink2);font-size:12px}
svg text.head{font-weight:620;font-size:12.5px}svg text.group{font-weight:650;font-size:13px}svg .grid{stroke:var(--line);stroke-width:1}
svg .chance{stroke:var(--ink2);stroke-width:1.2;stroke-dasharray:4 3}svg .zero{stroke:var(--ink);stroke-width:1.4}svg .bar{fill:var(--s0)}svg .bar2{fill:var(--s7)}
svg .band{fill:var(--soft)}svg .dot{fill:var(--ink)}svg .nodot{fill:var(--line)}svg .link{stroke:var(--ink);stroke-width:2.4}
svg .thin{fill:none;stroke:var(--s0);stroke-width:.8;opacity:.35}svg .thick{fill:none;stroke:var(--s0);stroke-width:2}svg .join{fill:none;stroke:var(--s0);stroke-width:1.2;opacity:.5}
svg .frame{fill:none;stroke:var(--line)}svg .rail{stroke:var(--line);stroke-width:5;stroke-linecap:round}svg .span{stroke:var(--s0);stroke-width:5;stroke-linecap:round;opacity:.4}
.grid2{display:grid;grid-template-columns:repeat(auto-fit,minmax(300px,1fr));gap:1rem 1.8rem;align-items:start}.grid3{display:grid;grid-template-columns:repeat(auto-fit,minmax(230px,1fr));gap:1rem 1.4rem}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;padding:0;margin:.4rem 0;font-size:.86rem;color:var(--ink2)}.legend li{display:flex;align-items:center;gap:.35rem}
.example{display:grid;grid-template-columns:150px minmax(0,1fr);gap:1.1rem;border-top:1px solid var(--line);padding:1.1rem 0;align-items:start}
.example img,.thumb{width:100%;border-radius:6px;background:#000;display:block}figure{margin:0}figcaption{font-size:.83rem;color:var(--ink2);margin-top:.35rem}
.answers{display:grid;grid-template-columns:repeat(auto-fit,minmax(190px,1fr));gap:.7rem;list-style:none;margin:0;padding:0}.answers li{border:1px solid var(--line);border-radius:8px;padding:.6rem .75rem;font-size:.85rem;line-height:1.45}
.answers li.own{border:2px solid var(--s2)}.answers .tagline{display:flex;justify-content:space-between;color:var(--ink2);font-size:.8rem;margin-bottom:.3rem}.own .badge{color:var(--s2);font-weight:650}
.picture{background:#000;border-radius:6px}.mono{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:.82rem;overflow-wrap:anywhere}
pre{background:var(--soft);border-radius:8px;padding:1rem;overflow:auto;font-size:.8rem;line-height:1.45}footer{color:var(--ink2);font-size:.84rem;margin-top:1.6rem}
@media (max-width:900px){.layout{grid-template-columns:minmax(0,1fr);gap:0;padding:0 1rem}nav{position:static;max-height:none;padding:1.2rem 0 0}nav ol{display:flex;flex-wrap:wrap;border:0;gap:.1rem .9rem}nav a{padding:.15rem 0}main{padding-top:1rem}section{padding:1.2rem 1.1rem}h1{font-size:1.6rem}.example{grid-template-columns:minmax(0,1fr)}.example>figure{max-width:220px}}
@media print{:root{color-scheme:light}body{background:#fff;font-size:10.5pt}nav,.skip{display:none}.layout{display:block;padding:0}section,.key{border-color:#bbb}section,.key,.example,tr,figure{break-inside:avoid}section.long{break-inside:auto}.plot,.scroll{overflow:visible}.plot svg{min-width:0!important}}
"""  # noqa: E501


def page(title: str, head: str, sections: Sequence[tuple[str, str, str]], foot: str) -> str:
    """The whole file.

    Args:
        title: of the page, in plain words.
        head: markup above the sections.
        sections: id, heading, markup.
        foot: markup below them.
    """
    contents = "".join(f'<li><a href="#{name}">{escape(heading)}</a></li>' for name, heading, _ in sections)
    body = "".join(
        f'<section id="{name}" class="long" aria-labelledby="{name}-h"><h2 id="{name}-h">{escape(heading)}</h2>{inside}</section>'
        for name, heading, inside in sections
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>
<meta name="viewport" content="width=device-width,initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<style>{STYLE}</style></head>
<body><a class="skip" href="#main">Skip to the report</a><div class="layout">
<nav aria-label="Contents"><strong>Contents</strong><ol>{contents}</ol></nav>
<main id="main">{head}{body}{foot}</main></div></body></html>
"""


def table(
    caption: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    numeric: Sequence[int] = (),
    wrap: Sequence[int] = (),
) -> str:
    """A table of markup cells.

    Args:
        caption: what it shows.
        head: its columns.
        rows: their cells, which are markup.
        numeric: columns that are right-aligned; wrap: columns of long words.
    """
    kind = lambda n: ' class="n"' if n in numeric else ' class="wrap"' if n in wrap else ""
    top = "".join(f'<th scope="col"{kind(n) if n in numeric else ""}>{escape(h)}</th>' for n, h in enumerate(head))
    body = "".join(
        "<tr>" + "".join(f"<td{kind(n)}>{cell}</td>" for n, cell in enumerate(row)) + "</tr>" for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption, quote=True)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def details(words: str, inside: str) -> str:
    """Something to open."""
    return f"<details><summary>{escape(words)}</summary>{inside}</details>"


def verbatim(words: str) -> str:
    """Words of a file, as they stand there."""
    return f'<span class="verbatim">{escape(words)}</span>'
