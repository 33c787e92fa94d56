"""Who may do what at the registry, without the network."""

from __future__ import annotations

import datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from registry_stand_ins import ROOT_KEY, TODAY, Hall, fingerprint, write_a_release

from client import keys, registry_client, registry_join
from client.policy import Policy
from client.rosters import RosterBook
from server import registry_enrolment, rosters, sites
from server.registry_desk import Desk
from server.registry_limits import RegistryLimits, RequestRate
from server.registry_releases import prepare
from shared_model import enrolment, registry, signing
from shared_model.errors import OurMistake, Refused
from shared_model.registry import Ask, Collect, Done, Fetch, Mail, MailContent, Send

ASK = Ask()
ADMITTED_ONLY = (
    "Renew",
    "Rotate",
    "Roster",
    "Heads",
    "Epoch",
    "Releases",
    "Send",
    "Mail",
    "Collect",
)
MAIL = Send(to="beta", what="ask", file=registry.encoded(b"opaque"))


# --- tokens ------------------------------------------------------------------------------------


def test_a_token_lets_one_card_wait_and_admits_nobody(hall: Hall) -> None:
    member = hall.waiting("alpha")
    assert hall.standing(member).state == "waiting"
    assert sites.roster(hall.counter.home) == []
    for method in ADMITTED_ONLY:
        with pytest.raises(Refused) as error:
            hall.ask(method, member.certificate, ASK)
        assert error.value.reason == "not-admitted"


def test_the_operators_yes_enrols_exactly_the_card_that_was_shown(hall: Hall) -> None:
    member = hall.waiting("alpha")
    other = keys.card(hall.member("alpha").node)
    with pytest.raises(OurMistake, match="No such card"):
        registry_enrolment.admit(hall.counter.home, hall.counter.book, "alpha", other)
    hall.counter.admit("alpha")
    assert sites.roster(hall.counter.home) == [keys.card(member.node)]
    assert hall.standing(member).state == "admitted"
    with pytest.raises(OurMistake, match="No such card"):
        registry_enrolment.admit(
            hall.counter.home, hall.counter.book, "alpha", keys.card(member.node)
        )


def test_the_same_card_again_gets_the_same_certificate(hall: Hall) -> None:
    """The reply may have been lost on the way."""
    member, token = hall.member("alpha"), hall.counter.invite("alpha")
    assert hall.enrol(member, token) == hall.enrol(member, token)
    assert len(hall.counter.book.certificates("alpha")) == 2


def test_a_used_token_takes_no_other_card_and_no_other_tls_key(hall: Hall) -> None:
    member, thief, token = hall.member("alpha"), hall.member("alpha"), hall.counter.invite("alpha")
    hall.enrol(member, token)
    with pytest.raises(Refused) as error:
        hall.enrol(thief, token)
    assert error.value.reason == "token-used"
    member.key = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(Refused) as error:
        hall.enrol(member, token)
    assert error.value.reason == "token-used"


def test_an_expired_token_is_refused_at_the_second(hall: Hall) -> None:
    member, token = hall.member("alpha"), hall.counter.invite("alpha", days=1)
    hall.counter.now = TODAY + datetime.timedelta(days=1)
    with pytest.raises(Refused) as error:
        hall.enrol(member, token)
    assert error.value.reason == "expired"
    hall.counter.now -= datetime.timedelta(seconds=1)
    hall.enrol(member, token)


def test_a_second_invitation_voids_the_first(hall: Hall) -> None:
    first = hall.counter.invite("alpha")
    second = hall.counter.invite("alpha")
    with pytest.raises(Refused) as error:
        hall.enrol(hall.member("alpha"), first)
    assert error.value.reason == "revoked"
    hall.enrol(hall.member("alpha"), second)


def test_a_token_is_for_its_site_only(hall: Hall) -> None:
    with pytest.raises(Refused) as error:
        hall.enrol(hall.member("beta"), hall.counter.invite("alpha"))
    assert error.value.reason == "other-site"


def test_a_token_is_for_enrolment_only(hall: Hall) -> None:
    token = fingerprint(hall.counter.invite("alpha").certificate)
    for method in ("Standing", "Leave", *ADMITTED_ONLY):
        with pytest.raises(Refused) as error:
            hall.ask(method, token, ASK)
        assert error.value.reason == "token-only"
    with pytest.raises(Refused) as error:
        hall.ask("Enrol", hall.waiting("beta").certificate, ASK)
    assert error.value.reason == "no-token"


