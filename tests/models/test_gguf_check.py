"""Laws of the check of GGUF files: what the format forbids is refused in one sentence, at once."""

import struct
from pathlib import Path

import pytest
from gguf_changes import Change, field, more_fields, more_tensors, setting, tensor
from gguf_writing import (
    BOOL,
    TEXT,
    U8,
    U64,
    Tensor,
    array,
    numbers,
    small_llama,
    string,
    text,
    texts,
    u32,
)

from aobatch.errors import ModelError
from aobatch.models.source.gguf_checkpoint import read_gguf

GAIN, GATE, Q = "output_norm.weight", "blk.0.ffn_gate.weight", "blk.0.attn_q.weight"
HUGE = 2**64 - 1

CASES: dict[str, tuple[Change, str]] = {
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


@pytest.mark.usefixtures("_no_hang")
@pytest.mark.parametrize("case", CASES)
def test_what_the_format_forbids_is_refused(case: str, tmp_path: Path) -> None:
    """Each way to be wrong gives one sentence with the file and the reason."""
    change, reason = CASES[case]
    file = small_llama()
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
