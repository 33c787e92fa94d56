"""fedprint-node ledger, as hospital IT runs it: five nodes, one of them restored."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from books_stand_ins import book, key_of
from typer.testing import CliRunner

from client import cli_node, keys, ledger_chain, withdrawals
from client.cli import app
from client.home import NodeHome
from client.ledger_store import Budget, LedgerStore
from client.node import check_books
from client.policy import Policy
from client.rosters import RosterBook, today_utc
from shared_model import canonical, ledger, ledger_export, ledger_recovery, roster, signing
from shared_model.errors import FedprintError
from shared_model.ledger import LedgerFault, sign_head

SITES = ("alpha", "beta", "gamma", "delta")
BUDGET = Budget(epsilon_lifetime=8.0, epsilon_per_run=3.0, delta=1e-5)
ROOT = key_of("root")


@pytest.fixture(autouse=True)
def _another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_chain, "_verified", {})


@pytest.fixture
def homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, NodeHome]:
    """Four hospitals that have approved one roster (t = 3, so three answers)."""
    monkeypatch.chdir(tmp_path)
    found = {site: NodeHome(tmp_path / site) for site in SITES}
    for site, home in found.items():
        cli_node.init(site, 100, home.root)
    signed = roster.sign(
        roster.draft(
            [keys.card(home) for home in found.values()],
            1,
            valid_from="2020-01-01",
            valid_until="2099-01-01",
        ),
        ROOT,
    )
    for home in found.values():
        policy = Policy.from_file(home.policy)
        RosterBook(home).approve(signed.to_bytes(), signing.public_bytes(ROOT), policy, today_utc())
    return found


def run(home: NodeHome, *arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, [*arguments, "--home", str(home.root)])
    if isinstance(result.exception, FedprintError):
        assert result.exception.exit_code == code, result.exception
        return str(result.exception)
    assert result.exit_code == code, (result.output, result.exception)
    return " ".join(result.output.split())


def open_store(home: NodeHome) -> LedgerStore:
    site = keys.load_config(home).site
    return LedgerStore.open(home, site, signing.load_key_file(home.identity_key))


def play(
    homes: dict[str, NodeHome], first: int, last: int, seen_by: tuple[str, ...] = SITES[1:]
) -> list[bytes]:
    """Rounds of alpha that these others see; all lines of its ledger."""
    lines: list[bytes] = []
    for number in range(first, last + 1):
        with open_store(homes["alpha"]) as store:
            book(store, "spring", number, BUDGET)
            store.answered("spring", number, "ab" * 32)
            head, links = store.signed_head(), [link.digest for link in store.chain.links]
            lines = [link.line for link in store.chain.links]
        own = {"alpha": keys.card(homes["alpha"]).identity}
        for site in seen_by:
            with open_store(homes[site]) as peer:
                peer.see({"alpha": head}, {"alpha": links}, own)
    return lines


def test_the_ledger_says_what_was_spent_and_what_is_left_also_in_rounds(homes) -> None:
    """Epsilon with delta, unit and trust model; the same for machines."""
    empty = run(homes["alpha"], "ledger")
    assert "epsilon 0.0 at delta 1e-05" in empty
    play(homes, 1, 2)
    words = run(homes["alpha"], "ledger")
    shown = json.loads(run(homes["alpha"], "ledger", "show", "--json"))
    for part in ("delta 1e-05", "one patient at one hospital", "trust model local", "8 for life"):
        assert part in words
        assert part in shown["in_words"]
    assert f"{shown['rounds_left']} more rounds of the present plan (run spring" in words
    assert shown["epsilon_left"] == pytest.approx(8.0 - shown["epsilon"])
    assert [(row["run"], row["rounds"]) for row in shown["runs"]] == [("spring", 2)]
    assert [row["answered"] for row in shown["rounds"]] == [True, True]
    assert shown["not_current"] is None
    with open_store(homes["alpha"]) as store:
        for number in range(3, 3 + shown["rounds_left"]):
            book(store, "spring", number, BUDGET)
        with pytest.raises(FedprintError, match="allows 3"):
            book(store, "spring", 999, BUDGET)
    assert json.loads(run(homes["alpha"], "ledger", "--json"))["rounds_left"] == 0
    assert json.loads(run(homes["alpha"], "spend", "--json"))["rounds_left"] == 0


@pytest.mark.parametrize(("name", "magic"), [("plot.png", b"\x89PNG"), ("plot.svg", b"<?xml")])
def test_the_spend_is_drawn_over_time(homes, tmp_path: Path, name: str, magic: bytes) -> None:
    """With the limits; before the first round, too."""
    for rounds in (0, 2):
        play(homes, 1, rounds)
        run(homes["alpha"], "ledger", "--plot", name)
        assert (tmp_path / name).read_bytes().startswith(magic)
    assert "FILE.png or FILE.svg" in run(homes["alpha"], "ledger", "--plot", "plot.exe", code=2)


def test_verify_names_the_entry_that_was_edited(homes, monkeypatch) -> None:
    """And says that all is whole otherwise."""
    play(homes, 1, 2)
    assert "The ledger is whole: 5 entries" in run(homes["alpha"], "ledger", "verify")
    data = homes["alpha"].ledger.read_bytes()
    homes["alpha"].ledger.write_bytes(data.replace(b'"round":2', b'"round":3', 1))
    monkeypatch.setattr(ledger_chain, "_verified", {})
    said = run(homes["alpha"], "ledger", "verify", code=3)
    assert "Entry " in said
    assert "fedprint-node ledger ask" in said
    with pytest.raises(LedgerFault):
        check_books(homes["alpha"])


def test_verify_finds_a_booking_that_understates_its_epsilon(homes) -> None:
    """Signed and chained: the figure in an entry counts for nothing by itself."""
    home = homes["alpha"]
    play(homes, 1, 1)
    with open_store(home) as store:
        told = store.chain.bookings[0].model_copy(
            update={"sequence": 4, "round": 2, "epsilon_lifetime": 0.1}
        )
        store._append(lambda _: told)
    assert "Entry 4 says another epsilon" in run(home, "ledger", "verify", code=3)


def test_the_export_is_signed_and_holds_every_entry(homes, tmp_path: Path, monkeypatch) -> None:
    """Entries, rosters, heads held of others."""
    play(homes, 1, 1)
    home = homes["beta"]

    class Pinned:
        root = signing.public_bytes(ROOT)

    monkeypatch.setattr("client.ledger_file_export.pinned", lambda _: Pinned)
    with open_store(home) as store:
        book(store, "spring", 1, BUDGET, site="beta")
        lines = [link.line.decode() for link in store.chain.links]
    assert "2 entries" in run(home, "ledger", "export", "-o", "ledger.json")
    sealed = ledger_export.open_export((tmp_path / "ledger.json").read_bytes())
    key, rosters = sealed.verified(signing.public_bytes(ROOT))
    assert key == keys.card(home).identity
    assert len(rosters) == 1
    assert list(sealed.export.lines) == lines
    assert [head.site for head in sealed.export.witnessed] == ["alpha"]


def test_a_restored_hospital_recovers_with_files_carried_by_hand(homes, tmp_path: Path) -> None:
    """The whole of docs/ledger.md: refused, restored, asked, answered, recovered, started."""
    home = homes["alpha"]
    play(homes, 1, 1)
    copy = tmp_path / "backup"
    shutil.copytree(home.root, copy, ignore=shutil.ignore_patterns("never-back-up"))
    lines = play(homes, 2, 3)
    shutil.rmtree(home.root)
    shutil.copytree(copy, home.root)
    with pytest.raises(LedgerFault, match="nobody here knows"):
        check_books(home)
    assert "does not train until then" in run(home, "restored")
    assert withdrawals.are_unknown(home)
    withdrawals.say_they_hold(home, 0)
    assert "NOT CURRENT" in run(home, "ledger")
    assert "at least 3 of beta, delta, gamma" in run(home, "ledger", "ask", "-o", "ask.json")
    for site in SITES[1:]:
        said = run(homes[site], "ledger", "witness", "ask.json", "-o", f"{site}.json")
        assert "saw 7 entries of alpha" in said
    answers = [f"{site}.json" for site in SITES[1:]]
    refused = run(home, "ledger", "recover", "ask.json", *answers, code=3)
    assert "4 are lost" in refused
    assert "counts all that is left of the budget" in refused
    (tmp_path / "entries.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    said = run(home, "ledger", "recover", "ask.json", *answers, "--entries", "entries.jsonl")
    assert "4 entries came back, 0 did not" in said
    assert "data withdrawals-hold" in said
    assert withdrawals.are_unknown(home)  # also where nobody said `restored`: a whole machine
    check_books(home)
    play(homes, 4, 4)
    assert json.loads(run(home, "ledger", "--json"))["recovered"][0]["witnesses"] == sorted(
        SITES[1:]
    )


def test_a_hospital_without_the_lost_entries_can_only_pay_for_them(homes) -> None:
    """It says so in words before; afterwards nothing is left."""
    home = homes["alpha"]
    play(homes, 1, 1)
    copy = home.ledger.read_bytes()
    play(homes, 2, 2)
    home.ledger.write_bytes(copy)
    assert "older copy" in run(home, "restored")
    run(home, "ledger", "ask", "-o", "ask.json")
    for site in SITES[1:]:
        run(homes[site], "ledger", "witness", "ask.json", "-o", f"{site}.json")
    answers = [f"{site}.json" for site in SITES[1:]]
    said = run(home, "ledger", "recover", "ask.json", *answers, "--charge-what-is-left")
    assert "Charged: epsilon" in said
    shown = json.loads(run(home, "ledger", "--json"))
    assert (shown["epsilon"], shown["epsilon_left"], shown["rounds_left"]) == (8.0, 0.0, 0)
    assert shown["delta"] == 2e-5
    assert "Left for life: epsilon 0.0" in said


@pytest.fixture
def exported(homes, tmp_path: Path, monkeypatch) -> Callable[[], str]:
    """Writes alpha's ledger to a file; its name."""

    class Pinned:
        root = signing.public_bytes(ROOT)

    monkeypatch.setattr("client.ledger_file_export.pinned", lambda _: Pinned)

    def write(name: str = "alpha.ledger") -> str:
        run(homes["alpha"], "ledger", "export", "-o", name)
        return name

    return write


