"""The parameters that decide how one sequence is sampled; every default is neutral."""

from dataclasses import dataclass

GREEDY_BELOW = 1e-5
"""A temperature under this one takes the most probable token instead of drawing."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Say how the tokens of one sequence are chosen; whoever builds it has checked the ranges."""

    temperature: float = 1.0
    """Divides the logits, 0..2; under 1e-5 is greedy."""
    top_p: float = 1.0
    """Keep the fewest tokens whose probability reaches it, 0..1; 0 keeps the best one."""
    top_k: int = 0
    """Keep that many tokens; 0 and -1 keep all."""
    min_p: float = 0.0
    """Keep the tokens at least that probable in proportion to the best one, 0..1."""
    presence_penalty: float = 0.0
    """Taken off the logit of every token generated so far, -2..2."""
    frequency_penalty: float = 0.0
    """Taken off the logit once for each time the token was generated, -2..2."""
    repetition_penalty: float = 1.0
    """Divides a positive, multiplies a negative logit of a prompt or completion token, > 0."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Pairs of a token id, each once, and what is added to its logit."""
    num_logprobs: int | None = None
    """Report the chosen token's logprob and that many best ones; None reports nothing."""
    min_tokens: int = 0
    """The end tokens cannot be drawn before that many tokens."""
    end_token_ids: tuple[int, ...] = ()
    """The ids that min_tokens holds back, each once."""

    @property
    def is_greedy(self) -> bool:
        """Whether the most probable token is taken without a draw."""
        return self.temperature < GREEDY_BELOW
