"""fedprint-node data withdraw, and withdrawals-hold: who is out of every later round."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from client.cli_data_parts import AsJson, Home, Yes, confirm, done
from client.home import NodeHome
from shared_model.errors import OurMistake, Refused

if TYPE_CHECKING:
    from client.store_format import Manifest

_PSEUDONYM = re.compile(r"[0-9a-f]{32}")


def register(app: typer.Typer) -> None:
    """Add this part's commands."""
    app.command()(withdraw)
    app.command()(withdrawals_hold)


def withdraw(
    patient: Annotated[
        str | None, typer.Argument(help="The patient's identifier, as in the recordings.")
    ] = None,
    pseudonym: Annotated[
        str | None, typer.Option(help="Instead: the pseudonym, 32 hexadecimal digits.")
    ] = None,
    home: Home = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Take a patient out of every later round, for good: erased now, left out of later adds.

    What the patient's data contributed to past rounds stays in the model, covered by its privacy
    guarantee, and stays booked. Write - for PATIENT to be asked for it, so that the identifier is
    not kept in the shell's history.

    Example: fedprint-node data withdraw - --yes
    """
    from client import ingest
    from client.pseudonyms import pseudonym_of, same_patient

    place = NodeHome.find(home)
    if (patient is None) == (pseudonym is None):
        raise OurMistake("Give the patient's identifier, or --pseudonym.", do="See --help.")
    if pseudonym is None:
        if patient == "-":
            patient = typer.prompt("Patient identifier", hide_input=True, err=True)
        if not same_patient(patient):
            raise OurMistake(
                "That identifies nobody: it means that a value is missing, or is a number whose "
                "digits may be lost.",
                do="Give the identifier as the recordings have it, or --pseudonym.",
            )
    elif not _PSEUDONYM.fullmatch(pseudonym):
        raise OurMistake(
            "A pseudonym is 32 small hexadecimal digits.",
            do="See: fedprint-node data show --patients",
        )
    ingest.check_node(place)
    if pseudonym is not None and not place.pseudonym_key.exists():
        raise OurMistake(
            "Pseudonyms are of the pseudonym key, and this node has none (any more).",
            do="Give the patient's identifier, or put the key back first.",
        )
    confirm("Erase this patient and leave the patient out of every later round?", yes=yes)
    if pseudonym is None:
        pseudonym = pseudonym_of(ingest.key_to_withdraw(place), str(patient))
    found = ingest.withdraw(place, pseudonym)
    text = (
        f"Withdrawn: {found.erased} recordings erased; out of every later round, also if added "
        "again."
    )
    if found.before and not found.erased:
        text += " The patient had been withdrawn before."
    elif found.empty:
        text += (
            " The store holds nobody, so that a slip in the identifier does not show here: compare "
            "the number withdrawn that data add tells."
        )
    elif not found.erased:
        text += " No recording of this patient was in the store: check the identifier."
    done(
        {"pseudonym": pseudonym, "recordings": found.erased, "already_withdrawn": found.before},
        text,
        as_json=as_json,
    )
    if found.former:
        raise Refused(
            "The store is of a version that spelled some identifiers otherwise: it may hold more "
            "of this patient, under another name.",
            reason="names",
            do="Run: fedprint-node data remove --all. Then add each folder again: the patient "
            "stays out.",
        )


def withdrawals_hold(home: Home = None, yes: Yes = False, as_json: AsJson = False) -> None:
    """After a restore: say that everyone who has withdrawn is withdrawn here again.

    The window store holds who has withdrawn, and a backup is older. Until this is said (here, or
    with data add --withdrawals-hold) the node trains on nobody and takes no recordings in.

    Example: fedprint-node data withdrawals-hold
    """
    from client import withdrawals
    from client.ingest import check_node
    from client.store import read_manifest
    from client.store_key import key_of
    from client.store_write import locked

    place = NodeHome.find(home)
    check_node(place)

    def held() -> Manifest | None:
        """What the store holds now; None: there is none."""
        if not (place.store / "manifest.json").exists():
            return None
        return read_manifest(place.store, key_of(place))[0]

    mark, before = withdrawals.seen(place), withdrawals.noted_or_most(place)
    manifest = held()
    count = 0 if manifest is None else len(manifest.withdrawn)
    if withdrawals.are_known(place, before, count):
        text = "Nothing to say: this node was not restored since, or it has been said."
        done({"was_open": False}, text, as_json=as_json)
        return
    if manifest is not None and manifest.former:
        raise Refused(
            "The store is of a version that spelled some identifiers otherwise: it may hold more "
            "of those who have withdrawn, under other names.",
            reason="names",
            do=withdrawals.DO_FORMER,
        )
    confirm(
        "Is everyone who withdrew before or after the backup withdrawn here (fedprint-node data "
        "withdraw)? Whoever was forgotten is trained on.",
        yes=yes,
    )
    with locked(place.store):
        at_first, manifest = count, held()  # another may have been withdrawn while it was asked
        count = 0 if manifest is None else len(manifest.withdrawn)
        if withdrawals.seen(place) != mark or count < at_first:
            raise Refused(
                "This node was restored meanwhile: nothing was said of that.",
                reason="names",
                do=withdrawals.DO,
            )
        withdrawals.say_they_hold(place, count)
    text = f"The withdrawals hold ({count} in the store): this node may train again."
    if manifest is None or not manifest.parts:
        text += " It holds no recordings: add them before it starts (fedprint-node data add)."
    done({"was_open": True, "withdrawn": count}, text, as_json=as_json)
