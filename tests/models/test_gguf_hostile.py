"""Laws of GGUF import: sizes, weights and vocabulary that contradict each other are refused."""

import math
import struct
from pathlib import Path

import pytest
from gguf_changes import Change, field, more_tensors, tensor, without
from gguf_writing import (
    BOOL,
    MERGES,
    TOKENS,
    array,
    f32,
    i32s,
    numbers,
    small_llama,
    string,
    texts,
    u32,
)

from aobatch.errors import ModelError
from aobatch.models.source.gguf_checkpoint import read_gguf

HEADS, KV_HEADS = "llama.attention.head_count", "llama.attention.head_count_kv"
EPSILON, BASE = "llama.attention.layer_norm_rms_epsilon", "llama.rope.freq_base"
KINDS, LIST = "tokenizer.ggml.token_type", "tokenizer.ggml.tokens"
ADD_START, RULE = "tokenizer.ggml.add_bos_token", "tokenizer.ggml.pre"
GAIN, DOWN, K = "output_norm.weight", "blk.0.ffn_down.weight", "blk.0.attn_k.weight"


def merges(*items: str | bytes) -> Change:
    """List these merges behind the right ones."""
    return field("tokenizer.ggml.merges", texts([*MERGES, *items]))


CASES: dict[str, tuple[Change, str]] = {
    "family unknown": (field("general.architecture", string("gpt9")), "'gpt9' is not supported"),
    "family a path": (field("general.architecture", string("../os")), "'../os' is not supported"),
    "family a number": (field("general.architecture", u32(1)), "printable text .* and is 1"),
    "name with escapes": (field("general.name", string("\x1b[2J")), "'general.name' has to be"),
    "name long": (field("general.name", string("n" * 257)), "'general.name' has to be"),
    "licence very long": (field("general.license", string("n" * 5000)), "a text of 5000 bytes"),
    "layers 0": (field("llama.block_count", u32(0)), "integer from 1 to 512, and is 0"),
    "layers 513": (field("llama.block_count", u32(513)), "and is 513"),
    "layers 2^32-1": (field("llama.block_count", u32(2**32 - 1)), "and is 4294967295"),
    "layers negative": (field("llama.block_count", struct.pack("<Ii", 5, -1)), "and is -1"),
    "layers float": (field("llama.block_count", f32(1)), "and is 1.0"),
    "layers bool": (field("llama.block_count", struct.pack("<I?", BOOL, True)), "and is True"),
    "layers text": (field("llama.block_count", string("1")), "and is '1'"),
    "layers array": (field("llama.block_count", i32s([1])), "and is an array of 1 numbers"),
    "layers too many": (field("llama.block_count", u32(2)), "'blk.1.attn_norm.weight' is missing"),
    "heads 0": (field(HEADS, u32(0)), "head_count' has to be an integer from 1"),
    "heads 3 for 2": (field(KV_HEADS, u32(3)), "2 heads of queries cannot share 3"),
    "kv heads 0": (field(KV_HEADS, u32(0)), "head_count_kv' has to be an integer from 1"),
    "head of 8": (field("llama.attention.key_length", u32(8)), "integer from 16 .* and is 8"),
    "head of 24": (field("llama.attention.key_length", u32(24)), "24 is no multiple of 16"),
    "value of 32": (field("llama.attention.value_length", u32(32)), "has to be 16, and is 32"),
    "part rotated": (field("llama.rope.dimension_count", u32(8)), "has to be 16, and is 8"),
    "width 64": (field("llama.embedding_length", u32(64)), "'token_embd.weight' has shape"),
    "width 2^17": (field("llama.embedding_length", u32(2**17)), "from 1 to 65536"),
    "inner width": (field("llama.feed_forward_length", u32(32)), "ffn_gate.weight' has shape"),
    "context 0": (field("llama.context_length", u32(0)), "context_length' has to be"),
    "context 2^24+1": (field("llama.context_length", u32(2**24 + 1)), "context_length' has to be"),
    "context 2^24": (field("llama.context_length", u32(2**24)), "16777216 is out of proportion"),
    "epsilon 0": (field(EPSILON, f32(0)), "rms_epsilon' has to be a number"),
    "epsilon negative": (field(EPSILON, f32(-1e-5)), "rms_epsilon' has to be a number"),
    "epsilon NaN": (field(EPSILON, f32(math.nan)), "and is nan"),
    "base infinite": (field(BASE, f32(math.inf)), "freq_base' has to be a number .* and is inf"),
    "base 0": (field(BASE, f32(0)), "freq_base' has to be a number"),
    "base text": (field(BASE, string("10000")), "and is '10000'"),
    "weight missing": (without(DOWN), "'blk.0.ffn_down.weight' is missing"),
    "embedding missing": (without("token_embd.weight"), "'token_embd.weight' is missing"),
    "weight turned": (tensor(DOWN, shape=(64, 32)), r"shape \(64, 32\), .* to be \(32, 64\)"),
    "weight of rank 1": (tensor(DOWN, shape=(2048,)), r"shape \(2048,\)"),
    "gain of rank 2": (tensor(GAIN, shape=(1, 32)), r"has shape \(1, 32\)"),
    "heads of keys": (tensor(K, shape=(8, 64)), "'blk.0.attn_k.weight' has shape"),
    "head of others": (more_tensors(("output.weight", numbers(11, 32))), r"shape \(11, 32\)"),
    "weight unknown": (more_tensors(("rope_freqs.bias", numbers(8))), "belongs to no model"),
    "vocabulary other": (field("tokenizer.ggml.model", string("bert")), "'bert' is not supp"),
    "rule unknown": (field(RULE, string("x")), "splitting rule 'x' is not supported"),
    "tokens a text": (field(LIST, string("abc")), "tokens' has to be an array, and is 'abc'"),
    "tokens numbers": (field(LIST, i32s([1, 2])), "tokens.0.' has to be a text, and is 1"),
    "tokens none": (field(LIST, texts([])), "there are no tokens"),
    "tokens too many": (field(LIST, texts([*TOKENS, "h"])), "more tokens than the 12 rows"),
    "token twice": (field(LIST, texts([*TOKENS[:-1], "a"])), "'a' has two ids, 1 and 11"),
    "token no bytes": (field(LIST, texts([*TOKENS[:-1], "春"])), "does not stand for bytes"),
    "token not UTF-8": (field(LIST, texts([*TOKENS[:-1], b"\xff"])), "tokens' is not valid UTF-8"),
    "kinds short": (field(KINDS, i32s([3, 1])), "not as many types of tokens"),
    "kinds long": (field(KINDS, i32s([3, *[1] * 12])), "not as many types of tokens"),
    "kinds texts": (field(KINDS, texts(["3"])), "token_type.0.' has to be an integer"),
    "kind 7": (field(KINDS, i32s([3, *[7] * 11])), "token_type.1.' has to be an integer"),
    "kind 2^63": (field(KINDS, array(10, [struct.pack("<Q", 2**63)] * 12)), "and is 92233"),
    "merge of one": (merges("ab"), "merge 'ab' is not of two tokens"),
    "merge of three": (merges("a b c"), "merge 'a b c' is not of two tokens"),
    "merge of none": (merges(" "), "merge ' ' is not of two tokens"),
    "merge of strangers": (merges("a z"), "merge 'a z' is not of two tokens"),
    "merge to nothing": (merges("f g"), "merge 'f g' is not of two tokens that make a third"),
    "merges numbers": (field("tokenizer.ggml.merges", i32s([1])), "merges.0.' has to be a text"),
    "end 12": (field("tokenizer.ggml.eos_token_id", u32(12)), "eos_token_id' has to be .* 0 to 11"),
    "start 2^32-1": (field("tokenizer.ggml.bos_token_id", u32(2**32 - 1)), "and is 4294967295"),
    "infill 12": (field("tokenizer.ggml.fim_pre_token_id", u32(12)), "fim_pre_token_id' has to"),
    "start flag": (field(ADD_START, u32(1)), "add_bos_token' has to be true or false"),
}

