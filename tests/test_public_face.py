"""What `import invert3d_ns` offers: names that exist, cost nothing before they are used, and type checkers know."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import invert3d_ns


@pytest.mark.parametrize("name", invert3d_ns._HOMES)
def test_a_public_name_is_what_its_module_has_and_is_documented(name: str) -> None:
    value = getattr(invert3d_ns, name)
    assert value.__name__ == name and value.__module__ == f"invert3d_ns.{invert3d_ns._HOMES[name]}"
    assert inspect.getdoc(value)


def test_importing_the_package_imports_nothing_else() -> None:
    code = "import sys, invert3d_ns; assert not {'torch', 'numpy', 'nerfstudio'} & sys.modules.keys(); dir(invert3d_ns)"
    root = str(Path(invert3d_ns.__file__).parents[1])
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(invert3d_ns.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    seen = {alias.name: str(node.module).removeprefix("invert3d_ns.") for node in imports for alias in node.names}
    assert seen == invert3d_ns._HOMES


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        invert3d_ns.nonsense  # noqa: B018
