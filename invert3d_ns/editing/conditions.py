"""The conditions of an edit: contexts, token weights and directions (Invert3D, eqs. 9-11).

Eq. 9 adds lambda (E(target) - E(source)) to z*, and the paper leaves open in which space, since z* is N vectors at the
text encoder's input and E gives one vector a token at its output. Five readings are built; which one is the default was
decided by measurement (``invert3d evaluate edit``):

- ``prompt``: no sum; the target's words stand beside z* in the prompt.
- ``input``: token embeddings; the mean vector of the target's tokens less that of the source's is added to each of z*.
- ``encoded``: outputs of the encoder, position by position.
- ``pooled``: outputs of the encoder; the difference at the end token is added to z*'s positions.
- ``prediction``: what the network makes of them: lambda times the difference of its predictions under the target's and
  the source's words is added to the prediction under z*, the more so the stronger guidance is. The words are never
  mixed with z* and so cannot drown in its N vectors; it costs two more predictions a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from invert3d_ns.base.english import with_article
from invert3d_ns.base.errors import InputError
from invert3d_ns.editing.edit import TOKEN, Edit, Space
from invert3d_ns.editing.phrases import find_phrase, place_term, put_noun
from invert3d_ns.editing.reading import in_light_of
from invert3d_ns.prior.conditions import Conditions
from invert3d_ns.prior.prompts import columns_of, token_count

if TYPE_CHECKING:
    from invert3d_ns.prior.multiview import MultiViewPrior
    from invert3d_ns.words.embedding import ObjectEmbedding

DEFAULT_SPACE: Space = "prediction"


@torch.no_grad()
def edit_conditions(
    prior: MultiViewPrior, embedding: ObjectEmbedding, edits: Sequence[Edit] = (), *, flow: bool = False
) -> Conditions:
    """The conditions under one or more edits; without any, those of the object as it is.

    Several edits compose: their words follow each other in the prompt, their directions add up, and guidance is the
    last one's.

    Args:
        flow: for the structure ``flow``, where guidance goes to directions alone if there are any, and is that which
            the prior wants for edits.

    Raises:
        InputError: the embedding is of another prior, an edit cannot be carried out, or the prompt does not fit the
            context.
    """
    embedding.check_prior(prior)
    prompt, weights, directions = TOKEN, {}, []
    vectors = embedding.vectors.to(prior.device)
    outputs: list[tuple[Space, str, str, float]] = []
    for edit in edits:
        edit.check()
        edit = in_light_of(edit, embedding.description)
        prompt = _joined(prompt, _worded(edit))
        weights |= edit.weights
        towards, away = _plain(edit, embedding.init_word or prior.info.init_word, prior.info.prompt_suffix)
        space = edit.space or DEFAULT_SPACE
        if towards == away or edit.amount == 0 or space == "prompt":
            continue
        if space == "input":
            vectors = vectors + edit.amount * _term_difference(prior, edit)
        elif space == "prediction":
            directions.append((prior.encode_prompt(towards), prior.encode_prompt(away), edit.amount))
        else:
            outputs.append((space, towards, away, edit.amount))
    if prompt.strip() != TOKEN:
        prompt += prior.info.prompt_suffix
    lengths = {TOKEN: len(vectors)}
    positive = prior.encode_prompt(prompt, {TOKEN: vectors})
    for space, towards, away, amount in outputs:
        positive = positive + amount * _output_difference(prior, prompt, lengths, space, towards, away)
    scales = None
    if weights:
        scales = torch.ones(1, positive.shape[1], device=positive.device)
        for phrase, factor in weights.items():
            scales[0, columns_of(phrase, prompt, lengths, prior.tokenizer, prior.info)] = factor
    info, last = prior.info, edits[-1] if edits else Edit()
    own = info.edit_guidance_scale if flow and info.edit_guidance_scale is not None else info.guidance_scale
    scale = own if last.guidance_scale is None else last.guidance_scale
    negative = prior.encode_prompt(", ".join(dict.fromkeys(e.negative_prompt for e in edits if e.negative_prompt)))
    return Conditions(
        positive,
        negative,
        guidance_scale=1.0 if flow and directions else scale,
        guidance_rescale=0.0 if flow else info.guidance_rescale,
        token_weights=scales,
        directions=tuple(directions),
        direction_scale=scale,
    )


def _worded(edit: Edit) -> str:
    """The edit's part of the prompt: its words, and the target where it is only words or is weighed."""
    words = edit.prompt or TOKEN
    weighed = any(find_phrase(phrase, edit.target) and not find_phrase(phrase, words) for phrase in edit.weights)
    if edit.target and (weighed or edit.space == "prompt"):
        words = words.replace(TOKEN, place_term(edit.target, TOKEN))
    return words


def _joined(prompt: str, words: str) -> str:
    """Words around the placeholder, with what the prompt has come to so far wherever it stands."""
    return words.replace(TOKEN, prompt)


def _plain(edit: Edit, init_word: str, suffix: str) -> tuple[str, str]:
    """The edit in plain words: what it leads to, and where it comes from, each with a noun in the object's place."""
    noun = edit.noun.strip() or init_word
    noun = noun if noun.split()[0] in ("a", "an", "the") else with_article(noun)
    named = find_phrase(edit.source, noun) if edit.source.strip() else []
    if named:
        # A description that says already what the object is now: only these words change.
        first, last = named[0]
        away, towards = noun, " ".join(f"{noun[:first]}{edit.target.strip()}{noun[last:]}".split())
        article = towards.split()[0]
        towards = with_article(towards.removeprefix(f"{article} ")) if article in ("a", "an") else towards
    else:
        away, towards = place_term(edit.source, noun), place_term(edit.target, noun)
    if edit.prompt:
        towards = put_noun(towards, edit.prompt, TOKEN)
    return towards + suffix, away + suffix


def _term_difference(prior: MultiViewPrior, edit: Edit) -> Float[Tensor, " D"]:
    """Mean token embedding of the words that come less that of the words that go."""
    words = f"{edit.prompt.replace(TOKEN, ' ')} {edit.target}".strip(" ,")
    # An edit that only adds words moves towards them from where the object is, which z* itself says best.
    coming = prior.word_vectors(words).mean(0) if words else 0.0
    going = prior.word_vectors(edit.source).mean(0) if edit.source.strip() else 0.0
    difference = coming - going
    if not isinstance(difference, Tensor):
        raise InputError("the edit is empty; give a prompt or a target")
    return difference


def _output_difference(
    prior: MultiViewPrior, prompt: str, lengths: dict[str, int], space: Space, towards: str, away: str
) -> Float[Tensor, "1 L C"]:
    """What is added to the encoded prompt: the difference at every position, or the end tokens' at the object's."""
    coming, going = prior.encode_prompt(towards), prior.encode_prompt(away)
    if space == "encoded":
        return coming - going
    ends = [1 + token_count(text, {}, prior.tokenizer) for text in (towards, away)]
    moved = torch.zeros_like(coming)
    columns = columns_of(TOKEN, prompt, lengths, prior.tokenizer, prior.info)
    moved[:, columns] = coming[:, ends[0], None] - going[:, ends[1], None]
    return moved


def without_edit(conditions: Conditions, plain: Conditions) -> Conditions:
    """``plain`` (the object as it is) under the guidance of ``conditions``, to compare the two step by step."""
    return plain.with_guidance(
        conditions.guidance_scale,
        rescale=conditions.guidance_rescale,
        direction_scale=conditions.direction_scale,
    )