def lose(homes, second: tuple[str, ...] = SITES[1:]) -> None:
    """Alpha loses what came after its entry 3: beta saw 5 entries (3 if not `second`), others 7."""
    home = homes["alpha"]
    play(homes, 1, 1)
    copy = home.ledger.read_bytes()
    play(homes, 2, 2, seen_by=second)
    play(homes, 3, 3, seen_by=("gamma", "delta"))
    home.ledger.write_bytes(copy)
    run(home, "restored")
    run(home, "ledger", "ask", "-o", "ask.json")
    for site in SITES[1:]:
        run(homes[site], "ledger", "witness", "ask.json", "-o", f"{site}.json")
    answers = [f"{site}.json" for site in SITES[1:]]
    run(home, "ledger", "recover", "ask.json", *answers, "--charge-what-is-left")


def go_on(homes, seen_by: tuple[str, ...]) -> None:
    """A next round of alpha, whose privacy officer has raised the limit."""
    raised = Budget(epsilon_lifetime=20.0, epsilon_per_run=10.0, delta=1e-5)
    with open_store(homes["alpha"]) as store:
        book(store, "summer", 1, raised)
        store.answered("summer", 1, "ab" * 32)
        head, links = store.signed_head(), [link.digest for link in store.chain.links]
    own = {"alpha": keys.card(homes["alpha"]).identity}
    for site in seen_by:
        with open_store(homes[site]) as peer:
            peer.see({"alpha": head}, {"alpha": links[-3:]}, own)


