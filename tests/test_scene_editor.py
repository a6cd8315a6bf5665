"""Splats that follow edited views: where they go, what stays, and that a run can stop and go on."""

from __future__ import annotations

import io
from dataclasses import replace
from functools import partial

import pytest
import torch
from synthetic import make_cloud

from invert3d_ns.base.cancellation import Cancelled
from invert3d_ns.base.errors import InputError
from invert3d_ns.base.metrics import psnr
from invert3d_ns.editing import scene_editor as module
from invert3d_ns.editing.edit import Edit, Region
from invert3d_ns.editing.scene_editor import SceneEditConfig, SceneEditor
from invert3d_ns.editing.view_sets import confidences, neighbors_of_unseen, spread_cameras, target_views
from invert3d_ns.scenes.cameras import orbit_camera_to_world
from invert3d_ns.scenes.cloud import TENSORS, SplatCloud
from invert3d_ns.scenes.normalization import to_object_frame, transform_splats
from invert3d_ns.scenes.rasterization import SH_C0
from invert3d_ns.scenes.rendering import render_splats
from invert3d_ns.words.embedding import ObjectEmbedding

UNSEEN = orbit_camera_to_world(torch.arange(6) * 60.0 + 40.0, torch.tensor([0.0, 25.0, -15.0, 10.0, 20.0, -5.0]))
EDIT = Edit(source="red", target="blue", steps=2)


def scene(count: int = 300, sh_degree: int = 0) -> SplatCloud:
    cloud = to_object_frame(make_cloud(count, sh_degree))[0]
    cloud.scales += 0.3
    return cloud


def repainted(cloud: SplatCloud, rows: torch.Tensor | slice = slice(None)) -> SplatCloud:
    """The same splats with their color channels turned round."""
    colors = cloud.features_dc.clone()
    colors[rows] = colors[rows].roll(1, dims=-1)
    return replace(cloud, features_dc=colors)


def words(prior) -> ObjectEmbedding:
    vectors = prior.word_vectors("object").repeat(3, 1)[:3]
    return ObjectEmbedding.for_prior(prior, vectors, init_word="object", steps=1)


def drawn(cloud: SplatCloud, poses=UNSEEN, size: int = 32) -> torch.Tensor:
    with torch.no_grad():
        return render_splats(cloud, poses, size, supersampling=2)[0].clamp(0, 1)


def answer(monkeypatch, make) -> list[dict]:
    """Let ``make(originals, cameras)`` say what the prior answers; the keywords of each call are kept."""
    calls: list[dict] = []

    def edited_views(prior, embedding, edits, cameras, **keywords):
        calls.append(keywords | {"cameras": cameras})
        return make(keywords["originals"], cameras)

    monkeypatch.setattr(module, "edited_views", edited_views)
    return calls


def poses_of(cameras: torch.Tensor) -> torch.Tensor:
    """Camera-to-world matrices of camera vectors, back at the orbit's radius."""
    matrices = cameras.reshape(-1, 4, 4).clone()
    matrices[:, :3, 3] *= 2.5
    return matrices


def show(cloud: SplatCloud):
    """A prior that always shows this."""
    return lambda _, cameras: drawn(cloud, poses_of(cameras)).unflatten(0, cameras.shape[:2])


def finished(editor: SceneEditor) -> SplatCloud:
    editor.prepare()
    while editor.done < editor.total_steps:
        editor.step()
    return editor.cloud()


@pytest.mark.parametrize("sh_degree", [0, 1])
def test_splats_follow_edited_views_to_cameras_that_no_step_saw(tiny_v_prior, monkeypatch, sh_degree) -> None:
    cloud = scene(sh_degree=sh_degree)
    cloud.features_rest *= 0.3
    truth = repainted(cloud)
    before = {name: getattr(cloud, name).clone() for name in TENSORS}
    calls = answer(monkeypatch, show(truth))
    editor = SceneEditor(cloud, tiny_v_prior, words(tiny_v_prior), [EDIT], SceneEditConfig(fit_steps=25, details=False))
    editor.prepare()
    lifted = psnr(drawn(editor.cloud()), drawn(truth))
    losses = [editor.step()["colors"] for _ in range(editor.total_steps)]
    after = editor.cloud()
    assert psnr(drawn(cloud), drawn(truth)) < 20 < lifted < psnr(drawn(after), drawn(truth))
    assert psnr(drawn(after), drawn(truth)) > 24
    assert sum(losses[-5:]) < sum(losses[:5])
    for name in ("means", "scales", "quats", "opacities"):
        assert torch.equal(getattr(after, name), before[name])
    assert all(torch.equal(getattr(cloud, name), before[name]) for name in TENSORS), "the scene itself is left alone"
    assert calls[0]["originals"].shape == (1, 12, 3, 32, 32) and editor.edited.shape == (3, 4, 3, 32, 32)
    assert calls[0]["masks"] is None