def test_a_card_with_a_tls_key_that_its_identity_did_not_sign_is_refused(hall: Hall) -> None:
    member, other = hall.member("alpha"), hall.member("alpha")
    token = hall.counter.invite("alpha")
    bent = member.enrol.model_copy(update={"tls_key": other.enrol.tls_key})
    with pytest.raises(Refused) as error:
        hall.ask("Enrol", fingerprint(token.certificate), bent)
    assert error.value.reason == "signature"
    bent = member.enrol.model_copy(update={"card": other.enrol.card})
    with pytest.raises(Refused) as error:
        hall.ask("Enrol", fingerprint(token.certificate), bent)
    assert error.value.reason == "signature"
    hall.enrol(member, token)  # and the token is not spent by that


def test_two_sites_never_share_a_key(hall: Hall) -> None:
    """Also if the first of them only waits."""
    first, second = hall.waiting("alpha"), hall.member("beta")
    second.node.identity_key.write_bytes(first.node.identity_key.read_bytes())
    with pytest.raises(Refused) as error:
        hall.enrol(second, hall.counter.invite("beta"))
    assert error.value.reason == "enrolled"


def test_nothing_of_a_token_is_at_rest_that_could_be_used_as_one(hall: Hall) -> None:
    token = hall.counter.invite("alpha")
    secret = "".join(token.private_key.splitlines()[1:-1])
    stored = b"".join(
        path.read_bytes() for path in hall.counter.home.root.rglob("*") if path.is_file()
    )
    assert token.private_key.encode() not in stored
    assert secret.encode() not in stored
    assert token.private_key not in repr(token)


@pytest.mark.parametrize("site", ["coordinator", "../alpha", "Alpha", "", "a" * 33, "-a"])
def test_what_is_no_name_of_a_hospital_is_not_invited(hall: Hall, site: str) -> None:
    with pytest.raises(OurMistake, match="cannot be the name"):
        hall.counter.invite(site)


# --- certificates ------------------------------------------------------------------------------


def test_a_certificate_that_was_never_listed_is_nobodys(hall: Hall) -> None:
    with pytest.raises(Refused) as error:
        hall.ask("Health", "ab" * 32, ASK)
    assert error.value.reason == "unknown-certificate"


def test_a_certificate_expires(hall: Hall) -> None:
    member = hall.admitted("alpha")
    hall.counter.now = TODAY + datetime.timedelta(days=180)
    with pytest.raises(Refused) as error:
        hall.standing(member)
    assert error.value.reason == "expired"


def renewed(hall: Hall, member: object, identity: object = None) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    point = registry.tls_point(key.public_key())
    signature = registry.sign_tls_key(identity or member.identity, member.site, point)
    reply = hall.ask(
        "Renew", member.certificate, registry.Renew(tls_key=point, signature=signature)
    )
    return fingerprint(registry.Certificate.from_bytes(reply).certificate)


def test_the_first_use_of_a_renewed_certificate_retires_the_old_one(hall: Hall) -> None:
    member = hall.admitted("alpha")
    old, new = member.certificate, renewed(hall, member)
    hall.standing(member)  # the old one holds until then
    member.certificate = new
    hall.standing(member)
    member.certificate = old
    with pytest.raises(Refused) as error:
        hall.standing(member)
    assert error.value.reason == "unknown-certificate"


def test_a_renewal_needs_the_identity_key_and_is_not_for_hoarding(hall: Hall) -> None:
    """Whoever stole the TLS key only cannot go on when it expires."""
    member = hall.admitted("alpha")
    with pytest.raises(Refused) as error:
        renewed(hall, member, hall.member("alpha").identity)
    assert error.value.reason == "signature"
    for _ in range(registry_enrolment.CERTIFICATES_A_DAY - 1):
        member.certificate = renewed(hall, member)  # used, so that the one before is retired
    with pytest.raises(Refused) as error:
        renewed(hall, member)
    assert error.value.reason == "rate"
    hall.counter.now += datetime.timedelta(days=1, seconds=1)
    renewed(hall, member)


