"""The layouts that full-size priors come in, as a table: the keys that tell each one, and how it becomes networks.

Another layout is one entry in :data:`LAYOUTS`. Only tensors and ``config.json`` are read; code beside them is not run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.inputs import read_json
from invert3d_ns.base.notices import warn
from invert3d_ns.prior.conversion import (
    CLIP_PREFIX,
    OPEN_CLIP_PREFIX,
    SD_SCALING_FACTOR,
    UNET_PREFIX,
    VAE_PREFIX,
    build_text_encoder,
    convert_text_encoder,
    convert_unet,
    convert_vae,
    load_strictly,
)
from invert3d_ns.prior.info import PriorInfo
from invert3d_ns.prior.matching import check_parts_match
from invert3d_ns.prior.repository import CONFIG, PARTS, SCHEDULER
from invert3d_ns.prior.schedule_config import build_scheduler
from invert3d_ns.prior.unet import takes_cameras
from invert3d_ns.prior.vocabulary import CLIP_VOCABULARY_SIZE, clip_tokenizer
from invert3d_ns.weights.formats import WEIGHT_SUFFIXES, choose_weights
from invert3d_ns.weights.network_config import check_network_config, whole_number
from invert3d_ns.weights.tensors import read_shards, read_weights

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

    from invert3d_ns.prior.multiview import MultiViewPrior

MVDREAM_SUFFIX = ", 3d asset"
MULTI_VIEW_NAME = re.compile(r"mvdream|multi[-_ ]?view|\d[-_ ]?views?(?![a-z])", re.IGNORECASE)
"""What multi-view models are called. Their other keys and shapes are Stable Diffusion's: MVDream's attention over all
views is a way to call the same layers, and its weights are fine-tuned ones, which nothing marks."""
SD_IMAGE_SIZE = 512
"""Pixels of a side of Stable Diffusion 1.x's pictures, which its single checkpoints do not say."""


