"""One HTML file that opens without a network: text, tables and figures, nothing fetched."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape

from shared_model.files import write_atomic


@dataclass(frozen=True)
class ReportTable:
    """A table; every row has the columns of the first."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[bool, ...]

    @classmethod
    def of(cls, caption: str, rows: Sequence[Mapping[str, Any]]) -> ReportTable:
        """Columns are the keys of the first row; numbers go to the right."""
        columns = tuple(rows[0]) if rows else ("nothing",)
        numeric = tuple(
            bool(rows) and all(_is_number(row.get(name)) for row in rows) for name in columns
        )
        body = tuple(tuple(_text(row.get(name)) for name in columns) for row in rows)
        return cls(caption, columns, body, numeric)


@dataclass(frozen=True)
class Figure:
    """A picture with the sentence that says what it shows."""

    data: str = field(repr=False)
    alt: str
    kind: str = "image/png"

    @classmethod
    def of(cls, path: Path, alt: str) -> Figure:
        """A PNG, or an SVG that is as wide as a column of text."""
        kind = "image/svg+xml" if path.suffix == ".svg" else "image/png"
        return cls(base64.b64encode(path.read_bytes()).decode(), alt, kind)


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    texts: tuple[str, ...] = ()
    tables: tuple[ReportTable, ...] = ()
    figures: tuple[Figure, ...] = ()
    blocks: tuple[str, ...] = ()


def write_report(
    path: Path,
    title: str,
    subtitle: str,
    notices: Sequence[str],
    sections: Sequence[Section],
    *,
    mode: int = 0o644,
) -> None:
    """Render and write the file, whole or not at all. Every text is escaped."""
    environment = Environment(
        loader=PackageLoader("simulations", "templates"),
        autoescape=select_autoescape(("html",)),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template("report.html").render(
        title=title, subtitle=subtitle, notices=notices, sections=sections
    )
    write_atomic(path, html.encode(), mode=mode)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)
