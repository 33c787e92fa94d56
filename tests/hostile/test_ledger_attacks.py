"""Privacy ledgers under attack: rolled back, forked, forged, hidden; real nodes and their disks."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import combinations

import pytest
from consortium import RUN_KEY, Consortium, key_of
from ledger_stand_ins import head_of, note_of, opened
from loop import play, signed_anew

from shared_model import canonical, ledger, protocol, signing
from shared_model.ledger_links import links_body, read_links_body
from shared_model.protocol import KnownHead, TrainReply, TrainRequest
from shared_model.protocol_sum import AgreeRequest

World = Callable[..., Consortium]


def played(world: Consortium, number: int) -> TrainRequest:
    """A round that ends well for all."""
    request = world.request(number)
    assert {heard.refused for heard in world.submit(request).values()} == {""}
    assert {heard.refused for heard in world.agree(request, world.names).values()} == {""}
    assert {heard.refused for heard in world.open(request, world.names).values()} == {""}
    return request


def head(world: Consortium, request: TrainRequest, site: str) -> KnownHead:
    """What the coordinator holds of a site after this round."""
    note = world.notes(world.transcript(request))[site]
    return KnownHead(site=site, **note.plain.model_dump())


def told(world: Consortium, message: AgreeRequest, body: bytes, sites: Sequence[str]) -> set[str]:
    """What these sites say to a request to agree, with these links."""
    asked = message.model_copy(update={"body_digest": canonical.digest(body)})
    return {world.say(site, asked, body).refused for site in sites}


def rolled_back(world: Consortium, site: str) -> None:
    """The whole disk of a hospital, markers and epoch key included, as it was after round 1."""
    played(world, 1)
    copy = world.back_up(site, with_epoch_key=True)
    played(world, 2)
    world.restore(site, copy)


def test_rolled_back_hospital_is_told_by_an_honest_coordinator(consortium: World) -> None:
    """Its own signed head is not in its ledger: nothing is booked, nothing is trained."""
    world = consortium(3)
    copy = world.back_up("s01", with_epoch_key=True)
    first = played(world, 1)
    trained = world.hospitals["s01"].trained
    world.restore("s01", copy)
    second = world.request(2, ledger_heads=(head(world, first, "s01"),))
    assert world.say("s01", second, world_body(world)).refused == "ledger"
    assert world.hospitals["s01"].trained == trained
    assert "ledger" in {item.get("alarm") for item in world.logged("s01")}


def world_body(world: Consortium) -> bytes:
    from shared_model import weights

    return weights.to_bytes(world.model)


def test_rolled_back_hospital_opens_nothing_with_a_lying_coordinator(consortium: World) -> None:
    """The coordinator hides that it knows better: the peers remember, and do not agree."""
    world = consortium(3)
    rolled_back(world, "s01")
    request = world.request(3)
    assert {heard.refused for heard in world.submit(request).values()} == {""}
    answers = {site: one.refused for site, one in world.agree(request, world.names).items()}
    assert answers == {"s00": "ledger", "s01": "", "s02": "ledger"}
    assert {one.refused for one in world.open(request, world.names).values()} == {"secure-sum"}
    assert world.adversary.learned(world.truth, number=3) == []
    for site in ("s00", "s02"):
        assert "s01" in str(world.logged(site)[0]["message"])


def test_rounds_burnt_until_the_chain_is_longer_do_not_help(consortium: World) -> None:
    """A rolled-back ledger that grew past the head that its peers hold does not continue it."""
    world = consortium(3)
    rolled_back(world, "s01")
    for number in (3, 4, 5):
        world.submit(world.request(number))
    request = world.request(6)
    world.submit(request)
    note = world.notes(world.transcript(request))["s01"]
    assert note.length > 5  # longer than after round 2
    answers = {site: one.refused for site, one in world.agree(request, world.names).items()}
    assert (answers["s00"], answers["s02"]) == ("ledger", "ledger")


@pytest.mark.parametrize("what", ["forged", "hidden", "another site's", "forked"])
def test_heads_that_are_not_a_sites_own_are_agreed_to_by_nobody(
    consortium: World, what: str
) -> None:
    """Signed by nobody, left out by an older one, of a peer, or of a second ledger of the site."""
    world = consortium(3)
    first = played(world, 1)
    request = world.request(2)
    world.submit(request)
    message = world.agree_request(request, world.names)
    fork = opened("s01", key_of("s01"), ledger_id="cd" * 16)
    for number in range(5):
        entry = ledger.Incident(
            site="s01", sequence=fork.length + 1, run="x", round=number + 1, reason="conflict"
        )
        fork = fork.extended([ledger.seal(entry, key_of("s01"))])
    shown = {
        "forged": head_of(fork, RUN_KEY),
        "hidden": head(world, first, "s01").plain,
        "another site's": message.heads[0],
        "forked": head_of(fork, key_of("s01")),
    }[what]
    links = read_links_body(world.links[message.body_digest])
    if what == "forked":
        links["s01"] = tuple(link.digest for link in fork.links)
    bad = message.model_copy(
        update={"heads": (message.heads[0], shown, message.heads[2])},
    )
    if what == "hidden":
        # an older head that is already held is true of its ledger, but not of this round
        assert told(world, bad, links_body(links), ["s01"]) == {"ledger"}
        return
    assert told(world, bad, links_body(links), world.names) == {"ledger"}
    assert told(world, message, links_body(links), ["s00"]) <= {"", "ledger"}


def test_agreements_to_different_heads_do_not_fit_together(consortium: World) -> None:
    """The coordinator shows a colluder's two ledgers to two peers: nobody opens for the other."""
    world = consortium(4, threshold=3, colluders=("s03",))
    request = world.request(1)
    world.submit(request)
    message = world.agree_request(request, world.names)
    key = key_of("s03")
    other = note_of(opened("s03", key, ledger_id="cd" * 16), key)
    second = message.model_copy(update={"heads": (*message.heads[:3], other.plain)})
    body = world.links[message.body_digest]
    assert told(world, message, body, ["s00", "s01"]) == {""}
    assert told(world, second, body, ["s02"]) == {""}
    for site in ("s00", "s01", "s02"):
        for shown in (message, second):
            opening, rows = world.open_request(request, world.names, site, message=shown)
            heard = world.say(site, opening, rows)
            fits = shown is message and site in ("s00", "s01")  # with the colluder these are t
            assert heard.refused == ("" if fits else "secure-sum"), (site, shown is message)


