"""Random parameters and logits for the sampler's properties."""

from dataclasses import replace

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from aobatch.sampling.params import SamplingParams

VOCAB_SIZE = 300

unhurried = settings(deadline=None)
"""For machines that do other things besides."""

token_ids = st.integers(0, VOCAB_SIZE - 1)
penalties = st.sampled_from([0.0, 0.5, -0.5, 1.3])
distinct_ids = st.lists(token_ids, max_size=5, unique=True)


def drop_equal_ids(params: SamplingParams) -> SamplingParams:
    """Keep each id of the bias once."""
    return replace(params, logit_bias=tuple(dict(params.logit_bias).items()))


any_params = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 1e-5, 0.3, 0.7, 1.0, 1.0, 1.7, 2.0]),
    top_p=st.sampled_from([0.0, 0.3, 0.9, 0.95, 0.9999, 1.0, 1.0]),
    top_k=st.sampled_from([-1, 0, 0, 1, 2, 40, 299, 300, 5000]),
    min_p=st.sampled_from([0.0, 0.0, 0.05, 0.5, 1.0]),
    presence_penalty=penalties,
    frequency_penalty=penalties,
    repetition_penalty=st.sampled_from([1.0, 1.0, 1.2, 0.7]),
    logit_bias=st.lists(
        st.tuples(token_ids, st.sampled_from([-100.0, -1.5, 2.0, 100.0])), max_size=4
    ).map(tuple),
    num_logprobs=st.sampled_from([None, None, 0, 1, 5, 20]),
    min_tokens=st.sampled_from([0, 0, 2]),
    end_token_ids=distinct_ids.map(tuple),
).map(drop_equal_ids)

seeds = st.integers(0, 2**32 - 1)


@st.composite
def logit_rows(draw: st.DrawFn, num_rows: int, vocab_size: int = VOCAB_SIZE) -> NDArray[np.float32]:
    """Draw logits [num_rows, vocab_size], some smooth, some with many ties or impossible tokens."""
    random = np.random.default_rng(draw(seeds))
    logits = random.normal(0, draw(st.sampled_from([0.0, 0.5, 3.0])), (num_rows, vocab_size))
    if draw(st.booleans()):
        logits = np.round(logits)
    if draw(st.booleans()):
        logits[random.random(logits.shape) < 0.3] = -np.inf
        logits[:, 7] = 0.0
    return logits.astype(np.float32)
