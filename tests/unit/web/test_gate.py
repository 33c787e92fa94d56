"""The gate: who gets past it, and in which words everybody else is refused."""

from __future__ import annotations

import asyncio
import re

import pytest
from web_stand_ins import BEARER, COOKIE, HOST, ORIGIN, Answered, World, ask

from shared_model.web import gate


@pytest.fixture
def world(tmp_path) -> World:
    return World(tmp_path)


class Browser:
    """Sends what a browser with this page open would send; `extra` on top."""

    def __init__(self, world: World) -> None:
        self.world, self.app, self.cookie, self.csrf = world, world.app(), "", ""

    def get(self, path="/", *extra, **options) -> Answered:
        headers = [("host", HOST), *extra]
        if self.cookie:
            headers.append(("cookie", f"{COOKIE}={self.cookie}"))
        return asyncio.run(ask(self.app, path=path, headers=headers, **options))

    def post(self, path, fields="", *, origin=ORIGIN, kind=None, extra=(), chunks=None):
        headers = [("host", HOST), ("content-type", kind or "application/x-www-form-urlencoded")]
        if origin:
            headers.append(("origin", origin))
        if self.cookie:
            headers.append(("cookie", f"{COOKIE}={self.cookie}"))
        body = chunks or (fields.encode(),)
        return asyncio.run(ask(self.app, "POST", path, headers=[*headers, *extra], chunks=body))

    def log_in(self) -> Browser:
        answer = self.post("/login", f"token={self.world.links.issue()}")
        assert answer.status == 303, answer.text
        self.cookie = re.match(rf"{COOKIE}=([^;]+)", answer.headers["set-cookie"])[1]
        self.csrf = re.search(r'name="csrf" value="([^"]+)"', self.get().text)[1]
        return self


@pytest.fixture
def stranger(world) -> Browser:
    return Browser(world)


@pytest.fixture
def browser(world) -> Browser:
    return Browser(world).log_in()


@pytest.mark.parametrize(
    "path", ["/", "/live/part", "/do", "/item/x", "/sessions", "/logout", "/nowhere", "/metrics",
             "/health/", "/static", "/login/", "//login", "/static/../do", "/STATIC/fedprint.css"],
)  # fmt: skip
def test_a_stranger_learns_of_no_path_whether_it_is_there(stranger, path):
    """401 for each, for GET and POST; nothing is done."""
    assert stranger.get(path).status == 401
    assert stranger.post(path, "what=x&csrf=").status == 401
    assert stranger.world.done == []


def test_strangers_get_login_health_and_static_files_only(stranger):
    """They are in the package that everybody has."""
    assert stranger.get("/login").status == 200
    assert stranger.get("/health").text == '{"live": true, "ready": true, "why": ""}'
    assert stranger.get("/static/fedprint.js").headers["content-type"].startswith("text/javascript")
    assert stranger.get("/static/fedprint.css").headers["content-type"].startswith("text/css")


def test_health_says_when_the_program_is_not_ready(stranger):
    """A monitor need not read the body."""
    stranger.world.ready = False
    answer = stranger.get("/health")
    assert (answer.status, '"ready": false' in answer.text) == (503, True)


def test_metrics_need_the_bearer_token(stranger, browser):
    """A session does not do; without a token nobody gets them."""
    assert stranger.get("/metrics", ("authorization", f"Bearer {BEARER}")).text == "fedprint_up 1\n"
    for wrong in (f"Bearer {BEARER}x", f"bearer {BEARER}", BEARER, "", "Bearer ", "Bearer None"):
        assert stranger.get("/metrics", ("authorization", wrong)).status == 401
    assert browser.get("/metrics").status == 401
    stranger.world.bearer = None
    for given in ("Bearer ", "Bearer None", "", f"Bearer {BEARER}"):
        assert stranger.get("/metrics", ("authorization", given)).status == 401


def test_a_one_time_link_logs_in_once(stranger):
    """Opening it spends nothing: a preview may do that; the button does."""
    token = stranger.world.links.issue()
    for _ in range(2):
        page = stranger.get("/login", query=f"token={token}".encode())
        assert (page.status, token in page.text) == (200, True)
    assert stranger.post("/login", f"token={token}").status == 303
    again = stranger.post("/login", f"token={token}")
    assert (again.status, "set-cookie" in again.headers) == (403, False)
    assert [entry[1:] for entry in stranger.world.audited] == [
        ("login", "done"), ("login", "refused")
    ]  # fmt: skip


def test_a_one_time_link_expires(stranger):
    """After ten minutes."""
    token = stranger.world.links.issue()
    stranger.world.now += 600.0
    assert stranger.post("/login", f"token={token}").status == 403


