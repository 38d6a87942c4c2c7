"""Laws of GGUF import: what is forbidden, contradicts itself or is not computed is refused."""

import math
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gguf_changes import Change, field, more_fields, more_tensors, setting, tensor, without
from gguf_writing import (
    BOOL,
    F32,
    MERGES,
    TEXT,
    TOKENS,
    U8,
    U64,
    Gguf,
    Tensor,
    array,
    f32,
    i32s,
    numbers,
    small_llama,
    string,
    text,
    texts,
    u32,
)
from piece_files import BYTES, SPECIAL, WORDS, small_pieces

from aobatch.errors import ModelError
from aobatch.models.source.gguf_checkpoint import read_gguf

GAIN, GATE, Q = "output_norm.weight", "blk.0.ffn_gate.weight", "blk.0.attn_q.weight"
DOWN, K = "blk.0.ffn_down.weight", "blk.0.attn_k.weight"
HUGE = 2**64 - 1
HEADS, KV_HEADS = "llama.attention.head_count", "llama.attention.head_count_kv"
EPSILON, BASE = "llama.attention.layer_norm_rms_epsilon", "llama.rope.freq_base"
KINDS, LIST = "tokenizer.ggml.token_type", "tokenizer.ggml.tokens"
ADD_START, RULE = "tokenizer.ggml.add_bos_token", "tokenizer.ggml.pre"
SCORES, SCALING = "tokenizer.ggml.scores", "llama.rope.scaling"


def merges(*items: str | bytes) -> Change:
    """List these merges behind the right ones."""
    return field("tokenizer.ggml.merges", texts([*MERGES, *items]))


