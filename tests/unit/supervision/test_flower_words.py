"""What the node reads from Flower's log lines is what the installed Flower writes."""

from __future__ import annotations

import inspect

import pytest
from flwr.supercore.error import catalog
from flwr.supercore.retry import http_retry
from flwr.supernode import start_client_internal

from client.supernode_lines import cause_of, link_of


@pytest.mark.parametrize(
    ("module", "written", "link"),
    [
        (start_client_internal, '"SuperNode ID: %s"', "up"),
        (http_retry, '"Connection successful after %.2f seconds', "up"),
        (http_retry, '"Connection attempt failed, retrying in %.2f seconds"', "unreachable"),
        (http_retry, '"SSL/TLS handshake error detected."', "unproven"),
    ],
)
def test_flower_writes_the_words_that_are_looked_for(
    module: object, written: str, link: str
) -> None:
    assert written in inspect.getsource(module)  # type: ignore[arg-type]
    assert link_of(f" INFO :      {written}") == link


def test_flower_refuses_in_the_words_that_are_looked_for() -> None:
    assert '"Failed to activate SuperNode."' in inspect.getsource(catalog)
    assert cause_of("SuperNode", "[code: 2004] Failed to activate SuperNode.") == "refused"


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        ("POST https://x/ActivateNode HTTP/1.1 401 Unauthorized", "refused"),
        ("Failed to initialize the connection to the SuperLink.\n503 Bad Gateway", ""),
        ("SSL/TLS handshake error detected.\nFailed to initialize the connection", "unproven"),
        ("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed", "unproven"),
        ("Killed", ""),
    ],
)
def test_why_a_supernode_ended(lines: str, cause: str) -> None:
    """A proxy that is out of order is no refusal of the coordinator's: the node waits."""
    assert cause_of("SuperNode", lines) == cause
    assert cause_of("training", lines) == ""
