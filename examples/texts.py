"""Sentences that every Python has: docstrings of its standard library."""

from __future__ import annotations

import ast
from pathlib import Path

MODULES = ("argparse", "ast", "calendar", "difflib", "inspect", "pathlib", "statistics", "typing")


def sentences() -> list[str]:
    """The first paragraphs of docstrings of the standard library."""
    found = []
    for module in MODULES:
        source = Path(ast.__file__).with_name(f"{module}.py").read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                text = ast.get_docstring(node) or ""
                found.append(" ".join(text.split("\n\n")[0].split()))
    return [text for text in found if len(text) > 20]
