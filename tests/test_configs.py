from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]

PARSE = """
import dataclasses, json, sys
import nerfstudio.configs.method_configs as methods
import tyro
before = sorted(sys.modules)
assert "invert3d" in methods.all_methods
import invert3d_ns.dataparsers
config = tyro.cli(methods.AnnotatedBaseConfigUnion, args=sys.argv[1:])
edit = tyro.cli(methods.AnnotatedBaseConfigUnion, args=json.loads(sys.stdin.read()))
print(json.dumps({
    "modules": sorted(sys.modules),
    "target": config._target.__name__,
    "steps": config.pipeline.steps,
    "prior": config.pipeline.prior,
    "up": config.pipeline.datamanager.dataparser.up,
    "lr": config.pipeline.lr,
    "vis": config.vis,
    "device": config.machine.device_type,
    "means_lr": config.optimizers["means"]["optimizer"].lr,
    "edit": {
        "prompt": edit.prompt,
        "options": dataclasses.asdict(edit.pipeline.edit_options),
        "fit_steps": edit.pipeline.edit.fit_steps,
        "steps": [edit.pipeline.splat_steps, edit.pipeline.steps],
    },
}, default=str))
"""


@pytest.fixture(scope="module")
def parsed():
    """What a fresh ``ns-train`` makes of a command line, and the modules that it has imported by then."""
    arguments = ["invert3d", "--pipeline.steps", "7", "--pipeline.prior", "mvdream-sd1.5", "--pipeline.lr", "0.01"]
    arguments += ["--pipeline.datamanager.dataparser.up", "z"]
    environment = {
        **os.environ,
        "NERFSTUDIO_METHOD_CONFIGS": (
            "invert3d=invert3d_ns.configs:invert3d,invert3d-edit=invert3d_ns.configs:invert3d_edit"
        ),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    edit = ["invert3d-edit", "--prompt", "in van gogh style", "--pipeline.edit.weight", "van gogh=2", "style=0.5"]
    edit += ["--pipeline.edit.strength", "0.7", "--pipeline.edit.change", "geometry"]
    edit += ["--pipeline.edit.box", "0", "0", "0", "1", "1", "0.5", "--pipeline.edit.relevance", "wheels"]
    edit += ["--pipeline.edit.fit-steps", "7"]
    done = subprocess.run(
        [sys.executable, "-c", PARSE, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        input=json.dumps(edit),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_the_command_line_reaches_every_part_of_the_configuration(parsed):
    import torch

    assert parsed["target"] == "PhasedTrainer"
    assert (parsed["steps"], parsed["prior"], parsed["lr"], parsed["up"]) == (7, "mvdream-sd1.5", 0.01, "z")
    assert parsed["vis"] == "tensorboard", "with nobody watching, the command must end by itself"
    assert parsed["device"] == ("cuda" if torch.cuda.is_available() else "cpu")
    assert parsed["means_lr"] > 0


def test_the_command_line_of_an_edit_says_what_and_how_in_one_group(parsed):
    edit = parsed["edit"]
    assert edit["prompt"] == "in van gogh style" and edit["fit_steps"] == 7
    options, region = edit["options"], edit["options"]["edit"]["region"]
    assert options["weight"] == ["van gogh=2", "style=0.5"] and options["edit"]["strength"] == 0.7
    assert options["edit"]["change"] == "geometry"
    assert (region["box"], region["relevance"]) == ([0, 0, 0, 1, 1, 0.5], "wheels")
    assert edit["steps"] == [0, 0], "splats and words exist already"


def test_no_two_settings_of_an_edit_share_a_name():
    import dataclasses

    from invert3d_ns.editing.edit import Edit, Region
    from invert3d_ns.editing.options import EditOptions
    from invert3d_ns.editing.scene_edit_config import SceneEditConfig

    kinds = (Edit, Region, EditOptions, SceneEditConfig)
    names = [field.name for kind in kinds for field in dataclasses.fields(kind)]
    assert len(set(names)) == len(names), "all are --pipeline.edit.<name>"


@pytest.mark.parametrize(
    "heavy", ["diffusers", "transformers", "open_clip", "safetensors", "imageio_ffmpeg", "plyfile"]
)
def test_parsing_arguments_imports_nothing_heavy(parsed, heavy):
    assert heavy not in parsed["modules"]


def test_entry_points_name_what_nerfstudio_expects():
    from importlib import import_module

    from nerfstudio.plugins.registry_dataparser import DataParserSpecification
    from nerfstudio.plugins.types import MethodSpecification

    groups = _entry_points()
    for group, kind in (("method_configs", MethodSpecification), ("dataparser_configs", DataParserSpecification)):
        entries = groups[f"nerfstudio.{group}"]
        assert entries
        for name, target in entries.items():
            module, attribute = target.split(":")
            specification = getattr(import_module(module), attribute)
            assert isinstance(specification, kind)
            assert specification.description
            if isinstance(specification, MethodSpecification):
                assert specification.config.method_name == name


def test_every_setting_of_the_method_has_a_help_text():
    import dataclasses
    import inspect

    from invert3d_ns.editing.edit import Edit, Region
    from invert3d_ns.editing.options import EditOptions
    from invert3d_ns.editing.scene_edit_config import SceneEditConfig
    from invert3d_ns.methods.invert3d import InversionPipelineConfig
    from invert3d_ns.runs.config import RunConfig

    for config in (InversionPipelineConfig, RunConfig, Edit, Region, EditOptions, SceneEditConfig):
        source = inspect.getsource(config)
        for field in dataclasses.fields(config):
            if field.name.startswith("_") or f"\n    {field.name}:" not in source:
                continue
            following = source.split(f"\n    {field.name}:")[1].split("\n")[1].strip()
            assert following.startswith('"""'), f"{config.__name__}.{field.name} has no help text"


@pytest.mark.parametrize("name", ["invert3d", "invert3d_edit"])
def test_a_configuration_survives_its_yaml(name):
    from invert3d_ns import configs

    config = getattr(configs, name).config
    again = yaml.load(yaml.dump(config), Loader=yaml.Loader)
    assert again == config
    assert type(again) is type(config)


@pytest.mark.parametrize(
    ("data", "name"), [(None, "demo"), (Path("some/cat.ply"), "cat"), (Path("some/scene"), "scene"), (Path("."), None)]
)
def test_runs_are_named_after_their_scene(data, name):
    import copy

    from invert3d_ns.configs import invert3d

    config = copy.deepcopy(invert3d.config)
    config.pipeline.datamanager.data = data
    config.set_experiment_name()
    assert config.experiment_name == (name or Path.cwd().name)


def _entry_points() -> dict[str, dict[str, str]]:
    """The entry points that pyproject.toml declares, by group."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib  # pyright: ignore[reportMissingImports]  # comes with pytest before Python 3.11
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