def test_what_the_autoencoder_loses_is_kept_and_no_edit_is_no_change(tiny_v_prior, monkeypatch) -> None:
    def unedited(originals, _):
        return tiny_v_prior.decode_latents(tiny_v_prior.encode_images(originals))

    answer(monkeypatch, unedited)
    cloud = scene()
    editor = SceneEditor(cloud, tiny_v_prior, words(tiny_v_prior), [EDIT], SceneEditConfig(fit_steps=4))
    after = finished(editor)
    assert psnr(editor.edited, editor.originals) < 15, "this autoencoder has learned nothing"
    assert psnr(drawn(after), drawn(cloud)) > 35
    lossy = SceneEditor(cloud, tiny_v_prior, words(tiny_v_prior), [EDIT], SceneEditConfig(fit_steps=4, details=False))
    assert psnr(drawn(finished(lossy)), drawn(cloud)) < 20


def test_views_change_only_where_masks_let_them(tiny_v_prior) -> None:
    originals, edited = torch.rand(2, 1, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    masks = torch.zeros(1, 2, 1, 32, 32)
    masks[..., 8:, :] = 1
    targets = target_views(tiny_v_prior, originals, edited, masks)
    assert torch.equal(targets[..., :8, :], originals[..., :8, :])
    assert (targets[..., 8:, :] - originals[..., 8:, :]).abs().mean() > 0.05


def test_a_part_changes_and_nothing_else_by_a_single_bit(tiny_v_prior, monkeypatch) -> None:
    cloud = scene(sh_degree=1)
    calls = answer(monkeypatch, show(repainted(cloud)))
    box = (-2.0, -2.0, 0.2, 2.0, 2.0, 2.0)
    config = SceneEditConfig(fit_steps=5, details=False)
    edit = replace(EDIT, change="geometry", region=Region(box, "part"))
    editor = SceneEditor(cloud, tiny_v_prior, words(tiny_v_prior), [edit], config)
    after = finished(editor)
    inside = cloud.means[:, 2] >= 0.2
    assert torch.equal(editor.selected, inside) and 20 < inside.sum() < 280
    for name in TENSORS:
        assert torch.equal(getattr(after, name)[~inside], getattr(cloud, name)[~inside])
    for name in ("features_dc", "features_rest", "means", "scales", "quats", "opacities"):
        assert not torch.equal(getattr(after, name)[inside], getattr(cloud, name)[inside])
    masks = calls[0]["masks"]
    assert masks.shape == (1, 12, 1, 32, 32) and 0.01 < masks.mean() < 0.5
    assert masks[..., :16, :].mean() > masks[..., 16:, :].mean(), "the upper half is what changes"


@pytest.mark.parametrize("change", ["colors", "geometry"])
def test_one_object_of_three_changes_and_is_shown_alone_at_full_size(tiny_v_prior, monkeypatch, change) -> None:
    places = torch.tensor([[-1.2, 0.3, 0.0], [0.0, 0.0, 0.1], [1.3, -0.2, -0.1]])
    small = [transform_splats(scene(120), torch.diag(torch.tensor([0.3, 0.3, 0.3, 1.0]))) for _ in places]
    for cloud, place in zip(small, places, strict=True):
        cloud.means = cloud.means + place
    three = SplatCloud(*(torch.cat([getattr(c, name) for c in small]) for name in TENSORS))  # type: ignore[arg-type]
    calls = answer(monkeypatch, show(repainted(scene(120))))
    config = SceneEditConfig(fit_steps=5, details=False)
    edit = replace(EDIT, change=change, region=Region((-0.5, -0.5, -0.5, 0.5, 0.5, 0.5), "object"))
    editor = SceneEditor(three, tiny_v_prior, words(tiny_v_prior), [edit], config)
    after = finished(editor)
    middle = torch.arange(360) // 120 == 1
    assert torch.equal(editor.selected, middle) and calls[0]["masks"] is None
    for name in TENSORS:
        assert torch.equal(getattr(after, name)[~middle], getattr(three, name)[~middle])
    assert not torch.equal(after.features_dc[middle], three.features_dc[middle])
    alone = to_object_frame(scene(120), "z")[0]
    assert psnr(calls[0]["originals"][0], drawn(alone, editor._poses.flatten(0, 1))) > 30
    if change == "geometry":
        assert not torch.equal(after.means[middle], three.means[middle])
        assert (after.means[middle] - three.means[middle]).abs().max() < 0.05, "it is back in its place"
        assert (after.scales[middle] - three.scales[middle]).abs().max() < 0.5
    else:
        assert torch.equal(after.means, three.means) and torch.equal(after.scales, three.scales)


def test_whether_a_box_holds_the_object_is_asked_of_the_words(tiny_v_prior, monkeypatch) -> None:
    """The words are taken to explain views that are mostly white, or mostly not."""
    cloud = scene(120)
    tiny = transform_splats(cloud, torch.diag(torch.tensor([0.2, 0.2, 0.2, 1.0])))
    answer(monkeypatch, show(cloud))
    context_of_words = module.edit_conditions(tiny_v_prior, words(tiny_v_prior)).positive
    white = tiny_v_prior.encode_images(torch.ones(1, 1, 3, 32, 32))

    def loss(likes_large, latents, noise, t, context, cameras):
        filled = float((latents - white).abs().mean())
        explained = 1 - filled / 100 if likes_large else 1 + filled / 100
        return torch.tensor(explained if torch.equal(context, context_of_words) else 1.0)

    for likes_large in (True, False):
        config, edit = SceneEditConfig(fit_steps=0, details=False), replace(EDIT, region=Region((-1, -1, -1, 1, 1, 1)))
        editor = SceneEditor(tiny, tiny_v_prior, words(tiny_v_prior), [edit], config)
        monkeypatch.setattr(tiny_v_prior, "prediction_loss", partial(loss, likes_large))
        editor.prepare()
        assert editor._framed.is_object == likes_large


@pytest.mark.parametrize(
    ("config", "edit"),
    [
        (SceneEditConfig(fit_steps=4, refine_steps=3, batch=2), EDIT),
        (SceneEditConfig(fit_steps=3, at_once=False, latent_weight=0.1), replace(EDIT, change="geometry")),
        (SceneEditConfig(fit_steps=3), replace(EDIT, region=Region((-2.0, -2.0, 0.2, 2.0, 2.0, 2.0), "part"))),
    ],
)
def test_a_run_that_stops_ends_as_one_that_does_not(tiny_v_prior, config, edit) -> None:
    """With the tiny prior's own views, and through a file."""
    cloud, embedding = scene(150, sh_degree=1), words(tiny_v_prior)
    whole = finished(SceneEditor(cloud, tiny_v_prior, embedding, [edit], config, seed=3))
    first = SceneEditor(cloud, tiny_v_prior, embedding, [edit], config, seed=3)
    first.prepare()
    first.step()
    first.step()
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = SceneEditor(cloud, tiny_v_prior, embedding, [edit], config, seed=3)
    second.load_state_dict(torch.load(file))
    assert second.done == 2 and torch.equal(second.edited, first.edited)
    assert all(torch.equal(getattr(second.cloud(), name), getattr(first.cloud(), name)) for name in TENSORS)
    while second.done < second.total_steps:
        second.step()
    ended = second.cloud()
    assert all(torch.equal(getattr(ended, name), getattr(whole, name)) for name in TENSORS)
    assert not torch.equal(ended.features_dc, cloud.features_dc)
    with pytest.raises(RuntimeError, match="all"):
        second.step()


def test_states_of_other_edits_are_refused(tiny_v_prior, monkeypatch) -> None:
    answer(monkeypatch, show(scene(60)))
    editor = SceneEditor(scene(60), tiny_v_prior, words(tiny_v_prior), [EDIT], SceneEditConfig(fit_steps=1))
    editor.load_state_dict(editor.state_dict())
    assert not editor.prepared and torch.equal(editor.cloud().features_dc, scene(60).features_dc)
    editor.prepare()
    state = editor.state_dict()
    other = SceneEditor(scene(61), tiny_v_prior, words(tiny_v_prior), [EDIT], SceneEditConfig(fit_steps=1))
    with pytest.raises(InputError, match="another scene"):
        other.load_state_dict(state)
    with pytest.raises(InputError, match="version 99"):
        editor.load_state_dict(state | {"version": 99})


def test_a_view_that_contradicts_the_others_is_believed_less(tiny_v_prior, monkeypatch) -> None:
    cloud = scene()
    truth = repainted(cloud)

    def one_wrong(_, cameras):
        views = show(truth)(None, cameras)
        views[0, 5] = torch.where(views[0, 5] < 0.99, 1 - views[0, 5], views[0, 5])
        return views

    answer(monkeypatch, one_wrong)
    config = SceneEditConfig(fit_steps=24, details=False)
    editor = SceneEditor(cloud, tiny_v_prior, words(tiny_v_prior), [EDIT], config)
    after = finished(editor)
    weights = editor.state_dict()["tensors"]["confidence"]
    assert weights[5] < 0.7 and weights.argmin() == 5 and weights.median() == 1
    trusting = finished(SceneEditor(cloud, tiny_v_prior, words(tiny_v_prior), [EDIT], replace(config, tolerance=1e6)))
    assert psnr(drawn(after), drawn(truth)) > psnr(drawn(trusting), drawn(truth))


def test_background_where_the_object_was_does_not_whiten_it(tiny_v_prior, monkeypatch) -> None:
    """Half of the views lose the upper half of the object."""
    cloud = scene()
    truth = repainted(cloud)

    def half_lost(_, cameras):
        views = show(truth)(None, cameras)
        views[0, ::2, :, :16] = 1.0
        return views

    answer(monkeypatch, half_lost)
    config = SceneEditConfig(fit_steps=10, details=False)
    editor = SceneEditor(cloud, tiny_v_prior, words(tiny_v_prior), [EDIT], config)
    found = psnr(drawn(finished(editor)), drawn(truth))
    editor = SceneEditor(cloud, tiny_v_prior, words(tiny_v_prior), [EDIT], config)
    monkeypatch.setattr(module.view_sets, "LOST", 1.0)
    assert found > psnr(drawn(finished(editor)), drawn(truth)) + 1

    white = replace(cloud, features_dc=torch.full_like(cloud.features_dc, 0.5 / SH_C0))
    answer(monkeypatch, show(white))
    monkeypatch.setattr(module.view_sets, "LOST", 0.1)
    editor = SceneEditor(cloud, tiny_v_prior, words(tiny_v_prior), [EDIT], config)
    assert psnr(drawn(finished(editor)), drawn(white)) > psnr(drawn(cloud), drawn(white)) + 8, "it can become white"


def test_confidence_falls_with_the_square_of_the_error() -> None:
    weights = confidences(torch.tensor([1.0, 1.0, 1.4, 3.0, 0.5]), 1.5)
    torch.testing.assert_close(weights, torch.tensor([1.0, 1.0, 1.0, 0.25, 1.0]))
    assert (confidences(torch.zeros(4), 1.5) == 1).all()


def test_splats_that_no_view_shows_follow_their_neighbors(tiny_v_prior, monkeypatch) -> None:
    shell = scene(1500)
    core = replace(
        shell, **{name: getattr(shell, name)[:40] for name in TENSORS if name != "means"}, means=shell.means[:40] * 0.4
    )
    both = (torch.cat([getattr(shell, name), getattr(core, name)]) for name in TENSORS)
    cloud = SplatCloud(*both)  # type: ignore[arg-type]
    cloud.opacities[:] = 8.0
    cloud.features_dc[:] = torch.tensor([0.9, 0.1, 0.1]) / SH_C0 - 0.5 / SH_C0
    answer(monkeypatch, show(repainted(cloud)))
    config = SceneEditConfig(fit_steps=5, details=False)
    editor = SceneEditor(cloud, tiny_v_prior, words(tiny_v_prior), [EDIT], config)
    after = finished(editor)
    unseen = editor.state_dict()["splats"]["unseen"]
    hidden = unseen[unseen >= 1500]
    assert len(hidden) > 10
    colors = 0.5 + SH_C0 * after.features_dc[hidden]
    assert (colors.argmax(dim=1) == 1).float().mean() > 0.9


def test_neighbors_are_alike_in_place_and_color() -> None:
    cloud = scene(4)
    cloud.means = torch.tensor([[0.0, 0, 0], [0.1, 0, 0], [0.11, 0, 0], [5.0, 0, 0]])
    cloud.features_dc = (torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [1.0, 0, 0], [1.0, 0, 0]]) - 0.5) / SH_C0
    found = neighbors_of_unseen(cloud, torch.tensor([1, 2, 3]), torch.tensor([0]), count=2)
    assert found.tolist() == [[2, 1]]
    assert neighbors_of_unseen(cloud, torch.tensor([3]), torch.tensor([0, 1])).tolist() == [[3], [3]]