REQUIRED = [
    "general.architecture",
    *(f"llama.{key}" for key in ("block_count", "context_length", "embedding_length")),
    *("llama.feed_forward_length", HEADS, EPSILON),
    *(f"tokenizer.ggml.{key}" for key in ("model", "pre", "tokens", "token_type", "merges")),
    "tokenizer.ggml.eos_token_id",
]


@pytest.mark.usefixtures("_no_hang")
@pytest.mark.parametrize("case", CASES)
def test_what_contradicts_itself_is_refused(case: str, tmp_path: Path) -> None:
    """Each contradiction gives one sentence with the file and the reason."""
    change, reason = CASES[case]
    file = small_llama()
    change(file)
    path = file.write(tmp_path / "bad.gguf")

    with pytest.raises(ModelError, match=reason) as caught:
        read_gguf(path)
    assert str(caught.value).startswith(f"{path}")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("key", REQUIRED)
def test_a_missing_key_is_named(key: str, tmp_path: Path) -> None:
    """A file that lacks what has no default says which key it lacks."""
    file = small_llama()
    without(key)(file)
    path = file.write(tmp_path / "bad.gguf")

    with pytest.raises(ModelError, match=f"'{key}' is missing"):
        read_gguf(path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param({"kind": 1, "data": b"\0\x7e" * 32}, "not finite", id="NaN"),
        pytest.param({"data": struct.pack("<32f", *[math.inf] * 32)}, "not finite", id="inf"),
        pytest.param({"kind": 26}, "type I32, not supported", id="I32"),
        pytest.param({"kind": 28, "data": bytes(256)}, "type F64, not supported", id="F64"),
    ],
)
def test_weights_that_cannot_be_used_are_refused(
    change: dict[str, object], reason: str, tmp_path: Path
) -> None:
    """Numbers that are not finite, and types that nobody dequantises, become no weights."""
    file = small_llama()
    tensor(GAIN, **change)(file)
    path = file.write(tmp_path / "bad.gguf")
    checkpoint = read_gguf(path)

    with pytest.raises(ModelError, match=f"'{GAIN}' .*{reason}"):
        checkpoint.load("final_norm")


def test_a_file_that_shrinks_after_it_was_checked_is_refused(tmp_path: Path) -> None:
    """Weights are read with the same care as the header."""
    path = tmp_path / "shrinking.gguf"
    path.write_bytes(small_llama().content())
    checkpoint = read_gguf(path)
    path.write_bytes(path.read_bytes()[:2000])

    with pytest.raises(ModelError, match="ends within"):
        checkpoint.load("layers.0.down")
