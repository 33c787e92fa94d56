"""Where the randomness of private training comes from.

`SystemNoise` is the only source that gives privacy. It has no seed: every object draws a 256-bit
key from the operating system and expands it with AES-256-CTR. `NonPrivateForTests` repeats bit by
bit, which tests and simulations need and privacy forbids: its epsilon is infinite.

Floating-point attacks. A float64 Gaussian takes only some of the float64 values, and which sums
`x + noise` can occur tells something about `x` (Mironov 2012; Jin et al. 2112.05307; Holohan and
Braghin, 2107.10138). Two measures are taken, neither of them a proof:

1. every number is the sum of 2 n = 4 independent draws over 2 (n = 2, as in Opacus' `secure_mode`:
   whoever wants to undo it has to search over combinations of draws instead of single ones), and
   each draw is the cosine branch of its own Box-Muller pair; the sine branch is thrown away;
2. the caller (`shared_model.privacy.noisy_mean`) adds the noise in float64 and then rounds to a
   public power-of-two grid of at most std * 2**-20, which is post-processing and removes the low
   bits in which the holes of the float64 Gaussian lie.

Cost: four draws for one number. Limit: the law differs from the real Gaussian by the rounding of
53-bit arithmetic and by a tail cut at about 19 standard deviations. An exact integer mechanism
(discrete Gaussian, 2004.00010) comes with the secure sum's `distributed` mode.
"""

from __future__ import annotations

import os
import secrets
from fractions import Fraction
from typing import ClassVar, NoReturn, Protocol

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from shared_model.canonical import digest_of
from shared_model.errors import OurMistake

_CHUNK = 1 << 16
"""Numbers made at once: bounds memory to a few MB."""
_DRAWS = 4
"""Draws summed into one number: 2 n with n = 2."""


class NoiseSource(Protocol):
    """Everything random in one round of local training."""

    @property
    def private(self) -> bool:
        """True only if nobody, the hospital included, can repeat or predict the draws."""

    @property
    def name(self) -> str:
        """What the spend table and the console call it."""

    def normal(self, count: int, std: float) -> np.ndarray:
        """float64 (count,), independent N(0, std^2)."""

    def poisson_sample(self, count: int, rate: float) -> np.ndarray:
        """int64 indices below `count`, ascending; each is in with probability `rate`."""

    def public_generator(self) -> np.random.Generator:
        """For choices the guarantee does not rest on: patch masks, which segments of a patient."""

    def rounding_seed(self) -> bytes:
        """32 bytes for the stochastic rounding of this round's update; for nothing else."""


