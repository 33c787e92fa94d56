"""What a node asks of a verified release before it installs or uses it.

Names and keys as this node has pinned them, rosters as its operator approved them, its own rounds
as it has booked them, a price that is not too low, and a model that it can build.
"""

from __future__ import annotations

from collections.abc import Collection

from client.home import NodeHome
from client.keys import load_config, pinned
from client.ledger_store import LedgerStore
from client.rosters import RosterBook
from shared_model import signing
from shared_model.config import ModelConfig
from shared_model.errors import OurMistake, Refused
from shared_model.release_checks import replies_of
from shared_model.release_origin import known_origin
from shared_model.release_price import price_of
from shared_model.release_signed import Release
from shared_model.sum_evidence import opened_rosters
from shared_model.weights import Weights

AGREEMENT = 0.01
"""Two versions of the accountant may differ by this share of epsilon."""
ASK = "Ask the coordinator's operator for the release again."


def check_names(home: NodeHome, release: Release) -> None:
    """Nobody may have run rounds, or answered them, in a name that this node knows better.

    Raises:
        Refused: the requests are signed by another run key than the pinned one, the rosters by
            another root key, or the replies of this very hospital by another identity key than
            its own (reason "signer").
    """
    manifest = release.manifest
    if manifest.root_key != pinned(home).root_key:
        raise Refused(
            "The rosters of this release are signed by another root key than the pinned one.",
            reason="signer",
            do="Ask the holder of the consortium's root key; do not install it.",
        )
    if manifest.run_key != pinned(home).run_key:
        raise Refused(
            "The rounds of this release were asked for by another key than the pinned run key.",
            reason="signer",
            do="Ask the coordinator's operator; do not install it.",
        )
    if not home.config.exists():
        return
    site = load_config(home).site
    key = signing.load_key_file(home.identity_key)
    with LedgerStore.open(home, site, key, perhaps_old=True) as store:
        own = {one.hex() for one in (*store.chain.keys, signing.public_bytes(key))}
    for one in manifest.privacy:
        if one.site == site and one.identity_key not in own:
            raise Refused(
                f"The release counts replies of {site} that this hospital has never signed.",
                reason="signer",
                do="Show the release to the other hospitals and to the coordinator's operator.",
            )


def check_rosters(home: NodeHome, release: Release, confirmed: Collection[str] = ()) -> None:
    """Each roster of the release is one that this hospital approved.

    Older rosters, from before this hospital joined, may be others as long as every hospital in
    them stands with the same identity key in a roster that was approved here. So a stolen root key
    is not enough for a lineage of invented hospitals.

    Raises:
        Refused: reason "roster-approval".
    """
    documents = (bytes.fromhex(text) for text in release.evidence.rosters)
    rosters = opened_rosters(documents, bytes.fromhex(release.manifest.root_key))
    approved = RosterBook(home).ever_approved(bytes.fromhex(pinned(home).root_key))
    known = {(one.site, one.identity_key) for roster in approved for one in roster.sites}
    digests = {roster.digest for roster in approved} | set(confirmed)
    newest = max((roster.version for roster in approved), default=0)
    for digest, roster in rosters.items():
        if digest in digests:
            continue
        strangers = sorted(
            one.site for one in roster.sites if (one.site, one.identity_key) not in known
        )
        if strangers or roster.version >= newest:
            who = f": it names {', '.join(strangers)}" if strangers else ""
            raise Refused(
                f"The release has rounds over version {roster.version} of the roster, which this "
                f"hospital has not approved{who} (digest {digest}).",
                reason="roster-approval",
                do="Approve the roster first: fedprint-node roster approve. One from before this "
                "hospital joined: compare its keys with those hospitals by telephone, then "
                "install with --confirm-roster DIGEST.",
            )


