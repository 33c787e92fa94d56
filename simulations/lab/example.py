"""The commented experiment that `fedprint-lab new` writes, and the list of all fields.

Both are made of the schema itself: its classes' docstrings are the comments, its defaults the
values. So neither can be of another version than what reads the file.
"""

from __future__ import annotations

import inspect
import json
import types
import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from simulations.lab.experiment import Experiment

FIRST: dict[str, dict[str, Any]] = {
    "": {"name": "first", "rounds": 5},
    "federation": {"hospitals": 5, "patients": 60},
    "evaluation": {"every": 1},
    "privacy": {"epsilon": 8.0},
}
"""What the example says in place of defaults; it takes a minute or two."""
_INDENT = "    "


def written() -> str:
    """The example, as a file's text. It can be run as it is."""
    lines = [
        "# An experiment of fedprint's lab. Run it with: fedprint-lab run THIS.toml -o OUT",
        "# Whatever is left out has the default that stands here.",
        "",
    ]
    return "\n".join([*lines, *_table(Experiment, ())]) + "\n"


def fields() -> Iterator[str]:
    """All tables with their fields, one line each, and what they mean."""
    for name, part in _parts(Experiment, ()):
        yield ""
        yield f"Table {name}:" if name else "At the top:"
        yield from (f"  {line}" for line in _about(part))
        yield from (f"  {field}: {_kind(info)}" for field, info in _fields(part))


def _table(part: type[BaseModel], name: tuple[str, ...]) -> Iterator[str]:
    yield from (f"# {line}".rstrip() for line in _about(part))
    chosen = FIRST.get(".".join(name), {})
    below: list[tuple[str, type[BaseModel], bool]] = []
    for field, info in part.model_fields.items():
        inner = _part_of(info)
        if inner is not None:
            below.append((field, inner, _is_list(info)))
        elif field in chosen:
            yield f"{field} = {json.dumps(chosen[field])}"
        elif info.default in (None, PydanticUndefined):
            yield f"# {field} = ...    {_kind(info)}"
        else:
            yield f"{field} = {json.dumps(info.default)}"
    for field, inner, several in below:
        yield ""
        path = ".".join((*name, field))
        if several:
            yield f"# [[{path}]]    as often as you like; fields:"
            yield from (f"# {line}".rstrip() for line in _about(inner))
            yield from (f"# {one} = ...    {_kind(item)}" for one, item in _fields(inner))
        else:
            yield f"[{path}]"
            yield from _table(inner, (*name, field))


def _parts(part: type[BaseModel], name: tuple[str, ...]) -> Iterator[tuple[str, type[BaseModel]]]:
    yield ".".join(name), part
    for field, info in part.model_fields.items():
        inner = _part_of(info)
        if inner is not None:
            yield from _parts(inner, (*name, field))


def _fields(part: type[BaseModel]) -> list[tuple[str, FieldInfo]]:
    """Those that are no tables themselves."""
    return [(name, info) for name, info in part.model_fields.items() if _part_of(info) is None]


def _about(part: type[BaseModel]) -> list[str]:
    """The docstrings of a class and of those that it takes fields from."""
    texts = [inspect.cleandoc(part.__doc__ or "")]
    for base in part.__mro__[1:]:
        if base.__module__ == part.__module__ and base.__name__ != "Part":
            texts.append(inspect.cleandoc(base.__doc__ or ""))
    return "\n".join(texts).splitlines()


def _part_of(info: FieldInfo) -> type[BaseModel] | None:
    """The table that a field is, or that its items are."""
    for kind in (info.annotation, *typing.get_args(info.annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _is_list(info: FieldInfo) -> bool:
    return typing.get_origin(info.annotation) is tuple


def _kind(info: FieldInfo) -> str:
    """Type, bounds and default in words."""
    words = _type(info.annotation)
    bounds = [_bound(item) for item in info.metadata]
    kept = [bound for bound in bounds if bound]
    if kept:
        words += f", {', '.join(kept)}"
    if info.default is PydanticUndefined:
        return f"{words}; must be given"
    return f"{words}; {'none' if info.default is None else json.dumps(info.default)} by default"


def _type(kind: Any) -> str:
    if kind is type(None):
        return "nothing"
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return " | ".join(json.dumps(one) for one in inner)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type(one) for one in inner if one is not type(None))
    if origin is typing.Annotated:
        bounds = [text for item in inner[1:] for text in _bounds(item)]
        return ", ".join([_type(inner[0]), *bounds])
    if origin is tuple:
        return f"list of {_type(inner[0])}"
    names = {str: "text", int: "whole number", float: "number", bool: "true or false"}
    return names.get(kind, getattr(kind, "__name__", str(kind)))


def _bounds(item: Any) -> list[str]:
    inner = getattr(item, "metadata", [item])
    return [text for one in inner if (text := _bound(one))]


def _bound(item: Any) -> str:
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    return "".join(
        f"{sign} {getattr(item, name):g}" for name, sign in signs.items() if hasattr(item, name)
    )
