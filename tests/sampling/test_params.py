"""Laws of the sampling parameters."""

import pytest

from aobatch.sampling.params import SamplingParams


@pytest.mark.parametrize(
    ("temperature", "is_greedy"),
    [
        pytest.param(0.0, True, id="zero"),
        pytest.param(9.9e-6, True, id="just-under"),
        pytest.param(1e-5, False, id="bound"),
        pytest.param(1.0, False, id="one"),
    ],
)
def test_only_temperatures_under_the_bound_are_greedy(temperature: float, is_greedy: bool) -> None:
    """A temperature below 1e-5 is greedy, 1e-5 itself draws."""
    assert SamplingParams(temperature=temperature).is_greedy is is_greedy