@dataclass(frozen=True)
class Source:
    """Weights and configs as they were found, in float32 on the CPU."""

    path: Path
    """The file or folder."""
    files: tuple[Path, ...]
    """What was read of it."""
    weights: dict[str, Tensor]
    """By key; of a folder, by ``part/key``."""
    configs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The ``config.json`` of each part of a folder; under "scheduler", its ``scheduler_config.json``, if any."""

    def part(self, name: str) -> dict[str, Tensor]:
        """Weights of a part, by key."""
        prefix = name + "/"
        return {key.removeprefix(prefix): value for key, value in self.weights.items() if key.startswith(prefix)}


@dataclass(frozen=True)
class Layout:
    """How a kind of checkpoint is told from others, and read."""

    description: str
    """One line for people."""
    keys: Mapping[str, tuple[str, ...]]
    """For each part, in words, keys of which one must be there. A source that has all parts is of this layout."""
    build: Callable[[Source], tuple[UNet2DConditionModel, AutoencoderKL, CLIPTextModel]]
    """From the source to UNet, autoencoder and text encoder, in diffusers' and transformers' own classes."""

    def missing(self, weights: Mapping[str, Any]) -> list[str]:
        """Keys that are expected and not there, each with its part in words."""
        return [
            f"{' or '.join(keys)} ({part})"
            for part, keys in self.keys.items()
            if not any(key in weights for key in keys)
        ]


def convert_source(source: Source, name: str) -> MultiViewPrior:
    """The prior in a source of any layout in :data:`LAYOUTS`, in float32 on the CPU.

    Raises:
        InputError: of no known layout (names the keys that were expected and found), or weights are missing or do not
            fit each other.
    """
    layout = LAYOUTS[find_layout(source)]
    try:
        prior = _assemble(name, source, *layout.build(source))
    except InputError:
        raise
    except KeyError as error:
        raise InputError(f"{source.path} lacks the weight {error}; it is truncated or of another model") from error
    except Exception as error:  # weights of unexpected shapes end in errors of all kinds
        detail = " ".join(str(error).split())[:120]
        raise InputError(f"{source.path} is of another model, or damaged ({detail}); download it again") from error
    if not prior.takes_cameras and MULTI_VIEW_NAME.search(f"{name} {source.path.name}"):
        warn(
            f"{source.path} is named like a multi-view model, but has no camera embedding, and so is read as "
            f"{layout.description}, which knows no cameras; if it was a multi-view model, download it again"
        )
    return prior


def find_layout(source: Source) -> str:
    """Name of the first layout in :data:`LAYOUTS` whose keys are all there.

    Raises:
        InputError: there is none; the message has the keys that the nearest layout expects, and what was found.
    """
    missing = {name: layout.missing(source.weights) for name, layout in LAYOUTS.items()}
    for name, keys in missing.items():
        if not keys:
            return name
    of_kind = [name for name in missing if LAYOUTS[name].keys["UNet"][0].startswith("unet/") == source.path.is_dir()]

    def distance(name: str) -> tuple[bool, int]:
        # Of layouts that share a UNet, the one that lacks least; of those whose UNet is not there, that with most else.
        if any(key in source.weights for key in LAYOUTS[name].keys["UNet"]):
            return False, len(missing[name])
        return True, len(missing[name]) - len(LAYOUTS[name].keys)

    nearest = min(of_kind, key=distance)
    found = ", ".join(sorted(source.weights)[:2]) or "nothing"
    raise InputError(
        f"{source.path} is of no known layout; nearest is {LAYOUTS[nearest].description}: expected "
        f"{', '.join(missing[nearest])}, found {found}, ...; give another checkpoint, a folder with prior.json, "
        "or the prior 'bundled'"
    )


def read_source(path: Path) -> Source:
    """Read the weights of a file, or of the parts of a folder.

    Raises:
        InputError: there are none, or a file is damaged, half-downloaded, or a pickle with more than tensors in it.
    """
    if not path.is_dir():
        return Source(path, (path,), _floats(read_weights(path)))
    files: list[Path] = []
    weights: dict[str, Tensor] = {}
    configs: dict[str, dict[str, Any]] = {}
    for part in PARTS:
        chosen = _part_files(path / part)
        weights |= {f"{part}/{key}": value for key, value in _floats(read_shards(chosen)).items()}
        if chosen:
            config = path / part / CONFIG
            configs[part] = read_json(config, "download the folder again")
            files += [*chosen, config]
    if files:
        if (scheduler := path / SCHEDULER).is_file():
            # Among the defaults of schedulers is minus infinity, which they write as they are.
            configs["scheduler"] = read_json(scheduler, "download the folder again", finite=False)
            files.append(scheduler)
        return Source(path, tuple(files), weights, configs)
    single = [file for file in sorted(path.iterdir()) if file.suffix in WEIGHT_SUFFIXES]
    if len(single) == 1:
        return Source(single[0], (single[0],), _floats(read_weights(single[0])))
    choice = f"name one of its files ({', '.join(file.name for file in single)})" if single else "give another folder"
    raise InputError(
        f"{path} is not a prior: expected prior.json, or {', '.join(f'{part}/*.safetensors' for part in PARTS[:3])}, "
        f"or a single checkpoint; {choice}"
    )


def _part_files(folder: Path) -> list[Path]:
    names = choose_weights([file.name for file in folder.glob("*")], half=False)
    for index in folder.glob("*.index.json"):
        shards = set(map(str, dict(read_json(index, "download the folder again").get("weight_map") or {}).values()))
        # An index may be that of a copy which was left out.
        if shards & set(names) and (absent := sorted(shards - set(names))):
            raise InputError(f"{folder / absent[0]} is missing: the folder is half-downloaded; finish the download")
    return [folder / name for name in names]


def _build_file(source: Source) -> tuple[UNet2DConditionModel, AutoencoderKL, CLIPTextModel]:
    state = source.weights
    return convert_unet(state), convert_vae(state), convert_text_encoder(state)


def _build_community(source: Source) -> tuple[UNet2DConditionModel, AutoencoderKL, CLIPTextModel]:
    config = source.configs["unet"]
    # Some copies wrap the UNet in a module of their own.
    weights = {key.removeprefix("unet."): value for key, value in source.part("unet").items()}
    path = source.path / "unet" / CONFIG
    heads: dict[str, Any] = {
        name: whole_number(config, name, least=-1, most=4096, default=-1, path=path)
        for name in ("num_heads", "num_head_channels")
    }
    size = whole_number(config, "image_size", least=1, most=1024, default=32, path=path)
    unet = convert_unet(weights, sample_size=size, **{name: count for name, count in heads.items() if count != -1})
    return unet, _load_vae(source), _load_text_encoder(source)


def _build_single_view_file(source: Source) -> tuple[UNet2DConditionModel, AutoencoderKL, CLIPTextModel]:
    state = source.weights
    if OPEN_CLIP_PREFIX + "token_embedding.weight" in state or "v_pred" in state:
        raise InputError(
            f"{source.path} does not say whether its Stable Diffusion predicts noise or v; give the folder of it in "
            f"diffusers' form, with its {SCHEDULER}"
        )
    unet = convert_unet(state, sample_size=SD_IMAGE_SIZE // 8, cameras=False)
    return unet, convert_vae(state, sample_size=SD_IMAGE_SIZE), convert_text_encoder(state)


def _build_camera_proj(source: Source) -> tuple[UNet2DConditionModel, AutoencoderKL, CLIPTextModel]:
    cameras = source.part("camera_proj")
    config = {
        **source.configs["unet"],
        "class_embed_type": "projection",
        "projection_class_embeddings_input_dim": cameras["linear_1.weight"].shape[1],
    }
    weights = source.part("unet") | {"class_embedding." + key: value for key, value in cameras.items()}
    return _load_unet(source, config, weights), _load_vae(source), _load_text_encoder(source)


def _build_diffusers(source: Source) -> tuple[UNet2DConditionModel, AutoencoderKL, CLIPTextModel]:
    if "scheduler" not in source.configs:
        raise InputError(
            f"{source.path / SCHEDULER} is missing, and nothing else says whether noise or v is predicted; "
            "download the folder again"
        )
    unet = _load_unet(source, source.configs["unet"], source.part("unet"))
    return unet, _load_vae(source), _load_text_encoder(source)


_FOLDER_KEYS = {
    "autoencoder": ("vae/encoder.conv_in.weight",),
    "text encoder": (
        "text_encoder/text_model.embeddings.token_embedding.weight",
        "text_encoder/embeddings.token_embedding.weight",
    ),
}
_FILE_TEXT_KEYS = (
    CLIP_PREFIX + "text_model.embeddings.token_embedding.weight",
    CLIP_PREFIX + "embeddings.token_embedding.weight",  # as transformers 5 names them
    OPEN_CLIP_PREFIX + "token_embedding.weight",
)

LAYOUTS: dict[str, Layout] = {
    "mvdream": Layout(
        "MVDream's single checkpoint",
        {
            "UNet": (UNET_PREFIX + "input_blocks.0.0.weight",),
            "camera embedding": (UNET_PREFIX + "camera_embed.0.weight",),
            "autoencoder": (VAE_PREFIX + "encoder.conv_in.weight",),
            "text encoder": _FILE_TEXT_KEYS,
        },
        _build_file,
    ),
    "community": Layout(
        "a folder with unet/ in MVDream's names, vae/ and text_encoder/",
        {
            "UNet": ("unet/input_blocks.0.0.weight", "unet/unet.input_blocks.0.0.weight"),
            "camera embedding": ("unet/camera_embed.0.weight", "unet/unet.camera_embed.0.weight"),
            **_FOLDER_KEYS,
        },
        _build_community,
    ),
    "camera-proj": Layout(
        "a folder with unet/ in diffusers' names, camera_proj/, vae/ and text_encoder/",
        {"UNet": ("unet/conv_in.weight",), "camera embedding": ("camera_proj/linear_1.weight",), **_FOLDER_KEYS},
        _build_camera_proj,
    ),
    "stable-diffusion": Layout(
        "Stable Diffusion's single checkpoint",
        {
            "UNet": (UNET_PREFIX + "input_blocks.0.0.weight",),
            "autoencoder": (VAE_PREFIX + "encoder.conv_in.weight",),
            "text encoder": _FILE_TEXT_KEYS,
        },
        _build_single_view_file,
    ),
    "diffusers": Layout(
        "a folder with unet/ in diffusers' names, vae/, text_encoder/ and scheduler/",
        {"UNet": ("unet/conv_in.weight",), **_FOLDER_KEYS},
        _build_diffusers,
    ),
}
"""Layouts by name. Those of Stable Diffusion come last: to have nothing of cameras is how they are told."""


def _assemble(
    name: str, source: Source, unet: UNet2DConditionModel, vae: AutoencoderKL, text_encoder: CLIPTextModel
) -> MultiViewPrior:
    from invert3d_ns.prior.multiview import MultiViewPrior

    config = text_encoder.config
    if config.vocab_size != CLIP_VOCABULARY_SIZE:
        raise InputError(
            f"the text encoder has {config.vocab_size} tokens, CLIP has {CLIP_VOCABULARY_SIZE}; this is another model"
        )
    scheduler = build_scheduler(source.configs.get("scheduler"), source.path / SCHEDULER)
    tokenizer = clip_tokenizer()
    # open_clip, and with it Stable Diffusion 2.x, fills the context with zeros, CLIP with its end token.
    is_open_clip = config.hidden_act == "gelu"
    info = PriorInfo.from_components(
        name,
        unet,
        vae,
        text_encoder,
        tokenizer,
        scheduler,
        pad_token_id=0 if is_open_clip else tokenizer.eos_token_id,
        **({"prompt_suffix": MVDREAM_SUFFIX} if takes_cameras(unet) else {"num_views": 1}),
    )
    try:
        check_parts_match(info, unet, vae, text_encoder, tokenizer, scheduler)
    except InputError as error:
        raise InputError(f"{error}; the parts belong to different models") from error
    return MultiViewPrior(unet.float(), vae.float(), text_encoder.float(), tokenizer, scheduler, info)


def _load_unet(source: Source, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> UNet2DConditionModel:
    import torch
    from diffusers import UNet2DConditionModel

    from invert3d_ns.prior.storage import quiet_libraries

    with quiet_libraries(), _config_errors(source, "unet", config), torch.device("meta"):
        unet: UNet2DConditionModel = UNet2DConditionModel.from_config(dict(config))  # type: ignore[assignment]
    load_strictly(unet, weights, "UNet", assign=True)
    return unet


def _load_vae(source: Source) -> AutoencoderKL:
    import torch
    from diffusers import AutoencoderKL

    from invert3d_ns.prior.storage import quiet_libraries

    config = {"scaling_factor": SD_SCALING_FACTOR, **source.configs["vae"]}
    with quiet_libraries(), _config_errors(source, "vae", config), torch.device("meta"):
        vae: AutoencoderKL = AutoencoderKL.from_config(config)  # type: ignore[assignment]
    load_strictly(vae, _modern_vae_names(source.part("vae")), "autoencoder", assign=True)
    return vae


def _load_text_encoder(source: Source) -> CLIPTextModel:
    with _config_errors(source, "text_encoder", source.configs["text_encoder"]):
        return build_text_encoder(source.configs["text_encoder"], source.part("text_encoder"))


@contextmanager
def _config_errors(source: Source, part: str, config: Mapping[str, Any]) -> Iterator[None]:
    path = source.path / part / CONFIG
    check_network_config(config, len(source.part(part)), path)
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # a config that is no model's ends in errors of all kinds, by version of the library
        detail = " ".join(str(error).split())[:200]
        raise InputError(f"{path} describes no model that is known ({detail}); download it again") from error


def _floats(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.float() for key, value in state.items() if value.is_floating_point()}


def _modern_vae_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # Autoencoders saved by diffusers before 0.18 name their attention differently, and older ones still convolve there.
    old = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
    renamed = {}
    for key, value in state.items():
        for before, after in old.items():
            key = key.replace(before, after)
        renamed[key] = value.flatten(1) if ".attentions." in key and value.ndim == 4 else value
    return renamed