FORBIDDEN: dict[str, tuple[Change, str]] = {
    "other magic": (setting(magic=b"GGML"), "does not begin with GGUF"),
    "version 0": (setting(version=bytes(4)), "version 0"),
    "version 1": (setting(version=struct.pack("<I", 1)), "version 1"),
    "version 4": (setting(version=struct.pack("<I", 4)), "version 4"),
    "big-endian": (setting(version=struct.pack(">I", 3)), "big-endian"),
    "tensors 2^64-1": (setting(num_tensors=HUGE), "18446744073709551615 tensors"),
    "tensors 65537": (setting(num_tensors=65_537), "65537 tensors, at most 65536"),
    "tensors too many": (setting(num_tensors=12), "the name of a tensor"),
    "keys 2^63": (setting(num_fields=2**63), "9223372036854775808 keys"),
    "keys 65537": (setting(num_fields=65_537), "65537 keys, at most 65536"),
    "keys too many": (setting(num_fields=30), "a key states"),
    "keys too few": (setting(num_fields=3), "has a dimension"),
    "key empty": (more_fields(("", u32(1))), "key is empty"),
    "key long": (more_fields(("k" * 1025, u32(1))), "key states 1025 bytes"),
    "key twice": (more_fields(("a", u32(1)), ("a", u32(1))), "'a' is there twice"),
    "key not UTF-8": (more_fields((b"\xff\xfe", u32(1))), "key is not valid UTF-8"),
    "type 13": (more_fields(("a", struct.pack("<II", 13, 0))), "'a' has the unknown type 13"),
    "bool 2": (more_fields(("a", struct.pack("<IB", BOOL, 2))), "neither true nor false"),
    "text 2^63": (more_fields(("a", string("", 2**63))), "states 9223372036854775808 bytes"),
    "text 16 MiB": (more_fields(("a", string("", 2**24 + 1))), "states 16777217 bytes"),
    "text beyond end": (more_fields(("a", string("", 2**24))), "ends within the value of 'a'"),
    "text not UTF-8": (more_fields(("a", string(b"\xc3\x28"))), "'a' is not valid UTF-8"),
    "array 2^63": (more_fields(("a", array(U8, [], 2**63))), "ends within the value of 'a'"),
    "array 2^40": (more_fields(("a", array(U8, [], 2**40))), "ends within the value of 'a'"),
    "array wraps": (more_fields(("a", array(U64, [], 2**61))), "ends within the value of 'a'"),
    "array of type 13": (more_fields(("a", array(13, [], 1))), "array of the unknown type 13"),
    "array of arrays": (more_fields(("a", array(9, [u32(1)]))), "array of arrays"),
    "array of texts 2^61": (more_fields(("a", texts([], 2**61))), "more than the file can hold"),
    "texts too many": (more_fields(("a", texts([""], 200))), "the value of 'a' states \\d+ bytes"),
    "text in array": (more_fields(("a", array(TEXT, [text("", HUGE)]))), "bytes, at most"),
    "alignment 0": (field("general.alignment", u32(0)), "'general.alignment' has to be"),
    "alignment 24": (field("general.alignment", u32(24)), "power of two, and is 24"),
    "alignment 2^17": (field("general.alignment", u32(2**17)), "from 1 to 65536"),
    "alignment text": (field("general.alignment", string("32")), "and is '32'"),
    "name empty": (tensor(GAIN, written_name=text("")), "name of a tensor is empty"),
    "name long": (tensor(GAIN, written_name=text("n" * 129)), "states 129 bytes, at most 128"),
    "name 2^64-1": (tensor(GAIN, written_name=text("", HUGE)), "name of a tensor states"),
    "name not UTF-8": (tensor(GAIN, written_name=text(b"\x80")), "name of a tensor is not valid"),
    "name twice": (more_tensors((GAIN, numbers(32))), "'output_norm.weight' is there twice"),
    "rank 0": (tensor(GAIN, rank=0), "0 dimensions"),
    "rank 5": (tensor(GAIN, shape=(1, 1, 1, 1, 32)), "5 dimensions"),
    "rank 2^32-1": (tensor(GAIN, rank=2**32 - 1), "4294967295 dimensions"),
    "dimension 0": (tensor(GAIN, shape=(0,)), "not from 1 to"),
    "dimension 2^31+1": (tensor(GAIN, shape=(2**31 + 1,)), "not from 1 to"),
    "dimension 2^63-1": (tensor(GATE, shape=(2**63 - 1, 2)), "not from 1 to"),
    "overflow pair": (tensor(GATE, shape=(0x7FFFFFFFFFFFFFC0,) * 2), "not from 1 to"),
    "product 2^124": (tensor(GATE, shape=(2**31,) * 4), "out of proportion"),
    "product 2^32": (tensor(GATE, shape=(2**16, 2**16)), "out of proportion"),
    "beyond the data": (tensor(GATE, shape=(2**9, 2**9)), "beyond the end of the file"),
    "kind 99": (tensor(GAIN, kind=99), "type 99"),
    "kind given up": (tensor(GAIN, kind=4), "type 4, which is unknown or was given up"),
    "kind 2^32-1": (tensor(GAIN, kind=2**32 - 1), "type 4294967295"),
    "half a block": (tensor(Q, shape=(32, 16)), "rows of 16, not a multiple of 32"),
    "offset odd": (tensor(GAIN, offset=33), "not a multiple of 32"),
    "offset beyond": (tensor(GAIN, offset=2**20), "beyond the end of the file"),
    "offset wraps": (tensor(GAIN, offset=2**64 - 32), "beyond the end of the file"),
    "overlap": (tensor(GAIN, offset=0), "overlaps another one"),
    "data missing": (more_tensors(("x", Tensor((64,), bytes(128)))), "beyond the end"),
}

