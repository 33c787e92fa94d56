"""What one caller may ask of the registry. Checked once, when made."""

from __future__ import annotations

from dataclasses import dataclass

from shared_model.errors import OurMistake


@dataclass(frozen=True)
class RegistryLimits:
    """Limits for each certificate or site.

    Requests refill at `requests_per_s` up to `burst`. A call lasts at most `call_s`, a stream
    `stream_s`, and a reader that takes nothing for `stall_s` is cut off.
    """

    requests_per_s: float = 2.0
    burst: int = 60
    in_flight: int = 4
    in_flight_all: int = 64
    call_s: float = 30.0
    stream_s: float = 3600.0
    stall_s: float = 60.0
    piece_bytes: int = 256 * 1024
    release_bytes_a_day: int = 20 * 2**30
    mail_in_a_box: int = 64
    mail_of_one_sender: int = 8
    mail_days: int = 30
    connection_age_s: float = 7200.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise OurMistake(f"The registry's limit {name} must be above 0.")
        if self.connection_age_s < self.stream_s:
            raise OurMistake("A connection must live as long as a stream may last.")


TOKEN_DAYS = 14
CERTIFICATE_DAYS = 180


class RequestRate:
    """A token bucket for each caller; the caller gives the time, in seconds of a steady clock."""

    def __init__(self, limits: RegistryLimits) -> None:
        self._limits = limits
        self._left: dict[str, tuple[float, float]] = {}

    def take(self, caller: str, now_s: float) -> bool:
        """Whether one more request is within the rate."""
        left, then_s = self._left.get(caller, (float(self._limits.burst), now_s))
        left = min(self._limits.burst, left + (now_s - then_s) * self._limits.requests_per_s)
        allowed = left >= 1.0
        self._left[caller] = (left - 1.0 if allowed else left, now_s)
        return allowed
