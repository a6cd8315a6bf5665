"""What people fill in, and the edit that it means."""

from dataclasses import fields

import pytest

from invert3d_ns.base.errors import InputError
from invert3d_ns.editing.edit import Edit, Region
from invert3d_ns.live.form import EditForm, parse_weights


def test_weights_are_read_from_text():
    assert parse_weights(" van gogh = 2; style=.5,\n") == {"van gogh": 2.0, "style": 0.5}
    assert parse_weights("") == {}


def test_terms_beside_words_make_one_edit():
    edit = EditForm(words="in van gogh style", source="red", target="blue", weights="blue=2", seed=3).edit()
    assert (edit.prompt, edit.source, edit.target, edit.seed) == ("<object> in van gogh style", "red", "blue", 3)


def test_form_says_what_the_object_is() -> None:
    form = EditForm(words="blue instead of red", noun=" red car ")
    assert form.edit().noun == "red car"


def test_every_setting_of_an_edit_is_asked_for_or_left_out_on_purpose() -> None:
    asked = {field.name for field in fields(EditForm)}
    has = {field.name for kind in (Edit, Region) for field in fields(kind)}
    assert has - asked == {"prompt", "region", "space", "structure", "steps", "sampler", "box_holds"}
    assert asked - has == {"words", "replace_last"}
    edit = EditForm(words="blue").edit()
    assert edit == Edit(prompt="a blue <object>"), "an untouched field says nothing"


@pytest.mark.parametrize("typed", ["auto", " AUTO ", ""])
def test_auto_is_the_priors_own(typed: str) -> None:
    edit = EditForm(words="blue", guidance_scale=typed, strength=typed).edit()
    assert edit.guidance_scale is None and edit.strength is None


def test_what_is_no_number_is_one_line() -> None:
    with pytest.raises(InputError, match="the strength 'a lot' is no number; give one, or auto"):
        EditForm(words="blue", strength="a lot").edit()
