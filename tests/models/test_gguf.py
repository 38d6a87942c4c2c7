"""Laws of GGUF import: what is valid is read as it is, as the model's own files have it."""

import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from block_reference import KINDS
from gguf_changes import field
from gguf_writing import Tensor, small_llama, string
from tokenizers import Tokenizer

from aobatch.errors import ModelError
from aobatch.models.source.gguf import check_gguf
from aobatch.models.source.gguf_checkpoint import load_weight, read_gguf
from aobatch.models.store.folder import ModelFolder
from aobatch.models.tokenizer import load_tokenizer


@pytest.mark.parametrize(
    "text", ["Hello, world! 123", "春风 <|endoftext|> x", "", "\n\n  a\u0000b"]
)
def test_tokens_are_those_of_the_models_own_tokenizer(
    tiny_fp32: ModelFolder, data: Path, text: str
) -> None:
    """The vocabulary out of the GGUF splits text as the original tokenizer.json does."""
    original = Tokenizer.from_file(str(data / "tiny-llama/tokenizer.json"))

    assert original.encode(text).ids == load_tokenizer(tiny_fp32).encode(text).tolist()


def test_token_bytes_join_to_the_text(tiny_fp32: ModelFolder) -> None:
    """Every text is the joined bytes of its tokens."""
    tokenizer = load_tokenizer(tiny_fp32)
    text = "Every byte: é 春 🙂 \t <|endoftext|>"

    joined = b"".join(tokenizer.token_bytes[index] for index in tokenizer.encode(text))
    assert text == joined.decode()


def test_the_description_names_sizes_and_origin(tiny_int8: ModelFolder) -> None:
    """model.toml holds what the GGUF said, and the measured quality."""
    manifest = tiny_int8.manifest

    assert (
        manifest.family,
        manifest.precision,
        manifest.vocab_size,
        manifest.num_layers,
    ) == ("llama", "int8", 512, 3)
    assert manifest.eos_token_ids == (0,)
    assert manifest.quality is not None
    assert 0 < manifest.quality.kl < 0.02


def test_a_conversion_far_from_fp32_is_refused(
    convert_distorted: Callable[[str], ModelFolder], tmp_path: Path
) -> None:
    """A graph whose distributions differ by more than the gate allows becomes no model."""
    with pytest.raises(ModelError, match="too far from fp32"):
        convert_distorted("model.onnx")

    assert list(tmp_path.iterdir()) == []


def blocks(tensor: Tensor, width: int) -> np.ndarray:
    """Give the bytes of blocks of 32 numbers whose scale is 1, without the scale."""
    return np.frombuffer(tensor.data, np.uint8).reshape(-1, width + 2)[:, 2:]


def test_weights_are_the_numbers_that_were_written(tmp_path: Path) -> None:
    """Floats, halves, bytes and nibbles come out as they are by the definition of their types."""
    file = small_llama()
    load = read_gguf(file.write(tmp_path / "small.gguf")).load
    tensors = file.tensors
    nibbles = blocks(tensors["blk.0.ffn_gate.weight"], 16)
    halves = np.frombuffer(tensors["blk.0.attn_k.weight"].data, "<f2").reshape(8, 2, 32)

    expected = {
        "layers.0.down": np.frombuffer(tensors["blk.0.ffn_down.weight"].data, "<f4"),
        "embedding": blocks(tensors["token_embd.weight"], 32).view(np.int8),
        "head": blocks(tensors["token_embd.weight"], 32).view(np.int8),
        "layers.0.gate": np.hstack([nibbles & 15, nibbles >> 4]) - 8.0,
        "layers.0.k": np.vstack([halves[:, 0], halves[:, 1]]),
    }
    for name, numbers in expected.items():
        np.testing.assert_array_equal(numbers.ravel(), load(name).ravel(), name)
        assert load(name).dtype == np.float32


@pytest.mark.parametrize(
    "change",
    [{"version": struct.pack("<I", 2)}, *({"alignment": 2**power} for power in (0, 3, 6, 16))],
    ids=str,
)
def test_versions_and_alignments_are_equal(change: dict[str, object], tmp_path: Path) -> None:
    """Version 2 and every alignment hold the same model."""
    plain, file = small_llama(), small_llama()
    for name, value in change.items():
        setattr(file, name, value)
    file.fields["general.alignment"] = struct.pack("<II", 4, file.alignment)
    first = read_gguf(plain.write(tmp_path / "plain.gguf"))
    second = read_gguf(file.write(tmp_path / "other.gguf"))

    assert first.spec == second.spec
    for name in ("embedding", "layers.0.q", "layers.0.down"):
        np.testing.assert_array_equal(first.load(name), second.load(name))


def test_sizes_may_have_any_integer_type(tmp_path: Path) -> None:
    """A size written in 8, 16 or 64 bits is the same size."""
    file = small_llama()
    file.fields["llama.block_count"] = struct.pack("<IB", 0, 1)
    file.fields["llama.embedding_length"] = struct.pack("<Ih", 3, 32)
    file.fields["llama.context_length"] = struct.pack("<Iq", 11, 64)

    assert read_gguf(file.write(tmp_path / "small.gguf")).spec.context_length == 64


@pytest.mark.parametrize("key", ["tokenizer.chat_template", "tokenizer.chat_template.tools"])
def test_nothing_of_templates_is_kept(key: str, tmp_path: Path) -> None:
    """A template may hold anything, even what is no text: no format of chats is found in it."""
    file = small_llama()
    field(key, string(b"\xff{{ cycler.__init__.__globals__.os.system('x') }}"))(file)
    path = file.write(tmp_path / "small.gguf")

    found = read_gguf(path)
    assert b"cycler" not in found.tokenizer_json
    assert found.chat_format == "none"


@pytest.mark.usefixtures("_no_hang")
@pytest.mark.parametrize("what", ["folder", "nothing", "pipe"])
def test_only_regular_files_are_read(what: str, tmp_path: Path) -> None:
    """A folder, no file and a pipe that nobody writes are refused at once."""
    path = tmp_path / what
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)

    with pytest.raises(ModelError, match="is not a file"):
        read_gguf(path)


def test_weights_are_multiplied_by_the_factor_beside_them(tmp_path: Path) -> None:
    """A number beside a weight is its factor; its input's is not the weight's affair."""
    file = small_llama()
    up = read_gguf(file.write(tmp_path / "small.gguf")).load("layers.0.up")
    for name, value in (("scale", 0.5), ("input_scale", 3.0)):
        number = Tensor((1,), struct.pack("<f", value))
        file.tensors[f"blk.0.ffn_up.{name}"] = number

    scaled = read_gguf(file.write(tmp_path / "scaled.gguf")).load("layers.0.up")
    np.testing.assert_array_equal(up / 2, scaled)


def test_rows_are_those_of_the_first_dimension(tmp_path: Path) -> None:
    """Of a vector numbers are asked for, of matrices as one whole matrices."""
    file = small_llama()
    values = np.random.default_rng(2).normal(size=(3, 4, 8)).astype("<f4")
    file.tensors["cube"] = Tensor(values.shape, values.tobytes())
    file.tensors["vector"] = Tensor((8,), values[0, 0].tobytes())
    tensors = check_gguf(file.write(tmp_path / "small.gguf")).tensors

    np.testing.assert_array_equal(values[1:3], load_weight(tensors["cube"], 1, 3))
    np.testing.assert_array_equal(values[0, 0, 2:5], load_weight(tensors["vector"], 2, 5))


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