def test_a_clock_that_is_put_back_makes_no_link_live_longer(stranger):
    """The wall clock is an hour behind then; ten minutes are ten minutes all the same."""
    token = stranger.world.links.issue()
    stranger.world.put_back = 3600.0
    stranger.world.now += 599.0
    assert stranger.post("/login", f"token={token}").status == 303
    token = stranger.world.links.issue()
    stranger.world.put_back = 7200.0
    stranger.world.now += 600.0
    assert stranger.post("/login", f"token={token}").status == 403


def test_a_machine_that_was_started_anew_ends_the_links_of_before(stranger):
    """Its monotonic clock begins again, and would otherwise give a link the time it ran before."""
    token = stranger.world.links.issue()
    stranger.world.now -= 900_000.0
    stranger.world.put_back = -900_000.0
    assert stranger.post("/login", f"token={token}").status == 403


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(stranger):
    """HttpOnly, SameSite=Strict, this host only."""
    answer = stranger.post("/login", f"token={stranger.world.links.issue()}")
    words = {word.strip().lower() for word in answer.headers["set-cookie"].split(";")[1:]}
    assert {"httponly", "samesite=strict", "path=/"} <= words
    assert not any(word.startswith("domain") for word in words)


def test_behind_https_the_cookie_is_of_this_host_and_https_alone(world):
    """`__Host-`: no other host and no plain connection can set or get it."""
    world.secure = True
    answer = asyncio.run(
        ask(
            world.app(), "POST", "/login",
            headers=[("host", HOST), ("origin", f"https://{HOST}"),
                     ("content-type", "application/x-www-form-urlencoded")],
            chunks=(f"token={world.links.issue()}".encode(),),
        )
    )  # fmt: skip
    assert answer.headers["set-cookie"].startswith(f"__Host-{COOKIE}=")
    assert "Secure" in answer.headers["set-cookie"]


def test_logins_are_throttled(stranger):
    """Twenty tries, then one in three seconds; the right token waits, too."""
    for _ in range(20):
        assert stranger.post("/login", f"token={'A' * 43}").status == 403
    token = stranger.world.links.issue()
    assert stranger.post("/login", f"token={token}").status == 429
    stranger.world.now += 3.0
    assert stranger.post("/login", f"token={token}").status == 303


def test_a_form_without_the_sessions_secret_does_nothing(browser):
    """Nor with another session's."""
    other = Browser(browser.world)
    other.app = browser.app
    other.log_in()
    for csrf in ("", other.csrf, browser.csrf[:-1], browser.csrf + "x", "\u00e9"):
        assert browser.post("/do", f"what=x&csrf={csrf}").status == 403
    assert browser.world.done == []
    assert browser.post("/do", f"what=x&csrf={browser.csrf}").status == 303
    assert browser.world.done == ["x"]


@pytest.mark.parametrize(
    "origin",
    ["", "null", "http://evil.example", f"https://{HOST}", "http://127.0.0.1", f"{ORIGIN}/",
     "http://127.0.0.1:9999", "http://localhost:8450"],
)  # fmt: skip
def test_a_form_of_another_origin_does_nothing(browser, origin):
    """The origin has to be there, and ours."""
    assert browser.post("/do", f"csrf={browser.csrf}", origin=origin).status == 403
    assert (
        browser.post("/login", f"token={browser.world.links.issue()}", origin=origin).status == 403
    )
    assert browser.world.done == []


@pytest.mark.parametrize("site", ["cross-site", "same-site", "none", "odd"])
def test_what_the_browser_says_of_another_sites_form_is_believed(browser, site):
    """Fetch metadata, on top of the origin."""
    extra = [("sec-fetch-site", site), ("sec-fetch-mode", "navigate"),
             ("sec-fetch-dest", "document")]  # fmt: skip
    assert browser.post("/do", f"csrf={browser.csrf}", extra=extra).status == 403


def test_another_site_may_link_here_but_not_read_in_the_background(browser):
    """A person follows a link; a script, a frame or an image does not."""

    def fetch(path, mode, dest):
        return browser.get(
            path, ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", mode),
            ("sec-fetch-dest", dest),
        ).status  # fmt: skip

    assert fetch("/", "navigate", "document") == 200
    assert fetch("/", "navigate", "iframe") == 403
    assert fetch("/", "cors", "empty") == 403
    assert fetch("/static/fedprint.js", "no-cors", "script") == 403
    assert fetch("/live/part", "navigate", "document") == 403


