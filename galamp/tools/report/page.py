"""HTML of a report: headings, tables, lists, pictures; every text is cleaned and escaped.

    title, sections --document--> one page: its style within, no script, no address to load from

Pure. Content is built by these functions alone, so no text of a run can become markup.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from typing import NewType

from galamp.core.sanitize import clean

Html = NewType("Html", str)
"""Markup that was made here."""

POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"
"""What the browser may load: only what is within the page."""

STYLE = """
:root { color-scheme: light dark; --ink: #1c2126; --quiet: #5c6670; --line: #d8dde2;
  --paper: #ffffff; --card: #f4f6f8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ec; --quiet: #9aa5b0; --line: #3a424a; --paper: #15191d; --card: #1f252b; } }
body { margin: 0 auto; padding: 2rem 1.2rem; max-width: 68rem; color: var(--ink);
  background: var(--paper); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
p.quiet, td.quiet, figcaption { color: var(--quiet); }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: .8rem; }
dl div { background: var(--card); border-radius: .5rem; padding: .6rem .8rem; }
dt { color: var(--quiet); font-size: .85rem; }
dd { margin: 0; font-size: 1.15rem; overflow-wrap: anywhere; }
figure { margin: 1rem 0; } figure img { background: #ffffff; border-radius: .5rem; width: 100%; }
video, figure.clip img { max-width: 100%; width: auto; border-radius: .5rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: left; vertical-align: top; padding: .25rem .8rem .25rem 0;
  border-bottom: 1px solid var(--line); } td.number { text-align: right; white-space: nowrap; }
code, pre { font-family: ui-monospace, monospace; font-size: .9rem; }
pre { background: var(--card); border-radius: .5rem; padding: .8rem; overflow-x: auto; }
"""


def text(value: object) -> Html:
    """Return any text as markup that shows it."""
    return Html(escape(clean(str(value))))


def join(parts: Iterable[Html]) -> Html:
    """Return markup after markup."""
    return Html("\n".join(parts))


def section(title: str, *content: Html) -> Html:
    """Return a section with its heading; nothing where it has no content."""
    inner = join(part for part in content if part)
    return Html(f"<section><h2>{text(title)}</h2>\n{inner}\n</section>") if inner else Html("")


def paragraph(words: str, *, quiet: bool = False) -> Html:
    """Return a paragraph."""
    return Html(f"<p{_class('quiet' if quiet else '')}>{text(words)}</p>")


def facts(known: Iterable[tuple[str, str]]) -> Html:
    """Return names and values side by side, as cards."""
    cards = [
        f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in known if value
    ]
    return Html(f"<dl>{''.join(cards)}</dl>") if cards else Html("")


def table(
    headings: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: Sequence[int] = ()
) -> Html:
    """Return a table; columns of `numbers`, from 0, stand on the right. Nothing without rows."""
    head = "".join(f"<th>{text(heading)}</th>" for heading in headings)
    body = [
        "".join(
            f"<td{_class('number' if column in numbers else '')}>{text(cell)}</td>"
            for column, cell in enumerate(row)
        )
        for row in rows
    ]
    if not body:
        return Html("")
    lines = "\n".join(f"<tr>{cells}</tr>" for cells in body)
    return Html(f'<div class="wide"><table><tr>{head}</tr>\n{lines}\n</table></div>')


def commands(lines: Iterable[str]) -> Html:
    """Return command lines, to be copied; nothing without any."""
    shown = "\n".join(text(line) for line in lines)
    return Html(f"<pre>{shown}</pre>") if shown else Html("")


def picture(content: bytes, kind: str, words: str) -> Html:
    """Return a picture that is within the page; `words` say what it shows, `kind` is its type."""
    return Html(f'<figure><img alt="{text(words)}" src="{_data(content, kind)}"></figure>')


def clip(content: bytes, kind: str, words: str) -> Html:
    """Return a video, or an animated picture, that is within the page."""
    source = f'src="{_data(content, kind)}"'
    shown = (
        f'<img alt="{text(words)}" {source}>'
        if kind.startswith("image/")
        else f"<video controls muted loop {source}></video>"
    )
    return Html(f'<figure class="clip">{shown}<figcaption>{text(words)}</figcaption></figure>')


def document(title: str, *content: Html) -> bytes:
    """Return the whole page."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{STYLE}</style></head>\n"
        f"<body><h1>{text(title)}</h1>\n{join(part for part in content if part)}\n</body></html>\n"
    ).encode()


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""


def _data(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
