"""What people fill in, and the edit that it means."""

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
