"""Several edits of one scene: which of them a region is under, and in which passes they are made."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
import torch
from test_scene_editor import EDIT, finished, scene, words

from invert3d_ns.base.errors import InputError
from invert3d_ns.editing.composition import composed, edits_within, split_into_passes, with_context
from invert3d_ns.editing.edit import Edit, Region, parse_edit
from invert3d_ns.editing.edit_sequence import EditSequence
from invert3d_ns.editing.scene_edit_config import SceneEditConfig
from invert3d_ns.editing.scene_editor import SceneEditor
from invert3d_ns.scenes.cloud import TENSORS, SplatCloud

TOP = Region((-2.0, -2.0, 0.2, 2.0, 2.0, 2.0), "part")
BOTTOM = Region((-2.0, -2.0, -2.0, 2.0, 2.0, -0.2), "part")
CORNER = Region((0.0, 0.0, 0.2, 2.0, 2.0, 1.0))
LEGS = Region(relevance="legs")
CONFIG = SceneEditConfig(orbits=1, fit_steps=3)


def same(one: SplatCloud, other: SplatCloud) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in TENSORS)


@pytest.mark.parametrize(
    ("own", "other", "covers"),
    [
        (Region(), Region(), True),
        (Region(), TOP, True),
        (Region(), LEGS, True),
        (TOP, Region(), False),
        (TOP, TOP, True),
        (TOP, CORNER, True),
        (CORNER, TOP, False),
        (TOP, BOTTOM, False),
        (TOP, replace(TOP, box_holds="object"), True),
        (TOP, replace(CORNER, relevance="legs"), True),
        (TOP, LEGS, False),
        (LEGS, LEGS, True),
        (LEGS, Region(), False),
        (LEGS, Region(relevance="wheels"), False),
        (LEGS, replace(LEGS, relevance_threshold=0.9), False),
        (LEGS, replace(TOP, relevance="legs"), False),
    ],
)
def test_a_region_covers_what_lies_in_it_for_certain(own: Region, other: Region, covers: bool) -> None:
    assert own.covers(other) == covers


def test_a_region_is_under_the_edits_that_cover_it_in_their_order() -> None:
    whole, top, legs = Edit(target="a"), Edit(target="b", region=TOP), Edit(target="c", region=LEGS)
    edits = [top, whole, legs, replace(top, target="d")]
    assert [edit.target for edit in edits_within(Region(), edits)] == ["a"]
    assert [edit.target for edit in edits_within(TOP, edits)] == ["b", "a", "d"]
    assert [edit.target for edit in edits_within(LEGS, edits)] == ["a", "c"]
    new = [Edit(target="e", region=CORNER), Edit(target="f", region=CORNER)]
    under, applied = with_context(edits, new)
    assert [edit.target for edit in under] == ["b", "a", "d", "e", "f"] and applied == 3
    assert with_context(edits, [])[0] == [whole]


def test_neighbors_of_one_region_and_kind_share_a_pass() -> None:
    a, b, c, d = Edit(target="a"), Edit(target="b"), Edit(target="c", region=TOP), Edit(target="d", change="geometry")
    e = Edit(target="e")
    assert split_into_passes([a, b, c, e, d]) == [[a, b], [c], [e], [d]]
    assert split_into_passes([]) == []


def edit(words: str, **settings) -> Edit:
    return parse_edit(words, **settings)


@pytest.mark.parametrize(
    ("edits", "come_to"),
    [
        (["red -> blue", "blue -> green"], ["red -> green"]),
        (["red -> blue", "blue -> green", "Green -> a yellow"], ["red -> a yellow"]),
        (["red -> blue", "red -> green"], ["red -> green"]),
        (["red -> blue", "black -> green"], ["red -> blue", "black -> green"]),
        (["blue", "green", "dark red"], ["a dark red"]),
        (["red -> blue", "green"], ["a green"]),
        (["blue", "blue -> green"], ["green"]),
        (["blue", "striped", "green", "spotted"], ["a green", "a spotted"]),
        (["in van gogh style", "a pencil sketch", "blue"], ["a pencil sketch of", "a blue"]),
        (["a pencil sketch", "a pencil sketch"], ["a pencil sketch of"]),
        (["with red wheels", "with blue wheels"], ["with red wheels", "with blue wheels"]),
        (["with a hat", "with a hat"], ["with a hat"]),
        (["red -> blue", "blue -> red"], ["red -> red"]),
        (["made of gold", "made of wood"], ["made of gold", "made of wood"]),
        (["painted blue", "golden", "blue and white", "green"], ["a green"]),
        (["green", "light blue colored"], ["a light blue colored"]),
    ],
)
def test_later_words_take_the_place_of_earlier_ones_of_their_kind(edits: list[str], come_to: list[str]) -> None:
    found = composed([edit(words, seed=index) for index, words in enumerate(edits)])
    assert [each.label for each in found] == come_to
    assert found[-1].seed == len(edits) - 1, "the last one's settings count"
    assert composed(found) == found


def test_edits_of_several_parts_do_not_mix() -> None:
    top, bottom = edit("blue", region=TOP), edit("green", region=BOTTOM)
    assert composed([top, bottom]) == [top, bottom]
    red = edit("red", region=TOP)
    assert composed([top, bottom, red]) == [bottom, red], "the last color of the top wins"
    whole = edit("yellow")
    assert composed([whole, top, edit("pink")]) == [top, edit("pink")]
    on_top = edit("blue -> striped", region=TOP)
    assert composed([edit("blue"), on_top, edit("green")]) == [edit("blue"), on_top, edit("green")], "it needs the blue"
    shape = edit("green", change="geometry")
    assert composed([edit("blue"), shape]) == [edit("blue"), shape]


def test_what_is_not_the_same_change_stays() -> None:
    back = edit("blue -> green", amount=-1.0)
    assert composed([edit("red -> blue"), back]) == [edit("red -> blue"), back]
    both = replace(edit("in van gogh style"), source="red", target="blue")
    assert composed([both, edit("blue -> green")]) == [both, edit("blue -> green")]
    without = replace(edit("in van gogh style"), source="red")
    assert composed([without, edit("red -> green")]) == [without, edit("red -> green")], "the style stays"


def test_a_noun_says_what_the_object_was_before_all_edits() -> None:
    first, second = edit("red -> blue", noun="red car"), edit("blue -> green", noun="blue car")
    assert composed([first, second])[0].noun == "red car"
    assert composed([edit("red -> blue"), second])[0].noun == "red car"
    assert composed([edit("blue"), second])[0].noun == "car"
    assert composed([first, edit("red -> green")])[0].noun == "red car"
    blue_car = "blue car with black wheels"
    assert composed([edit("red -> blue"), edit("green", noun=blue_car)])[0].noun == "red car with black wheels"
    assert composed([edit("red -> the blue"), edit("green", noun=blue_car)])[0].noun == "red car with black wheels"
    assert composed([edit("blue"), edit("green", noun=blue_car)])[0].noun == "car with black wheels"
    assert composed([first, edit("green", noun=blue_car)])[0].noun == "red car"
    better = edit("red -> green", noun="red car with blue wheels")
    assert composed([first, better]) == [better], "it says what the object was before both"


def test_a_color_after_a_color_gives_the_splats_of_the_last_one_alone(tiny_v_prior) -> None:
    cloud, embedding = scene(60), words(tiny_v_prior)
    colors = [replace(EDIT, source="red", target=color) for color in ("blue", "mug", "cat")]

    def made(*edits: Edit) -> SplatCloud:
        sequence = EditSequence(cloud, tiny_v_prior, embedding, edits, CONFIG)
        assert sequence.total_steps == CONFIG.total_steps
        return run_to_its_end(sequence)

    assert same(made(*colors), made(colors[-1]))


def test_a_sequence_may_begin_after_passes_that_are_known(tiny_v_prior) -> None:
    edits = [replace(EDIT, region=TOP), replace(EDIT, region=BOTTOM)]
    first, whole, rest = (EditSequence(scene(80), tiny_v_prior, words(tiny_v_prior), edits, CONFIG) for _ in range(3))
    for _ in range(CONFIG.total_steps):
        first.step()
    rest.skip(1, first.cloud())
    assert rest.done == CONFIG.total_steps
    assert same(run_to_its_end(rest), run_to_its_end(whole))


def test_views_are_made_under_the_edits_that_cover_the_region(tiny_v_prior) -> None:
    """As if the others had never been recorded; what they did is in the splats."""
    top, new = replace(EDIT, target="cat", region=TOP), replace(EDIT, target="mug")
    embedding, cloud = words(tiny_v_prior), scene(80)
    editor = SceneEditor(cloud, tiny_v_prior, embedding, [EDIT, top, new], CONFIG, applied=2)
    assert editor.edits == [EDIT, new] and editor.applied == 1
    known = SceneEditor(cloud, tiny_v_prior, embedding, [EDIT, new], CONFIG, applied=1)
    assert same(finished(editor), finished(known))
    part = replace(new, region=TOP)
    editor = SceneEditor(cloud, tiny_v_prior, embedding, [EDIT, top, part], CONFIG, applied=2)
    assert editor.edits == [EDIT, top, part] and editor.applied == 2


def test_one_pass_has_one_region(tiny_v_prior) -> None:
    edits = [replace(EDIT, region=TOP), EDIT]
    with pytest.raises(InputError, match="several regions"):
        SceneEditor(scene(60), tiny_v_prior, words(tiny_v_prior), edits, CONFIG)
    SceneEditor(scene(60), tiny_v_prior, words(tiny_v_prior), edits, CONFIG, applied=1)


def run_to_its_end(sequence: EditSequence) -> SplatCloud:
    sequence.prepare()
    while sequence.done < sequence.total_steps:
        sequence.step()
    return sequence.cloud()


def test_a_sequence_is_its_edits_one_after_another_and_may_stop_anywhere(tiny_v_prior) -> None:
    top, bottom = replace(EDIT, region=TOP, seed=5), replace(EDIT, target="cat", region=BOTTOM, change="geometry")
    whole = replace(EDIT, target="mug")
    embedding, cloud = words(tiny_v_prior), scene(80)
    edits = [top, bottom, whole]

    expected = cloud
    for index in range(3):
        given = edits[: index + 1]
        expected = finished(SceneEditor(expected, tiny_v_prior, embedding, given, CONFIG, applied=index))
    assert same(run_to_its_end(EditSequence(cloud, tiny_v_prior, embedding, edits, CONFIG)), expected)

    for stop in (0, 2, 3, 4, 7):
        first = EditSequence(cloud, tiny_v_prior, embedding, edits, CONFIG)
        assert first.total_steps == 9
        for _ in range(stop):
            first.step()
        file = io.BytesIO()
        torch.save(first.state_dict(), file)
        file.seek(0)
        second = EditSequence(cloud, tiny_v_prior, embedding, edits, CONFIG)
        second.load_state_dict(torch.load(file))
        assert second.done == stop and same(second.cloud(), first.cloud())
        assert same(run_to_its_end(second), expected), stop
    with pytest.raises(RuntimeError, match="steps are taken"):
        second.step()


def test_a_later_box_without_splats_is_refused_before_the_first_pass(tiny_v_prior) -> None:
    nowhere = replace(EDIT, region=Region((5.0, 5.0, 5.0, 6.0, 6.0, 6.0)))
    with pytest.raises(InputError, match="holds no splats"):
        EditSequence(scene(60), tiny_v_prior, words(tiny_v_prior), [EDIT, nowhere], CONFIG)
