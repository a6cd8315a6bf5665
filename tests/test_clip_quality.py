"""What the evaluation of CLIP counts."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from invert3d_ns.alignment import checkpoints
from invert3d_ns.base.errors import InputError
from invert3d_ns.cli import run_command
from invert3d_ns.commands.evaluate import EvaluateClip
from invert3d_ns.metrics import clip_quality
from invert3d_ns.metrics.clip_quality import among_best, evaluate_clip, held_out_objects, measure_clip
from invert3d_ns.world.attributes import attribute_prompts
from invert3d_ns.world.captions import full_description
from invert3d_ns.world.objects import held_out
from invert3d_ns.world.shapes import CLASSES
from invert3d_ns.world.vocabulary import COLORLESS, COLORS, PATTERNS, STYLES


class _Guess:
    """Towers that know no more than chance: every image and every text is a random vector of its own."""

    mean = torch.zeros(3, 1, 1)

    def encode_image(self, images: Tensor) -> Tensor:
        return torch.nn.functional.normalize(torch.randn(len(images), 16), dim=1)

    encode_text = encode_image

    def classify(self, vectors: Tensor, prompts: list) -> Tensor:
        return torch.rand(len(vectors), len(prompts))


@pytest.fixture
def guess(monkeypatch: pytest.MonkeyPatch) -> _Guess:
    torch.manual_seed(0)
    towers = _Guess()
    monkeypatch.setattr(checkpoints, "load_clip", lambda name, device: towers)
    return towers


def test_hits_count_the_own_column_among_the_best() -> None:
    scores = torch.tensor([[3.0, 1.0, 2.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    assert among_best(scores).tolist() == [True, False, False]
    assert among_best(scores, 2).tolist() == [True, True, False]
    assert among_best(scores, 5).tolist() == [True, True, True]


def test_objects_are_held_out_and_described_apart() -> None:
    items = held_out_objects(5, 60)
    assert len({full_description(item) for item in items}) == 60
    assert all(held_out(item.name, item.color, item.pattern, item.style) for item in items)
    assert [full_description(i) for i in held_out_objects(5, 60)] == [full_description(i) for i in items]
    assert [full_description(i) for i in held_out_objects(6, 60)] != [full_description(i) for i in items]


def test_prompts_name_one_attribute_of_the_world_each() -> None:
    prompts = attribute_prompts()
    assert list(prompts["style"]) == list(STYLES) and list(prompts["class"]) == list(CLASSES)
    assert list(prompts["color"]) == list(COLORS) and list(prompts["pattern"]) == list(PATTERNS)
    assert "an object in van gogh style" in prompts["style"]["van gogh"]
    assert prompts["color"]["orange"] == ["an orange object", "an orange thing"]
    texts = [text for table in prompts.values() for options in table.values() for text in options]
    assert len(set(texts)) == len(texts) and not any("{}" in text for text in texts)


def test_the_attainable_recall_counts_hidden_colors() -> None:
    def item(style: str, color: str) -> SimpleNamespace:
        return next(i for i in held_out_objects(1, 400) if i.style == style)  # type: ignore[return-value]

    plain = item("photo", "red")
    sketch = item(COLORLESS[0], "red")
    import dataclasses

    twin = dataclasses.replace(sketch, color="blue" if sketch.color != "blue" else "red")  # type: ignore[type-var]
    other = dataclasses.replace(plain, color="blue" if plain.color != "blue" else "red")  # type: ignore[type-var]
    assert clip_quality._attainable([plain, other, sketch]) == 1.0  # type: ignore[list-item]
    assert clip_quality._attainable([plain, other, sketch, twin]) == 0.75  # type: ignore[list-item]


def test_guessing_is_graded_as_chance(guess: _Guess) -> None:
    measured = evaluate_clip(guess, 0, 60)  # type: ignore[arg-type]
    assert measured["recall_1"] < 0.15 and measured["recall_1"] <= measured["recall_5"] < 0.35
    assert 0.03 < measured["zero_shot_style"] < 0.25
    assert measured["zero_shot_color"] < 0.25 and measured["zero_shot_class"] < 0.25
    assert 0.9 < measured["recall_1_attainable"] <= 1.0


def test_the_report_has_a_row_for_every_figure(guess: _Guess, tmp_path: Path) -> None:
    assert EvaluateClip(out=tmp_path / "report", quick=True, seeds=(3, 4)).run() == 0
    document = json.loads((tmp_path / "report" / "table.json").read_text())
    figures = document["figures"]
    assert document["seeds"] == [3] and "50 held-out objects" in document["title"]
    assert [row["what"].replace(" ", "_") for row in document["rows"]] == list(figures)
    assert 0 <= figures["recall_1"] < 0.15 and "±" not in document["rows"][0]["%"]
    assert (
        document["command"]
        == f"invert3d evaluate clip --quick --seeds 3 4 --towers bundled --out {tmp_path / 'report'}"
    )
    rows, means = measure_clip(guess, [0, 1], 100)  # type: ignore[arg-type]
    assert all("±" in row["%"] for row in rows) and len(rows) == len(means)


@pytest.mark.usefixtures("guess")
def test_nothing_to_measure_and_nowhere_to_write(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least one seed"):
        EvaluateClip(out=tmp_path, seeds=()).run()
    with pytest.raises(InputError, match="--seeds is -1; give 0 to 2147483647"):
        run_command(EvaluateClip(out=tmp_path, seeds=(0, -1)))
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file"):
        EvaluateClip(out=tmp_path / "file").run()
