"""Finished sequences as the choices and usage of a response."""

from aobatch.api.response import Choice, Usage
from aobatch.engine.detokenizer import decode, offsets
from aobatch.engine.listing import NO_TOP, Listing
from aobatch.engine.sequence import RequestState, Sequence, SequenceGroup
from aobatch.models.tokenizer import Tokenizer


def choices_of(state: RequestState, tokenizer: Tokenizer) -> tuple[Choice, ...]:
    """Give the n best choices of every prompt, in the order of prompts and rank."""
    num_choices = state.request.body.n
    return tuple(
        choice_of(sequence, group.index * num_choices + rank, tokenizer)
        for group in state.groups
        for rank, sequence in enumerate(_ranked(group)[:num_choices])
    )


def usage_of(state: RequestState) -> Usage:
    """Count prompts once, and every token that was sampled for any candidate."""
    prompt_tokens = sum(len(group.prompt_token_ids) for group in state.groups)
    completion_tokens = sum(
        len(sequence.token_ids) for group in state.groups for sequence in _candidates(group)
    )
    return Usage(prompt_tokens, completion_tokens, prompt_tokens + completion_tokens)


def choice_of(sequence: Sequence, index: int, tokenizer: Tokenizer) -> Choice:
    """Write one finished sequence as a choice."""
    group, body = sequence.group, sequence.group.state.request.body
    tokens = [tokenizer.token_bytes[token_id] for token_id in sequence.text_token_ids]
    cut = sequence.watcher.cut if sequence.watcher else None
    text = decode(tokens)[:cut]
    logprobs = None
    if body.logprobs is not None:
        listing = Listing(tokenizer.token_bytes)
        if body.echo:
            listing.add_prompt(group)
        _list_completion(listing, sequence, tokens, cut)
        logprobs = listing.take()
    return Choice(body.echo * group.prompt_text + text, index, logprobs, sequence.finish_reason)


def _list_completion(
    listing: Listing, sequence: Sequence, tokens: list[bytes], cut: int | None
) -> None:
    """List the tokens up to the one in which the text ends."""
    start = len(sequence.group.prompt_text)
    places = offsets(tokens, start)
    count = len(places) if cut is None else _tokens_to(start + cut, places)
    for position, place in enumerate(places[:count]):
        top = sequence.tops[position] if sequence.tops else NO_TOP
        token_id = int(sequence.token_ids[position])
        listing.add(token_id, float(sequence.logprobs[position]), top, place)


def _tokens_to(offset: int, places: list[int]) -> int:
    """Count the tokens up to and including the one that the code point at offset belongs to."""
    return next((i for i, place in enumerate(places[1:], start=1) if place > offset), len(places))


def _candidates(group: SequenceGroup) -> list[Sequence]:
    """Give all candidates; a greedy sequence stands for each, since all are equal."""
    return group.sequences * group.num_copies


def _ranked(group: SequenceGroup) -> list[Sequence]:
    """Order candidates, the best first, where more were made than are returned.

    By the suffix's logprob where that decides, else by mean raw logprob a token.
    """
    candidates = _candidates(group)
    if not group.is_ranked:
        return candidates
    return sorted(candidates, key=lambda sequence: -_worth(sequence))


def _worth(sequence: Sequence) -> float:
    if sequence.suffix_logprob is not None:
        return sequence.suffix_logprob
    return float(sequence.logprobs.mean()) if len(sequence.logprobs) else 0.0