@pytest.mark.parametrize(
    "hosts",
    [[], [""], ["evil.example"], ["127.0.0.1"], ["127.0.0.1:80"], ["127.0.0.1:8450."],
     [HOST, HOST], [HOST, "evil.example"], ["evil.example:8450"], [f"{HOST}@evil.example"]],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/", "/login", "/health", "/metrics", "/static/fedprint.css"])
def test_a_name_that_is_not_ours_is_not_answered(browser, hosts, path):
    """DNS rebinding: the browser says the name that the page was opened by."""
    headers = [*(("host", host) for host in hosts), ("cookie", f"{COOKIE}={browser.cookie}"),
               ("authorization", f"Bearer {BEARER}")]  # fmt: skip
    assert asyncio.run(ask(browser.app, path=path, headers=headers)).status == 421


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "get"])
def test_other_methods_are_refused_before_anything_else(browser, method):
    """405, also without a host."""
    answer = asyncio.run(ask(browser.app, method, headers=[]))
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, POST")


@pytest.mark.parametrize(
    ("fields", "status"),
    [("what=" + "x" * 16 * 1024, 413), ("what=a&what=b", 400), ("what=%00", 400),
     ("what=%ff", 400), ("&".join(f"f{n}=" for n in range(40)), 400), ("what=%E2%80%A8", 400)],
)  # fmt: skip
def test_forms_that_no_page_of_ours_sends_are_refused(browser, fields, status):
    """Too large, a field twice, characters that belong in none."""
    assert browser.post("/do", f"csrf={browser.csrf}&{fields}").status == status
    assert browser.world.done == []


def test_a_body_is_not_believed_to_be_as_small_as_it_says(browser):
    """Nor as large."""
    chunks = (f"csrf={browser.csrf}&what=".encode(), *[b"x" * 4096] * 5)
    assert browser.post("/do", extra=[("content-length", "10")], chunks=chunks).status == 413
    for length in ("99999999999999999999", "-1", "1e3", "", "0x10", "\u00b2"):
        assert browser.post("/do", extra=[("content-length", length)]).status == 413


def test_a_body_that_never_ends_is_cut(browser, monkeypatch):
    """After ten seconds; here at once."""
    monkeypatch.setattr(gate, "BODY_DEADLINE_S", 0.01)
    sent = []

    async def receive():
        await asyncio.sleep(60)

    async def send(message):
        sent.append(message)

    headers = [("host", HOST), ("origin", ORIGIN), ("cookie", f"{COOKIE}={browser.cookie}"),
               ("content-type", "application/x-www-form-urlencoded")]  # fmt: skip
    scope = {"type": "http", "method": "POST", "path": "/do", "raw_path": b"/do",
             "query_string": b"",
             "headers": [(k.encode(), v.encode()) for k, v in headers]}  # fmt: skip
    asyncio.run(browser.app(scope, receive, send))
    assert sent[0]["status"] == 408


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data; boundary=x",
                                  "application/json", ""])  # fmt: skip
def test_only_plain_forms_are_read(browser, kind):
    """Others can be sent across origins without being asked first, or hide files."""
    assert browser.post("/do", f"csrf={browser.csrf}", kind=kind or "x").status == 415


