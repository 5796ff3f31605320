"""A page of facts as one HTML file, without scripts or anything to fetch. Every text that is written is escaped here."""

from collections.abc import Sequence
from importlib import resources

from models.svg import percent, safe

Cell = str | float | None

NUMBER, SHARE, SIZE = "!", "%", "="  # before a column's title: to the right; a share with its bar; a bar alone
_CLASSES = {NUMBER: " class=n", SHARE: " colspan=2"}
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def document(title: str, body: str) -> str:
    """The whole HTML text around a body that is HTML already."""
    style = resources.files("models").joinpath("page.css").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{safe(title)}</title>\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<style>\n{style}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def tiles(values: Sequence[tuple[str, str]]) -> str:
    """Large figures side by side: (what it is, its value)."""
    listed = "".join(f"<li><b>{safe(value)}</b><span>{safe(what)}</span></li>" for what, value in values)
    return f'<ul class="tiles">{listed}</ul>'


def table(head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """Titles may begin with NUMBER, SHARE or SIZE."""
    titles = "".join(f'<th scope="col"{_CLASSES.get(title[0], "")}>{safe(title.lstrip("!%="))}</th>' for title in head)
    body = "".join("<tr>" + "".join(map(_cell, head, row)) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(title: str, value: Cell) -> str:
    if title[0] in (SHARE, SIZE):
        number = float(value or 0)
        bar = f'<td class="share"><i style="width:{min(1.0, number) * 100:.1f}%"></i></td>' if number else "<td></td>"
        return bar if title[0] == SIZE else f'<td class="n">{percent(number)}</td>{bar}'
    return f'<td class="{"n" if title[0] == NUMBER else "name"}">{safe(value)}</td>'


def figure(title: str, picture: str, caption: str = "") -> str:
    """picture: SVG."""
    below = f"<figcaption>{safe(caption)}</figcaption>" if caption else ""
    return f"<figure><b>{safe(title)}</b>{picture}{below}</figure>"


def note(text: str) -> str:
    return f'<p class="note">{safe(text)}</p>'
