"""Marked regions of Markdown pages: which there are, and what should stand in them."""

import gzip
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from kv_cache_rl.core.errors import unknown
from kv_cache_rl.reports.documents import TABLES

REGION = re.compile(r"(<!-- table: ([\w-]+) -->)(.*?)(<!-- end -->)", re.S)
PAGES = ("*.md", "docs/**/*.md", "results/**/*.md", "environments/*/*.md", "engines/*/*.md")
"""Where documents lie, from the root of a checkout."""


def pages(root: Path) -> list[Path]:
    """All documents of a checkout."""
    return sorted(path for pattern in PAGES for path in root.glob(pattern))


def content(name: str, root: Path) -> str:
    """What a region should hold, without the line breaks around it.

    Raises:
        ValueError: there is no such region, or a file that it needs is missing.
    """
    if name not in TABLES:
        raise ValueError(unknown("region", name, TABLES))
    function, *files = TABLES[name]
    return function(*(read(root / "results" / file) for file in files))


@cache
def read(path: Path) -> Any:
    """A file: JSON, packed JSON, or the text of a module."""
    if not path.exists():
        raise ValueError(f"{path} is missing; results/README.md has the command that makes it")
    if path.suffix == ".py":
        return path.read_text(encoding="utf-8")
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return json.loads(text)


def rewritten(text: str, root: Path) -> str:
    """The page with every region as its results files give it."""

    def region(found: re.Match) -> str:
        inside = content(found[2], root)
        edge = "\n" if "\n" in inside else ""
        return f"{found[1]}{edge}{inside}{edge}{found[4]}"

    return REGION.sub(region, text)