CONTRADICTORY: dict[str, tuple[Change, str]] = {
    "family unknown": (field("general.architecture", string("gpt9")), "'gpt9' is not supported"),
    "family a path": (field("general.architecture", string("../os")), "'../os' is not supported"),
    "family a number": (field("general.architecture", u32(1)), "printable text .* and is 1"),
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
    "head of 17": (field("llama.attention.key_length", u32(17)), "has to be 17, and is 16|pairs"),
    "value of 32": (field("llama.attention.value_length", u32(32)), "has to be 16, and is 32"),
    "turned 7": (field("llama.rope.dimension_count", u32(7)), "and 7 of their numbers are no pa"),
    "turned 18": (field("llama.rope.dimension_count", u32(18)), "from 2 to 16, and is 18"),
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

NOT_COMPUTED: dict[str, tuple[Change, str]] = {
    "experts": (field("llama.expert_count", u32(8)), "expert_used_count' is missing"),
    "softcap": (field("llama.final_logit_softcapping", f32(30)), "softcapping' is 30.0"),
    "both ways": (
        field("llama.attention.causal", struct.pack("<I?", BOOL, False)),
        "'llama.attention.causal' is supported only as True",
    ),
    "scaling": (field(f"{SCALING}.type", string("ntk")), "scaling 'ntk' is not supported"),
    "yarn": (field(f"{SCALING}.type", string("yarn")), "'factor' is missing"),
    "unknown": (field(f"{SCALING}.other", f32(0.1)), "'llama.rope.scaling.other' is 0.1"),
    "windows": (field("llama.attention.sliding_window_pattern", i32s([1, 0])), "which of 1 layers"),
    "negative divisors": (
        more_tensors(("rope_freqs.weight", Tensor((8,), np.full(8, -1, "<f4").tobytes()))),
        "'rope_freqs.weight' holds numbers below",
    ),
    "too many divisors": (more_tensors(("rope_freqs.weight", numbers(16))), r"shape \(16,\)"),
    "short divisors": (
        more_tensors(("rope_factors_short.weight", Tensor((8,), np.ones(8, "<f4").tobytes()))),
        "original_context_length' is missing",
    ),
    "adapter": (field("general.type", string("adapter")), "it is a LoRA adapter, which is no mod"),
    "pictures": (field("general.type", string("mmproj")), "it is the part .* that reads pictures"),
    "projector": (field("general.architecture", string("clip")), "take the file that has its text"),
    "encoder": (field("general.architecture", string("nomic-bert")), "embeds texts and completes"),
    "pooled": (field("llama.pooling_type", u32(3)), "a model that embeds texts and completes none"),
    "bias of another layer": (
        more_tensors(("blk.1.attn_q.bias", numbers(32))),
        "'blk.1.attn_q.bias' belongs to no model",
    ),
    "bias of another size": (
        more_tensors(("blk.0.attn_q.bias", numbers(16))),
        r"'blk.0.attn_q.bias' has shape \(16,\)",
    ),
}

WRONG_PIECES: dict[str, tuple[Change, str]] = {
    "no scores": (lambda file: file.fields.pop(SCORES), "scores' is missing"),
    "few scores": (
        field(SCORES, array(F32, [struct.pack("<f", 0)] * 3)),
        "not as many scores as tokens",
    ),
    "score NaN": (
        field(SCORES, array(F32, [struct.pack("<f", float("nan"))] * 274)),
        r"scores\[0\]' has to be a finite number, and is nan",
    ),
    "charsmap": (
        field("tokenizer.ggml.precompiled_charsmap", array(0, [b"x"] * 9)),
        "changes texts before it splits them",
    ),
    "no byte": (
        field(
            LIST,
            texts([name for name, _ in (*SPECIAL, *BYTES[1:])] + ["x", *WORDS]),
        ),
        "no token for byte 0",
    ),
    "long piece": (
        field(
            LIST,
            texts([name for name, _ in (*SPECIAL, *BYTES)] + ["x" * 257, *WORDS[1:]]),
        ),
        "longer than 256 characters",
    ),
}

CASES = {
    name: (make, *case)
    for make, cases in (
        (small_llama, FORBIDDEN | CONTRADICTORY | NOT_COMPUTED),
        (small_pieces, WRONG_PIECES),
    )
    for name, case in cases.items()
}
assert len(CASES) == sum(map(len, (FORBIDDEN, CONTRADICTORY, NOT_COMPUTED, WRONG_PIECES)))


@pytest.mark.usefixtures("_no_hang")
@pytest.mark.parametrize(("make", "change", "reason"), CASES.values(), ids=CASES)
def test_what_is_wrong_is_refused(
    make: Callable[[], Gguf], change: Change, reason: str, tmp_path: Path
) -> None:
    """Each way to be wrong gives one sentence with the file and the reason."""
    file = make()
    change(file)
    path = file.write(tmp_path / "bad.gguf")

    with pytest.raises(ModelError, match=reason) as caught:
        read_gguf(path)
    assert str(caught.value).startswith(str(path))
    assert str(caught.value).isprintable()


@pytest.mark.usefixtures("_no_hang")
def test_a_file_that_ends_anywhere_is_refused(tmp_path: Path) -> None:
    """No beginning of a file is taken for the whole."""
    content, path = small_llama().content().rstrip(b"\0"), tmp_path / "short.gguf"
    for length in [*range(0, 1700, 7), *range(1700, len(content), 509), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(ModelError, match=r"not a readable GGUF file"):
            read_gguf(path)


REQUIRED = [
    "general.architecture",
    *(f"llama.{key}" for key in ("block_count", "context_length", "embedding_length")),
    *("llama.feed_forward_length", HEADS, EPSILON),
    *(f"tokenizer.ggml.{key}" for key in ("model", "pre", "tokens", "token_type", "merges")),
    "tokenizer.ggml.eos_token_id",
]


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
