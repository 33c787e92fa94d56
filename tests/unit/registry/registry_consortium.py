"""Three hospitals that join through a registry with the commands that people type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from registry_stand_ins import ROOT_KEY, TODAY, Served

from client import cli_node, cli_registry, cli_roster
from client.home import NodeHome
from server import cli_registry as operator
from server import rosters

SITES = ("alpha", "beta", "gamma")
DAY = TODAY.date().isoformat()


class Consortium:
    """Three hospitals that join with the commands."""

    def __init__(self, service: Served, folder: Path) -> None:
        self.service, self.folder = service, folder
        self.home = service.home.root

    def token(self, site: str, **options: Any) -> Path:
        path = self.folder / f"{site}-{len(list(self.folder.glob('*-token.json')))}-token.json"
        operator.invite(site, path, home=self.home, **options)
        return path

    def join(self, site: str, folder: str = "", **options: Any) -> NodeHome:
        place = self.folder / (folder or site)
        cli_node.join(self.token(site, **options), place, yes=True, patients=120)
        return NodeHome(place)

    def all_joined(self) -> list[NodeHome]:
        nodes = [self.join(site) for site in SITES]
        for site in SITES:
            operator.admit(site, self.home, yes=True)
        self.sign()
        for node in nodes:
            cli_registry.fetch_roster(node.root)
            cli_roster.approve(home=node.root, yes=True)
        return nodes

    def sign(self) -> bytes:
        return rosters.sign_here(self.service.home, ROOT_KEY, today=DAY)
