"""Full disks and full memories, and output that nobody reads: one line, the last checkpoint whole, and how to go on."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest
import torch
from runs import STEPS, go_on, tiny_config, train
from synthetic import make_cloud

from invert3d_ns.base.errors import InputError
from invert3d_ns.methods.words_phase import WordsPhase
from invert3d_ns.prior.checkpoints import save_prior
from invert3d_ns.runs import trainer as module
from invert3d_ns.runs.exhaustion import what_ran_out
from invert3d_ns.runs.interruption import StopSignal
from invert3d_ns.scenes.ply import write_splats
from invert3d_ns.words.embedding import ObjectEmbedding


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_v_prior) -> Path:
    """A prior, a scene, and a run that nothing happened to. Read-only."""
    folder = tmp_path_factory.mktemp("place")
    save_prior(tiny_v_prior, folder / "prior", dtype=torch.float32)
    write_splats(folder / "ball.ply", make_cloud(100))
    train(config(folder, folder / "unbroken"))
    return folder


def config(place: Path, output_dir: Path, **options):
    return tiny_config(place / "ball.ply", place / "prior", output_dir, steps_per_save=1, **options)


def words(folder: Path) -> torch.Tensor:
    return ObjectEmbedding.load(folder / "embedding.safetensors").vectors


def failing_at(monkeypatch, step: int, error: BaseException) -> None:
    """Let the learning of words fail at a step."""
    losses = WordsPhase.losses

    def fail(self, index: int):
        if index == step:
            raise error
        return losses(self, index)

    monkeypatch.setattr(WordsPhase, "losses", fail)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "the memory is full; close other programs"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "the memory is full"),
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried"), "the GPU has too little memory"),
        (OSError(errno.ENOSPC, "No space left on device"), "no space is left on the disk; free some"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "your quota of the disk is used up"),
    ],
)
def test_what_ran_out_is_said_and_the_run_goes_on_from_its_last_checkpoint(place, tmp_path, monkeypatch, error, said):
    made = config(place, tmp_path)
    with monkeypatch.context() as patch, pytest.raises(InputError) as caught:
        failing_at(patch, 3, error)
        train(made)
    text, folder = str(caught.value), made.get_base_dir()
    assert text.startswith(said) and "\n" not in text
    assert f"up to step 3 is saved; go on from there with ns-train invert3d --load-config {folder}" in text
    assert [path.name for path in (folder / "nerfstudio_models").iterdir()] == ["step-000000002.ckpt"]
    if isinstance(error, MemoryError):
        go_on(folder)
        assert torch.equal(words(folder), words(place / "unbroken" / "ball" / "invert3d" / "run"))


def test_a_disk_that_is_full_at_a_checkpoint_leaves_the_one_before(place, tmp_path, monkeypatch):
    fsync, made = os.fsync, config(place, tmp_path)

    def full(descriptor: int) -> None:
        if list(tmp_path.rglob("nerfstudio_models/step-000000002.ckpt")):
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patch, pytest.raises(InputError, match=r"No space left.*up to step 3 is saved"):
        patch.setattr(os, "fsync", full)
        train(made)
    folder = made.get_base_dir()
    assert [path.name for path in (folder / "nerfstudio_models").iterdir()] == ["step-000000002.ckpt"]
    assert not [path for path in folder.iterdir() if path.name.startswith((".step", "step"))]
    go_on(folder)
    assert torch.equal(words(folder), words(place / "unbroken" / "ball" / "invert3d" / "run"))


def test_a_file_that_may_not_grow_is_like_a_full_disk(place, tmp_path, monkeypatch, capfd):
    """A refusal by the system itself."""
    resource = pytest.importorskip("resource")
    observe, made = module.PhasedTrainer._observe, config(place, tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limited(self, step: int) -> None:
        observe(self, step)
        if step == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, limits[1]))

    monkeypatch.setattr(module.PhasedTrainer, "_observe", limited)
    try:
        with pytest.raises(InputError, match=r"a file.* may not grow|File too large") as caught:
            train(made)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    (left,) = (made.get_base_dir() / "nerfstudio_models").iterdir()
    step = int(left.stem.removeprefix("step-")) + 1
    assert step in (2, 3), "TensorBoard's thread may be the first to notice"
    assert f"up to step {step} is saved" in str(caught.value) and "Traceback" not in "".join(capfd.readouterr())


def test_a_disk_that_is_full_when_all_is_done_is_said(place, tmp_path, monkeypatch, capfd):
    resource = pytest.importorskip("resource")
    from nerfstudio.utils import writer

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limited(*_: object) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        writer.put_scalar("last", 1.0, STEPS)
        writer.write_out_storage()

    monkeypatch.setattr(module, "print_next", limited)
    try:
        with pytest.raises(InputError, match=rf"may not grow.*up to step {STEPS} is saved"):
            train(config(place, tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "Traceback" not in "".join(capfd.readouterr())


def test_a_disk_that_is_full_from_the_start_leaves_nothing(place, tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(InputError, match="No space left"):
        train(config(place, tmp_path / "o", timestamp="{timestamp}"))
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("error", [ValueError("a"), OSError(errno.ENOENT, "b"), RuntimeError("shape mismatch")])
def test_other_errors_are_no_lack_of_anything(error):
    assert what_ran_out(error) is None


def test_the_cause_of_an_error_counts():
    error = InputError("cannot write x")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device", "x")
    assert what_ran_out(error) == "no space is left on the disk of x; free some"


def test_a_second_ctrl_c_stops_at_once_without_a_traceback(place, tmp_path, monkeypatch, capfd):
    made = config(place, tmp_path)
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
        failing_at(patch, 3, KeyboardInterrupt())
        train(made)
    said = capfd.readouterr()
    assert ended.value.code == 130 and "Traceback" not in said.out + said.err
    assert "Stopped at once" in said.out and "up to step 3 is saved" in said.out.replace("\n", " ")


def test_ctrl_c_before_the_first_step_leaves_nothing(place, tmp_path, monkeypatch, capfd):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    made = config(place, tmp_path / "o")
    monkeypatch.setattr(type(made.pipeline), "setup", interrupted)
    with pytest.raises(SystemExit) as ended:
        train(made)
    assert ended.value.code == 130 and not (tmp_path / "o").exists() and "Traceback" not in capfd.readouterr().out


def test_output_that_nobody_reads_stops_a_run_between_two_steps(monkeypatch):
    from nerfstudio.utils.rich_utils import CONSOLE

    reader, writer = os.pipe()
    os.close(reader)
    broken = os.fdopen(writer, "w")
    monkeypatch.setattr(CONSOLE, "_file", broken)  # its public name would keep what pytest captures with
    stop = StopSignal()
    with stop.listening():
        CONSOLE.on_broken_pipe()
        assert stop.number == signal.SIGPIPE
        broken.write("goes nowhere")
        broken.flush()
    assert "on_broken_pipe" not in vars(CONSOLE)


def test_a_run_whose_output_breaks_saves_and_ends(place, tmp_path, monkeypatch):
    from nerfstudio.utils.rich_utils import CONSOLE

    observe, made = module.PhasedTrainer._observe, config(place, tmp_path)

    def broken(self, step: int) -> None:
        observe(self, step)
        if step == 2:
            self._stop_signal.number = signal.SIGPIPE

    monkeypatch.setattr(module.PhasedTrainer, "_observe", broken)
    with pytest.raises(SystemExit) as ended:
        train(made)
    assert ended.value.code == 128 + signal.SIGPIPE and STEPS > 3
    assert "on_broken_pipe" not in vars(CONSOLE)
    assert [path.name for path in (made.get_base_dir() / "nerfstudio_models").iterdir()] == ["step-000000002.ckpt"]
