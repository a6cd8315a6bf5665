"""``invert3d evaluate clip``: do the bundled towers find held-out objects and styles by words."""

from __future__ import annotations

from dataclasses import dataclass

from invert3d_ns.commands.evaluate.options import SeededReport


@dataclass
class EvaluateClip(SeededReport):
    """Do the bundled CLIP towers find held-out objects and styles by words?"""

    towers: str = "bundled"
    """Which: bundled, bundled-crops, or others, which know nothing of this world."""

    def run(self) -> int:
        """Measure, write, show."""
        self.check_report()

        from invert3d_ns.alignment.checkpoints import load_clip
        from invert3d_ns.metrics.clip_quality import OBJECTS, VIEWS, measure_clip

        towers = load_clip(self.towers, None)
        count = OBJECTS // 4 if self.quick else OBJECTS
        rows, figures = measure_clip(towers, self.used_seeds(), count)
        title = f"CLIP {self.towers}: {count} held-out objects, {VIEWS} views each"
        self.write_table("clip", title, rows, figures, towers.mean.device)
        return 0
