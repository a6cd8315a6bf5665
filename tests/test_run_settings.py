"""What a run says and refuses before it begins: numbers out of range, devices, help, and its first lines."""

from __future__ import annotations

import copy
import dataclasses
import math
import subprocess
import sys
from typing import Any

import pytest

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.ranges import check_numbers
from invert3d_ns.configs import invert3d, invert3d_edit
from invert3d_ns.runs.config import RunConfig

NAN, INF = math.nan, math.inf

REFUSED: list[tuple[str, float | tuple[float, ...]]] = [
    ("machine.seed", -1),
    ("machine.seed", 2**32),
    ("machine.num_devices", 0),
    ("machine.num_devices", 2),
    ("machine.num_machines", 3),
    ("max_num_iterations", 0),
    ("steps_per_save", -3),
    ("seconds_per_save", NAN),
    ("seconds_per_save", -1.0),
    ("steps_per_eval_image", -1),
    ("load_step", -1),
    ("logging.steps_per_log", -1),
    ("logging.local_writer.seconds_per_line", INF),
    ("viewer.websocket_port", 70000),
    ("viewer.jpeg_quality", 0),
    ("viewer.num_rays_per_chunk", 0),
    ("pipeline.splat_steps", -1),
    ("pipeline.steps", -3),
    ("pipeline.vectors", 0),
    ("pipeline.lr", NAN),
    ("pipeline.lr", 0.0),
    ("pipeline.init_jitter", -0.5),
    ("pipeline.norm_penalty", INF),
    ("pipeline.resolution", 0),
    ("pipeline.bank_groups", 0),
    ("pipeline.heldout_groups", 0),
    ("pipeline.heldout_groups", 3000),
    ("pipeline.groups_per_step", 0),
    ("pipeline.timestep_range", (0.5, 1.5)),
    ("pipeline.heldout_every", -1),
    ("pipeline.guidance_scale", NAN),
    ("pipeline.sampling_steps", 0),
    ("pipeline.model.sh_degree", 9),
    ("pipeline.model.refine_every", 0),
    ("pipeline.model.max_splats", 0),
    ("pipeline.model.cull_alpha_thresh", 2.0),
    ("pipeline.model.camera_optimizer.trans_l2_penalty", NAN),
    ("pipeline.datamanager.camera_res_scale_factor", 0.0),
    ("pipeline.datamanager.max_thread_workers", 0),
]
"""Settings, by the names of their fields, with a number that each must not have."""


def changed(name: str, value: Any) -> RunConfig:
    config: Any = copy.deepcopy(invert3d.config)
    *parts, last = name.split(".")
    owner = config
    for part in parts:
        owner = getattr(owner, part)
    assert hasattr(owner, last)
    setattr(owner, last, value)
    return config


@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_a_number_out_of_range_is_refused_by_its_flag_before_there_is_a_folder(name, value, tmp_path):
    config = changed(name, value)
    config.output_dir = tmp_path / "o"
    with pytest.raises(InputError) as error:
        config.set_timestamp()
    text = str(error.value)
    assert f"--{name.replace('_', '-')}" in text and "; " in text and "\n" not in text
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("group", ["means", "opacities"])
@pytest.mark.parametrize(("name", "value"), [("lr", NAN), ("lr", -1.0), ("eps", 0.0)])
def test_numbers_of_optimizers_are_checked(group, name, value):
    config = copy.deepcopy(invert3d.config)
    setattr(config.optimizers[group]["optimizer"], name, value)
    with pytest.raises(InputError, match=rf"--optimizers.{group}.optimizer.{name} is .*; give more than 0"):
        config.set_timestamp()


def test_the_numbers_of_every_method_are_in_range_as_they_come():
    check_numbers(invert3d.config)
    check_numbers(invert3d_edit.config)


def test_every_number_of_a_method_has_a_range_of_its_own():
    """Not only a finite one: what nobody thought about is found here. Those of others' rooms are not looked at."""
    from invert3d_ns.base.ranges import FINITE, _numbers

    free = {"logging.local-writer.stats-to-track", "pipeline.datamanager.dataparser", "pipeline.edit", "pipeline.model"}
    left = [
        flag
        for flag, _, allowed in _numbers(invert3d.config, "", FINITE)
        if allowed == FINITE and not flag.startswith(tuple(free))
    ]
    assert left == []


def test_a_device_that_is_not_there_is_one_line(tmp_path, monkeypatch):
    from invert3d_ns import compat

    monkeypatch.setattr(compat, "device_type", lambda: "cpu")
    for device in ("cuda", "mps"):
        with pytest.raises(InputError, match=f"--machine.device-type is {device}"):
            changed("machine.device_type", device).set_timestamp()


def test_a_run_begins_with_a_few_lines_and_not_with_all_settings(tmp_path, capfd):
    config = changed("pipeline.model.prompt", "in van gogh style")
    config.output_dir, config.timestamp = tmp_path / "[out]", "run"
    config.print_to_terminal()
    said = capfd.readouterr().out
    assert len(said.splitlines()) <= 10
    for word in ("invert3d", "the bundled demo", "bundled", "words 100", "edit 60", "seed 42", "[out]", "config.yml"):
        assert word in said


def test_the_help_of_a_method_begins_with_the_flags_to_know():
    code = (
        "import sys; sys.argv = ['ns-train', *sys.argv[1:]]\n"
        "from invert3d_ns import configs as c\n"
        "print(c.invert3d.description); print('====')\n"
        "print(c.invert3d_edit.description); print('====')\n"
        "names = []\n"
        "for line in c.FLAGS_THAT_MATTER.splitlines()[1:]: names.append(line.split()[0])\n"
        "print(names)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "invert3d", "--help"], capture_output=True, text=True, check=True
    )
    own, other, names = done.stdout.split("====\n")
    assert "--load-config" in own and "--load-config" not in other
    flags = eval(names)
    assert len(flags) == 10
    for flag in flags:
        owner: Any = invert3d.config
        for part in flag.removeprefix("--").split("."):
            assert part.replace("-", "_") in {field.name for field in dataclasses.fields(owner)}, flag
            owner = getattr(owner, part.replace("-", "_"))
