"""A document as facts in order, written twice: HTML for people, Markdown for tools and diffs. Both escape what they write."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from models import page
from models.page import NUMBER, SHARE, SIZE, Cell
from models.svg import percent, safe, visible

_MARKUP = re.compile(r"([\\`*_\[\]|~#])")


@dataclass(frozen=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class Bullets:
    lines: Sequence[str]


@dataclass(frozen=True)
class Tiles:
    """(what it is, its value)"""

    values: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    """head: titles as models/page.py takes them."""

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Figure:
    """picture: SVG. table: the same in numbers, where there are no pictures."""

    title: str
    picture: str
    caption: str
    table: Table


@dataclass(frozen=True)
class Pair:
    """Figures side by side where there is room."""

    figures: Sequence[Figure]


Block = Heading | Text | Bullets | Tiles | Table | Figure | Pair


def to_html(title: str, blocks: Sequence[Block]) -> str:
    return page.document(title, "\n".join(map(_html, blocks)))


def to_markdown(blocks: Sequence[Block]) -> str:
    return "\n\n".join(map(_markdown, blocks)) + "\n"


def _html(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{safe(text)}</h{level}>"
        case Text(text):
            return f"<p>{safe(text)}</p>"
        case Bullets(lines):
            return "<ul>" + "".join(f"<li>{safe(line)}</li>" for line in lines) + "</ul>"
        case Tiles(values):
            return page.tiles(values)
        case Table(head, rows):
            return page.table(head, rows)
        case Figure(title, picture, caption):
            return page.figure(title, picture, caption)
        case Pair(figures):
            return '<div class="pair">' + "".join(map(_html, figures)) + "</div>"


def _markdown(block: Block) -> str:
    match block:
        case Heading(text, level):
            return "#" * level + " " + _plain(text)
        case Text(text):
            return _plain(text)
        case Bullets(lines):
            return "\n".join(f"- {_plain(line)}" for line in lines)
        case Tiles(values):
            return "\n".join(f"- {_plain(what)}: {_plain(value)}" for what, value in values)
        case Table(head, rows):
            return _markdown_table(head, rows)
        case Figure(title, _, caption, table):
            return "\n\n".join([_plain(title) + (f": {_plain(caption)}" if caption else ""), _markdown(table)])
        case Pair(figures):
            return "\n\n".join(map(_markdown, figures))


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    kept = [n for n, title in enumerate(head) if title[0] != SIZE]
    titles = [_plain(head[n].lstrip(NUMBER + SHARE)) for n in kept]
    edges = ["---:" if head[n][0] in (NUMBER, SHARE) else "---" for n in kept]
    cells = [[percent(float(row[n] or 0)) if head[n][0] == SHARE else _plain(row[n]) for n in kept] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in (titles, edges, *cells))


def _plain(text: Cell) -> str:
    """Text that Markdown takes as text."""
    return escape(_MARKUP.sub(r"\\\1", visible(text)), quote=False)
