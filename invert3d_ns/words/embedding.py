"""The embedding of an object, and its file, which whatever reads textual inversions can read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.files import atomic_path
from invert3d_ns.base.filetypes import describe_file

if TYPE_CHECKING:
    from invert3d_ns.prior.multiview import MultiViewPrior

EMBEDDING = "embedding.safetensors"
"""What the words of a run are called in its folder."""
FORMAT_VERSION = 1
CAMERA_FRAME = "z-up, azimuth 0 at -y, OpenGL camera-to-world, unit translation (MVDream)"
_FORMAT = "invert3d_ns.embedding"
_LONGEST_DESCRIPTION = 300


@dataclass(eq=False)
class ObjectEmbedding:
    """N pseudo-word vectors of one object, and what they were made for.

    The file is safetensors with a single tensor, keyed by the placeholder: the layout that diffusers'
    ``load_textual_inversion`` reads. Everything else is in the header's metadata, as strings.
    """

    vectors: Float[Tensor, "N D"]
    """Token embeddings, float32 on the CPU."""
    token: str = "<object>"
    """The placeholder in prompts that stands for the vectors."""
    prior: str = ""
    """Name of the prior that the vectors are words of."""
    fingerprint: str = ""
    """Fingerprint of that prior's weights."""
    init_word: str = ""
    """The word that the vectors started from."""
    steps: int = 0
    """Optimization steps."""
    description: str = ""
    """What the object is in plain words, as "red chair with yellow legs"; empty if nobody said."""
    camera_frame: str = CAMERA_FRAME
    """The frame in which azimuth and elevation are meant."""

    def __post_init__(self) -> None:
        self.vectors = self.vectors.detach().to("cpu", torch.float32).contiguous()

    @classmethod
    def for_prior(
        cls,
        prior: MultiViewPrior,
        vectors: Float[Tensor, "N D"],
        *,
        init_word: str,
        steps: int,
        token: str = "<object>",
    ) -> ObjectEmbedding:
        """Make an embedding of ``vectors`` (copied to the CPU, float32) that belongs to ``prior``."""
        info = prior.info
        return cls(vectors.clone(), token, info.name, info.fingerprint, init_word, steps)

    @property
    def words(self) -> dict[str, Float[Tensor, "N D"]]:
        """The vectors by their placeholder, as :meth:`MultiViewPrior.encode_prompt` takes them."""
        return {self.token: self.vectors}

    def save(self, path: Path | str) -> None:
        """Write the file, or nothing.

        Raises:
            InputError: the file cannot be written, for example because no space is left.
        """
        from safetensors.torch import save

        metadata = {
            "format": _FORMAT,
            "version": str(FORMAT_VERSION),
            "token": self.token,
            "prior": self.prior,
            "fingerprint": self.fingerprint,
            "vectors": str(self.vectors.shape[0]),
            "dimension": str(self.vectors.shape[1]),
            "init_word": self.init_word,
            "steps": str(self.steps),
            **({"description": self.description} if self.description else {}),
            "camera_frame": self.camera_frame,
        }
        content = _with_sorted_header(save({self.token: self.vectors}, metadata))
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)

    @classmethod
    def load(cls, path: Path | str) -> ObjectEmbedding:
        """Read a file that :meth:`save` wrote.

        Raises:
            InputError: missing, damaged, not an embedding, or written by a newer version of this package.
        """
        from invert3d_ns.weights.tensors import read_safetensors
        from invert3d_ns.words.foreign_embeddings import not_an_embedding

        path = Path(path)
        if path.exists() and describe_file(path) not in ("a safetensors file", "an empty file"):
            raise not_an_embedding(path)
        tensors, metadata = read_safetensors(path)
        if metadata.get("format") != _FORMAT or len(tensors) != 1:
            raise not_an_embedding(path)
        version = _count(metadata, "version", path)
        if version > FORMAT_VERSION:
            raise InputError(
                f"{path} has embedding version {version}, this package reads up to {FORMAT_VERSION}; update invert3d-ns"
            )
        token, vectors = next(iter(tensors.items()))
        if vectors.ndim != 2 or 0 in vectors.shape or not vectors.is_floating_point() or not vectors.isfinite().all():
            raise InputError(f"{path} is damaged: its vectors are not N rows of finite numbers; invert the scene again")
        if not token.isprintable() or not token.strip() or any(letter.isspace() for letter in token):
            raise InputError(f"{path} is damaged: its placeholder is {token[:40]!r}; invert the scene again")
        return cls(
            vectors,
            token,
            metadata.get("prior", ""),
            metadata.get("fingerprint", ""),
            metadata.get("init_word", ""),
            _count(metadata, "steps", path) if "steps" in metadata else 0,
            _description(metadata, path),
            metadata.get("camera_frame", CAMERA_FRAME),
        )

    def check_prior(self, prior: MultiViewPrior) -> None:
        """Check that the vectors are words of ``prior``.

        Raises:
            InputError: they were made for another prior, or have another dimension.
        """
        info = prior.info
        if self.vectors.shape[1] != info.token_dim:
            raise InputError(
                f"the embedding was made for prior {self.prior!r} and has dimension {self.vectors.shape[1]}, but prior "
                f"{info.name!r} has dimension {info.token_dim}; pass --prior {self.prior or 'the one it was made with'}"
            )
        if self.fingerprint != info.fingerprint:
            raise InputError(
                f"the embedding was made for prior {self.prior!r} with weights {self.fingerprint}, but prior "
                f"{info.name!r} has weights {info.fingerprint}; pass --prior the one it was made with, or invert again"
            )


def _count(metadata: Mapping[str, str], name: str, path: Path) -> int:
    """A whole number among the strings of the header."""
    text = metadata.get(name, "")
    if len(text) > 9 or not (text.isascii() and text.isdecimal()):
        raise InputError(f"{path} is damaged: its number of {name} is {text[:40]!r}; invert the scene again")
    return int(text)


def _description(metadata: Mapping[str, str], path: Path) -> str:
    text = metadata.get("description", "")
    if len(text) > _LONGEST_DESCRIPTION or not (text.isprintable() and "<" not in text):
        raise InputError(f"{path} is damaged: its description is {text[:40]!r}; invert the scene again")
    return text.strip()


def _with_sorted_header(content: bytes) -> bytes:
    """Put the header of a safetensors file in alphabetical order: equal embeddings must be equal files."""
    # The safetensors library writes metadata in an order that changes from one process to the next.
    size = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[8 + size :]