def test_revocation_holds_at_once_and_ends_everything(hall: Hall) -> None:
    member, other = hall.admitted("alpha"), hall.admitted("beta")
    hall.ask("Send", other.certificate, MAIL.model_copy(update={"to": "alpha"}))
    token = hall.counter.invite("alpha")
    registry_enrolment.revoke(hall.counter.home, hall.counter.book, "alpha")
    for certificate in (member.certificate, fingerprint(token.certificate)):
        with pytest.raises(Refused) as error:
            hall.ask("Health", certificate, ASK)
        assert error.value.reason == "revoked"
    assert [card.site for card in sites.roster(hall.counter.home)] == ["beta"]
    assert hall.counter.book.mail("alpha") == []
    assert hall.standing(other).state == "admitted"


def test_a_card_removed_by_hand_takes_the_rights_with_it(hall: Hall) -> None:
    """`fedprint-coordinator remove` is older than the registry."""
    member = hall.admitted("alpha")
    sites.remove(hall.counter.home, "alpha")
    with pytest.raises(Refused) as error:
        hall.ask("Mail", member.certificate, ASK)
    assert error.value.reason == "not-admitted"


def test_a_hospital_enrolled_by_file_joins_without_waiting(hall: Hall) -> None:
    """Same card: the file-based way and the token agree."""
    member = hall.member("alpha")
    sites.enrol(hall.counter.home, keys.card_bytes(member.node))
    assert hall.enrol(member, hall.counter.invite("alpha")).state == "admitted"
    assert hall.counter.book.waiting() == []


# --- lost keys ---------------------------------------------------------------------------------


def test_new_keys_for_an_enrolled_name_need_a_token_that_says_so(hall: Hall) -> None:
    old, fresh = hall.admitted("alpha"), hall.member("alpha")
    with pytest.raises(Refused) as error:
        hall.enrol(fresh, hall.counter.invite("alpha"))
    assert error.value.reason == "enrolled"
    hall.enrol(fresh, hall.counter.invite("alpha", replaces=True))
    waits = hall.counter.book.waiting_of("alpha")
    assert waits is not None
    assert waits.how == "replaces"
    assert hall.standing(fresh).state == "waiting"
    with pytest.raises(Refused) as error:
        hall.ask("Mail", fresh.certificate, ASK)
    assert error.value.reason == "not-admitted"  # though its name is enrolled
    assert hall.standing(old).state == "admitted"  # until the operator's yes
    hall.counter.admit("alpha")
    assert hall.standing(fresh).state == "admitted"
    with pytest.raises(Refused) as error:
        hall.standing(old)
    assert error.value.reason == "revoked"


def test_there_is_nothing_to_replace_at_a_new_hospital(hall: Hall) -> None:
    with pytest.raises(Refused) as error:
        hall.counter.invite("alpha", replaces=True)
    assert error.value.reason == "enrolled"


def test_who_only_waits_takes_back_no_more_than_its_own_card(hall: Hall) -> None:
    """A thief with a token cannot make the enrolled hospital leave."""
    old, thief = hall.admitted("alpha"), hall.member("alpha")
    hall.enrol(thief, hall.counter.invite("alpha", replaces=True))
    leaving = registry.Leave(signature=registry.sign_leaving(thief.identity, "alpha"))
    assert Done.from_bytes(hall.ask("Leave", thief.certificate, leaving)) == Done()
    assert hall.standing(old).state == "admitted"
    assert hall.counter.book.waiting() == []


# --- rotation ----------------------------------------------------------------------------------


def test_a_rotation_waits_and_the_certificate_follows_the_new_key(hall: Hall) -> None:
    member = hall.admitted("alpha")
    message = registry_client.next_card(member.node)
    hall.ask("Rotate", member.certificate, message)
    assert hall.standing(member).state == "rotating"
    assert sites.roster(hall.counter.home) == [keys.card(member.node)]
    hall.counter.admit("alpha")
    standing, key = hall.standing(member), signing.load_key_file(member.node.next_identity_key)
    assert standing.state == "admitted"
    assert standing.identity == signing.key_digest(signing.public_bytes(key))
    renewed(hall, member, key)
    with pytest.raises(Refused) as error:
        renewed(hall, member)  # by the old key
    assert error.value.reason == "signature"