def test_a_site_whose_entries_do_not_match_its_head_is_named_and_left_out(
    consortium: World,
) -> None:
    """The honest coordinator's loop: not in U, an incident, barred; the others go on."""
    world = consortium(4, threshold=3)

    def lie(seen):  # type: ignore[no-untyped-def]
        if (seen.site, seen.kind) != ("s02", "train-request"):
            return None
        said = seen.said["ledger"]
        return signed_anew(seen, ledger={**said, "entries": said["entries"][:-1]})

    result = play(world, rounds=2, lie=lie, liars=("s02",))
    assert [item.outcome for item in result.record.rounds] == ["aggregated"] * 2
    first, second = result.record.rounds
    assert first.survivors == ("s00", "s01", "s03")
    assert first.barred == ("s02",)
    assert result.named() == {"s02"}
    assert "s02" not in second.participants


def test_a_site_whose_booking_no_accountant_can_read_does_not_end_the_run(
    consortium: World,
) -> None:
    """Signed and chained like any other entry: the site's fault, and nobody's mistake."""
    world = consortium(4, threshold=3)

    def lie(seen):  # type: ignore[no-untyped-def]
        if (seen.site, seen.kind) != ("s02", "train-request"):
            return None
        key, lines, at = key_of("s02"), [], ledger.NOTHING
        for text in seen.said["ledger"]["entries"]:
            plain = json.loads(text)
            del plain["signature"]
            if plain["kind"] == "booked":
                plain |= {"mode": "distributed", "steps": 3, "dimension": 64}
            data = canonical.encode(plain)
            signature = signing.sign(key, ledger.TAG, data).hex()
            lines.append(canonical.encode({**plain, "signature": signature}).decode())
            parts = (b"fedprint-1", ledger.TAG.encode(), data)
            framed = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
            at = ledger.next_head(at, canonical.digest(framed))
        head = ledger.sign_head(key, "s02", len(lines), at)
        return signed_anew(seen, ledger={**head.model_dump(), "entries": lines})

    result = play(world, rounds=2, lie=lie, liars=("s02",))
    assert [item.outcome for item in result.record.rounds] == ["aggregated"] * 2
    assert result.record.rounds[0].survivors == ("s00", "s01", "s03")
    assert result.named() == {"s02"}


def test_a_site_that_comes_back_from_a_backup_is_barred_and_the_run_goes_on(
    consortium: World,
) -> None:
    """The loop shows the site its own head; it refuses before it books."""
    world = consortium(4, threshold=3)
    copy = world.back_up("s01", with_epoch_key=True)
    done = []

    def fate(site: str, kind: str, number: int) -> str:
        if number == 2 and not done:
            done.append(site)
            world.restore("s01", copy)
        return ""

    result = play(world, rounds=3, fate=fate)
    second, third = result.record.rounds[1:]
    absent = [(one.site, one.reason) for item in (second, third) for one in item.absent]
    assert {site for site, _ in absent} == {"s01"}
    assert ("s01", "ledger") in absent
    assert result.record.completed == 3
    assert third.survivors == ("s00", "s02", "s03")


def quorums_meet(n: int, threshold: int, colluders: int) -> bool:
    """Whether any two sets of t sites share one that is honest, whoever the colluders are."""
    sites = range(n)
    return all(
        set(one) & set(two) - set(bad)
        for one in combinations(sites, threshold)
        for two in combinations(sites, threshold)
        for bad in combinations(sites, colluders)
    )


@pytest.mark.parametrize("n", [3, 4, 5, 6])
def test_an_honest_site_of_every_quorum_remembers_the_ledger(n: int) -> None:
    """By cases, all of them: up to 2t - n - 1 colluders any two quorums share an honest site, so
    that no head that one quorum has seen can be rolled back before another; one more can be."""
    for threshold in range(n // 2 + 1, n + 1):
        bound = 2 * threshold - n - 1
        assert quorums_meet(n, threshold, bound)
        assert not quorums_meet(n, threshold, bound + 1)


def test_every_reply_of_the_loop_is_booked(consortium: World) -> None:
    """What the coordinator archives is what the hospitals have on their disks."""
    world = consortium(3)
    result = play(world, rounds=2)
    for item in result.record.rounds:
        for one in item.contributors:
            header = one.header_bytes[protocol.SIGNATURE_BYTES :]
            note = TrainReply.model_validate_json(header).ledger
            assert len(note.entries) == (3 if item.round == 1 else 2)
