"""One self-contained HTML page: pieces in, text out. Pictures are data URIs, and the page may load nothing else."""

from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from reports.figures import Chart
from reports.results import words

# A strip of few pictures would fill the page otherwise.
STRIP_ENLARGEMENT = 1.4
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


@dataclass(frozen=True)
class Cell:
    """A table cell: HTML, what to sort it by (its text where None), and CSS classes."""

    html: str
    value: float | str | None = None
    style: str = ""


@dataclass(frozen=True)
class Section:
    """A part of the page: its anchor, its heading, its name in the menu, and its HTML."""

    anchor: str
    heading: str
    menu: str
    html: str


def page(*, title: str, lead: str, verdict: Sequence[str], facts: str, sections: Sequence[Section], foot: str) -> str:
    """The whole document. `lead`, `verdict` and `title` are text; `facts` and `foot` are HTML."""
    style, script = (Path(__file__).with_name(f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    menu = "".join(f'<li><a href="#{part.anchor}">{_text(part.menu)}</a></li>' for part in sections)
    body = "\n".join(
        f'<section id="{part.anchor}" aria-labelledby="{part.anchor}-heading">'
        f'<h2 id="{part.anchor}-heading">{_text(part.heading)}</h2>\n{part.html}</section>'
        for part in sections
    )
    told = "".join(f"<p>{_text(sentence)}</p>" for sentence in verdict)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{_text(title)}</title>
<link rel="icon" href="data:,">
<style>
{style}</style>
</head>
<body>
<header>
<h1>{_text(title)}</h1>
<p class="kicker">{_text(lead)}</p>
<div class="verdict" role="note" aria-label="Verdict">{told}</div>
{facts}
</header>
<nav aria-label="Sections"><ul>{menu}</ul></nav>
<main>
{body}
</main>
<footer>{foot}</footer>
<dialog aria-label="Enlarged picture"><img alt="" src="data:,"></dialog>
<script>
{script}</script>
</body>
</html>
"""


def paragraph(text: str, *, style: str = "") -> str:
    """A paragraph of plain text."""
    return f"<p{_class(style)}>{_text(text)}</p>\n"


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Names and short values side by side; the values are HTML."""
    inner = "".join(f"<div><dt>{_text(name)}</dt><dd>{value}</dd></div>" for name, value in pairs)
    return f'<dl class="facts">{inner}</dl>\n'


def table(
    columns: Sequence[str], rows: Sequence[Sequence[Cell]], *, caption: str, lead: int | None = None, style: str = ""
) -> str:
    """A table that sorts by any column; the first cell of a row is its heading. `lead` is the row that stands out.

    style: `dense` for long ones, `stack` for one that turns into a list on a phone.
    """
    first = rows[0] if rows else [Cell("")] * len(columns)
    head = "".join(
        f'<th scope="col"{_class("text" if "text" in cell.style else "")}>'
        f'<button type="button">{_text(name)}</button></th>'
        for name, cell in zip(columns, first, strict=True)
    )
    body = "".join(
        f"<tr{_class('lead' if place == lead else '')}>"
        + "".join(_cell(cell, columns[column], is_heading=column == 0) for column, cell in enumerate(row))
        + "</tr>\n"
        for place, row in enumerate(rows)
    )
    return (
        f'<figure class="numbers"><div class="scroll"><table{_class(style)}>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}</tbody></table></div><figcaption>{_text(caption)}</figcaption></figure>\n"
    )


def _cell(cell: Cell, column: str, *, is_heading: bool) -> str:
    value = "" if cell.value is None else f' data-value="{_text(str(cell.value))}"'
    if is_heading:
        return f'<th scope="row"{_class(cell.style)}{value}>{cell.html}</th>'
    return f'<td{_class(cell.style)}{value} data-label="{_text(column)}">{cell.html}</td>'


def chart(picture: Chart, *, alt: str, caption: str) -> str:
    """A chart that follows the reader's light or dark scheme."""
    return (
        f'<figure><picture><source media="(prefers-color-scheme: dark)" srcset="{data_uri(picture.dark)}">'
        f"{image(picture.light, alt=alt)}</picture>"
        f"<figcaption>{_text(caption)}</figcaption></figure>\n"
    )


def strips(
    rows: Sequence[tuple[str, bytes, str]], *, heads: Sequence[str] = (), caption: str = "", title: str = ""
) -> str:
    """Strips of pictures (label, PNG bytes, alt text) one below the other, under the heads of their columns.

    Without any label the strips take the whole width.
    """
    bare = not any(label for label, _, _ in rows)
    top = ""
    if heads:
        inner = "".join(f"<span>{_text(head)}</span>" for head in heads)
        top = '<div class="row">' + ("" if bare else "<span></span>") + f'<div class="heads">{inner}</div></div>\n'
    body = "".join(
        '<div class="row">'
        + ("" if bare else f"<span>{_text(label)}</span>")
        + f"{image(picture, alt=alt, most=STRIP_ENLARGEMENT)}</div>\n"
        for label, picture, alt in rows
    )
    heading = f"<h3>{_text(title)}</h3>\n" if title else ""
    foot = f"<figcaption>{_text(caption)}</figcaption>" if caption else ""
    return f'<figure class="strips{" bare" if bare else ""}">{heading}{top}{body}{foot}</figure>\n'


def image(picture: bytes, *, alt: str, most: float | None = None) -> str:
    """A PNG as an image element of known proportions; shown at `most` times its own size at most."""
    # Width and height stand at fixed places of a PNG's first chunk.
    width, height = (int.from_bytes(picture[start : start + 4], "big") for start in (16, 20))
    limit = "" if most is None else f' style="max-width:{round(most * width)}px"'
    return f'<img src="{data_uri(picture)}" width="{width}" height="{height}" alt="{_text(alt)}"{limit}>'


def group(pieces: Iterable[str], *, style: str) -> str:
    """Pieces of HTML side by side: `charts` or `side`."""
    return f"<div{_class(style)}>\n{''.join(pieces)}</div>\n"


def details(summary: str, html: str) -> str:
    """Something that opens on demand."""
    return f"<details><summary>{_text(summary)}</summary>{html}</details>\n"


def chip(colour: str) -> str:
    """A small square of a colour."""
    return f'<span class="chip" style="background:{colour}"></span>'


def arm_cell(arm: str, colour: str) -> Cell:
    """An arm's name beside its colour."""
    return Cell(f"{chip(colour)}{_text(words(arm))}", arm)


def data_uri(picture: bytes) -> str:
    """A PNG as an address that needs no network."""
    return f"data:image/png;base64,{b64encode(picture).decode('ascii')}"


def _text(text: str) -> str:
    """Text as HTML; a per cent sign stays with its number."""
    return escape(text).replace(" %", "\u00a0%")


def _class(names: str) -> str:
    return f' class="{names}"' if names else ""