def test_a_rotation_that_the_enrolled_key_did_not_sign_is_refused(hall: Hall) -> None:
    member, other = hall.admitted("alpha"), hall.member("alpha")
    message = registry_client.next_card(other.node)  # all right, but for another old key
    with pytest.raises(Refused) as error:
        hall.ask("Rotate", member.certificate, message)
    assert error.value.reason == "signature"
    beta = registry_client.next_card(hall.member("beta").node)
    with pytest.raises(Refused) as error:
        hall.ask("Rotate", member.certificate, beta)
    assert error.value.reason == "other-site"


def test_the_node_goes_over_to_its_next_key_only_once_the_root_has_signed_it(hall: Hall) -> None:
    members = [hall.admitted(site) for site in ("alpha", "beta", "gamma")]
    node = members[0].node
    _, pinned = registry_enrolment.invitation(hall.counter.home)
    keys.join(node, pinned)
    before = rosters.sign_here(hall.counter.home, ROOT_KEY, today=TODAY.date().isoformat())
    with pytest.raises(OurMistake, match="No rotation"):
        registry_join.switch_identity(node, before)
    hall.ask("Rotate", members[0].certificate, registry_client.next_card(node))
    old = node.identity_key.read_bytes()
    with pytest.raises(Refused, match="does not list"):
        registry_join.switch_identity(node, before)
    assert node.identity_key.read_bytes() == old
    hall.counter.admit("alpha")
    after = rosters.sign_here(hall.counter.home, ROOT_KEY, today=TODAY.date().isoformat())
    digest = registry_join.switch_identity(node, after)
    assert digest == signing.key_digest(keys.card(node).identity)
    assert not node.next_identity_key.exists()
    assert old in [path.read_bytes() for path in node.identity_key.parent.glob("identity-*.pem")]
    assert (node.root / "site.json").read_bytes() == keys.card_bytes(node)
    assert sites.card_of(hall.counter.home, "alpha") == keys.card(node)


# --- rosters, releases, mail -------------------------------------------------------------------


def test_the_newest_roster_is_handed_out_as_the_root_signed_it(hall: Hall) -> None:
    members = [hall.admitted(site) for site in ("alpha", "beta", "gamma")]
    with pytest.raises(Refused) as error:
        hall.ask("Roster", members[0].certificate, ASK)
    assert error.value.reason == "no-roster"
    data = rosters.sign_here(hall.counter.home, ROOT_KEY, today=TODAY.date().isoformat())
    reply = hall.ask("Roster", members[0].certificate, ASK)
    assert registry.RosterFile.from_bytes(reply).file.encode() == data
    assert hall.standing(members[0]).roster == 1


def test_releases_are_packed_once_and_named_by_their_digest(hall: Hall) -> None:
    member, home = hall.admitted("alpha"), hall.counter.home
    for number in (1, 2):
        write_a_release(home, number)
    prepare(home)
    before = {path: path.stat().st_mtime_ns for path in home.release_archives.iterdir()}
    prepare(home)
    assert before == {path: path.stat().st_mtime_ns for path in home.release_archives.iterdir()}
    listed = registry.Releases.from_bytes(hall.ask("Releases", member.certificate, ASK)).releases
    assert [entry.number for entry in listed] == [1, 2]
    stretch = hall.counter.desk.stretch(
        member.certificate, Fetch(sha256=listed[0].sha256, offset=5).to_bytes()
    )
    assert (stretch.offset, stretch.size_bytes) == (5, listed[0].size_bytes)


@pytest.mark.parametrize(
    ("digest", "beyond", "reason"), [("ab" * 32, 0, "no-release"), ("", 1, "offset")]
)
def test_a_stretch_that_is_not_there_is_refused(
    hall: Hall, digest: str, beyond: int, reason: str
) -> None:
    member = hall.admitted("alpha")
    write_a_release(hall.counter.home, 1)
    prepare(hall.counter.home)
    (entry,) = registry.Releases.from_bytes(hall.ask("Releases", member.certificate, ASK)).releases
    asked = Fetch(sha256=digest or entry.sha256, offset=beyond * (entry.size_bytes + 1))
    with pytest.raises(Refused) as error:
        hall.counter.desk.stretch(member.certificate, asked.to_bytes())
    assert error.value.reason == reason


