"""The code of a Markdown page: its blocks, and what the comments before them say.

A comment on the line before a block says how it is tested: ``not run: REASON``, ``output of: COMMAND``,
``quoted: FILE``, or a name under which a test of its own uses it.
"""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "environments/*/*.md", "engines/*/*.md", "results/**/*.md")
    for path in ROOT.glob(pattern)
)
SOURCES = sorted(
    path
    for folder in ("kv_cache_rl", "environments")
    for path in ROOT.glob(f"{folder}/**/*.py")
    if ".venv" not in path.parts
)
"""The code of the package and of its environments, without what a target has installed beside it."""
BLOCK = re.compile(r"(?:<!-- ([^\n]*) -->\n)?^```(\w*)\n(.*?)^```$", re.S | re.M)
NOT_RUN, OUTPUT, QUOTED = "not run: ", "output of: ", "quoted: "


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the comment before it."""

    language: str
    code: str
    mark: str
    line: int

    def marked(self, word: str) -> bool:
        return self.mark.startswith(word)


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(found[2], found[3], found[1] or "", text[: found.start()].count("\n") + 1)
        for found in BLOCK.finditer(text)
    ]


def commands(page: Path) -> list[str]:
    """The bash commands of a page that are run, in order; a command may go on over several lines."""
    lines = [
        line.split("  #")[0].strip()
        for block in blocks(page)
        if block.language == "bash" and not block.marked(NOT_RUN)
        for line in block.code.replace("\\\n", " ").splitlines()
    ]
    return [line for line in lines if line and not line.startswith("#")]


def prose(page: Path) -> list[tuple[int, str]]:
    """(number, line) of a page without its code, its tables, and what is generated."""
    text = BLOCK.sub(lambda found: "\n" * found[0].count("\n"), page.read_text(encoding="utf-8"))
    text = re.sub(r"<!-- table: .*?<!-- end -->", lambda found: "\n" * found[0].count("\n"), text, flags=re.S)
    return [
        (number, line)
        for number, line in enumerate(text.splitlines(), 1)
        if not line.startswith(("|", "![", ":::", "    "))
    ]


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()
