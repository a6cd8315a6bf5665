"""The README of the methods' room: a new method is one file and one entry, and all else comes with it."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest
import torch
from runs import go_on, train
from synthetic import make_cloud

import invert3d_ns
from invert3d_ns.base.errors import InputError
from invert3d_ns.scenes.ply import write_splats
from invert3d_ns.scenes.runs import read_run

README = Path(invert3d_ns.__file__).parent / "methods" / "README.md"
COLOR = (0.1, 0.2, 0.9)
MODULE = "tint_method"


@pytest.fixture
def method(tmp_path, monkeypatch):
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(example.splitlines()) <= 60
    (tmp_path / f"{MODULE}.py").write_text(example)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module(MODULE)
    del sys.modules[MODULE]


def configured(method, tmp_path: Path, **options):
    import copy

    write_splats(tmp_path / "ball.ply", make_cloud(100))
    config = copy.deepcopy(method.tint.config)
    config.data, config.output_dir, config.timestamp = tmp_path / "ball.ply", tmp_path / "outputs", "run"
    config.machine.device_type, config.pipeline.color = "cpu", COLOR
    for name, value in options.items():
        setattr(config, name, value)
    return config


def distance(folder: Path) -> float:
    """Of the splats' mean color from the one that is asked for."""
    mean = 0.5 + 0.28209479177387814 * read_run(folder).features_dc.mean(0)
    return float((mean - torch.tensor(COLOR)).norm())


def test_the_example_trains_and_resumes_like_every_method(method, tmp_path, capfd):
    folder = train(configured(method, tmp_path))
    assert "ns-viewer --load-config" in capfd.readouterr().out
    stopped = train(configured(method, tmp_path, timestamp="stopped", max_num_iterations=8))
    assert distance(folder) < distance(stopped)
    go_on(stopped)
    assert torch.equal(read_run(folder).features_dc, read_run(stopped).features_dc)


def test_the_example_refuses_to_go_on_with_another_setting(method, tmp_path):
    folder = train(configured(method, tmp_path, max_num_iterations=3))
    other = configured(method, tmp_path, timestamp="other", load_dir=folder / "nerfstudio_models")
    other.pipeline.color = (0.5, 0.5, 0.5)
    with pytest.raises(InputError, match=r"--pipeline.color was \(0.1, 0.2, 0.9\) and is now \(0.5, 0.5, 0.5\)"):
        train(other)
