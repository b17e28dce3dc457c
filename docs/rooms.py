"""Draws the rooms of the package, from their imports, into docs/architecture.md; python docs/rooms.py writes it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent
PACKAGE = HERE.parent / "mtslvr"
PAGE = HERE / "architecture.md"
BASE = ("errors", "config", "workers")  # imported nearly everywhere, so left out


def room(path: Path) -> str:
    """The folder, or the module at the top, that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports() -> dict[str, set[str]]:
    """The rooms that each room imports, in functions as well."""
    found: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        depth = len(path.relative_to(PACKAGE).parts)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level == depth:  # from the package's own root
                names = [node.module] if node.module else [alias.name for alias in node.names]
                found.setdefault(room(path), set()).update(name.split(".")[0] for name in names)
    for name in {"__init__", *BASE} & found.keys():
        del found[name]
    return {name: below - {name, *BASE} for name, below in found.items()}


def shortened(below: dict[str, set[str]]) -> dict[str, set[str]]:
    """Without arrows that others imply."""

    def reached(name: str) -> set[str]:
        return set().union(*({other} | reached(other) for other in below.get(name, ())))

    return {name: {o for o in rooms if not any(o in reached(p) for p in rooms - {o})} for name, rooms in below.items()}


def diagram() -> str:
    """A Mermaid graph of the rooms; an arrow leads to what is imported."""
    arrows = sorted((name, other) for name, rooms in shortened(imports()).items() for other in rooms)
    return "\n".join(["```mermaid", "graph TD", *(f"  {name} --> {other}" for name, other in arrows), "```"])


def page() -> str:
    """The page with today's diagram."""
    return re.sub(r"```mermaid.*?```", diagram(), PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
