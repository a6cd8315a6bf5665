"""English grammar that prompts and captions need."""


def with_article(words: str) -> str:
    """The words after "a" or "an", by their first letter.

    Example:
        >>> with_article("airplane"), with_article("Red mug")
        ('an airplane', 'a Red mug')
    """
    return f"{'an' if words[:1].lower() in tuple('aeiou') else 'a'} {words}"
