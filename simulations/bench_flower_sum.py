"""Flower's SecAgg+ as plain functions: one round in one process, its own code, timed by side.

The client's work is what Flower's client mod calls (`_setup`, `_share_keys`,
`_collect_masked_vectors`, `_unmask` of `flwr.client.mod.secure_aggregation.secaggplus_mod`), with
the state kept in memory: the mod's own way through `ConfigRecord`s is not counted. The server's
work follows `flwr.server.workflow.secure_aggregation.secaggplus_workflow` line by line, without its
messages and its strategy, on Flower's own functions. Default settings of the workflow: clipping
range 8, 2^22 steps, modulus 2^32, largest weight 1000. `num_shares` and `reconstruction_threshold`
have no defaults: every site is every other's neighbour and the threshold is ours.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from flwr.client.mod.secure_aggregation.secaggplus_mod import (
    SecAggPlusState,
    _collect_masked_vectors,
    _setup,
    _share_keys,
    _unmask,
)
from flwr.common import bytes_to_ndarray, ndarrays_to_parameters
from flwr.common.secure_aggregation.crypto.shamir import combine_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key
from flwr.common.secure_aggregation.ndarrays_arithmetic import (
    factor_extract,
    get_parameters_shape,
    parameters_addition,
    parameters_mod,
    parameters_subtraction,
)
from flwr.common.secure_aggregation.quantization import dequantize
from flwr.common.secure_aggregation.secaggplus_constants import Key
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from flwr.supercore.primitives.asymmetric import bytes_to_private_key, bytes_to_public_key

ROUND_TRIPS = 4
CLIPPING_RANGE = 8.0
TARGET_RANGE = 4194304
MOD_RANGE = 4294967296
MAX_WEIGHT = 1000.0
EXAMPLES = 1000
"""Of every site: the largest weight, so that the quantisation keeps all its steps."""

Vector = npt.NDArray[np.float32]
Numbers = list[npt.NDArray[Any]]


@dataclass
class FlowerRound:
    """One round of SecAgg+ among sites 1 ... n; CPU seconds by side.

    Attributes:
        client_s: of all sites together, float conversion to masked bytes included.
        server_s: adding, rebuilding secrets, stripping masks, dequantising.
        mean: (dimension,) float64.
    """

    threshold: int
    client_s: float = 0.0
    server_s: float = 0.0
    mean: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0), repr=False)

    def run(self, updates: Sequence[Vector], dropped: frozenset[int] = frozenset()) -> None:
        """Add these updates; the sites at positions `dropped` vanish before their masked vector.

        That is the drop-out that the workflow survives.
        """
        sites = range(1, len(updates) + 1)
        alive = [site for site in sites if site - 1 not in dropped]
        states = {site: SecAggPlusState() for site in sites}
        public: dict[int, tuple[bytes, bytes]] = {}
        boxes: dict[int, tuple[list[int], list[bytes]]] = {site: ([], []) for site in sites}
        setup = self._settings(len(updates))
        with _Seconds(self, "client_s"):
            for site in sites:
                states[site].nid = site
                keys = _setup(states[site], setup)
                public[site] = (_bytes(keys[Key.PUBLIC_KEY_1]), _bytes(keys[Key.PUBLIC_KEY_2]))
        for site in sites:
            with _Seconds(self, "client_s"):
                sent = _share_keys(
                    states[site], cast(Any, {str(other): keys for other, keys in public.items()})
                )
            for receiver, sealed in _pairs(sent, Key.DESTINATION_LIST, Key.CIPHERTEXT_LIST):
                boxes[receiver][0].append(site)
                boxes[receiver][1].append(sealed)
        total: Numbers | None = None
        for site in alive:
            vector = ndarrays_to_parameters([updates[site - 1]])
            sources, received = boxes[site]
            with _Seconds(self, "client_s"):
                masked = _collect_masked_vectors(
                    states[site],
                    cast(Any, {Key.SOURCE_LIST: sources, Key.CIPHERTEXT_LIST: received}),
                    EXAMPLES,
                    vector,
                )
            with _Seconds(self, "server_s"):
                sent_parts = cast(list[bytes], masked[Key.MASKED_PARAMETERS])
                arrays: Numbers = [bytes_to_ndarray(part) for part in sent_parts]
                total = arrays if total is None else parameters_addition(total, arrays)
        shares: dict[int, list[bytes]] = {site: [] for site in sites}
        asked: Any = {
            Key.ACTIVE_NODE_ID_LIST: alive,
            Key.DEAD_NODE_ID_LIST: [site for site in sites if site not in alive],
        }
        for site in alive:
            with _Seconds(self, "client_s"):
                opened = _unmask(states[site], asked)
            for owner, share in _pairs(opened, Key.NODE_ID_LIST, Key.SHARE_LIST):
                shares[owner].append(share)
        with _Seconds(self, "server_s"):
            self.mean = self._unmasked(total or [], shares, public, frozenset(alive))

    def _settings(self, sites: int) -> Any:
        return {
            Key.SAMPLE_NUMBER: sites,
            Key.SHARE_NUMBER: sites,
            Key.THRESHOLD: self.threshold,
            Key.CLIPPING_RANGE: CLIPPING_RANGE,
            Key.TARGET_RANGE: TARGET_RANGE,
            Key.MOD_RANGE: MOD_RANGE,
            Key.MAX_WEIGHT: MAX_WEIGHT,
        }

    def _unmasked(
        self,
        total: Numbers,
        shares: Mapping[int, list[bytes]],
        public: Mapping[int, tuple[bytes, bytes]],
        alive: frozenset[int],
    ) -> npt.NDArray[np.float64]:
        """`unmask_stage` from the collected shares on."""
        masked = parameters_mod(total, MOD_RANGE)
        for site, parts in shares.items():
            secret = combine_shares(parts)
            if site in alive:
                mask = pseudo_rand_gen(secret, MOD_RANGE, get_parameters_shape(masked))
                masked = parameters_subtraction(masked, mask)
                continue
            for other in public.keys() - {site}:
                shared = generate_shared_key(
                    bytes_to_private_key(secret), bytes_to_public_key(public[other][0])
                )
                mask = pseudo_rand_gen(shared, MOD_RANGE, get_parameters_shape(masked))
                masked = (
                    parameters_addition(masked, mask)
                    if site > other
                    else parameters_subtraction(masked, mask)
                )
        factor, found = factor_extract(parameters_mod(masked, MOD_RANGE))
        mean = cast(Numbers, dequantize(found, CLIPPING_RANGE, TARGET_RANGE))[0]
        mean += -(len(alive) - 1) * CLIPPING_RANGE
        mean *= TARGET_RANGE / factor
        return cast(npt.NDArray[np.float64], mean)


class _Seconds:
    """Adds the CPU seconds of its block, all threads counted, to an attribute."""

    def __init__(self, owner: object, name: str) -> None:
        self.owner, self.name = owner, name

    def __enter__(self) -> None:
        self.start = time.process_time()

    def __exit__(self, *_: object) -> None:
        spent = time.process_time() - self.start
        setattr(self.owner, self.name, getattr(self.owner, self.name) + spent)


def _bytes(value: object) -> bytes:
    return cast(bytes, value)


def _pairs(record: Mapping[str, Any], keys: str, values: str) -> Iterator[tuple[int, bytes]]:
    """Two lists of one record, side by side."""
    return zip(record[keys], record[values], strict=True)