def test_sessions_end_by_themselves(browser):
    """After an hour in which nobody does anything; live parts are nobody's doing."""
    for _ in range(5):
        browser.world.now += 700.0
        assert browser.get("/live/part").status == 200
    browser.world.now += 700.0
    assert browser.get("/live/part").status == 401
    browser.log_in()
    for _ in range(12 * 60 // 50):
        browser.world.now += 3000.0
        assert browser.get("/").status == 200
    browser.world.now += 3000.0
    assert browser.get("/").status == 401


def test_logging_out_ends_the_session_at_the_server(browser):
    """A copy of the cookie is worth nothing then."""
    answer = browser.post("/logout", f"csrf={browser.csrf}")
    assert (answer.status, "Max-Age=0" in answer.headers["set-cookie"]) == (303, True)
    assert browser.get("/").status == 401


def test_one_session_can_end_another(browser):
    """By its name, which lets nobody in."""
    other = Browser(browser.world)
    other.app = browser.app
    other.log_in()
    page = browser.get("/sessions").text
    names = set(re.findall(r"<code>([0-9a-f]{16})</code>", page))
    assert len(names) == 2
    assert not any(secret in page for secret in (other.cookie, browser.cookie, other.csrf))
    theirs = re.search(r'name="session" value="([0-9a-f]{16})"', page)[1]
    body = f"csrf={browser.csrf}&session={theirs}"
    assert browser.post("/sessions/end", body).status == 303
    assert f"Session {theirs} has ended." in browser.get("/sessions").text
    assert (other.get("/").status, browser.get("/").status) == (401, 200)
    assert browser.post("/sessions/end", body).status == 400


def test_too_many_sessions_end_the_least_used(browser):
    """Sixteen at most."""
    others = []
    for _ in range(16):
        browser.world.now += 10.0
        other = Browser(browser.world)
        other.app = browser.app
        others.append(other.log_in())
    assert browser.get("/").status == 401
    assert all(other.get("/").status == 200 for other in others)


def test_two_cookies_of_our_name_are_none(browser):
    """Somebody else has set one of them."""
    twice = f"{COOKIE}={browser.cookie}; {COOKIE}={browser.cookie}"
    answer = asyncio.run(ask(browser.app, headers=[("host", HOST), ("cookie", twice)]))
    assert answer.status == 401


def test_every_answer_carries_the_headers(browser, stranger):
    """Pages, parts, refusals, files and faults alike."""
    answers = [
        browser.get("/"), browser.get("/live/part"), browser.get("/broken"), stranger.get("/"),
        browser.get("/refused"), stranger.get("/static/fedprint.js"), browser.get("/nowhere"),
        browser.post("/do", ""), browser.post("/do", f"csrf={browser.csrf}"),
        stranger.get("/health"),
        stranger.get("/metrics", ("authorization", f"Bearer {BEARER}")),
        asyncio.run(ask(browser.app, "PUT")), asyncio.run(ask(browser.app, headers=[])),
    ]  # fmt: skip
    for answer in answers:
        for name, value in gate.HEADERS.items():
            assert answer.headers[name] == value
        assert "server" not in answer.headers
    policy = gate.HEADERS["content-security-policy"]
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none';")


def test_faults_become_pages_without_details(browser):
    """What was expected says what to do; what was not goes to the log alone."""
    refused = browser.get("/refused")
    assert (refused.status, "No &lt;b&gt;." in refused.text, "Ask." in refused.text) == (
        409, True, True
    )  # fmt: skip
    assert browser.get("/mistake").status == 400
    assert browser.get("/damaged").status == 409
    broken = browser.get("/broken")
    assert (broken.status, "secret-detail" in broken.text) == (500, False)
    assert "Traceback" not in broken.text
    assert [type(fault) for fault in browser.world.faults] == [KeyError]
    assert browser.get("/nowhere").status == 404
    assert browser.post("/", f"csrf={browser.csrf}").status == 405
    assert browser.get("/do").status == 405


def test_what_pages_show_is_escaped(browser):
    """Also what an address says, and what is said after a form."""
    page = browser.get("/", query=b"name=%3Cscript%3Ealert(1)%3C/script%3E").text
    assert "<script>alert" not in page
    assert "&lt;script&gt;" in page
    browser.post("/do", f"csrf={browser.csrf}")
    assert "It is &lt;done&gt;." in browser.get("/").text
    assert "It is" not in browser.get("/").text


@pytest.mark.parametrize(
    "query", [b"a=1&a=2", b"a=%00", b"&".join([b"a%d=" % n for n in range(40)])]
)
def test_odd_addresses_are_refused(browser, query):
    """A field twice, control characters, too many."""
    assert browser.get("/", query=query).status == 400
    assert browser.get("/", query=b"a=" + b"x" * 3000).status == 414
    assert browser.get("/item/a\\b").status == 400
    assert browser.get("/item/a\nb").status == 400


def test_websockets_are_closed(browser):
    """There are none."""
    sent = []

    async def receive():
        return {"type": "websocket.connect"}

    async def send(message):
        sent.append(message)

    asyncio.run(browser.app({"type": "websocket", "path": "/"}, receive, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_a_browser_that_goes_away_is_no_fault(browser):
    """In the middle of its form, or when it is answered."""
    sent = []

    async def gone():
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    async def cannot(message):
        raise RuntimeError("the connection is closed")

    headers = [("host", HOST), ("origin", ORIGIN), ("cookie", f"{COOKIE}={browser.cookie}"),
               ("content-type", "application/x-www-form-urlencoded")]  # fmt: skip
    scope = {"type": "http", "method": "POST", "path": "/do", "raw_path": b"/do",
             "query_string": b"",
             "headers": [(k.encode(), v.encode()) for k, v in headers]}  # fmt: skip
    asyncio.run(browser.app(dict(scope), gone, send))
    asyncio.run(browser.app({**scope, "method": "GET", "path": "/"}, gone, cannot))
    assert (sent, browser.world.faults, browser.world.done) == ([], [], [])


def test_tries_to_log_in_do_not_push_what_was_done_out_of_the_log(stranger):
    """The log has a size, and anybody who reaches the port can try: most are counted only."""
    for _ in range(500):
        stranger.post("/login", f"token={'A' * 43}")
        stranger.world.now += 0.1
    assert len(stranger.world.audited) <= 22
    stranger.world.now += 60.0
    stranger.post("/login", f"token={'A' * 43}")
    assert stranger.world.audited[-1] == ("", "login", "refused, 480 more before")
    assert stranger.post("/login", f"token={stranger.world.links.issue()}").status == 303
    assert stranger.world.audited[-1][2] == "done"
