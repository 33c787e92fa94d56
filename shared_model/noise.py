"""Where the randomness of private training comes from.

`SystemNoise` is the only source that gives privacy. It has no seed: every object draws a 256-bit
key from the operating system and expands it with AES-256-CTR. `NonPrivateForTests` repeats bit by
bit, which tests and simulations need and privacy forbids: its epsilon is infinite.

Floating-point attacks. A Gaussian computed in float64 takes only some float64 values, and which
sums `x + noise` can occur tells something about `x` (Mironov 2012; Jin et al. 2112.05307; Holohan
and Braghin 2107.10138, whose sum of 2 n draws Opacus' `secure_mode` takes to make the search
longer). Here there is no such computation. Noise is an *integer*, drawn exactly from the discrete
Gaussian (`shared_model.discrete_gaussian`), times a public power of two, `grid(std)`:

- every multiple of the grid occurs, with its right probability, into tails without end: there are
  no holes to look for;
- the caller (`shared_model.privacy.noisy_mean`) rounds the data to the same grid *before* adding.
  What float64 makes of the sum of two multiples is a function of the exact sum: post-processing.

The grid is 2^-40 to 2^-39 of std, so s = std / grid is in 2^39 ... 2^40. The guarantee that remains
to be shown is the Gaussian mechanism's, which the accountant computes. A Gaussian rounded to
integers, added to integers, *is* the Gaussian mechanism, rounded afterwards. The discrete Gaussian
differs from it by a chi-square divergence of 1 / (288 s^4) a coordinate, so by a total variation
of sqrt(d) / (33 s^2) in d coordinates: 1e-21 a step for d = 1e8. Over T steps delta grows
by (1 + e^epsilon) T times that. docs/adr/0015-noise.md has the steps of the argument.

What is assumed: AES-256-CTR under a secret key looks random, as for every key in the system.
"""

from __future__ import annotations

import math
import os
import secrets
from fractions import Fraction
from typing import Any, ClassVar, NoReturn, Protocol

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from shared_model import discrete_gaussian
from shared_model.canonical import digest_of
from shared_model.errors import OurMistake

_GRID_BITS = 39
_ZEROS = memoryview(bytes(8 * discrete_gaussian.CHUNK))


def grid(std: float) -> float:
    """The power of two that noise of this deviation is a multiple of: std / grid in [2^39, 2^40).

    Raises:
        OurMistake: std is not in 1e-12 ... 1e12, far from the smallest and largest float64.
    """
    if not 1e-12 <= std <= 1e12:
        raise OurMistake("The noise's standard deviation must be in 1e-12 ... 1e12.")
    return math.ldexp(1.0, math.frexp(std)[1] - 1 - _GRID_BITS)


