"""Ways of spoiling bytes. Each takes a generator of random numbers and gives the same for the same numbers."""

import random
import struct
from collections.abc import Callable

Mutator = Callable[[random.Random, bytes], bytes]

#: What lengths, counts and offsets are most likely to be wrong about.
_NUMBERS = (
    0, 1, 2, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x1_0000, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF,
    0x1_0000_0000, 0x7FFF_FFFF_FFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF,
)  # fmt: skip
_WORDS = (
    b"\0", b"\xff", b"\r", b"\n", b"\r\n", b'"', b'""', b",", b";", b"\t", b"{", b"}", b"[", b"]", b":", b"\\",
    b"\\u0000", b"\\ud800", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xc0\xaf", b"NaN", b"1e999", b"-inf", b"null", b"true",
    b"../", b"%2e%2e/", b"PK\1\2", b"PK\3\4", b"PK\5\6", b"PK\6\6", b"PAR1", b"\x1f\x8b\x08", b"IHDR", b"IDAT",
    b"\xff\xd8", b"\xff\xda", b"RIFF", "\u202e".encode(), "é".encode(), b"x" * 500, b"9" * 400,
)  # fmt: skip


def flip_bits(chance: random.Random, data: bytes) -> bytes:
    spoilt = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        if spoilt:
            spoilt[chance.randrange(len(spoilt))] ^= 1 << chance.randrange(8)
    return bytes(spoilt)


def replace_bytes(chance: random.Random, data: bytes) -> bytes:
    start, length = _place(chance, data)
    return data[:start] + chance.randbytes(length) + data[start + length :]


def cut_off(chance: random.Random, data: bytes) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


def cut_out(chance: random.Random, data: bytes) -> bytes:
    start, length = _place(chance, data)
    return data[:start] + data[start + length :]


def repeat(chance: random.Random, data: bytes) -> bytes:
    start, length = _place(chance, data)
    times = chance.choice((2, 3, 10, 100))
    return data[:start] + data[start : start + length] * times + data[start + length :]


def swap(chance: random.Random, data: bytes) -> bytes:
    """Two parts change places."""
    first, second, third = sorted(chance.randrange(len(data) + 1) for _ in range(3))
    return data[:first] + data[second:third] + data[first:second] + data[third:]


def set_number(chance: random.Random, data: bytes) -> bytes:
    """An integer of one to eight bytes, of either order, becomes one that is easily got wrong."""
    size = chance.choice((1, 2, 4, 4, 8))
    value = chance.choice(_NUMBERS) + chance.choice((0, 0, 1, -1))
    written = struct.pack(chance.choice("<>") + "Q", value % 2**64)
    kept = written[:size] if chance.random() < 0.5 else written[-size:]
    start = _edge(chance, len(data))
    return data[:start] + kept + data[start + size :]


def nudge_number(chance: random.Random, data: bytes) -> bytes:
    """A byte becomes a little more or less."""
    if not data:
        return data
    spoilt = bytearray(data)
    at = _edge(chance, len(data) - 1)
    spoilt[at] = (spoilt[at] + chance.choice((-2, -1, 1, 2, 16, 128))) % 256
    return bytes(spoilt)


def insert_word(chance: random.Random, data: bytes) -> bytes:
    at = chance.randrange(len(data) + 1)
    return data[:at] + chance.choice(_WORDS) * chance.choice((1, 1, 1, 5, 200)) + data[at:]


def overwrite_word(chance: random.Random, data: bytes) -> bytes:
    at, word = chance.randrange(len(data) + 1), chance.choice(_WORDS)
    return data[:at] + word + data[at + len(word) :]


MUTATORS: tuple[Mutator, ...] = (
    flip_bits, flip_bits, replace_bytes, cut_off, cut_out, repeat, swap, set_number, set_number, nudge_number,
    insert_word, overwrite_word,
)  # fmt: skip


def mutated(chance: random.Random, data: bytes) -> tuple[bytes, list[str]]:
    """`data` after one to four of these, and their names."""
    chosen = [chance.choice(MUTATORS) for _ in range(chance.choice((1, 1, 1, 2, 4)))]
    for mutator in chosen:
        data = mutator(chance, data)
    return data, [mutator.__name__ for mutator in chosen]


def spliced(chance: random.Random, first: bytes, second: bytes) -> bytes:
    """The beginning of one and the end of another."""
    return first[: chance.randrange(len(first) + 1)] + second[chance.randrange(len(second) + 1) :]


def _place(chance: random.Random, data: bytes) -> tuple[int, int]:
    start = chance.randrange(len(data) + 1)
    return start, min(len(data) - start, chance.choice((1, 2, 8, 64, 512)))


def _edge(chance: random.Random, size: int) -> int:
    """A place, half of the time near the start or the end, where headers, directories and footers stand."""
    near = min(size, 128)
    if chance.random() < 0.5:
        return chance.randrange(size + 1)
    return chance.randrange(near + 1) if chance.random() < 0.5 else size - chance.randrange(near + 1)
