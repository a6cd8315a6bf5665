"""The house holds: imports go one way between rooms, no files import each other in a circle, rooms stay small."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import invert3d_ns

PACKAGE = Path(invert3d_ns.__file__).parent
FLOORS: tuple[tuple[str, ...], ...] = (
    ("compat", "base"),
    ("weights",),
    ("scenes", "prior"),
    ("world", "alignment"),
    ("guidance",),
    ("words",),
    ("editing",),
    ("runs",),
    ("live",),
    ("methods",),
    ("metrics",),
    ("training",),
    ("commands",),
    ("cli", "configs", "dataparsers"),
)
"""Rooms from the ground up. A room imports from floors below its own and from itself, never from beside or above."""
MOST_LINES = 400


def _modules() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = (PACKAGE.name, *path.relative_to(PACKAGE).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = _modules()


def _for_types_only(tree: ast.AST) -> set[int]:
    """Nodes under ``if TYPE_CHECKING``: they run nowhere."""
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
    return {id(inner) for block in blocks for statement in block.body for inner in ast.walk(statement)}


def _imports(path: Path, *, types: bool) -> Iterator[tuple[int, str]]:
    """Modules of this package that a file imports, anywhere in it, with the line."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = set() if types else _for_types_only(tree)
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names)):
                if name in MODULES:
                    yield node.lineno, name
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name in MODULES)


def _room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def _floor(room: str) -> int:
    return next(index for index, rooms in enumerate(FLOORS) if room in rooms)


def test_every_room_has_a_floor() -> None:
    known = {room for rooms in FLOORS for room in rooms}
    assert {_room(module) for module in MODULES} - {""} <= known


@pytest.mark.parametrize("module", [module for module in MODULES if _room(module)])
def test_imports_go_down(module: str) -> None:
    """Function-level imports count, and so do those for types: who knows a name depends on it."""
    own = _room(module)
    wrong = [
        f"{MODULES[module].relative_to(PACKAGE)}:{line} imports {name}"
        for line, name in _imports(MODULES[module], types=True)
        if _room(name) and _room(name) != own and _floor(_room(name)) >= _floor(own)
    ]
    assert not wrong


def test_no_files_import_each_other_in_a_circle() -> None:
    graph = {
        module: {name for _, name in _imports(path, types=False) if name != module and name != PACKAGE.name}
        for module, path in MODULES.items()
    }
    # Kahn: take away whatever imports nothing that is left; what remains is or leads into a circle.
    left = dict(graph)
    while free := [module for module, needs in left.items() if not needs & left.keys()]:
        for module in free:
            del left[module]
    assert not left, f"in circles, or importing one: {sorted(left)}"


@pytest.mark.parametrize("folder", [PACKAGE, Path(__file__).parent], ids=["package", "tests"])
def test_files_are_small(folder: Path) -> None:
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in folder.rglob("*.py")}
    assert not {str(path.relative_to(folder)): count for path, count in lines.items() if count > MOST_LINES}