def held(home: NodeHome) -> int:
    with open_store(home) as store:
        return store.peers()["alpha"].length


def test_a_peer_that_saw_lost_entries_follows_after_its_operator_s_yes(homes, exported) -> None:
    """It refuses until then; the words say what was lost, what was charged and who vouched."""
    lose(homes)
    file = exported()
    with pytest.raises(FedprintError, match="links are missing") as caught:
        go_on(homes, ("gamma", "delta", "beta"))
    assert "ledger accept" in caught.value.do
    assert held(homes["beta"]) == 5
    no = CliRunner().invoke(
        app, ["ledger", "accept", file, "--home", str(homes["beta"].root)], input="n\n"
    )
    assert isinstance(no.exception, FedprintError)
    assert held(homes["beta"]) == 5
    said = run(homes["beta"], "ledger", "accept", file, "--yes")
    charged = json.loads(run(homes["alpha"], "ledger", "--json"))["recovered"][0]["epsilon_charged"]
    for words in (
        "saw 5 entries of its ledger; now there are 8",
        "Lost: entries 4 to 7",
        f"Charged for them: epsilon {charged:g} (that is all that was left of its limit of 8)",
        "Vouched for the 7 entries, as alpha says: beta, delta, gamma",
        "now holds 8 entries of alpha",
    ):
        assert words in said
    own = {"alpha": keys.card(homes["alpha"]).identity}
    with open_store(homes["alpha"]) as store, open_store(homes["beta"]) as peer:
        links = [link.digest for link in store.chain.after(8)]
        peer.see({"alpha": store.signed_head()}, {"alpha": links}, own)
    assert held(homes["beta"]) == 10
    run(homes["gamma"], "ledger", "ask", "-o", "other.json")
    run(homes["beta"], "ledger", "witness", "other.json", "-o", "still.json")


