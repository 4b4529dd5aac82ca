"""Ways to spoil the bytes of a good file, as a fuzzer does: flips, cuts, copies, and what parsers trip over."""

import random

NASTY = (  # text that has hurt parsers
    b"\x1b[31m\x07",
    b"\x00",
    "\u202e\u2028".encode(),
    b"\xed\xa0\x80",  # half a surrogate pair
    b"\xff\xfe",
    b"../../../etc/passwd",
    b"/dev/zero",
    b"-1",
    b"1e999",
    b"NaN",
    b"-Infinity",
    b"9" * 400,
    b"9" * 5000,
    b"[" * 3000,
    b'{"a":' * 3000,
    b"null",
    b"true",
    b"no",
    b'""',
    b'"',
    b"\\ud800",
    b"\n",
    b"\r\n",
    b"\t",
    b",",
    b"<!DOCTYPE x [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;'>]>",
    b"&b;",
    b"!!python/object/apply:os.abort []",
    b"&a [*a, *a]",
    b"<<: *a",
    b"? ",
)
BOMB = b"a: &a [x,x,x,x,x,x,x,x,x,x]\n" + b"".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 10)}]\n".encode() for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)  # a gigabyte, if a list of lists is written out
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF, 0x10000000)
HEADER = 128  # bytes in which most containers state their sizes


def spoil(content: bytes, chance: random.Random) -> bytes:
    """The content after one to four mutations."""
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        content = chance.choice(WAYS)(content, chance)
    return content


def _flip(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content or b"\0")
    changed[_place(changed, chance)] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _claim(content: bytes, chance: random.Random) -> bytes:
    """Another size, count, rate or offset: two, four or eight bytes at once, in both orders."""
    size = chance.choice((2, 4, 4, 4, 8))
    value = chance.choice(EXTREMES) % (1 << (8 * size))
    place = _place(content, chance)
    return content[:place] + value.to_bytes(size, chance.choice(("little", "big"))) + content[place + size :]


def _cut(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randint(0, len(content))]


def _lose(content: bytes, chance: random.Random) -> bytes:
    start = _place(content, chance)
    return content[:start] + content[start + chance.randint(1, 64) :]


def _repeat(content: bytes, chance: random.Random) -> bytes:
    start = _place(content, chance)
    piece = content[start : start + chance.randint(1, 200)]
    return content[:start] + piece * chance.choice((2, 2, 50)) + content[start:]


def _swap(content: bytes, chance: random.Random) -> bytes:
    first, second = sorted((_place(content, chance), _place(content, chance)))
    return content[second:] + content[first:second] + content[:first]


def _nasty(content: bytes, chance: random.Random) -> bytes:
    start = _place(content, chance)
    return content[:start] + chance.choice(NASTY) + content[start + chance.choice((0, 1, 4)) :]


def _bomb(content: bytes, chance: random.Random) -> bytes:
    return content + b"\n" + BOMB


WAYS = (_flip, _flip, _claim, _claim, _cut, _lose, _repeat, _swap, _nasty, _nasty, _bomb)


def _place(content: bytes, chance: random.Random) -> int:
    """A place in the content, half of the time in its header."""
    end = max(1, len(content))
    return chance.randrange(min(HEADER, end) if chance.random() < 0.5 else end)