def check_own_rounds(home: NodeHome, release: Release) -> None:
    """No round that this hospital answered, of a run of the lineage, is left out or told otherwise.

    Its own ledger knows which rounds it was sent, with which model and plan. Rounds after the
    last one of the lineage may be missing only if they began from the model that the lineage ends
    with: then the run went on after the release.

    Raises:
        Refused: reason "lineage".
    """
    if not home.config.exists():
        return
    key = signing.load_key_file(home.identity_key)
    with LedgerStore.open(home, load_config(home).site, key, perhaps_old=True) as store:
        rows = store.chain.answered_bookings
    told = {(step.run, step.number): step for step in release.manifest.lineage.rounds}
    for run in release.manifest.lineage.runs:
        last = max((number for name, number in told if name == run), default=0)
        mine = sorted((row for row in rows if row.run == run), key=lambda row: row.round)
        for row in mine:
            step = told.get((run, row.round))
            if step is None and row.round > last > 0:
                if row.model_in == told[run, last].model_out:
                    break  # this round and all that follow came after the release
                raise _left_out(run, row.round, "or was made before it: ask for a newer release")
            if step is None:
                raise _left_out(run, row.round, "which this hospital answered and paid for")
            if (row.model_in, row.plan) != (step.model_in, step.plan.plan()):
                raise Refused(
                    f"The release tells round {row.round} of run {run} otherwise than this "
                    "hospital was asked for it.",
                    reason="lineage",
                    do="Show the release to the other hospitals and to the coordinator's operator.",
                )


def _left_out(run: str, number: int, why: str) -> Refused:
    return Refused(
        f"The release leaves out round {number} of run {run}, {why}.",
        reason="lineage",
        do="Ask the coordinator's operator; its price may be stated too low.",
    )


def check_price(release: Release) -> None:
    """No hospital's epsilon is stated lower than its signed rounds cost, by this node's accountant.

    A person reads the price and then says yes. A higher one than needed is no harm.

    Raises:
        Refused: reason "price".
    """
    from shared_model import accounting

    manifest = release.manifest
    for one in manifest.privacy:
        mine = replies_of(manifest.lineage.rounds, one.site)
        cost = price_of(mine, one.delta, accounting.epsilon_pld)
        least = (1.0 - AGREEMENT) * cost.epsilon
        least_outside = (1.0 - AGREEMENT) * (cost.outsider_epsilon or 0.0)
        if not (one.epsilon >= least and (one.outsider_epsilon or 0.0) >= least_outside):
            raise Refused(
                f"The release states epsilon {one.epsilon:.3g} for {one.site} at delta "
                f"{one.delta:.1e}; its rounds cost {cost.epsilon:.3g}.",
                reason="price",
                do="Show the release to the auditor and to the coordinator's operator.",
            )


def check_model(release: Release) -> None:
    """The model must be one that this version can build, and the weights must fit it.

    The shape is compared with the version's own presets before anything is built from it.

    Raises:
        Refused: reason "model".
    """
    from shared_model import mae

    config = config_of(release)
    if mae.PRESETS.get(config.preset) != config:
        raise Refused(
            "The release is of a model that this version does not know.",
            reason="model",
            do="Update this node's software first, then install the release.",
        )
    like = mae.weights_of(mae.build(config, seed=0))
    if _shapes(like) != _shapes(release.weights):
        raise Refused("The weights do not fit the model of the manifest.", reason="model", do=ASK)


def check_origin(release: Release, confirmed: Collection[str] = ()) -> None:
    """The first model costs no patient anything: known by its digest, or the operator's own word.

    Raises:
        Refused: it is neither; patients' data may be in it that the price leaves out ("lineage").
    """
    manifest = release.manifest
    digest = manifest.lineage.warm_start.digest
    if digest in confirmed or known_origin(manifest.model.preset, digest) is not None:
        return
    raise Refused(
        f"This version does not know the first model of the release (digest {digest}); rounds "
        "that made it are missing from the price.",
        reason="lineage",
        do="Ask the coordinator for a release of the whole lineage. Only if you know that no "
        "patient's data made that model: install with --confirm-origin DIGEST.",
    )


def config_of(release: Release) -> ModelConfig:
    try:
        return release.manifest.model.config()
    except OurMistake as error:
        raise Refused("The manifest describes no model.", reason="model", do=ASK) from error


def _shapes(weights: Weights) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in weights.items()}