def test_a_peer_that_holds_what_was_vouched_for_may_follow_as_well(homes, exported) -> None:
    """Its head is the one that the recovered entry goes on from."""
    lose(homes)
    run(homes["gamma"], "ledger", "accept", exported(), "--yes")
    assert held(homes["gamma"]) == 8


def test_a_peer_that_saw_nothing_of_what_was_lost_may_follow_as_well(homes, exported) -> None:
    """No link leads over the loss from the head before it."""
    lose(homes, second=("gamma", "delta"))
    file = exported()
    with pytest.raises(FedprintError, match="links are missing"):
        go_on(homes, ("beta",))
    assert held(homes["beta"]) == 3
    run(homes["beta"], "ledger", "accept", file, "--yes")
    assert held(homes["beta"]) == 8


def test_whoever_has_nothing_to_accept_is_told_so(homes, exported) -> None:
    """No entry seen, the same ledger longer, the own one, or one already followed."""
    play(homes, 1, 1, seen_by=("beta",))
    file = exported()
    assert "seen no entry" in run(homes["gamma"], "ledger", "accept", file, "--yes", code=3)
    assert "follows from entry 3" in run(homes["beta"], "ledger", "accept", file, "--yes", code=3)
    assert "own ledger" in run(homes["alpha"], "ledger", "accept", file, "--yes", code=2)
    assert held(homes["beta"]) == 3


def test_a_rolled_back_ledger_is_not_accepted(homes, exported) -> None:
    """Without a paid loss, an older export of the very same ledger moves nothing."""
    play(homes, 1, 1)
    file = exported()
    play(homes, 2, 2)
    assert "rolled back" in run(homes["beta"], "ledger", "accept", file, "--yes", code=3)
    assert held(homes["beta"]) == 5


def test_a_loss_that_ends_before_what_was_seen_is_a_fork(homes, exported) -> None:
    """Alpha recovered at entry 5 from those who saw no more; beta has seen entry 7 of before."""
    home = homes["alpha"]
    play(homes, 1, 1)
    copy = home.ledger.read_bytes()
    play(homes, 2, 2)
    play(homes, 3, 3, seen_by=("beta",))
    home.ledger.write_bytes(copy)
    run(home, "restored")
    run(home, "ledger", "ask", "-o", "ask.json")
    with open_store(homes["beta"]) as store:  # it lies: it has seen as much as the others
        seen = store.peers()["alpha"]
    with open_store(homes["gamma"]) as store:
        less = store.peers()["alpha"]
    answers = []
    for site in SITES[1:]:
        run(homes[site], "ledger", "witness", "ask.json", "-o", f"{site}.json")
        answers.append(f"{site}.json")
    question = ledger_recovery.open_question(Path("ask.json").read_bytes(), roster_of(homes))
    lie = ledger_recovery.Answer(
        witness="beta",
        subject="alpha",
        question=question.digest,
        nonce=question.nonce,
        held=less,
    )
    key = signing.load_key_file(homes["beta"].identity_key)
    Path("beta.json").write_bytes(ledger_recovery.seal(lie, key))
    run(home, "ledger", "recover", "ask.json", *answers, "--charge-what-is-left")
    go_on(homes, ("gamma", "delta"))
    file = exported()
    assert "forked" in run(homes["beta"], "ledger", "accept", file, "--yes", code=3)
    with open_store(homes["beta"]) as store:
        assert store.peers()["alpha"] == seen