class Keystream:
    """AES-256-CTR keystream of one key, from counter 0, as little-endian 64-bit words.

    drawn: words so far. start: of how many of them are left out.
    """

    def __init__(self, key: bytes, start: int = 0) -> None:
        counter = (start // 2).to_bytes(16, "big")  # a block is two words
        self._encryptor = Cipher(algorithms.AES256(key), modes.CTR(counter)).encryptor()
        self.drawn = start - start % 2
        self.words(start % 2)

    def words(self, count: int) -> npt.NDArray[np.uint64]:
        """uint64 (count,), the next ones."""
        found = np.empty(count, dtype="<u8")
        data = found.view(np.uint8).data
        for start in range(0, len(data), len(_ZEROS)):
            part = data[start : start + len(_ZEROS)]
            self._encryptor.update_into(_ZEROS[: len(part)], part)
        self.drawn += count
        return found


Place = dict[str, Any]
"""JSON: states of generators whose seed is known anyway."""


class NoiseSource(Protocol):
    """Everything random in one round of local training."""

    @property
    def private(self) -> bool:
        """True only if nobody, the hospital included, can repeat or predict the draws."""

    @property
    def name(self) -> str:
        """What the ledger and the console call it."""

    def normal(self, count: int, std: float) -> np.ndarray:
        """float64 (count,), independent N(0, std^2), multiples of `grid(std)`."""

    def discrete_gaussian(self, count: int, variance: Fraction) -> npt.NDArray[np.int64]:
        """int64 (count,), independent N_Z(0, variance), exactly."""

    def poisson_sample(self, count: int, rate: float) -> np.ndarray:
        """int64 indices below `count`, ascending; each is in with probability `rate`."""

    def public_generator(self) -> np.random.Generator:
        """For choices the guarantee does not rest on: patch masks, which segments of a patient."""

    def rounding_seed(self) -> bytes:
        """32 bytes for the stochastic rounding of this round's update; for nothing else."""

    def place(self) -> Place | None:
        """Where draws that repeat stand; None of noise that gives privacy."""

    def go_to(self, place: Place | None) -> None:
        """Go on, in a new object, where an earlier one of the same round stood.

        Raises:
            OurMistake: a place is given to noise that has none, or none to noise that has.
        """


class SystemNoise:
    """Noise that gives privacy: AES-256-CTR keyed with 32 fresh bytes of the operating system.

    One object serves one round. It cannot be copied, pickled, or used in a process other than
    the one that made it: two users of one stream would draw equal noise, and the difference of
    two updates with equal noise is bare data.

    Edges:
        `std` 0 is refused (no noise is no mechanism), and so is a std outside 1e-12 ... 1e12;
        a patient's probability of being sampled is floor(rate * 2**64) / 2**64 <= rate, rate 1
        takes all; `count` 0 gives an empty array.
    """

    private: ClassVar[bool] = True
    name: ClassVar[str] = "system entropy, AES-256-CTR"

    def __init__(self) -> None:
        self._process = os.getpid()
        self._keystream = Keystream(os.urandom(32))

    def __reduce__(self) -> NoReturn:
        raise OurMistake("A noise source cannot be copied or stored.", do="Make a new one.")

    def __repr__(self) -> str:
        return "SystemNoise()"

    def normal(self, count: int, std: float) -> np.ndarray:
        """float64 (count,), independent N(0, std^2), multiples of `grid(std)`; never repeats."""
        return _on_grid(count, std, self._stream)

    def discrete_gaussian(self, count: int, variance: Fraction) -> npt.NDArray[np.int64]:
        """int64 (count,), independent N_Z(0, variance), exactly; never repeats."""
        return discrete_gaussian.draw(count, variance, self._stream)

    def poisson_sample(self, count: int, rate: float) -> np.ndarray:
        """int64 indices: each of 0 ... count - 1 independently with probability `rate`."""
        _check_count(count)
        threshold = _threshold(rate)
        draws = self._stream.words(count)
        if threshold >= 1 << 64:
            return np.arange(count, dtype=np.int64)
        return np.flatnonzero(draws < np.uint64(threshold)).astype(np.int64)

    def public_generator(self) -> np.random.Generator:
        """A PCG64 keyed with fresh bytes of the operating system, apart from the noise stream."""
        return np.random.Generator(np.random.PCG64(secrets.randbits(256)))

    def rounding_seed(self) -> bytes:
        """32 fresh bytes of the operating system."""
        return os.urandom(32)

    def place(self) -> None:
        """Nothing: what goes on after a restart draws afresh, with another key."""

    def go_to(self, place: Place | None) -> None:
        """Only from nothing."""
        if place is not None:
            raise OurMistake("Noise that gives privacy has no place to go on from.")

    @property
    def _stream(self) -> Keystream:
        if os.getpid() != self._process:
            raise OurMistake(
                "A noise source was carried into another process.",
                do="Make the noise source in the process that uses it.",
            )
        return self._keystream


class NonPrivateForTests:
    """Seeded noise: the same (run, site, round, seed) repeats the same round bit by bit.

    Gives no privacy whatever the noise multiplier: epsilon is infinite. For `tests` and
    `simulations` only; a node's budget refuses it and so does a release.
    """

    private: ClassVar[bool] = False

    def __init__(self, run: str, site: str, round: int, seed: int) -> None:
        self.name = f"NON-PRIVATE seeded noise (seed {seed})"
        self._key = [run, site, round, seed]
        self._noise = Keystream(bytes.fromhex(self._digest("noise")))
        self._sampler = self._generator("sample")
        self._public: list[np.random.Generator] = []
        self._public_count = 0
        self._public_state: Place | None = None

    def __repr__(self) -> str:
        return f"NonPrivateForTests(epsilon=inf, key={self._key!r})"

    def normal(self, count: int, std: float) -> np.ndarray:
        """float64 (count,), N(0, std^2) on `grid(std)`, the next of the seeded stream."""
        return _on_grid(count, std, self._noise)

    def discrete_gaussian(self, count: int, variance: Fraction) -> npt.NDArray[np.int64]:
        """int64 (count,), N_Z(0, variance), the next of the seeded stream."""
        return discrete_gaussian.draw(count, variance, self._noise)

    def poisson_sample(self, count: int, rate: float) -> np.ndarray:
        """int64 indices, each with probability `rate`, the next of the seeded stream."""
        _check_count(count)
        _threshold(rate)
        return np.flatnonzero(self._sampler.random(count) < rate).astype(np.int64)

    def public_generator(self) -> np.random.Generator:
        """A generator of its own for every call, in the order of the calls."""
        self._public_count += 1
        made = self._generator(f"public {self._public_count}")
        if self._public_state is not None:
            made.bit_generator.state, self._public_state = self._public_state, None
        self._public = [made]
        return made

    def rounding_seed(self) -> bytes:
        """The same 32 bytes for the same (run, site, round, seed)."""
        return bytes.fromhex(self._digest("rounding"))

    def place(self) -> Place:
        """Of noise, sampler and the last public generator; that one's is taken up by the next."""
        return {
            "words": self._noise.drawn,
            "sampler": self._sampler.bit_generator.state,
            "generators": self._public_count,
            "public": [made.bit_generator.state for made in self._public],
        }

    def go_to(self, place: Place | None) -> None:
        """See `NoiseSource`."""
        if place is None:
            raise OurMistake("Noise that repeats goes on from a place.")
        self._noise = Keystream(bytes.fromhex(self._digest("noise")), place["words"])
        self._sampler.bit_generator.state = place["sampler"]
        self._public_count = place["generators"] - len(place["public"])
        self._public_state = place["public"][-1] if place["public"] else None

    def _generator(self, purpose: str) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(int(self._digest(purpose), 16)))

    def _digest(self, purpose: str) -> str:
        return digest_of(["NonPrivateForTests", *self._key, purpose])


def _on_grid(count: int, std: float, stream: Keystream) -> np.ndarray:
    """Discrete Gaussian of the right deviation times the grid, in the memory of the integers."""
    step = grid(std)
    drawn = discrete_gaussian.draw(count, (Fraction(std) / Fraction(step)) ** 2, stream)
    result = drawn.view(np.float64)
    for start in range(0, count, discrete_gaussian.CHUNK):
        part = slice(start, start + discrete_gaussian.CHUNK)
        result[part] = drawn[part] * step
    return result


def _check_count(count: int) -> None:
    if count < 0:
        raise OurMistake("A number of draws cannot be negative.")


def _threshold(rate: float) -> int:
    """floor(rate * 2**64), exactly: the true rate is never above the accounted one."""
    if not 0.0 < rate <= 1.0:
        raise OurMistake("sample_rate must be in (0, 1].")
    return int(Fraction(rate) * (1 << 64))
