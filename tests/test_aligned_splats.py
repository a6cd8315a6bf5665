"""Aligned splats: mixing, matching, the joint fit, and the model that trains them."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest
import torch
from nerfstudio.data.scene_box import SceneBox
from synthetic import make_cloud

from invert3d_ns.base.errors import InputError
from invert3d_ns.scenes.aligned_fitting import fit_aligned_splats
from invert3d_ns.scenes.aligned_splats import match_points, mix_splats
from invert3d_ns.scenes.blending import SameEverywhere, vertex
from invert3d_ns.scenes.cameras import orbit_camera_to_world
from invert3d_ns.scenes.cloud import SplatCloud
from invert3d_ns.scenes.hybrids import Anchor, Hybrid
from invert3d_ns.scenes.latent_splats import LatentSplatModel, LatentSplatModelConfig
from invert3d_ns.scenes.normalization import to_object_frame
from invert3d_ns.scenes.rendering import render_orbit

AZIMUTHS, ELEVATION = torch.arange(4) * 90.0, torch.tensor(15.0)


def _cloud(seed: int, count: int = 30) -> SplatCloud:
    return to_object_frame(make_cloud(count, seed=seed))[0]


def _model(objects: int = 2, count: int = 30) -> LatentSplatModel:
    config = LatentSplatModelConfig(objects=objects, num_random=count, sh_degree=0)
    box = SceneBox(torch.tensor([[-1.0] * 3, [1.0] * 3]))
    return config.setup(scene_box=box, num_train_data=4, metadata={}, device="cpu")


def _at(model: LatentSplatModel, weights: list[float]) -> SplatCloud:
    with model.at(SameEverywhere.of(weights)):
        return model.cloud()


# Mixing


def test_vertices_are_the_objects_themselves_and_the_middle_is_the_mean() -> None:
    one, two = _cloud(0), _cloud(1)
    assert mix_splats((one, two), SameEverywhere.of([1.0, 0.0])) is one
    middle = mix_splats((one, two), SameEverywhere.of([0.5, 0.5]))
    for name in ("means", "scales", "opacities", "features_dc"):
        torch.testing.assert_close(getattr(middle, name), (getattr(one, name) + getattr(two, name)) / 2)


def test_a_hybrid_takes_each_splat_from_the_object_that_its_place_asks_for() -> None:
    one = _cloud(0)
    two = replace(one, features_dc=one.features_dc + 1)
    hybrid = Hybrid((Anchor((0.0, 0.0, -0.1), (1.0, 0.0)), Anchor((0.0, 0.0, 0.1), (0.0, 1.0))), "ramp")
    mixed = mix_splats((one, two), hybrid)
    height = one.means[:, 2]
    assert torch.equal(mixed.features_dc[height < -0.1], one.features_dc[height < -0.1])
    assert torch.allclose(mixed.features_dc[height > 0.1], two.features_dc[height > 0.1])
    assert 0 < int((height < -0.1).sum()) < len(height)


def test_objects_that_are_not_aligned_are_refused() -> None:
    with pytest.raises(InputError, match="not aligned"):
        mix_splats((_cloud(0), _cloud(1, 20)), SameEverywhere.of([0.5, 0.5]))
    with pytest.raises(InputError, match="a blend of 3 objects does not fit 2"):
        mix_splats((_cloud(0), _cloud(1)), SameEverywhere.of([0.5, 0.5, 0.0]))


def test_matches_cost_the_least_of_all() -> None:
    generator = torch.Generator().manual_seed(0)
    points, others = torch.rand(6, 3, generator=generator), torch.rand(6, 3, generator=generator)
    found = match_points(points, others)
    assert sorted(found.tolist()) == list(range(6))

    def boxed(values: torch.Tensor) -> torch.Tensor:
        low, high = values.amin(0), values.amax(0)
        size = (high - low).clamp_min(0.2 * float((high - low).max()))
        return (values - (low + high) / 2) / size

    here, there = boxed(points), boxed(others)
    costs = {order: float((here - there[list(order)]).square().sum()) for order in permutations(range(6))}
    assert float((here - there[found]).square().sum()) == pytest.approx(min(costs.values()), rel=1e-5)


def test_matching_undoes_a_stretch_and_what_else_is_known_counts() -> None:
    points = torch.rand(50, 3, generator=torch.Generator().manual_seed(1))
    order = torch.randperm(50, generator=torch.Generator().manual_seed(2))
    tall = points * torch.tensor([0.5, 0.8, 3.0]) + 5
    assert torch.equal(order[match_points(points, tall[order])], torch.arange(50))
    # Two pairs of points that swap places, but know what they are.
    here = torch.tensor([[0.0, 0.0, 0.0, 9.0], [1.0, 1.0, 1.0, 0.0]])
    there = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 9.0]])
    assert match_points(here, there).tolist() == [1, 0]
    assert match_points(here[:, :3], there[:, :3]).tolist() == [0, 1]
    with pytest.raises(InputError, match="equally many"):
        match_points(here, points[:, :3])


# The joint fit


def _views(cloud: SplatCloud) -> torch.Tensor:
    return render_orbit(cloud, AZIMUTHS, ELEVATION, 32)


def test_objects_are_fitted_together_and_keep_their_differences() -> None:
    one = _cloud(0)
    two = replace(one, features_dc=-one.features_dc, means=one.means * torch.tensor([1.0, 1.0, 0.6]))
    middle = mix_splats((one, two), SameEverywhere.of([0.5, 0.5]))
    views = torch.stack([_views(cloud) for cloud in (one, two, middle)])
    weights = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    poses = orbit_camera_to_world(AZIMUTHS, ELEVATION)
    told: list[int] = []
    found = fit_aligned_splats(
        views, weights, poses, count=120, steps=60, progress=lambda done, total: told.append(done)
    )
    assert told[-1] == 60 and [len(cloud) for cloud in found] == [120, 120]
    for blend, truth in zip(weights, views, strict=True):
        drawn = _views(mix_splats(found, SameEverywhere.of(blend)))
        assert (drawn - truth).abs().mean() < 0.5 * (1 - truth).abs().mean()
    assert (_views(found[0]) - views[1]).abs().mean() > 1.5 * (_views(found[0]) - views[0]).abs().mean()


def test_a_given_object_stays_to_the_bit() -> None:
    one, two = _cloud(0), _cloud(1)
    views = torch.stack([_views(one), _views(two)])
    poses, weights = orbit_camera_to_world(AZIMUTHS, ELEVATION), torch.eye(2)
    first, second = fit_aligned_splats(views, weights, poses, steps=10, given=one)
    assert all(torch.equal(getattr(first, name), getattr(one, name)) for name in one.tensors())
    assert len(second) == len(one) and (second.means - one.means).abs().max() > 1e-3
    assert (_views(second) - views[1]).abs().mean() < (_views(one) - views[1]).abs().mean()


def test_a_vertex_without_views_is_refused() -> None:
    views, poses = torch.ones(2, 4, 3, 16, 16), orbit_camera_to_world(AZIMUTHS, ELEVATION)
    with pytest.raises(InputError, match="no views of object 2 alone"):
        fit_aligned_splats(views, torch.tensor([[1.0, 0.0], [0.5, 0.5]]), poses, count=10, steps=1)


# The model


def test_a_model_draws_what_it_was_given_at_every_vertex_and_between() -> None:
    model, clouds = _model(), (_cloud(0), _cloud(1))
    for anchored in (False, True):
        model = _model()
        model.adopt_each(clouds, anchored=anchored)
        for weights in ([1.0, 0.0], [0.0, 1.0], [0.3, 0.7]):
            expected = mix_splats(clouds, SameEverywhere.of(weights))
            for name in ("means", "scales", "opacities", "features_dc"):
                torch.testing.assert_close(
                    getattr(_at(model, weights), name), getattr(expected, name), atol=1e-5, rtol=0
                )


def test_of_an_anchored_model_the_first_object_is_not_trained() -> None:
    model = _model()
    model.adopt_each((_cloud(0), _cloud(1)), anchored=True)
    before = _at(model, [1.0, 0.0])
    optimizer = torch.optim.Adam([p for p in model.gauss_params.values() if p.requires_grad], lr=0.1)
    with model.at(SameEverywhere.of([0.4, 0.6])):
        views = model.render_to_train(orbit_camera_to_world(AZIMUTHS, ELEVATION), 16)[0]
    views.square().mean().backward()
    optimizer.step()
    after = _at(model, [1.0, 0.0])
    assert all(torch.equal(getattr(after, name), getattr(before, name)) for name in before.tensors())
    assert (_at(model, [0.0, 1.0]).features_dc - _cloud(1).features_dc).abs().max() > 0.05
    again = _model()
    again.load_state_dict(model.state_dict())
    assert again.anchored and not again.gauss_params["means"].requires_grad


@pytest.mark.parametrize("grows", [False, True])
@pytest.mark.parametrize("objects", [1, 2, 3])
def test_splats_grow_in_all_objects_alike_and_none_is_pruned_that_one_shows(objects: int, grows: bool) -> None:
    torch.manual_seed(0)
    model = _model(objects)
    clouds = tuple(_cloud(index) for index in range(objects))
    for index, cloud in enumerate(clouds):
        cloud.opacities[:] = 3.0
        if index:
            cloud.opacities[:5] = -12.0  # the first object shows these, no other does
        cloud.opacities[5] = -12.0  # nobody shows this one
    model.adopt_each(clouds)
    groups = {name: list(group) for name, group in model.get_param_groups().items() if name != "camera_opt"}
    model.optimizers = {name: torch.optim.Adam(group, lr=0.0) for name, group in groups.items()}
    model.strategy.refine_start_iter, model.strategy.refine_every = 0, 1
    model.strategy.pause_refine_after_reset = 0
    model.config.densify_grad_thresh, model.step = 0.0, 1
    model.config.max_splats = 1000 if grows else 1
    with model.at(SameEverywhere.of([1 / objects] * objects)):
        views = model.render_to_train(orbit_camera_to_world(AZIMUTHS, ELEVATION), 32, densify=True)[0]
    views.square().mean().backward()
    model.step_post_backward(1)
    counts = {len(parameter) for parameter in model.gauss_params.values()}
    if grows:
        assert len(counts) == 1 and counts.pop() > 29
        return
    assert counts == {29}
    kept = torch.arange(30) != 5
    for index, cloud in enumerate(clouds):
        found = _at(model, vertex(index, objects).tolist())
        torch.testing.assert_close(found.means, cloud.means[kept])
        torch.testing.assert_close(found.opacities, cloud.opacities[kept], atol=1e-4, rtol=0)


def test_sharing_the_largest_changes_nothing_that_is_drawn() -> None:
    model = _model()
    model.adopt_each((_cloud(0), _cloud(1)))
    before, largest = _at(model, [0.3, 0.7]), torch.maximum(_cloud(0).opacities, _cloud(1).opacities)
    model.share_the_largest()
    torch.testing.assert_close(model.gauss_params["opacities"].data, largest)
    after = _at(model, [0.3, 0.7])
    for name in ("opacities", "scales"):
        torch.testing.assert_close(getattr(after, name), getattr(before, name), atol=1e-5, rtol=0)


def test_the_time_of_a_camera_leads_along_the_edges() -> None:
    from nerfstudio.cameras.cameras import Cameras

    model = _model()
    model.adopt_each((_cloud(0), _cloud(1)))
    model.eval()
    pose = orbit_camera_to_world(torch.tensor([0.0]), torch.tensor([10.0]))[:, :3]

    def look(time: float | None) -> torch.Tensor:
        times = None if time is None else torch.tensor([[time]])
        camera = Cameras(pose, 20.0, 20.0, 8.0, 8.0, 16, 16, times=times)
        with torch.no_grad():
            return model.get_outputs(camera)["rgb"]  # type: ignore[return-value]

    assert torch.equal(look(0.0), look(None)) and not torch.allclose(look(0.5), look(0.0))
    model.blend = SameEverywhere.of([0.0, 1.0])
    assert torch.equal(look(0.5), look(None))
    model.follows_time = False
    assert torch.equal(look(0.0), look(None))


@pytest.mark.parametrize("anchored", [False, True])
def test_a_further_object_begins_as_what_all_share_and_goes_again(anchored: bool) -> None:
    model, clouds = _model(), (_cloud(0), _cloud(1))
    model.adopt_each(clouds, anchored=anchored)
    model.train_only("features_dc_of_each")
    model.blend = SameEverywhere((0.25, 0.75))
    before, parameters = model.state_dict(), dict(model.gauss_params.items())
    before = {name: value.clone() for name, value in before.items() if torch.is_tensor(value)}
    drawn = model.cloud()
    assert model.add_object() == 2 and model.objects == 3 and model.blend == SameEverywhere((0.25, 0.75, 0.0))
    assert all(torch.equal(getattr(model.cloud(), name), value) for name, value in drawn.tensors().items())
    added = _at(model, [0.0, 0.0, 1.0])
    for name in ("means", "features_dc", "opacities"):
        shared = getattr(clouds[0], name) if anchored else (getattr(clouds[0], name) + getattr(clouds[1], name)) / 2
        torch.testing.assert_close(getattr(added, name), shared)
    for name, parameter in model.gauss_params.items():
        assert parameter is parameters[name] and parameter.requires_grad == (name == "features_dc_of_each")
    with torch.no_grad():
        model.gauss_params["features_dc_of_each"][:, 2] = 1.0
    again = _model()
    again.load_state_dict(model.state_dict())
    assert again.objects == 3 and torch.equal(_at(again, [0.0, 0.0, 1.0]).features_dc, added.features_dc + 1)
    model.blend = SameEverywhere((0.0, 0.5, 0.5))
    model.remove_object()
    assert model.blend == SameEverywhere((1.0, 0.0)), "what is gone cannot be drawn"
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_one_object_becomes_two_and_one_again() -> None:
    model = _model(1)
    model.adopt(_cloud(0))
    before = set(model.state_dict())
    assert model.add_object() == 1
    with torch.no_grad():
        model.gauss_params["means_of_each"][:, 1] = 0.1
    torch.testing.assert_close(_at(model, [0.5, 0.5]).means, _cloud(0).means + 0.05)
    assert torch.equal(_at(model, [1.0, 0.0]).means, _cloud(0).means)
    model.remove_object()
    assert (
        model.objects == 1 and set(model.state_dict()) == before and torch.equal(model.cloud().means, _cloud(0).means)
    )
    with pytest.raises(ValueError, match="stays"):
        model.remove_object()