def roster_of(homes) -> roster.Roster:
    found = RosterBook(homes["alpha"]).approved()
    assert found is not None
    return found.roster


@pytest.mark.parametrize("attack", ["edited", "another signer", "no head", "another head", "few"])
def test_an_export_that_is_not_what_it_says_is_not_accepted(homes, exported, attack: str) -> None:
    """Signature, signed head, and at least min(t, n - 1) witnesses of the approved roster."""
    lose(homes)
    path = Path(exported())
    key = signing.load_key_file(homes["alpha"].identity_key)
    other = signing.load_key_file(homes["gamma"].identity_key)
    plain = ledger_export.open_export(path.read_bytes()).export
    assert plain.head is not None
    if attack == "edited":
        path.write_bytes(path.read_bytes().replace(b'"software":"', b'"software":"x'))
    elif attack == "another signer":
        path.write_bytes(ledger_export.seal(plain, other))
    elif attack == "no head":
        bare = plain.model_copy(update={"head": None})
        path.write_bytes(ledger_export.seal(bare, key))
    elif attack == "another head":
        forged = sign_head(other, "alpha", plain.head.length, plain.head.head)
        path.write_bytes(ledger_export.seal(plain.model_copy(update={"head": forged}), key))
    else:
        *lines, last = plain.lines
        entry, _ = ledger.parse(last.encode())
        lonely = ledger.seal(entry.model_copy(update={"witnesses": ("beta", "gamma", "x")}), key)
        chain = ledger.Chain.verified(
            [*(line.encode() for line in lines), lonely], signing.public_bytes(key), site="alpha"
        )
        changed = {
            "lines": (*lines, lonely.decode()),
            "head": sign_head(key, "alpha", chain.length, chain.head),
        }
        path.write_bytes(ledger_export.seal(plain.model_copy(update=changed), key))
    words = {
        "edited": "not signed by alpha",
        "another signer": "not signed by alpha",
        "no head": "no signed head",
        "another head": "no signed head",
        "few": "names fewer than 3 other hospitals",
    }
    assert words[attack] in run(homes["beta"], "ledger", "accept", str(path), "--yes", code=3)
    assert held(homes["beta"]) == 5


def test_a_file_of_before_there_was_a_head_is_read_and_one_that_says_null_is_not(
    homes, exported
) -> None:
    """One spelling for each content."""
    play(homes, 1, 1, seen_by=())
    key = signing.load_key_file(homes["alpha"].identity_key)
    export = ledger_export.open_export(Path(exported()).read_bytes()).export
    old = export.model_copy(update={"head": None})
    data = ledger_export.seal(old, key)
    assert b'"head"' not in data
    sealed = ledger_export.open_export(data)
    assert sealed.export == old
    plain = {**json.loads(sealed.body), "head": None}
    signature = signing.sign(key, ledger_export.TAG, canonical.encode(plain)).hex()
    with pytest.raises(FedprintError, match="canonical spelling"):
        ledger_export.open_export(canonical.encode({**plain, "signature": signature}))


def test_restored_files_beside_an_untouched_note_need_no_recovery(homes) -> None:
    """never-back-up/ was not restored, and says that the ledger is the newest."""
    home = homes["alpha"]
    play(homes, 1, 1)
    assert "it can start" in run(home, "restored", "--only-this-folder")
    check_books(home)
    assert "does not train" in run(home, "restored")
    with pytest.raises(LedgerFault, match="nobody here knows"):
        check_books(home)


def test_init_makes_the_ledger_once(homes) -> None:
    """A lost one is not made again by running it again."""
    home = homes["alpha"]
    home.ledger.unlink()
    home.ledger_marker.unlink()
    shutil.rmtree(home.never_back_up)
    cli_node.init("alpha", 100, home.root)
    with pytest.raises(LedgerFault, match="has no ledger"):
        check_books(home)
    assert "has 0 rounds" in run(home, "ledger", "import-spend")
    check_books(home)
