"""The statement for a data-protection officer, and the two commands."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from export_stand_ins import Consortium, key_of, public, resigned
from typer.testing import CliRunner

from auditor import statement_html, statement_pdf
from auditor.cli import app
from auditor.ledger_audit import audit_ledgers
from auditor.statement import Statement, statements
from shared_model import accounting, enrolment
from shared_model.errors import OurMistake, Refused

PAIR = (accounting.epsilon_pld, accounting.epsilon_pld)


def made_of(files: dict[str, bytes], **changes: object) -> list[Statement]:
    values = {"root_key": public("root"), "accountants": PAIR, **changes}
    audit = audit_ledgers(files, **values)  # type: ignore[arg-type]
    return list(statements(audit, day="2026-11-28"))


@pytest.fixture(scope="module")
def good(three: Consortium) -> Statement:
    return made_of(three.files())[0]


def pages(data: bytes) -> int:
    return len(re.findall(rb"/Type\s*/Page\b", data))


def test_epsilon_is_never_told_without_delta(good: Statement) -> None:
    for what, value in good.facts:
        if "epsilon" in value:
            assert "at delta 0.00001" in value, what
    facts = dict(good.facts)
    assert set(facts) >= {"Who", "Protected", "Trust model", "Promised", "Spent for life"}
    assert "one patient at one hospital" in facts["Protected"]
    assert "local" in facts["Trust model"]
    assert "epsilon 8 for life and 4 for one run" in facts["Promised"]


def test_what_was_spent_and_left_is_what_was_counted(good: Statement, three: Consortium) -> None:
    stated = three.hospitals["alpha"].chain.bookings[-1].epsilon_lifetime or 0.0
    facts = dict(good.facts)
    assert f"epsilon {stated:.2f}" in facts["Spent for life"]
    assert f"epsilon {8.0 - stated:.2f}" in facts["Left for life"]
    assert good.points[-1].epsilon == stated
    assert good.points[-1].limit == 8.0
    assert [run[0] for run in good.runs] == ["spring"]


def test_a_failed_verification_says_so_in_the_first_line(three: Consortium) -> None:
    short = three.file("alpha", lines=three.hospitals["alpha"].lines[:6], countersigned=[])
    for one in made_of({"a": short, "b": three.file("beta"), "junk": b"junk"}):
        assert one.headline.startswith("VERIFICATION FAILED: do not rely on any figure")
        assert any("ROLLED BACK" in line for line in one.failures)
        assert not {"Spent for life", "Left for life"} & set(dict(one.facts))
        assert not one.countersigned
        html = statement_html.render(one).decode()
        body = html[html.index("<body>") :]
        assert re.sub(r"<[^>]+>", "", body).strip().startswith("VERIFICATION FAILED")
        assert pages(statement_pdf.render(one)) == 1


def test_an_incomplete_verification_says_so_in_the_first_line(three: Consortium) -> None:
    alone = three.file("alpha", countersigned=[], witnessed={})
    (one,) = made_of({"a": alone})
    assert one.headline.startswith("INCOMPLETE: ")
    assert "nobody else has countersigned" in one.headline


def test_the_html_file_fetches_nothing_and_runs_nothing(good: Statement) -> None:
    html = statement_html.render(good).decode()
    assert not re.search(r"https?:|<script|<link|<img|url\(|@import|src=", html)
    assert html.count("<svg") == 1
    for _, digest in good.files:
        assert digest in html


def test_what_a_file_is_called_is_text_and_not_markup(three: Consortium) -> None:
    name = '<script>alert("x")</script> $\\frac{'
    (one,) = made_of({name: b"junk"})
    html = statement_html.render(one).decode()
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert pages(statement_pdf.render(one)) == 1


def test_the_pdf_is_one_page_and_the_same_each_time(good: Statement) -> None:
    data = statement_pdf.render(good)
    assert data.startswith(b"%PDF")
    assert pages(data) == 1
    assert statement_pdf.render(good) == data


def test_a_ledger_of_many_runs_and_long_names_still_fits_one_page() -> None:
    made = Consortium.after(rounds=1, limits=(20.0, 4.0))
    for number in range(12):
        run = f"a-run-with-a-long-name-{number:02}-" + "x" * 30
        made.approve(run, bookings=2)
        made.round(run, 1)
    files = {f"{'long-name' * 9}-{site}": data for site, data in made.files().items()}
    one = made_of(files)[0]
    assert len(one.runs) == 13
    assert pages(statement_pdf.render(one)) == 1


def test_a_ledger_in_which_nothing_was_booked_has_a_statement() -> None:
    made = Consortium.after(rounds=0)
    one = made_of(made.files())[0]
    assert dict(one.facts)["Spent"] == "nothing: no round was ever booked"
    assert statement_html.plot_of(one.points) is None
    assert pages(statement_pdf.render(one)) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"time_s": 0},
        {"time_s": 2**40},
        {"limit_lifetime": 1e308, "limit_run": 1e308},
        {"epsilon_lifetime": 0.0, "limit_lifetime": 0.0},
        {"epsilon_lifetime": 1e308},
        {"noise_multiplier": 0.001, "steps": 100_000},
        {"private": False},
        {"delta": 1e-30},
        {"delta": 0.999},
        {"limit_lifetime": None, "limit_run": None, "epsilon_lifetime": None},
    ],
    ids=str,
)
def test_figures_that_make_no_sense_still_make_a_statement(changes: dict[str, object]) -> None:
    made = Consortium.after(rounds=0)
    one = made.hospitals["alpha"]
    opened = one.chain.opened
    first = opened.model_copy(update={"delta": changes.get("delta", opened.delta)})
    draft = made.draft("alpha", "spring", 1).model_copy(update={"sequence": 2, **changes})
    (statement,) = made_of({"alpha": made.file("alpha", lines=resigned([first, draft], "alpha"))})
    assert pages(statement_pdf.render(statement)) == 1
    assert b"Privacy statement: alpha" in statement_html.render(statement)


# The commands


@pytest.fixture
def folder(tmp_path: Path, three: Consortium) -> Path:
    for site, data in three.files().items():
        (tmp_path / f"{site}.ledger").write_bytes(data)
    root = enrolment.RootCard(root_key=public("root").hex())
    (tmp_path / "root.json").write_bytes(enrolment.seal(root, key_of("root")))
    return tmp_path


def arguments(folder: Path, command: str, *sites: str) -> list[str]:
    files = [str(folder / f"{site}.ledger") for site in sites]
    return [command, *files, "--root-key", str(folder / "root.json")]


def test_verify_counts_with_the_real_accountants_and_ends_well(folder: Path) -> None:
    done = CliRunner().invoke(
        app, [*arguments(folder, "verify", "alpha", "beta"), "--json"], catch_exceptions=False
    )
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert found["verdict"] == "OK"
    life = found["ledgers"][0]["epsilon"][0]
    assert life["verdict"] == "OK"
    assert life["pld"] == pytest.approx(life["prv"], rel=0.01)
    assert "alpha.ledger: epsilon by two accountants" in done.stderr


def test_impatience_is_incomplete_and_not_ok(folder: Path) -> None:
    done = CliRunner().invoke(
        app, [*arguments(folder, "verify", "alpha"), "--patience-s", "1e-3"], catch_exceptions=False
    )
    assert done.exit_code == 6
    assert "INCOMPLETE" in done.stderr


def test_verify_and_report_refuse_a_ledger_that_was_cut(folder: Path, three: Consortium) -> None:
    lines = three.hospitals["alpha"].lines
    (folder / "alpha.ledger").write_bytes(three.file("alpha", lines=lines[:6], countersigned=[]))
    runner = CliRunner()
    with pytest.raises(Refused, match="checks failed"):
        runner.invoke(app, arguments(folder, "verify", "alpha", "beta"), catch_exceptions=False)
    out = folder / "out"
    with pytest.raises(Refused, match="checks failed"):
        runner.invoke(
            app,
            [*arguments(folder, "report", "alpha", "beta"), "-o", str(out)],
            catch_exceptions=False,
        )
    assert sorted(path.name for path in out.iterdir()) == [
        "alpha.html",
        "alpha.pdf",
        "beta.html",
        "beta.pdf",
    ]


@pytest.mark.parametrize(
    ("more", "error"),
    [
        (["--root-key", "ff" * 31], OurMistake),
        (["--release", "."], OurMistake),
    ],
)
def test_what_cannot_be_asked_is_said(folder: Path, more: list[str], error: type) -> None:
    with pytest.raises(error):
        CliRunner().invoke(
            app, [*arguments(folder, "verify", "alpha"), *more], catch_exceptions=False
        )


def test_a_file_that_is_not_there_or_is_given_twice_is_refused(folder: Path) -> None:
    for sites in (("nobody",), ("alpha", "alpha")):
        with pytest.raises((Refused, OurMistake)):
            CliRunner().invoke(app, arguments(folder, "verify", *sites), catch_exceptions=False)
