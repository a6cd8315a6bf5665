"""Whatever is typed: the right thing, or one line that says what is wrong, and nothing left behind."""

from __future__ import annotations

from pathlib import Path

import pytest
from malformed import Case, all_cases, make_material, problems, run_here


@pytest.fixture(scope="module")
def material(tiny_v_prior, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that all cases run in; each leaves it as it was."""
    folder = tmp_path_factory.mktemp("malformed")
    make_material(folder, tiny_v_prior)
    return folder


def _parameters() -> list:
    return [pytest.param(entry, id=entry.name) for entry in all_cases()]


@pytest.mark.parametrize("entry", _parameters())
def test_it_is_right_or_one_line(entry: Case, material: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(material.with_name("cache")))
    found = problems(entry, run_here(entry, material))
    assert not found, "\n".join([" ".join(entry.line), *found])


def test_there_are_two_hundred_of_them() -> None:
    assert len(all_cases()) >= 200
