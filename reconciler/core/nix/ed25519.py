"""Ed25519 signatures checked by the standard library alone (RFC 8032, section 5.1).

    a point      (x, y) on -x² + y² = 1 + d·x²·y² modulo p = 2^255 - 19; 32 bytes: y, little-endian, x's parity on top
    a public key the point A; a signature: R ‖ S, where S is a number below L, the order of the base point B
    right        iff the 32 bytes of S·B - h·A are those of R, h = SHA-512(R ‖ A ‖ message) modulo L

As strict as libsodium, which Nix verifies with: what has a second spelling (S of L or more, a coordinate of p or more)
and points of small order are refused, so that nobody can make another signature, or another key, of a right one.
Nothing here is secret: it only verifies, and may take whatever time the numbers take. (A few milliseconds.)
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

KEY_LENGTH = 32
SIGNATURE_LENGTH = 64

_P = 2**255 - 19
_L = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, _P - 2, _P) % _P
_D2 = 2 * _D % _P
_ROOT_OF_MINUS_ONE = pow(2, (_P - 1) // 4, _P)
_WINDOW = 5  # bits of a scalar that one addition covers

if TYPE_CHECKING:
    Point = tuple[int, int, int, int]  # (X, Y, Z, T): x = X/Z, y = Y/Z, x·y = T/Z
_ZERO: Point = (0, 1, 1, 0)


def verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` (64 bytes) is the one that the owner of the key `public` (32 bytes) made of `message`.

    False for anything else, whatever its length.
    """
    if len(public) != KEY_LENGTH or len(signature) != SIGNATURE_LENGTH:
        return False
    scalar = int.from_bytes(signature[32:], "little")
    key = _key(bytes(public))
    if key is None or scalar >= _L or _point(signature[:32]) is None:
        return False
    import hashlib  # loads OpenSSL: only where something is verified

    digest = hashlib.sha512(signature[:32] + public + message).digest()
    challenge = int.from_bytes(digest, "little") % _L
    return _encode(_combine(scalar, challenge, key)) == signature[:32]


@lru_cache(maxsize=32)
def _key(public: bytes) -> tuple[Point, ...] | None:
    """The odd multiples of -A; None when `public` is no point, or one of small order."""
    point = _point(public)
    if point is None:
        return None
    x, y, z, t = point
    return _odd_multiples((_P - x, y, z, _P - t))


def _point(data: bytes) -> Point | None:
    """The point that these 32 bytes are; None when they are none, are not its only spelling, or its order is small."""
    number = int.from_bytes(data, "little")
    y, odd = number & (2**255 - 1), number >> 255
    if y >= _P:
        return None
    x = _root((y * y - 1) % _P, (_D * y * y + 1) % _P)
    if x is None or (x == 0 and odd):
        return None
    if x & 1 != odd:
        x = _P - x
    point = (x, y, 1, x * y % _P)
    small = _double(_double(_double(point)))
    return None if small[0] == 0 and small[1] == small[2] else point


def _root(u: int, v: int) -> int | None:
    """A square root of u/v; None when there is none."""
    x = u * pow(v, 3, _P) * pow(u * pow(v, 7, _P) % _P, (_P - 5) // 8, _P) % _P
    square = v * x * x % _P
    if square == u:
        return x
    return x * _ROOT_OF_MINUS_ONE % _P if square == _P - u else None


def _encode(point: Point) -> bytes:
    x, y, z, _ = point
    inverse = pow(z, _P - 2, _P)
    number = y * inverse % _P | (x * inverse % _P & 1) << 255
    return number.to_bytes(32, "little")


def _add(one: Point, other: Point) -> Point:
    x1, y1, z1, t1 = one
    x2, y2, z2, t2 = other
    a = (y1 - x1) * (y2 - x2) % _P
    b = (y1 + x1) * (y2 + x2) % _P
    c = t1 * t2 % _P * _D2 % _P
    d = 2 * z1 * z2
    e, f, g, h = b - a, d - c, d + c, b + a
    return (e * f % _P, g * h % _P, f * g % _P, e * h % _P)


def _double(point: Point) -> Point:
    x, y, z, _ = point
    a, b = x * x, y * y
    h = a + b
    e = h - (x + y) * (x + y)
    g = a - b
    f = (2 * z * z + g) % _P
    e, g, h = e % _P, g % _P, h % _P
    return (e * f % _P, g * h % _P, f * g % _P, e * h % _P)


def _negated(point: Point) -> Point:
    x, y, z, t = point
    return (_P - x, y, z, _P - t)


def _odd_multiples(point: Point) -> tuple[Point, ...]:
    """1, 3, 5, … times the point: as many as a digit of _digits may name."""
    twice = _double(point)
    found = [point]
    while len(found) < 1 << (_WINDOW - 2):
        found.append(_add(found[-1], twice))
    return tuple(found)


_BASE_Y = 4 * pow(5, _P - 2, _P) % _P


@lru_cache(maxsize=1)
def _base() -> tuple[Point, ...]:
    """The odd multiples of B: the point with y = 4/5 and an even x."""
    point = _point(_BASE_Y.to_bytes(32, "little"))
    assert point is not None
    return _odd_multiples(point)


def _digits(scalar: int) -> list[int]:
    """The scalar as digits of odd numbers and many zeros, the least significant first (its non-adjacent form)."""
    digits = []
    while scalar:
        digit = 0
        if scalar & 1:
            digit = scalar & ((1 << _WINDOW) - 1)
            if digit >> (_WINDOW - 1):
                digit -= 1 << _WINDOW
            scalar -= digit
        digits.append(digit)
        scalar >>= 1
    return digits


def _combine(scalar: int, challenge: int, key: tuple[Point, ...]) -> Point:
    """scalar·B + challenge·(-A), both at once: their doublings are shared."""
    pairs = [(_digits(scalar), _base()), (_digits(challenge), key)]
    total = _ZERO
    for place in range(max(len(digits) for digits, _ in pairs) - 1, -1, -1):
        total = _double(total)
        for digits, multiples in pairs:
            digit = digits[place] if place < len(digits) else 0
            if digit:
                multiple = multiples[abs(digit) >> 1]
                total = _add(total, multiple if digit > 0 else _negated(multiple))
    return total