def test_a_site_has_a_quota_of_bytes_a_day_and_others_have_their_own(hall: Hall) -> None:
    hall.counter.book.charge("alpha", 70, 100, TODAY)
    with pytest.raises(Refused) as error:
        hall.counter.book.charge("alpha", 31, 100, TODAY)
    assert error.value.reason == "quota"
    hall.counter.book.charge("alpha", 30, 100, TODAY)
    hall.counter.book.charge("beta", 100, 100, TODAY)
    hall.counter.book.charge("alpha", 100, 100, TODAY + datetime.timedelta(days=1))


def test_what_a_line_that_was_cut_did_not_bring_is_not_counted(hall: Hall) -> None:
    """Each try asks for all that is left; ten of them must not be ten releases."""
    member = hall.admitted("alpha")
    write_a_release(hall.counter.home, 1)
    prepare(hall.counter.home)
    (entry,) = registry.Releases.from_bytes(hall.ask("Releases", member.certificate, ASK)).releases
    most = entry.size_bytes + entry.size_bytes // 2
    desk = Desk(
        hall.counter.home,
        hall.counter.book,
        RegistryLimits(release_bytes_a_day=most),
        lambda: hall.counter.now,
    )
    asked = Fetch(sha256=entry.sha256, offset=0).to_bytes()
    for _ in range(10):
        stretch = desk.stretch(member.certificate, asked)
        hall.counter.now += datetime.timedelta(seconds=1)
        desk.not_sent(stretch, entry.size_bytes)
    desk.stretch(member.certificate, asked)
    hall.counter.now += datetime.timedelta(days=1)
    desk.stretch(member.certificate, asked)
    desk.not_sent(stretch, entry.size_bytes)  # of yesterday: nothing of today's is given back
    with pytest.raises(Refused) as error:
        desk.stretch(member.certificate, asked)
    assert error.value.reason == "quota"


def test_mail_reaches_its_receiver_and_nobody_else(hall: Hall) -> None:
    alpha, beta, gamma = (hall.admitted(site) for site in ("alpha", "beta", "gamma"))
    hall.ask("Send", alpha.certificate, MAIL)
    hall.ask("Send", alpha.certificate, MAIL)  # sent again because the reply was lost
    for other in (alpha, gamma):
        assert Mail.from_bytes(hall.ask("Mail", other.certificate, ASK)).items == ()
    (item,) = Mail.from_bytes(hall.ask("Mail", beta.certificate, ASK)).items
    assert (item.sender, item.what, item.size_bytes) == ("alpha", "ask", 6)
    with pytest.raises(Refused) as error:
        hall.ask("Collect", gamma.certificate, Collect(id=item.id, remove=True))
    assert error.value.reason == "no-mail"
    got = hall.ask("Collect", beta.certificate, Collect(id=item.id, remove=True))
    assert MailContent.from_bytes(got).data == b"opaque"
    assert Mail.from_bytes(hall.ask("Mail", beta.certificate, ASK)).items == ()


def test_a_mailbox_is_bounded_by_sender_by_count_and_by_age(hall: Hall) -> None:
    limits = RegistryLimits(mail_in_a_box=3, mail_of_one_sender=2, mail_days=1)
    post, book = hall.counter.book.post, hall.counter.book
    for number in range(2):
        post("alpha", "beta", "ask", bytes([number]), limits, TODAY)
    with pytest.raises(Refused) as error:
        post("alpha", "beta", "ask", b"more", limits, TODAY)
    assert error.value.reason == "mailbox-full"
    post("gamma", "beta", "ask", b"third", limits, TODAY)
    with pytest.raises(Refused):
        post("delta", "beta", "ask", b"fourth", limits, TODAY)
    post("delta", "beta", "ask", b"fourth", limits, TODAY + datetime.timedelta(days=2))
    assert [item.sender for item in book.mail("beta")] == ["delta"]


def test_mail_for_nobody_is_refused(hall: Hall) -> None:
    alpha = hall.admitted("alpha")
    with pytest.raises(Refused) as error:
        hall.ask("Send", alpha.certificate, MAIL)
    assert error.value.reason == "no-receiver"


def test_who_leaves_is_gone_at_once(hall: Hall) -> None:
    member = hall.admitted("alpha")
    bent = registry.Leave(signature=registry.sign_leaving(member.identity, "beta"))
    with pytest.raises(Refused) as error:
        hall.ask("Leave", member.certificate, bent)
    assert error.value.reason == "signature"
    hall.ask(
        "Leave",
        member.certificate,
        registry.Leave(signature=registry.sign_leaving(member.identity, "alpha")),
    )
    assert sites.roster(hall.counter.home) == []
    with pytest.raises(Refused) as error:
        hall.standing(member)
    assert error.value.reason == "revoked"