def test_cameras_differ_and_go_all_the_way_round() -> None:
    azimuths, elevations = spread_cameras(3, 4)
    assert azimuths.shape == elevations.shape == (3, 4)
    gaps = azimuths.flatten().sort().values.diff()
    torch.testing.assert_close(gaps, torch.full((11,), 30.0))
    assert len(elevations[:, 0].unique()) == 3 and elevations.abs().max() <= 30
    assert spread_cameras(1, 4)[1].unique().tolist() == [12.0]


def test_stopping_while_views_are_made_leaves_the_editor_as_it_was(tiny_v_prior) -> None:
    editor = SceneEditor(scene(60), tiny_v_prior, words(tiny_v_prior), [EDIT], SceneEditConfig(fit_steps=1))
    seen: list[tuple[int, int]] = []
    with pytest.raises(Cancelled):
        editor.prepare(progress=lambda done, total: seen.append((done, total)), should_stop=lambda: True)
    assert seen == [(1, 2)] and not editor.prepared and editor.state_dict() == {"version": 2, "done": 0}


def test_splats_come_from_words_alone(tiny_v_prior, monkeypatch) -> None:
    truth = scene(600)
    answer(monkeypatch, show(truth))
    config = SceneEditConfig(fit_steps=20, batch=12)
    editor = SceneEditor.from_words(tiny_v_prior, words(tiny_v_prior), [], config, count=300, start_steps=60)
    start = editor.cloud()
    while editor.done < editor.total_steps:
        terms = editor.step()
    after = editor.cloud()
    assert set(terms) == {"colors", "silhouettes"} and len(after) == 300
    assert psnr(drawn(after), drawn(truth)) > psnr(drawn(start), drawn(truth)) > 18
    torch.testing.assert_close(after.quats.norm(dim=-1), torch.ones(300))
    with pytest.raises(InputError, match="needs a scene"):
        SceneEditor.from_words(tiny_v_prior, words(tiny_v_prior), [replace(EDIT, region=Region(relevance="red"))])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"orbits": 0}, "orbits is 0"),
        ({"fit_steps": -1}, "fit-steps is -1"),
        ({"color_rate": float("nan")}, "color-rate is nan"),
        ({"tolerance": 0.5}, "tolerance is 0.5"),
    ],
)
def test_bad_settings_are_one_line(tiny_v_prior, options, message) -> None:
    with pytest.raises(InputError, match=message) as caught:
        SceneEditor(scene(60), tiny_v_prior, words(tiny_v_prior), [EDIT], SceneEditConfig(**options))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("region", "message"),
    [
        (Region((5.0, 5.0, 5.0, 6.0, 6.0, 6.0)), "holds no splats"),
        (Region((0.0, 0.0, 0.0, -1.0, 1.0, 1.0)), "xmin 0 is not below xmax -1"),
        (Region(relevance="  "), "words of the region are empty"),
    ],
)
def test_bad_regions_are_one_line(tiny_v_prior, region, message) -> None:
    with pytest.raises(InputError, match=message) as caught:
        SceneEditor(scene(60), tiny_v_prior, words(tiny_v_prior), [replace(EDIT, region=region)])
    assert "\n" not in str(caught.value)


def test_words_of_another_prior_are_refused(tiny_prior, tiny_v_prior) -> None:
    with pytest.raises(InputError, match="prior"):
        SceneEditor(scene(60), tiny_v_prior, words(tiny_prior), [EDIT])
