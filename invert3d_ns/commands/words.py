"""``invert3d words``: the words that a prior knows."""

from __future__ import annotations

from dataclasses import dataclass

from invert3d_ns.commands.options import PriorName


@dataclass
class ListWords(PriorName):
    """List the words that a prior knows: of others it sees letters, and what comes of them is chance."""

    def run(self) -> int:
        """Print them by kind, a line each."""
        from textwrap import wrap

        from invert3d_ns.prior.checkpoints import find_info
        from invert3d_ns.world.word_kinds import by_kind

        info = find_info(self.prior)
        if not info.words:
            print(f"The prior {info.name!r} was trained on captions of all kinds: there is no list of its words.")
            return 0
        for kind, words in by_kind(info.words).items():
            lines = wrap(", ".join(words), 100)
            print(f"{kind:<10} {lines[0]}")
            for line in lines[1:]:
                print(f"{'':<10} {line}")
        return 0
