"""One conversion between splat files by GaussForge; imports nothing else, and is called in a process of its own."""

from pathlib import Path


def convert(source: str, source_format: str, target: str, target_format: str) -> None:
    """Convert a file, formats named by their endings without the dot.

    Raises:
        ValueError: GaussForge cannot read or write it.
    """
    import gaussforge

    result = gaussforge.GaussForge().convert(Path(source).read_bytes(), source_format, target_format)
    if "error" in result:
        raise ValueError(result["error"])
    Path(target).write_bytes(result["data"])
