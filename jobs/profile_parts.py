"""What the profile's sections are made of: tables, figures, numbers as a page writes them. Knows no Spark."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from jobs.svg import percent, safe

Profile = Mapping[str, Any]
Cell = str | float | None

NUMBER, SHARE, SIZE = "!", "%", "="  # before a column's title: to the right; a share with its bar; a bar alone
_CLASSES = {NUMBER: " class=n", SHARE: " colspan=2"}


def table(head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """Escapes every title and cell."""
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
    below = f"<figcaption>{safe(caption)}</figcaption>" if caption else ""
    return f"<figure><b>{safe(title)}</b>{picture}{below}</figure>"


def note(text: str) -> str:
    return f'<p class="note">{safe(text)}</p>'


def share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def rate(clicked: int, rows: int) -> str:
    """A click rate; empty where there is no row."""
    return percent(clicked / rows) if rows else ""


def kind(column: Mapping[str, Any]) -> str:
    return f"{column['type']}, personal" if column["personal"] else str(column["type"])


def cardinality(column: Mapping[str, Any]) -> str:
    return f"{'about ' if column['about'] else ''}{column['values']:,}"


def counted(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def local(profile: Profile, iso: str, shape: str = "%Y-%m-%d %H:%M") -> str:
    """A time in the contract's zone."""
    return datetime.fromisoformat(iso).astimezone(ZoneInfo(profile["contract"]["zone"])).strftime(shape)