def test_a_malformed_request_is_answered_with_one_word(hall: Hall) -> None:
    member = hall.admitted("alpha")
    for method in hall.counter.desk.methods:
        if method != "Enrol":
            with pytest.raises(Refused) as error:
                hall.ask(method, member.certificate, b"{}")
            assert error.value.reason == "malformed"


# --- limits ------------------------------------------------------------------------------------


def test_the_rate_is_a_burst_and_a_refill_for_each_caller() -> None:
    rate = RequestRate(RegistryLimits(requests_per_s=2.0, burst=3))
    assert [rate.take("a", 0.0) for _ in range(4)] == [True, True, True, False]
    assert rate.take("b", 0.0)
    assert not rate.take("a", 0.4)
    assert rate.take("a", 0.5)
    assert [rate.take("a", 100.0) for _ in range(4)] == [True, True, True, False]


def test_limits_that_bound_nothing_are_refused() -> None:
    with pytest.raises(OurMistake):
        RegistryLimits(burst=0)
    with pytest.raises(OurMistake):
        RegistryLimits(stall_s=float("nan"))
    with pytest.raises(OurMistake):
        RegistryLimits(stream_s=100.0, connection_age_s=99.0)


def test_all_certificates_of_a_hospital_are_counted_together(hall: Hall) -> None:
    """It may renew eight times a day: each certificate is no further hospital."""
    member = hall.admitted("alpha")
    desk = hall.counter.desk
    first = desk.account_of(member.certificate)
    key = ec.generate_private_key(ec.SECP256R1())
    point = registry.tls_point(key.public_key())
    identity = signing.load_key_file(member.node.identity_key)
    renewed = registry.Certificate.from_bytes(
        desk.answer(
            "Renew",
            member.certificate,
            registry.Renew(
                tls_key=point, signature=registry.sign_tls_key(identity, "alpha", point)
            ).to_bytes(),
        )
    )
    assert desk.account_of(fingerprint(renewed.certificate)) == first
    token = fingerprint(hall.counter.invite("alpha", replaces=True).certificate)
    others = {desk.account_of(token), desk.account_of("ab" * 32)}
    assert first not in others
    assert len(others) == 2
    registry_enrolment.revoke(hall.counter.home, hall.counter.book, "alpha")
    assert desk.account_of(member.certificate) != first


def test_the_old_key_does_not_push_a_replacing_card_aside(hall: Hall) -> None:
    """A thief of the lost keys still has its certificate until the operator admits the new card."""
    old = hall.admitted("alpha")
    fresh = hall.member("alpha")
    hall.enrol(fresh, hall.counter.invite("alpha", replaces=True))
    with pytest.raises(Refused) as error:
        hall.ask("Rotate", old.certificate, registry_client.next_card(old.node))
    assert error.value.reason == "enrolled"
    waits = hall.counter.book.waiting_of("alpha")
    assert waits is not None
    assert waits.how == "replaces"


def test_an_older_roster_does_not_finish_a_rotation(hall: Hall) -> None:
    """The root has signed a newer one since, perhaps because the key was stolen."""
    node, *_ = [hall.admitted(site).node for site in ("alpha", "beta", "gamma")]
    _, pinned = registry_enrolment.invitation(hall.counter.home)
    keys.join(node, pinned)
    registry_client.next_card(node)
    key = signing.public_bytes(signing.load_key_file(node.next_identity_key)).hex()
    card = keys.card(node).model_copy(update={"identity_key": key})
    sites.replace(
        hall.counter.home, enrolment.seal(card, signing.load_key_file(node.next_identity_key))
    )
    older = rosters.sign_here(hall.counter.home, ROOT_KEY, today=TODAY.date().isoformat())
    newer = rosters.sign_here(hall.counter.home, ROOT_KEY, today=TODAY.date().isoformat())
    Policy.write_default(node.policy, declared_patients=100)
    with pytest.raises(Refused):
        RosterBook(node).offer(
            newer, keys.pinned(node).root, Policy.from_file(node.policy), TODAY.date().isoformat()
        )
    with pytest.raises(Refused, match="older than one that was seen"):
        registry_join.switch_identity(node, older)
