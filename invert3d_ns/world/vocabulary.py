"""The words of the procedural world: every table of names that objects, captions, styles and grades share."""

from __future__ import annotations

COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.10, 0.10),
    "orange": (1.00, 0.52, 0.05),
    "yellow": (0.98, 0.88, 0.12),
    "green": (0.13, 0.65, 0.18),
    "cyan": (0.10, 0.80, 0.85),
    "blue": (0.12, 0.25, 0.90),
    "purple": (0.52, 0.15, 0.72),
    "pink": (1.00, 0.55, 0.75),
    "brown": (0.45, 0.26, 0.12),
    "gray": (0.55, 0.55, 0.57),
    "black": (0.09, 0.09, 0.10),
    "white": (0.97, 0.97, 0.97),
}
"""RGB in [0, 1] of every color that captions name."""
PATTERNS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "striped": ("striped",),
    "spotted": ("spotted", "dotted"),
    "checkered": ("checkered",),
}
"""Patterns and the words for them."""
PATTERN_NOUNS = {"striped": "stripes", "spotted": "spots", "checkered": "checks"}
"""What a pattern consists of, as in "with white stripes"."""
MATERIALS: dict[str, tuple[str, ...]] = {
    "matte": (),
    "shiny": ("shiny", "glossy"),
    "metallic": ("metallic", "metal"),
}
"""Materials and the words for them."""
SIZES: dict[str, tuple[str, ...]] = {"normal": (), "small": ("small", "tiny", "little")}
"""Sizes in the view and the words for them."""
POSES: dict[str, tuple[str, ...]] = {
    "upright": (),
    "upside down": ("upside down",),
    "lying": ("lying on its back", "tipped over"),
}
"""Poses and the words for them."""
SYNONYMS: dict[str, tuple[str, ...]] = {
    "ball": ("ball", "sphere"),
    "cube": ("cube", "box"),
    "ring": ("ring", "donut"),
    "mug": ("mug", "cup"),
    "car": ("car", "toy car"),
    "airplane": ("airplane", "plane"),
    "lamp": ("lamp", "table lamp"),
}
"""Other words for a class; the class's own name where none is given."""
STYLES: dict[str, tuple[str, ...]] = {
    "photo": ("{}", "a photo of {}", "a picture of {}"),
    "pencil sketch": (
        "a pencil sketch of {}",
        "{}, pencil sketch",
        "{} drawn in pencil",
        "{} in pencil sketch style",
    ),
    "watercolor": (
        "a watercolor painting of {}",
        "{}, watercolor",
        "{} in watercolor style",
        "a watercolor of {}",
    ),
    "pixel art": ("pixel art of {}", "{}, pixel art", "{} in pixel art style"),
    "toon": ("a cartoon of {}", "{}, toon style", "a toon of {}", "{} in toon style"),
    "night": ("{} at night", "a night photo of {}", "{}, night", "{} in the night"),
    "sepia": ("a sepia photo of {}", "{} in sepia", "{}, sepia", "{} in sepia style"),
    "neon": ("a neon sign of {}", "{} in neon style", "{}, neon"),
    "van gogh": ("{} in van gogh style", "a van gogh painting of {}", "{} painted by van gogh", "{}, van gogh"),
    "blueprint": ("a blueprint of {}", "{}, blueprint", "{} in blueprint style"),
}
"""Styles and how captions speak of them: templates with {} for what is shown, the canonical one first. The first style
is the photo, which is the render itself."""
COLORLESS = ("pencil sketch", "sepia", "blueprint")
"""Styles in which the object's color cannot be seen."""
BLOCKY = ("pixel art",)
"""Styles that redraw the silhouette too, in blocks; too coarse for patterns to be judged."""