class SystemNoise:
    """Noise that gives privacy: AES-256-CTR keyed with 32 fresh bytes of the operating system.

    One object serves one round. It cannot be copied, pickled, or used in a process other than
    the one that made it: two users of one stream would draw equal noise, and the difference of
    two updates with equal noise is bare data.

    Edges:
        `std` 0 is refused (no noise is no mechanism), and so is a std outside 1e-12 ... 1e12, far
        from the smallest and largest float64;
        a patient's probability of being sampled is floor(rate * 2**64) / 2**64 <= rate, rate 1
        takes all; `count` 0 gives an empty array.
    """

    private: ClassVar[bool] = True
    name: ClassVar[str] = "system entropy, AES-256-CTR"

    def __init__(self) -> None:
        self._process = os.getpid()
        cipher = Cipher(algorithms.AES256(os.urandom(32)), modes.CTR(bytes(16)))
        self._stream = cipher.encryptor()

    def __reduce__(self) -> NoReturn:
        raise OurMistake("A noise source cannot be copied or stored.", do="Make a new one.")

    def __repr__(self) -> str:
        return "SystemNoise()"

    def normal(self, count: int, std: float) -> np.ndarray:
        """float64 (count,), independent N(0, std^2); never the same twice."""
        _check_count(count)
        if not 1e-12 <= std <= 1e12:
            raise OurMistake("The noise's standard deviation must be in 1e-12 ... 1e12.")
        result = np.empty(count, dtype=np.float64)
        for start in range(0, count, _CHUNK):
            part = result[start : start + _CHUNK]
            part[:] = 0.0
            for _ in range(_DRAWS):
                part += self._box_muller(part.size)
        result *= std / np.sqrt(_DRAWS)
        return result

    def poisson_sample(self, count: int, rate: float) -> np.ndarray:
        """int64 indices: each of 0 ... count - 1 independently with probability `rate`."""
        _check_count(count)
        threshold = _threshold(rate)
        draws = self._uint64(count)
        if threshold >= 1 << 64:
            return np.arange(count, dtype=np.int64)
        return np.flatnonzero(draws < np.uint64(threshold)).astype(np.int64)

    def public_generator(self) -> np.random.Generator:
        """A PCG64 keyed with fresh bytes of the operating system, apart from the noise stream."""
        return np.random.Generator(np.random.PCG64(secrets.randbits(256)))

    def rounding_seed(self) -> bytes:
        """32 fresh bytes of the operating system."""
        return os.urandom(32)

    def _uint64(self, count: int) -> np.ndarray:
        if os.getpid() != self._process:
            raise OurMistake(
                "A noise source was carried into another process.",
                do="Make the noise source in the process that uses it.",
            )
        return np.frombuffer(self._stream.update(bytes(8 * count)), dtype="<u8")

    def _box_muller(self, count: int) -> np.ndarray:
        words = self._uint64(2 * count)
        # (0, 1]: the smallest value, 2**-65, bounds one draw at 9.5 standard deviations
        radius = (words[:count].astype(np.float64) + 0.5) * 2.0**-64
        angle = words[count:].astype(np.float64) * (2.0 * np.pi * 2.0**-64)
        np.log(radius, out=radius)
        radius *= -2.0
        np.sqrt(radius, out=radius)
        np.cos(angle, out=angle)
        radius *= angle
        return radius


class NonPrivateForTests:
    """Seeded noise: the same (run, site, round, seed) repeats the same round bit by bit.

    Gives no privacy whatever the noise multiplier: epsilon is infinite. For `tests` and
    `simulations` only; a node's budget refuses it and so does a release.
    """

    private: ClassVar[bool] = False

    def __init__(self, run: str, site: str, round: int, seed: int) -> None:
        self.name = f"NON-PRIVATE seeded noise (seed {seed})"
        self._key = [run, site, round, seed]
        self._noise = self._generator("noise")
        self._sampler = self._generator("sample")
        self._public_count = 0

    def __repr__(self) -> str:
        return f"NonPrivateForTests(epsilon=inf, key={self._key!r})"

    def normal(self, count: int, std: float) -> np.ndarray:
        """float64 (count,), N(0, std^2), the next of the seeded stream."""
        _check_count(count)
        return self._noise.standard_normal(count) * std

    def poisson_sample(self, count: int, rate: float) -> np.ndarray:
        """int64 indices, each with probability `rate`, the next of the seeded stream."""
        _check_count(count)
        _threshold(rate)
        return np.flatnonzero(self._sampler.random(count) < rate).astype(np.int64)

    def public_generator(self) -> np.random.Generator:
        """A generator of its own for every call, in the order of the calls."""
        self._public_count += 1
        return self._generator(f"public {self._public_count}")

    def rounding_seed(self) -> bytes:
        """The same 32 bytes for the same (run, site, round, seed)."""
        return bytes.fromhex(digest_of(["NonPrivateForTests", *self._key, "rounding"]))

    def _generator(self, purpose: str) -> np.random.Generator:
        seed = int(digest_of(["NonPrivateForTests", *self._key, purpose]), 16)
        return np.random.Generator(np.random.PCG64(seed))


def _check_count(count: int) -> None:
    if count < 0:
        raise OurMistake("A number of draws cannot be negative.")


def _threshold(rate: float) -> int:
    """floor(rate * 2**64), exactly: the true rate is never above the accounted one."""
    if not 0.0 < rate <= 1.0:
        raise OurMistake("sample_rate must be in (0, 1].")
    return int(Fraction(rate) * (1 << 64))
