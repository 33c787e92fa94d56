"""Turns decorated methods into plain ones, in a copy, since mutmut leaves decorated ones alone.

    python tests/mutation/undecorate.py COPY/shared_model/protocol.py ...

`@property def block(self)` becomes `def raw_block(self)` and then `block = property(raw_block)`;
likewise cached properties and pydantic's validators. Class and static methods stay.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path


def undecorated(source: str) -> str:
    """The same module, its methods' decorators applied in the class body."""
    lines = source.split("\n")
    methods = [
        node
        for owner in ast.walk(ast.parse(source))
        if isinstance(owner, ast.ClassDef)
        for node in owner.body
        if isinstance(node, ast.FunctionDef) and len(node.decorator_list) == 1
    ]
    for node in sorted(methods, key=lambda node: -node.lineno):
        decorator = node.decorator_list[0]
        text = ast.unparse(decorator)
        if text in ("classmethod", "staticmethod"):
            continue
        raw = "raw_" + node.name.lstrip("_")
        start = node.lineno - 1
        lines[start] = lines[start].replace(f"def {node.name}", f"def {raw}", 1)
        lines.insert(node.end_lineno or 0, f"    {node.name} = {text}({raw})")
        del lines[decorator.lineno - 1]
    return "\n".join(lines)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        Path(name).write_text(undecorated(Path(name).read_text()))
