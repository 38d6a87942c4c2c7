"""A process that imports damaged GGUF files one after the other, and dies of what goes wrong."""

import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "damage"))

import numpy as np
from damaged_files import try_seeds
from gguf_writing import Gguf, small_llama

from aobatch.errors import AobatchError
from aobatch.models.source.decoder import decoder_shapes
from aobatch.models.source.gguf_checkpoint import read_gguf
from aobatch.models.tokenizer import VocabularyTokenizer

LENGTHS = (0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)


def mutated(file: Gguf, seed: int) -> bytes:
    """Damage a file in one of four ways, mostly ahead of the numbers."""
    chance = random.Random(seed)
    data, header = bytearray(file.content()), len(file.header())
    damage = (flip, shorten, overstate, splice)[seed % 4]
    for _ in range(chance.choice((1, 1, 1, 3))):
        # Nearly all that can go wrong does so in the header, which is a small part of the file.
        damage(data, header if chance.random() < 0.8 else len(data), chance)
    return bytes(data)


def flip(data: bytearray, end: int, chance: random.Random) -> None:
    """Change some bytes."""
    for _ in range(chance.randint(1, 4)):
        data[chance.randrange(min(end, len(data)))] ^= 1 << chance.randrange(8)


def shorten(data: bytearray, end: int, chance: random.Random) -> None:
    """Cut off the end, and sometimes put zeros in its place."""
    length = len(data)
    del data[chance.randrange(1, end) :]
    if chance.random() < 0.5:
        data.extend(bytes(length - len(data)))


def overstate(data: bytearray, end: int, chance: random.Random) -> None:
    """Put a wrong number where a small one is, as lengths, counts, types and sizes are."""
    size = chance.choice((4, 8))
    zeros = bytes(size - 2)
    places = [i for i in range(4, end - size) if data[i + 2 : i + size] == zeros]
    place = chance.choice(places or [4])
    number = chance.choice(LENGTHS) % 256**size
    data[place : place + size] = number.to_bytes(size, "little")


def splice(data: bytearray, end: int, chance: random.Random) -> None:
    """Copy, insert or take out a piece."""
    start, goal = chance.randrange(end), chance.randrange(end)
    length = chance.randint(1, 64)
    piece = data[start : start + length]
    replaced = chance.choice((0, len(piece)))
    data[goal : goal + replaced] = chance.choice((piece, piece, b""))


def attempt(path: Path) -> str:
    """Import a file as conversion does, and say with which outcome."""
    try:
        checkpoint = read_gguf(path)
        for name, shape in decoder_shapes(checkpoint.spec).items():
            weight = checkpoint.load(name)
            assert weight.shape == shape
            assert np.isfinite(weight).all()
        tokenizer = path.with_suffix(".json")
        tokenizer.write_bytes(checkpoint.tokenizer_json)
        VocabularyTokenizer(tokenizer, checkpoint.spec.vocab_size).encode("abcde <|endoftext|>")
    except AobatchError as error:
        return type(error).__name__ if str(error).isprintable() else "not printable"
    return "read"


def main(folder: str, first: str, count: str) -> None:
    """Try seeds, and say what became of each."""
    path = Path(folder) / "mutated.gguf"

    def attempt_seed(seed: int) -> str:
        path.write_bytes(mutated(small_llama(), seed))
        return attempt(path)

    path.write_bytes(small_llama().content())
    attempt(path)  # loads what is imported late
    try_seeds(int(first), int(count), attempt_seed)


if __name__ == "__main__":
    main(*sys.argv[1:])
