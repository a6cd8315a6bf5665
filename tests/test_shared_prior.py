"""One prior for several threads: loaded once, used by one at a time."""

from __future__ import annotations

import copy
import threading
import time

import pytest
import torch

from invert3d_ns.base.errors import InputError
from invert3d_ns.prior import checkpoints
from invert3d_ns.prior.memory import prior_networks
from invert3d_ns.prior.offload import Offload
from invert3d_ns.prior.settings import PriorOptions
from invert3d_ns.prior.shared import SharedPrior


def in_threads(count: int, work) -> None:
    errors: list[BaseException] = []

    def guarded(index: int) -> None:
        try:
            work(index)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors and not any(thread.is_alive() for thread in threads)


def test_two_threads_load_it_once_and_never_use_it_together(tiny_prior, monkeypatch) -> None:
    loads, inside, most = [], [], []

    def load(name, device, *, options):
        loads.append((name, device, options))
        time.sleep(0.05)
        return tiny_prior

    monkeypatch.setattr(checkpoints, "load_prior", load)
    options = PriorOptions(vae_slicing=True)
    shared = SharedPrior("first", options, "cpu")
    assert not shared.is_loaded
    shared.name = "second"

    def work(index: int) -> None:
        for _ in range(3):
            with shared.use() as prior, shared.use() as again:  # re-entrant
                assert prior is again is tiny_prior
                inside.append(index)
                most.append(len(inside))
                time.sleep(0.005)
                inside.remove(index)

    in_threads(2, work)
    assert loads == [("second", "cpu", options)] and shared.is_loaded
    assert max(most) == 1 and len(most) == 6


def test_two_threads_share_an_offloaded_prior(tiny_v_prior) -> None:
    """What one thread computes with stays on the device until it is done, whatever the other one wants."""
    prior = copy.deepcopy(tiny_v_prior)
    at_home = {id(parameter) for parameter in prior.parameters()}
    prior.offload = Offload(prior_networks(prior), torch.device("cpu"), "model")
    shared = SharedPrior("tiny")
    shared.adopt(prior)

    @torch.no_grad()
    def work(index: int) -> None:
        for _ in range(5):
            with shared.use() as own:
                if index:
                    own.encode_prompt("a red cube")
                else:
                    own.encode_images(torch.zeros(1, 3, 32, 32))
                time.sleep(0.01)
                used = own.text_encoder if index else own.vae.encoder
                assert not any(id(parameter) in at_home for parameter in used.parameters())

    in_threads(2, work)


def test_a_prior_that_cannot_be_loaded_is_tried_again(tiny_prior) -> None:
    shared = SharedPrior("bundeld")
    for _ in range(2):
        with pytest.raises(InputError, match="did you mean 'bundled'"), shared.use():
            raise AssertionError("it was loaded")
    assert not shared.is_loaded
    shared.name = "bundled"
    shared.adopt(tiny_prior)
    with shared.use() as prior:
        assert prior is tiny_prior

    def use(_: int) -> None:
        with shared.use():
            pass

    in_threads(1, use)  # the lock is free again, also after errors


def test_the_name_is_settled_once_the_prior_is_loaded(tiny_prior) -> None:
    shared = SharedPrior("tiny")
    shared.adopt(tiny_prior)
    shared.name = "tiny"
    with pytest.raises(InputError, match="'tiny' is loaded already, not 'bundled'") as error:
        shared.name = "bundled"
    assert "\n" not in str(error.value)


def test_its_weights_stay_out_of_the_module_that_has_it(tiny_prior) -> None:
    module = torch.nn.Module()
    module.shared = SharedPrior("tiny")  # type: ignore[assignment]
    module.shared.adopt(tiny_prior)  # type: ignore[operator]
    assert not module.state_dict() and not list(module.parameters())


def test_running_out_of_memory_while_it_is_used_names_what_helps(tiny_prior) -> None:
    shared = SharedPrior("tiny")
    shared.adopt(tiny_prior)
    with pytest.raises(InputError, match=r"too little memory.*gradient-checkpointing") as error, shared.use():
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.\nmore lines")  # as a backward pass does
    assert "\n" not in str(error.value)
    with pytest.raises(RuntimeError, match="something else"), shared.use():
        raise RuntimeError("something else")
