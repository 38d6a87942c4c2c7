"""Laws of GGUF's types: every number is what its type's definition says."""

from pathlib import Path

import numpy as np
import pytest
from block_reference import KINDS
from gguf_writing import Tensor, small_llama

from aobatch.models.source.gguf_checkpoint import read_gguf

WIDTH = 256
ROWS = 64


def loaded(tensor: Tensor, path: Path) -> np.ndarray:
    """Read a weight of [64, 256] out of a file whose width fits it."""
    file = small_llama(WIDTH)
    file.tensors["blk.0.ffn_up.weight"] = tensor
    checkpoint = read_gguf(file.write(path / "types.gguf"))
    whole = checkpoint.load("layers.0.up")
    np.testing.assert_array_equal(whole[5:9], checkpoint.load("layers.0.up", 5, 9))
    return whole


@pytest.mark.parametrize("name", KINDS)
def test_blocks_are_read_by_their_definition(name: str, tmp_path: Path) -> None:
    """Random blocks, whose scales are numbers of a sane size, against a slow reading of each."""
    kind = KINDS[name]
    chance = np.random.default_rng(kind.number)
    blocks = []
    for _ in range(ROWS * WIDTH // kind.block_size):
        block = bytearray(chance.bytes(kind.num_bytes))
        for place in kind.scales:
            block[place : place + 2] = np.float16(chance.uniform(-2, 2)).tobytes()
        blocks.append(bytes(block))
    expected = np.array([kind.read(block) for block in blocks]).reshape(ROWS, WIDTH)

    weight = loaded(Tensor((ROWS, WIDTH), b"".join(blocks), kind.number), tmp_path)
    np.testing.assert_allclose(expected, weight, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("number", "name"), [(0, "F32"), (1, "F16"), (30, "BF16")])
def test_floats_are_themselves(number: int, name: str, tmp_path: Path) -> None:
    """Numbers that all three types hold exactly come back as they are."""
    exact = np.random.default_rng(1).integers(-127, 128, (ROWS, WIDTH)).astype(np.float32) / 32
    stored = {
        "F32": exact,
        "F16": exact.astype(np.float16),
        "BF16": (exact.view(np.uint32) >> 16).astype(np.uint16),
    }[name]

    weight = loaded(Tensor((ROWS, WIDTH), stored.tobytes(), number), tmp_path)
    np.testing.assert_array_equal(exact, weight)
