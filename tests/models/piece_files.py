"""A valid GGUF file whose vocabulary is one of pieces."""

import random
import struct

from gguf_writing import BOOL, F32, Gguf, array, i32s, quantised, small_llama, string, texts, u32
from gguf_writing import Q8_0 as BLOCKS

NORMAL, UNKNOWN, CONTROL, USER, BYTE = 1, 2, 3, 4, 6
WORDS = ["▁", "a", "b", "c", "é", "ab", "bc", "▁a", "abc", "▁ab", "ca", "aa", "▁▁", "aaa"]
SPECIAL = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL), ("<tool>", USER)]
BYTES = [(f"<0x{byte:02X}>", BYTE) for byte in range(256)]


def scores(seed: int) -> dict[str, float]:
    """Give each word a score of its own, in an order of chance."""
    order = random.Random(seed).sample(WORDS, len(WORDS))
    return {word: -float(index) for index, word in enumerate(order)}


def small_pieces(seed: int = 0, *, adds_space: bool = False) -> Gguf:
    """Give a valid model whose vocabulary is one of pieces."""
    file = small_llama()
    score = scores(seed)
    listed = [*SPECIAL, *BYTES, *((word, NORMAL) for word in WORDS)]
    for key in ("pre", "merges"):
        del file.fields[f"tokenizer.ggml.{key}"]
    numbers = [struct.pack("<f", score.get(token, 0.0)) for token, _ in listed]
    file.fields |= {
        "tokenizer.ggml.model": string("llama"),
        "tokenizer.ggml.tokens": texts([token for token, _ in listed]),
        "tokenizer.ggml.token_type": i32s([kind for _, kind in listed]),
        "tokenizer.ggml.scores": array(F32, numbers),
        "tokenizer.ggml.bos_token_id": u32(1),
        "tokenizer.ggml.eos_token_id": u32(2),
        "tokenizer.ggml.add_space_prefix": struct.pack("<I?", BOOL, adds_space),
    }
    del file.fields["tokenizer.ggml.add_bos_token"]
    file.tensors["token_embd.weight"] = quantised(len(listed), 32, kind=BLOCKS)
    return file
