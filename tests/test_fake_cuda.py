"""The prior's public paths on CUDA devices that do not exist: torch's fake tensors know where each tensor would be.

An operation that mixes devices fails under them as it would on a GPU. Nothing is computed, so values are tested
elsewhere; and nothing goes backward, for which torch's engine wants a real device (``tests/gpu`` has one).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from synthetic import make_bank
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn import Parameter
from torch.utils._python_dispatch import _disable_current_modes as real_tensors

from invert3d_ns.guidance.sds import ScoreDistillationConfig
from invert3d_ns.prior.conditions import Conditions
from invert3d_ns.prior.multiview import MultiViewPrior
from invert3d_ns.prior.sampling import make_scheduler
from invert3d_ns.scenes.cameras import camera_condition, camera_condition_from_matrices, orbit_camera_to_world
from invert3d_ns.words.bank import LatentBank
from invert3d_ns.words.cti import CameraTextInversion
from invert3d_ns.words.settings import Objective

TORCH = tuple(int(number) for number in torch.__version__.split("+")[0].split(".")[:2])
pytestmark = pytest.mark.skipif(TORCH < (2, 13), reason="torch 2.6 aborts where fake CUDA tensors want gradients")

CUDA = torch.device("cuda:0")
CPU = torch.device("cpu")


def on_fake_cuda(module: torch.nn.Module, mode: FakeTensorMode) -> None:
    """Replace every weight and buffer of ``module`` by a fake one on CUDA, in place: ``to`` has no way to do it."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                fake = mode.from_tensor(parameter.detach()).to(CUDA)
                part._parameters[name] = Parameter(fake, requires_grad=parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = mode.from_tensor(buffer).to(CUDA)


class Fake:
    """A prior whose weights are on a GPU that is not there, and material for it."""

    def __init__(self, prior: MultiViewPrior) -> None:
        self.prior, self.mode = prior, FakeTensorMode(allow_non_fake_inputs=True)
        self.inversions = {
            per_view: CameraTextInversion(prior, Objective(per_view, norm_penalty=0.1)) for per_view in (False, True)
        }
        bank = make_bank(prior)
        with self.mode:
            on_fake_cuda(prior, self.mode)
            self.bank = LatentBank(*(self.mode.from_tensor(tensor).to(CUDA) for tensor in vars(bank).values()))

    def latents(self, device: torch.device = CUDA) -> torch.Tensor:
        info = self.prior.info
        return torch.randn(2, info.num_views, info.latent_channels, *[info.latent_size] * 2, device=device)

    def cameras(self, device: torch.device = CPU) -> torch.Tensor:
        azimuths = torch.arange(self.prior.info.num_views, device=device) * 90.0
        return camera_condition(azimuths, torch.zeros(2, 1, device=device))

    def images(self, device: torch.device = CUDA) -> torch.Tensor:
        return torch.rand(2, self.prior.info.num_views, 3, *[self.prior.info.image_size] * 2, device=device)

    def words(self, device: torch.device = CUDA) -> torch.Tensor:
        return torch.randn(3, self.prior.info.token_dim, device=device, requires_grad=True)


@pytest.fixture(scope="module", params=["epsilon", "v", "encodes"])
def faked(request, tiny_prior, tiny_v_prior, tiny_encoding_prior) -> Fake:
    priors = {"epsilon": tiny_prior, "v": tiny_v_prior, "encodes": tiny_encoding_prior}
    return Fake(copy.deepcopy(priors[request.param]))


@pytest.fixture
def fake(faked) -> Iterator[Fake]:
    with faked.mode:
        yield faked


def assert_on_cuda(tensor: Any, shape: tuple[int, ...] | None = None) -> None:
    assert isinstance(tensor, FakeTensor) and tensor.device == CUDA, tensor.device
    assert shape is None or tensor.shape == shape


def test_a_cpu_tensor_among_cuda_tensors_is_found(fake):
    with pytest.raises(Exception, match="device"):
        torch.add(fake.latents(), fake.latents(CPU))


@pytest.mark.parametrize("device", [CUDA, CPU], ids=["on-cuda", "on-cpu"])
def test_words_become_a_context(fake, device):
    words = fake.words(device)
    context = fake.prior.encode_prompt(["a photo of <object>", "<object>"], {"<object>": words})
    assert_on_cuda(context)
    assert context.requires_grad
    assert_on_cuda(fake.prior.encode_prompt("a red cube"))
    assert_on_cuda(fake.prior.word_vectors("cube"))


@pytest.mark.parametrize("device", [CUDA, CPU], ids=["on-cuda", "on-cpu"])
def test_images_become_latents_and_images_again(fake, device):
    images = fake.images(device)
    latents = fake.prior.encode_images(images)
    assert_on_cuda(latents, fake.latents().shape)
    assert_on_cuda(fake.prior.encode_images(images, sample=True, generator=torch.Generator()))
    assert_on_cuda(fake.prior.decode_latents(fake.latents(device)), images.shape)


@pytest.mark.parametrize("device", [CUDA, CPU], ids=["on-cuda", "on-cpu"])
def test_noise_is_added_and_predicted(fake, device):
    """Timesteps, contexts and cameras may be made anywhere; latents say where the result is."""
    prior, latents = fake.prior, fake.latents()
    context = prior.encode_prompt("a cube").to(device).expand(2, -1, -1)
    cameras = fake.cameras(device)
    t, each_t = torch.tensor([3, 700], device=device), torch.full((2, prior.info.num_views), 7, device=device)
    noisy = prior.add_noise(latents, torch.randn_like(latents), t)
    assert_on_cuda(noisy, latents.shape)
    guided = Conditions.of_context(prior, context, guidance_scale=5.0, guidance_rescale=0.5)
    assert_on_cuda(guided.predict_noise(prior, noisy, t, cameras), latents.shape)
    assert_on_cuda(prior.predict_noise(noisy, t, context, cameras), latents.shape)
    assert_on_cuda(prior.predict_clean(noisy, each_t, context, cameras), latents.shape)
    contexts, weights = torch.stack([context] * 3), torch.ones(3, *context.shape[:2], device=device)
    predictions = prior.predict_each(noisy, t, contexts, cameras, token_weights=weights)
    assert_on_cuda(predictions, (3, *latents.shape))


@pytest.mark.parametrize("device", [CUDA, CPU], ids=["on-cuda", "on-cpu"])
def test_the_loss_of_a_prediction_reaches_the_words(fake, device):
    prior, latents, words = fake.prior, fake.latents(), fake.words()
    context = prior.encode_prompt("<object>", {"<object>": words}).expand(2, -1, -1)
    t = torch.tensor([3, 700], device=device)
    loss = prior.prediction_loss(latents, torch.randn_like(latents), t, context, fake.cameras(device))
    assert_on_cuda(loss, ())
    assert loss.requires_grad
    each = prior.prediction_loss(latents, torch.randn_like(latents), t, context, fake.cameras(device), reduction="none")
    assert_on_cuda(each, latents.shape[:2])


@pytest.mark.parametrize("sampler", ["ddim", "dpm++"])
def test_denoising_steps_stay_on_the_gpu(fake, sampler):
    """The inside of a sampler. Its loop asks for the value of a timestep, which fake tensors do not have."""
    prior, cameras = fake.prior, fake.cameras(CUDA)
    latents = torch.randn(2, *fake.latents().shape[1:], generator=torch.Generator().manual_seed(0)).to(prior.device)
    words = Conditions.of_prompt(prior, "a cube", guidance_scale=3.0)
    with real_tensors():
        scheduler = make_scheduler(prior, sampler)
        scheduler.set_timesteps(4)
        if sampler == "dpm++":
            scheduler.set_begin_index(0)
        timesteps = scheduler.timesteps.tolist()
    for time in timesteps:
        t = torch.full((2,), time, device=prior.device)
        prediction = words.predict(prior, latents, t, cameras)
        latents = scheduler.step(prediction, time, latents, return_dict=False)[0]
        assert_on_cuda(latents, fake.latents().shape)
    assert_on_cuda(prior.decode_latents(latents), fake.images().shape)


@pytest.mark.parametrize("device", [CUDA, CPU], ids=["cuda", "cpu"])
def test_cameras_are_made_where_their_angles_are(fake, device):
    angles = torch.arange(4, device=device) * 90.0
    poses = orbit_camera_to_world(angles, torch.zeros(4, device=device))
    for cameras in (camera_condition(angles, angles * 0), camera_condition_from_matrices(poses)):
        assert cameras.device == device and cameras.shape == (4, 16)


@pytest.mark.parametrize("per_view", [False, True], ids=["one-timestep", "timestep-a-view"])
def test_a_step_of_the_inversion(fake, per_view):
    words = fake.words()
    terms = fake.inversions[per_view].loss(words, fake.bank, step=5, groups=2)
    drafts = {"draft"} if fake.prior.ray_reader is not None else set()
    assert set(terms) == {"denoising", "norm"} | drafts
    for term in terms.values():
        assert_on_cuda(term, ())
        assert term.requires_grad


def conditions(fake: Fake) -> Conditions:
    """Words, weights on them, and a direction, as an edit gives them."""
    encode = fake.prior.encode_prompt
    context = encode("<object>", {"<object>": fake.words().detach()})
    weights = torch.ones(1, context.shape[1], device=fake.prior.device)
    directions = ((encode("blue"), encode("red"), 1.5),)
    return Conditions(context, encode(""), 4.0, 0.3, token_weights=weights, directions=directions)


def test_an_edit_is_predicted(fake):
    latents, t = fake.latents(), torch.full((2,), 400, device=CUDA)
    assert_on_cuda(conditions(fake).predict(fake.prior, latents, t, fake.cameras(CUDA)), latents.shape)
    assert_on_cuda(conditions(fake).predict_noise(fake.prior, latents, t, fake.cameras(CUDA)), latents.shape)


@pytest.mark.parametrize("weighting", ["sigma2", "uniform", "balanced"])
def test_score_distillation_reaches_the_views(fake, weighting):
    config = ScoreDistillationConfig(weighting=weighting)
    distillation = config.setup(prior=fake.prior, conditions=conditions(fake))
    images = fake.images().requires_grad_()
    losses = distillation.loss(images, fake.cameras(), torch.Generator().manual_seed(0))
    for loss in losses.values():
        assert_on_cuda(loss, ())
        assert loss.requires_grad
