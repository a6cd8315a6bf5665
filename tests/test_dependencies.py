"""What the package and its tests import, they declare; what they declare without a bound is refused."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
TOOLS = {"pyright", "pytest-xdist", "ruff"}
"""Declared for development and called as programs."""


def third_party(source: str, own: set[str]) -> Iterator[str]:
    """Top-level modules that a file imports anywhere, within functions too, and that neither Python nor ``own`` has."""
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "importorskip")):
            names = [a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        for name in names:
            top = name.split(".")[0]
            if top not in sys.stdlib_module_names and top not in own:
                yield top


def imports_of(folder: Path) -> dict[str, list[str]]:
    """Third-party modules that the files below ``folder`` import, and the files that do."""
    files = sorted(folder.rglob("*.py"))
    own = {"invert3d_ns", *(path.stem for path in files if folder.name == "tests")}
    found: dict[str, list[str]] = {}
    for path in files:
        for module in third_party(path.read_text(encoding="utf-8"), own):
            found.setdefault(module, []).append(str(path.relative_to(ROOT)))
    return found


def declared() -> dict[str, list[Requirement]]:
    """Requirements by group: "package", and each extra."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib  # pyright: ignore[reportMissingImports]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {"package": project["dependencies"], **project["optional-dependencies"]}
    return {name: [Requirement(line) for line in lines] for name, lines in groups.items()}


def undeclared(modules: dict[str, list[str]], requirements: list[Requirement]) -> dict[str, list[str]]:
    """Modules of no distribution that ``requirements`` name, and the files that import them."""
    names = {canonicalize_name(requirement.name) for requirement in requirements}
    distributions = packages_distributions()
    return {
        module: files
        for module, files in modules.items()
        if not names & {canonicalize_name(name) for name in distributions.get(module, [module])}
    }


def test_the_package_declares_what_it_imports():
    # What an extra brings is imported where it is asked for, and looked for before.
    requirements = [*declared()["package"], *declared()["photos"]]
    assert undeclared(imports_of(ROOT / "invert3d_ns"), requirements) == {}


def test_the_tests_declare_what_they_import():
    everything = [requirement for group in declared().values() for requirement in group]
    # setuptools is what builds the package; packaging comes with pytest.
    modules = {m: files for m, files in imports_of(ROOT / "tests").items() if m not in ("setuptools", "packaging")}
    assert undeclared(modules, everything) == {}


def test_nothing_is_declared_that_nobody_imports():
    modules = {**imports_of(ROOT / "invert3d_ns"), **imports_of(ROOT / "tests")}
    distributions = packages_distributions()
    imported = {canonicalize_name(name) for module in modules for name in distributions.get(module, [module])}
    for group in declared().values():
        for requirement in group:
            name = canonicalize_name(requirement.name)
            assert name in imported | TOOLS or requirement.marker is not None, f"{name} is declared and never imported"


@pytest.mark.parametrize("group", declared())
def test_every_requirement_has_the_range_that_was_tried(group):
    for requirement in declared()[group]:
        operators = {specifier.operator for specifier in requirement.specifier}
        assert operators == {">=", "<"}, f"{requirement} needs a lowest and a first excluded version"
        if requirement.marker is None and group in ("package", "dev"):
            assert requirement.specifier.contains(version(requirement.name)), f"{requirement} is not tested"


def test_an_import_that_is_not_declared_is_found():
    source = "def f():\n    import scipy.ndimage\n    from . import sibling\nimport json, invert3d_ns.configs\n"
    found = list(third_party(source, {"invert3d_ns"}))
    assert found == ["scipy"]
    assert undeclared({"scipy": ["a.py"]}, [Requirement("numpy>=1")]) == {"scipy": ["a.py"]}
    assert undeclared({"sklearn": ["a.py"]}, [Requirement("scikit-learn>=1")]) == {}, "distributions have other names"
