"""``ns-train clip-splat-joint``: images are fitted and stylized at once; k grows; what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from runs import go_on, train
from stylization_configs import PROMPT, configured
from synthetic import make_cloud
from text_configs import checkpoint

from invert3d_ns.base.errors import InputError
from invert3d_ns.methods.stylization_joint import JointPipeline
from invert3d_ns.methods.stylization_settings import JointSettings
from invert3d_ns.scenes.ply import write_splats
from invert3d_ns.scenes.runs import read_run, read_run_objects


def _configured(data: Path, output_dir: Path, **options: Any):
    return configured(data, output_dir, method="clip_splat_joint", **options)


@pytest.fixture(scope="module")
def finished(posed_knob: Path, tmp_path_factory) -> Path:
    return train(_configured(posed_knob, tmp_path_factory.mktemp("outputs")))


def test_a_run_leaves_its_photographs_and_splats_in_one_picture(finished: Path) -> None:
    figures = json.loads((finished / "metrics.json").read_text())
    assert figures["steps"] == {"joint": 6, "report": 0} and list(figures["styles"]) == [PROMPT]
    assert figures["styles"][PROMPT]["psnr_to_images"] > 5
    assert (finished / "views.png").exists() and len(read_run_objects(finished)) == 1


def test_words_count_once_there_is_a_scene(posed_knob: Path, finished: Path, tmp_path: Path) -> None:
    never = train(_configured(posed_knob, tmp_path / "never", pipeline__begin=1.0))
    more = train(_configured(posed_knob, tmp_path / "more", pipeline__k=10.0))
    plain, little, much = (read_run(folder) for folder in (never, finished, more))
    assert not torch.equal(plain.features_dc, little.features_dc)
    assert not torch.equal(little.features_dc, much.features_dc)


def test_k_grows_to_its_whole() -> None:
    config = JointSettings(k=2.0, begin=0.25, grow=0.5, splat_steps=100)
    pipeline: Any = SimpleNamespace(config=config)
    weight = lambda index: JointPipeline.weight_of_style(pipeline, index)  # noqa: E731
    assert [weight(index) for index in (0, 24, 25, 50, 75, 99)] == [0.0, 0.0, 0.0, 1.0, 2.0, 2.0]
    config.grow = 0.0
    assert [weight(index) for index in (24, 25)] == [0.0, 2.0]


def test_a_run_that_was_stopped_ends_as_one_that_was_not(posed_knob: Path, finished: Path, tmp_path: Path) -> None:
    part = _configured(posed_knob, tmp_path)
    part.max_num_iterations = 4
    stopped = train(part)
    assert checkpoint(stopped)["step"] == 3
    go_on(stopped)
    one, other = read_run(finished), read_run(stopped)
    for name in one.tensors():
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pipeline__k": 0.0}, r"--pipeline.k is 0.* give more than 0"),
        ({"pipeline__k": -1.0}, r"--pipeline.k is -1"),
        ({"prompt": None, "prompts": ("at night", "in sepia")}, "a joint fit takes one style"),
        ({"prompt": None}, "there is no prompt"),
        ({"pipeline__free": ("means",)}, "a joint fit trains everything"),
        ({"pipeline__splat_steps": 0}, "there is nothing to do"),
        ({"pipeline__style__crop_side": (0.1, 0.2)}, "crops of 0.1 of that show nothing"),
    ],
)
def test_what_cannot_be_carried_out_is_refused(options: dict, message: str, posed_knob: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        train(_configured(posed_knob, tmp_path / "outputs", **options))


def test_splats_are_for_the_other_method(tmp_path: Path) -> None:
    write_splats(tmp_path / "knob.ply", make_cloud(60))
    with pytest.raises(InputError, match="style them with ns-train clip-splat"):
        train(_configured(tmp_path / "knob.ply", tmp_path / "outputs"))
