"""Code of the clients' pages works as pasted, as far as that can be told without the clients."""

from __future__ import annotations

import ast
import builtins
import json
import re
import tomllib
from pathlib import Path

import pytest

PAGES = sorted((Path(__file__).resolve().parents[1] / "docs" / "clients").glob("*.md"))
BLOCKS = [
    pytest.param(language, code, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, (language, code) in enumerate(re.findall(r"```(\w+)\n(.*?)```", page.read_text(), re.DOTALL))
]
_IMPORTED = re.compile(r"^import (?:\w+|\{([^}]*)\}) from", re.MULTILINE)
_MADE = re.compile(r"(?<![.\w])(?:new |await )?(create\w+|[A-Z]\w+)\(")


@pytest.mark.parametrize(("language", "code"), BLOCKS)
def test_a_block_is_whole(language: str, code: str) -> None:
    """Nothing is used that the same block does not import or make."""
    match language:
        case "python":
            assert not _unbound(code)
        case "js":
            made = set(_MADE.findall(code))
            assert all(name in "".join(line for line in code.splitlines() if "import" in line) for name in made)
        case "json":
            json.loads(code)
        case "toml":
            tomllib.loads(code)
        case _:
            assert language == "bash"
            assert "HOST" in code or "KEY" in code or "docker" in code or code.startswith("pip ")


def _unbound(code: str) -> set[str]:
    nodes = list(ast.walk(ast.parse(code)))
    bound = {
        alias.asname or alias.name
        for node in nodes
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }
    bound |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    bound |= {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))}
    used = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    return used - bound - set(dir(builtins))


def test_every_page_says_what_was_tried_and_what_was_not() -> None:
    silent = [
        page.name for page in PAGES if page.stem not in {"index", "python"} and "Not tried" not in page.read_text()
    ]

    assert len(PAGES) > 10
    assert not silent
