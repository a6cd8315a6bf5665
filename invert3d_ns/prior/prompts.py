"""Prompts that mix words with pseudo-words: tokenization, and the splice of learned vectors into a CLIP text encoder.

A pseudo-word is a placeholder such as ``<object>`` that stands for N learned vectors. It enters at the token-embedding
level (textual inversion, Gal et al. 2022): the placeholder takes N positions, whose token embeddings are replaced by
the vectors; later tokens move right. Position embeddings and the transformer then run as usual.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from invert3d_ns.base.errors import InputError
from invert3d_ns.prior.placeholders import check_placeholders

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer

    from invert3d_ns.prior.info import PriorInfo


@dataclass(frozen=True)
class TokenizedPrompts:
    """Token ids of a batch of prompts, and where pseudo-words go."""

    ids: Int[Tensor, "B L"]
    """Ids with start, end and padding; positions of pseudo-words hold the end token's id."""
    rows: Int[Tensor, " K"]
    columns: Int[Tensor, " K"]
    """Position of each of the K spliced vectors, in the order in which prompts name them."""
    placeholders: list[str]
    """The placeholder of each occurrence, in the same order; each stands for N consecutive positions."""


def tokenize_prompts(
    prompts: Sequence[str], lengths: Mapping[str, int], tokenizer: CLIPTokenizer, info: PriorInfo
) -> TokenizedPrompts:
    """Tokenize prompts, giving every placeholder in ``lengths`` that many positions.

    Raises:
        InputError: a prompt is longer than the text encoder takes (the message names the words that would be cut), has
            a placeholder that stands for nothing, or characters that the vocabulary lacks.
    """
    start, end = _special_id(tokenizer.bos_token_id), _special_id(tokenizer.eos_token_id)
    room = info.context_length - 2
    for placeholder, length in lengths.items():
        if not 1 <= length <= room:
            raise InputError(
                f"{length} vectors for {placeholder} do not fit the text encoder's context of "
                f"{info.context_length} tokens; use between 1 and {room}"
            )
    splitter = _splitter(lengths)
    ids: list[list[int]] = []
    rows: list[int] = []
    columns: list[int] = []
    placeholders: list[str] = []
    for row, prompt in enumerate(prompts):
        check_placeholders(prompt, lengths)
        line: list[int] = [start]
        for piece in _pieces(prompt, lengths):
            if piece in lengths:
                columns += range(len(line), len(line) + lengths[piece])
                rows += [row] * lengths[piece]
                placeholders.append(piece)
                line += [end] * lengths[piece]
            else:
                line += _text_ids(piece, tokenizer)
        if len(line) - 1 > room:
            raise InputError(_too_long(prompt, len(line) - 1, room, lengths, splitter, tokenizer))
        ids.append([*line, end] + [info.pad_token_id] * (info.context_length - len(line) - 1))
    return TokenizedPrompts(torch.tensor(ids), torch.tensor(rows), torch.tensor(columns), placeholders)


def spliced_vectors(tokens: TokenizedPrompts, words: Mapping[str, Tensor]) -> Float[Tensor, "K D"]:
    """The K vectors that go into tokenized prompts, in order.

    Args:
        tokens: of prompts with placeholders.
        words: vectors [N D] of each placeholder, or [B N D], different ones for each prompt.
    """
    chosen, first = [], 0
    for token in tokens.placeholders:
        vectors = words[token]
        chosen.append(vectors if vectors.ndim == 2 else vectors[int(tokens.rows[first])])
        first += vectors.shape[-2]
    return torch.cat(chosen)


def columns_of(
    phrase: str, prompt: str, lengths: Mapping[str, int], tokenizer: CLIPTokenizer, info: PriorInfo
) -> list[int]:
    """Positions, in the context of ``prompt``, of the tokens of every occurrence of ``phrase`` as whole words.

    Args:
        phrase: words of the prompt, or a placeholder.
        prompt: may hold placeholders.
        lengths: vectors of each placeholder.

    Raises:
        InputError: the phrase is not in the prompt, or the prompt is too long.
    """
    pattern = re.escape(phrase.strip())
    spans = [m.span() for m in re.finditer(rf"(?<!\w){pattern}(?!\w)", prompt, re.IGNORECASE)] if pattern else []
    if not spans:
        raise InputError(f"the word {phrase!r} is not in the prompt {prompt!r}; weigh words that are in it")

    tokenize_prompts([prompt], lengths, tokenizer, info)
    columns: list[int] = []
    for first, last in spans:
        # Words are tokenized one by one, so what stands before a phrase has as many tokens with it as without it.
        start = 1 + token_count(prompt[:first], lengths, tokenizer)
        columns += range(start, start + token_count(prompt[first:last], lengths, tokenizer))
    return columns


