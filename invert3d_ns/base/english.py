"""English grammar that prompts and captions need."""

from __future__ import annotations

from collections.abc import Sequence


def with_article(words: str) -> str:
    """The words after "a" or "an", by their first letter.

    Example:
        >>> with_article("airplane"), with_article("Red mug")
        ('an airplane', 'a Red mug')
    """
    return f"{'an' if words[:1].lower() in tuple('aeiou') else 'a'} {words}"


def with_article_unless_plural(words: str) -> str:
    """The words after "a" or "an", as they are if they end as a plural does.

    Example:
        >>> with_article_unless_plural("yellow legs"), with_article_unless_plural("red roof")
        ('yellow legs', 'a red roof')
    """
    return words if words.endswith("s") else with_article(words)


def counted(count: int, total: int, noun: str) -> str:
    """``3 of 8 images``; ``all 8 images`` where it is every one."""
    return f"all {total} {noun}" if count == total else f"{count} of {total} {noun}"


def listed(words: Sequence[str], last: str = "and") -> str:
    """Words as a list in a sentence.

    Example:
        >>> listed(["red", "green", "blue"], "or")
        'red, green or blue'
    """
    return f" {last} ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
