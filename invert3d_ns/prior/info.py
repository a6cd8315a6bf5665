"""What callers may know about a prior without touching its networks."""

from __future__ import annotations

import hashlib
import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.ranges import above, at_least, check_numbers

if TYPE_CHECKING:
    from torch import nn

PredictionType = Literal["epsilon", "v_prediction"]


@dataclass(frozen=True)
class PriorInfo:
    """Facts about a multi-view prior; stored as ``prior.json`` in its folder."""

    name: str
    """Name in the table of priors, or of the folder that it was loaded from."""
    prediction_type: PredictionType
    """What the UNet predicts: the noise, or v = sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) latents."""
    image_size: Annotated[int, at_least(8, 8192)]
    """Height and width of a view, in pixels."""
    latent_channels: Annotated[int, at_least(1, 1024)]
    """Channels of a view's latent."""
    latent_size: Annotated[int, at_least(1, 1024)]
    """Height and width of a view's latent."""
    token_dim: Annotated[int, at_least(1, 65536)]
    """Width of the text encoder's token embeddings, in which pseudo-words live."""
    context_length: Annotated[int, at_least(3, 65536)] = 77
    """Tokens the text encoder takes, its start and end tokens included."""
    pad_token_id: Annotated[int, at_least(0)] = 0
    """Token that fills the context after the end token."""
    num_views: Annotated[int, at_least(1, 1024)] = 4
    """Views per object that the prior was trained with; any number can be asked for."""
    prompt_suffix: str = ""
    """What its training captions ended with. Callers append it to prompts in words, never to a bare pseudo-word."""
    init_word: str = "object"
    """The word that pseudo-words start from."""
    inversion_steps: Annotated[int, at_least(0)] = 6100
    """Default number of steps of inversion; the default is that of Invert3D's official code."""
    inversion_learning_rate: Annotated[float, above(0)] = 5e-3
    """Default learning rate of pseudo-words; the default is that of Invert3D's official code."""
    inversion_timesteps: Annotated[tuple[float, float], at_least(0, 1)] = (0.0, 1.0)
    """Default range of diffusion steps that inversion draws from, as fractions (0: clean, 1: pure noise)."""
    inversion_jitter: Annotated[float, at_least(0)] = 0.0
    """Default standard deviation of the noise on initial pseudo-words, in units of their length."""
    guidance_scale: Annotated[float, at_least(1)] = 7.5
    """Default classifier-free guidance scale."""
    edit_guidance_scale: Annotated[float, at_least(1)] | None = None
    """Default guidance of edits that start from the scene's own views; :attr:`guidance_scale` if None."""
    guidance_rescale: Annotated[float, at_least(0, 1)] = 0.0
    """Default guidance rescale phi (Lin et al. 2023, section 3.4); 0.7 for priors with zero terminal SNR."""
    words_strength: Annotated[float, at_least(0.05, 1)] = 1.0
    """Default share of the diffusion by which views of pseudo-words are sampled, from the prior's draft of them; 1 is
    all of it, from noise."""
    sampling_steps: Annotated[int, at_least(1, 1000)] = 30
    """Default number of denoising steps of views and edits: what more steps add is not worth their time."""
    words: tuple[str, ...] = ()
    """Every word of its training captions, where these were few enough to list; see :mod:`.known_words`."""
    fingerprint: str = ""
    """Short sha256 over the weights of UNet, text encoder and ray reader: an embedding belongs to exactly these."""
    training: dict[str, Any] = field(default_factory=dict)
    """How the weights came about. Without positive ``steps``, weights are never accepted as the bundled prior."""
    sources: dict[str, Any] = field(default_factory=dict)
    """Files that the weights were converted from, each with its ``sha256`` and ``size`` in bytes."""
    origin: str = ""
    """Where these files were downloaded from, down to the commit, as ``hf:org/name@commit``; empty for local ones."""

    def check(self) -> None:
        """Refuse facts that no prior has.

        Raises:
            InputError: by name.
        """
        check_numbers(self, "")
        low, high = self.inversion_timesteps
        if not low < high:
            raise InputError(f"inversion_timesteps are {low} to {high}; give a lower one, then a higher one")
        if not self.name.strip() or not self.init_word.strip():
            raise InputError("the name or the init_word is empty; give words")

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> PriorInfo:
        """The facts in a ``prior.json``. Entries that are not known are left to newer versions of this package.

        Raises:
            InputError: one is missing, of another type, or out of range.
        """
        hints, values = get_type_hints(cls, include_extras=True), {}
        for entry in fields(cls):
            if entry.name not in document:
                if entry.default is MISSING and entry.default_factory is MISSING:
                    raise InputError(f"{entry.name} is missing")
                continue
            value = document[entry.name]
            value = tuple(value) if isinstance(value, list) else value  # JSON has no tuples
            if not _is_of(value, hints[entry.name]):
                raise InputError(f"{entry.name} is {document[entry.name]!r:.60}")
            values[entry.name] = value
        info = cls(**values)
        info.check()
        return info

    @classmethod
    def from_components(
        cls,
        name: str,
        unet: Any,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        scheduler: Any,
        **overrides: Any,
    ) -> PriorInfo:
        """Read sizes, padding and prediction type from the components' configs; ``overrides`` are fields that win."""
        u, v, t, s = unet.config, vae.config, text_encoder.config, scheduler.config
        factor = 2 ** (len(v.block_out_channels) - 1)
        latent_size = u.sample_size if isinstance(u.sample_size, int) else u.sample_size[0]
        facts: dict[str, Any] = {
            "name": name,
            "prediction_type": s.prediction_type,
            "image_size": latent_size * factor,
            "latent_channels": v.latent_channels,
            "latent_size": latent_size,
            "token_dim": t.hidden_size,
            "context_length": t.max_position_embeddings,
            "pad_token_id": tokenizer.pad_token_id,
            "guidance_rescale": 0.7 if s.get("rescale_betas_zero_snr", False) else 0.0,
        }
        return cls(**{**facts, **overrides})


def _is_of(value: Any, hint: Any) -> bool:
    """Whether a value read from JSON is of the type of a field."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _is_of(value, inner[0])
    if origin is Literal:
        return isinstance(value, str) and value in inner
    if origin in (types.UnionType, Union):
        return any(_is_of(value, one) for one in inner)
    if origin is tuple:
        if inner[-1:] == (...,):
            return isinstance(value, tuple) and all(_is_of(item, inner[0]) for item in value)
        return isinstance(value, tuple) and len(value) == len(inner) and all(map(_is_of, value, inner))
    if origin is dict:
        return isinstance(value, dict)
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return isinstance(value, hint)


def fingerprint(modules: Iterable[nn.Module]) -> str:
    """Sixteen hexadecimal digits of a sha256 over the modules' tensors in float16, in the order of their names."""
    import torch

    digest = hashlib.sha256()
    for module in modules:
        state = module.state_dict()
        # transformers 5 dropped this prefix of the text model's names; the same weights must keep their fingerprint.
        for name, key in sorted((key.removeprefix("text_model."), key) for key in state):
            if name.endswith("position_ids"):
                continue
            digest.update(name.encode())
            digest.update(state[key].detach().to("cpu", torch.float16).contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