def token_count(prompt: str, lengths: Mapping[str, int], tokenizer: CLIPTokenizer) -> int:
    """Tokens of a prompt with placeholders, without start and end."""
    return sum(
        lengths[piece] if piece in lengths else len(_text_ids(piece, tokenizer)) for piece in _pieces(prompt, lengths)
    )


def word_vectors(word: str, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer) -> Float[Tensor, "K D"]:
    """Token embeddings of ``word`` (K tokens of width D), a copy in float32.

    Raises:
        InputError: the word has no tokens, or is a placeholder.
    """
    check_placeholders(word, ())
    ids = _text_ids(word, tokenizer)
    if not ids:
        raise InputError(f"the word {word!r} is empty; give a word that the prior's tokenizer knows, such as 'object'")
    table: Tensor = text_encoder.get_input_embeddings().weight  # type: ignore[assignment]
    return table.detach()[torch.tensor(ids, device=table.device)].float().clone()


def _splitter(lengths: Mapping[str, int]) -> re.Pattern[str] | None:
    # Longest first, so that "<object_2>" is not read as another placeholder that it begins with.
    names = sorted(lengths, key=len, reverse=True)
    return re.compile("(" + "|".join(map(re.escape, names)) + ")") if names else None


def _pieces(prompt: str, lengths: Mapping[str, int]) -> list[str]:
    """Placeholders, and what stands between them."""
    splitter = _splitter(lengths)
    return [piece for piece in (splitter.split(prompt) if splitter else [prompt]) if piece.strip()]


def _text_ids(text: str, tokenizer: CLIPTokenizer) -> list[int]:
    ids = _encoded(text, tokenizer)
    # CLIP's tokenizers make the end token of what they do not know: in the midst of a prompt it means nothing.
    if tokenizer.unk_token_id in ids:
        words = [word for word in text.split() if tokenizer.unk_token_id in _encoded(word, tokenizer)] or [text]
        raise InputError(f"the prior's vocabulary cannot write {words[0]!r}; use plain English letters and signs")
    return ids


def _encoded(text: str, tokenizer: CLIPTokenizer) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])  # type: ignore[arg-type]


def _special_id(value: Any) -> int:
    if not isinstance(value, int):
        raise InputError("the prior's tokenizer has no start and end tokens; its tokenizer folder is incomplete")
    return value


def _too_long(
    prompt: str,
    count: int,
    room: int,
    lengths: Mapping[str, int],
    splitter: re.Pattern[str] | None,
    tokenizer: CLIPTokenizer,
) -> str:
    # Words are counted one at a time, since a tokenizer does not say which of a prompt's words a token came from.
    used, cut = 0, []
    spaced = splitter.sub(r" \1 ", prompt) if splitter else prompt
    for word in spaced.split():
        used += lengths[word] if word in lengths else len(_text_ids(word, tokenizer))
        if used > room:
            cut.append(word)
    return (
        f"the prompt has {count} tokens but the text encoder takes {room}, so these words would be cut: "
        f"{' '.join(cut)!r}; shorten the prompt"
    )


_SPLICE = threading.local()


def enable_splicing(text_encoder: CLIPTextModel) -> None:
    """Let :func:`splice_vectors` reach this encoder. Idempotent; without an active splice nothing changes."""
    # A permanent hook that looks at a thread-local costs nothing per call and, unlike adding and removing hooks, is
    # safe when the trainer and the viewer encode prompts at the same time. CLIPTextModel itself takes no embeddings
    # as input.
    embedding = text_encoder.get_input_embeddings()
    if _replace_embeddings not in embedding._forward_hooks.values():
        embedding.register_forward_hook(_replace_embeddings)


@contextmanager
def splice_vectors(
    text_encoder: CLIPTextModel,
    rows: Int[Tensor, " K"],
    columns: Int[Tensor, " K"],
    vectors: Float[Tensor, "K D"],
) -> Iterator[None]:
    """In this context and thread, token embeddings at ``[rows, columns]`` are ``vectors``, differentiably."""
    _SPLICE.active = (text_encoder.get_input_embeddings(), rows, columns, vectors)
    try:
        yield
    finally:
        _SPLICE.active = None


def _replace_embeddings(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
    active = getattr(_SPLICE, "active", None)
    if active is None or active[0] is not module:
        return None
    _, rows, columns, vectors = active
    return output.index_put((rows, columns), vectors.to(output.dtype))
