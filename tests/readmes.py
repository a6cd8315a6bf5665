"""What READMEs hold: fenced blocks, links, headings, and the commands in them, parsed as their programs parse them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "invert3d_ns"
README = ROOT / "README.md"
READMES = (README, *sorted(PACKAGE.rglob("README.md")))
CARDS = (*READMES, PACKAGE / "prior" / "MODEL_CARD.md")
"""Every page for people, the model card among them."""
ROOMS = tuple(
    sorted(folder.name for folder in PACKAGE.iterdir() if (folder / "__init__.py").is_file())  # not data, not caches
)

_FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```[ ]*$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    info: str
    """What follows the fence: the language."""
    text: str
    line: int
    """Of the page, where the text begins."""

    @property
    def label(self) -> str:
        """For the names of tests."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True)
class CommandLine:
    """A command in a bash block, without comments, in words."""

    words: tuple[str, ...]
    label: str


def blocks(*languages: str) -> list[Block]:
    """All fenced blocks of all READMEs whose language is one of ``languages``; of every language if none is given."""
    found = []
    for page in READMES:
        text = page.read_text(encoding="utf-8")
        for match in _FENCE.finditer(text):
            info = match[1].strip()
            if not languages or info.split(" ")[0] in languages:
                found.append(Block(page, info, match[2], text[: match.start(2)].count("\n") + 1))
    return found


def command_lines() -> list[CommandLine]:
    """The lines of every bash block; a backslash at a line's end joins the next one to it."""
    found = []
    for block in blocks("bash"):
        pending, first = "", block.line
        for number, line in enumerate(block.text.splitlines(), block.line):
            first = first if pending else number
            pending += line.removesuffix("\\")
            if not line.endswith("\\"):
                words = shlex.split(pending, comments=True)
                if words:
                    found.append(CommandLine(tuple(words), f"{block.page.relative_to(ROOT)}:{first}"))
                pending = ""
    return found


def links(page: Path) -> list[str]:
    """Targets of a page's links and pictures, outside of fenced blocks."""
    return _LINK.findall(_FENCE.sub("", page.read_text(encoding="utf-8")))


def anchors(page: Path) -> set[str]:
    """What links to headings of a page may end in, by the rule that code hosts share."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}
