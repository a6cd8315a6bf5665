"""Which file a list of cameras means: names of other machines and tools lead to the pictures that are there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from itertools import takewhile
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from invert3d_ns.scenes.images import PICTURE_SUFFIXES

IMAGE_FOLDERS = ("images", "input", "image", "imgs", "rgb", "color", "images_2", "images_4", "images_8")
"""What tools call folders of pictures, the likeliest first."""
_SUFFIXES = (*PICTURE_SUFFIXES, *(suffix.upper() for suffix in PICTURE_SUFFIXES))
_SPLITS = {"train", "val", "test"}
_BESIDE = re.compile("mask|depth|normal|semantic|segment", re.IGNORECASE)


class PictureFiles:
    """Finds the pictures that a list of cameras names.

    A name is first taken as it stands, below each root; then with forward slashes, without ``file://`` and percent
    codes, and, where it has no ending, with those of pictures. Failing that, the picture of the folder that is called
    so, whatever its folder and ending, is meant: that is a guess, and :attr:`guessed` keeps it.

    Args:
        folder: what is searched for pictures.
        roots: folders that names start from, the likeliest first.
    """

    def __init__(self, folder: Path, roots: Sequence[Path] = ()) -> None:
        self.folder, self.roots = folder, tuple(roots) or (folder,)
        self.guessed: dict[str, Path] = {}
        """Names whose picture was found elsewhere than they say."""
        self._by_stem: dict[str, list[Path]] | None = None
        self._meant: set[Path] = set()

    def find(self, names: Iterable[str]) -> list[Path | None]:
        """The picture of each name; None where there is none, where several could be meant, or only another name's."""
        names = list(names)
        exact = [self.exact(name) for name in names]
        self._meant.update(path for path in exact if path is not None)
        return [path or self._guess(name) for name, path in zip(names, exact, strict=True)]

    def exact(self, name: str) -> Path | None:
        """The picture that is where a name says, however the name is spelled."""
        for spelling in spellings(name):
            for root in self.roots:
                for candidate in _with_endings(spelling):
                    if _is_file(root / candidate):
                        return root / candidate
        return None

    def _guess(self, listed: str) -> Path | None:
        name = PurePosixPath(spellings(listed)[-1])
        stem, suffix = _split(name.name)
        found = []
        for path in self._index().get(stem.casefold(), []):
            within = path.relative_to(self.folder).parts[:-1]
            folders = [part.casefold() for part in (self.folder.absolute().name, *within)]
            named = [part.casefold() for part in name.parts[:-1]]
            if any(_BESIDE.search(part) and part not in named for part in folders):
                continue
            if path in self._meant or {*folders} & _SPLITS != {*named[-2:]} & _SPLITS:
                continue  # test/r_0 is another image than train/r_0
            pairs = zip(reversed(folders), reversed(named), strict=False)
            shared = len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
            place = IMAGE_FOLDERS.index(folders[-1]) if folders and folders[-1] in IMAGE_FOLDERS else len(IMAGE_FOLDERS)
            other = path.suffix.casefold() != suffix.casefold()
            found.append(((-shared, place), (other, PICTURE_SUFFIXES.index(path.suffix.casefold())), path))
        found.sort()
        if not found or any(rank == found[0][0] and path.parent != found[0][2].parent for rank, _, path in found):
            return None
        self.guessed[listed] = found[0][2]
        return found[0][2]

    def _index(self) -> dict[str, list[Path]]:
        """Pictures anywhere below the folder, by their names without endings."""
        if self._by_stem is None:
            self._by_stem = {}
            for where, folders, names in os.walk(self.folder):
                folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
                for name in names:
                    stem, suffix = _split(name)
                    if suffix:
                        self._by_stem.setdefault(stem.casefold(), []).append(Path(where) / name)
        return self._by_stem


def spellings(name: str) -> list[str]:
    """A name as it stands, and, last, as it would be written here."""
    plain = name.replace("\\", "/")
    if plain.lower().startswith("file://"):
        plain = plain[len("file://") :]
    return list(dict.fromkeys([name, plain, unquote(plain)]))


def _with_endings(name: str) -> list[str]:
    return [name] if _split(name)[1] else [name, *(name + suffix for suffix in _SUFFIXES)]


def _split(name: str) -> tuple[str, str]:
    """A name without the ending of a picture, and that ending; "r_0.5" has none."""
    path = PurePosixPath(name)
    return (name[: -len(path.suffix)], path.suffix) if path.suffix.lower() in PICTURE_SUFFIXES else (name, "")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, or with a null byte
        return False
