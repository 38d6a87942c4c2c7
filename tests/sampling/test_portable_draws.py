"""The law that equal logits and random numbers give equal bits, whatever the processor."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from aobatch.sampling.columns import stream_key
from aobatch.sampling.params import SamplingParams
from aobatch.sampling.sampler import Sampler

VOCAB_SIZE = 20_011
RECORDED = "09852a680ec298bbf7f1d2d56bf95fad7f749100fa6112b63b2ec6bb68670b8e"
"""What an AMD EPYC 7003 (AVX2) computed on 2026-11-30, and all others that were tried."""

WAYS = [
    SamplingParams(num_logprobs=3),
    SamplingParams(0.7, num_logprobs=1),
    SamplingParams(2.0, top_p=0.97, num_logprobs=0),
    SamplingParams(0.8, top_p=0.9, presence_penalty=0.5, frequency_penalty=0.3, num_logprobs=5),
    SamplingParams(1.3, top_k=50, num_logprobs=2),
    SamplingParams(1.0, top_k=4000, top_p=0.5),
    SamplingParams(1.0, min_p=0.02, repetition_penalty=1.2),
    SamplingParams(0.0, num_logprobs=5),
]


def digest() -> str:
    """Hash tokens and figures of some steps; the logits are integers over 512, exact anywhere."""
    random = np.random.default_rng(9)
    found = hashlib.sha256()
    for mode in ("raw", "processed"):
        sampler = Sampler(len(WAYS), VOCAB_SIZE, mode)  # type: ignore[arg-type]
        for slot, params in enumerate(WAYS):
            sampler.admit(slot, params, stream_key(slot), np.arange(40))
        for _ in range(6):
            words = random.integers(0, 1024, (5, len(WAYS), VOCAB_SIZE))
            sampled = sampler.sample((words.sum(axis=0) / 512).astype(np.float32))
            for array in sampled:
                found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def test_draws_are_those_that_were_recorded() -> None:
    """Tokens and logprobs are the recorded bits."""
    assert digest() == RECORDED


def digest_of(command: list[str], **environment: str) -> str:
    """Compute the digest in another process."""
    folder = Path(__file__).parent
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); "
    code += "import test_portable_draws; print(test_portable_draws.digest())"
    # What OpenBLAS is told of this processor does not hold for an emulated one.
    own = {name: value for name, value in os.environ.items() if name != "OPENBLAS_CORETYPE"}
    done = subprocess.run(
        [*command, sys.executable, "-W", "ignore", "-c", code],
        env={**own, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.returncode, done.stderr
    return done.stdout.strip()


def test_draws_do_not_hang_on_what_numpy_finds_in_the_processor() -> None:
    """With all that numpy finds turned off, the bits are the same."""
    from numpy._core._multiarray_umath import __cpu_dispatch__

    assert digest_of([], NPY_DISABLE_CPU_FEATURES=",".join(__cpu_dispatch__)) == RECORDED


@pytest.mark.long
@pytest.mark.parametrize("processor", ["Haswell", "Nehalem"])
def test_draws_are_the_same_on_another_processor(processor: str) -> None:
    """An emulated processor without AVX-512, and one without AVX, compute the recorded bits."""
    emulator = shutil.which("qemu-x86_64") or shutil.which("qemu-x86_64-static")
    if emulator is None:
        pytest.skip("qemu-x86_64 is not installed")

    assert digest_of([emulator, "-cpu", processor]) == RECORDED
