"""The dependency rules of docs/adr/0001, checked over the syntax tree of every module."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("shared_model", "client", "server", "simulations", "auditor")
MAY_IMPORT = {
    "shared_model": {"shared_model"},
    "client": {"client", "shared_model"},
    "server": {"server", "shared_model"},
    "auditor": {"auditor", "shared_model", "simulations"},
    "simulations": {"simulations", "client", "server", "shared_model"},
}
FLOWER_FILES = {
    "client/app.py",
    "client/supernode.py",
    "client/supernode_delivery.py",
    "server/app.py",
    "server/fleet.py",
    "server/grid.py",
    "server/run_process.py",
    "server/runtime_grid.py",
}
NETWORK = {"socket", "ssl", "http", "urllib", "requests", "httpx", "grpc", "asyncio", "uvicorn"}
CLOCK = {"time", "datetime"}


def modules() -> list[Path]:
    return sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py"))


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
    return found


def tops(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_module_imports_only_what_its_package_may(path: Path) -> None:
    """shared_model stands alone; client and server never meet; nobody imports simulations."""
    package = path.relative_to(ROOT).parts[0]
    ours = tops(path) & set(PACKAGES)
    assert ours <= MAY_IMPORT[package]


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_flower_is_imported_in_its_adapters_only(path: Path) -> None:
    """Flower's transport changed three times in a year: few files know it."""
    name = str(path.relative_to(ROOT))
    if name in FLOWER_FILES or name.startswith("simulations/"):
        return
    assert "flwr" not in tops(path)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "shared_model").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT))
)
def test_shared_model_has_no_network_and_no_clock(path: Path) -> None:
    """What all sides agree on is pure."""
    assert not tops(path) & (NETWORK | CLOCK)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_module_unpickles(path: Path) -> None:
    """A pickle from a peer is its code."""
    assert not tops(path) & {"pickle", "cloudpickle", "dill", "shelve", "marshal"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) != ("torch", "load")


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_module_uses_a_global_random_generator(path: Path) -> None:
    """Randomness is an argument; keys and noise come from the operating system."""
    legacy = {"seed", "normal", "rand", "randn", "random", "choice", "shuffle", "permutation"}
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Attribute):
            continue
        owner = node.value
        if isinstance(owner, ast.Attribute) and isinstance(owner.value, ast.Name):
            is_numpy = owner.value.id in {"np", "numpy"} and owner.attr == "random"
            assert not (is_numpy and node.attr in legacy), f"np.random.{node.attr}"
        if isinstance(owner, ast.Name) and owner.id == "torch":
            assert node.attr != "manual_seed"
    assert "random" not in tops(path)


def test_only_records_and_formats_read_recordings() -> None:
    """One door for recordings: the parsers of hospital formats are imported behind it only."""
    parsers = {"wfdb", "pyedflib", "pydicom"}
    for path in modules():
        name = str(path.relative_to(ROOT))
        if name.startswith(("client/formats/", "client/records.py", "simulations/cohort")):
            continue
        assert not tops(path) & parsers, name


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_words_at_the_terminal_are_never_markup(path: Path) -> None:
    """Names that others chose are in most lines: no screen but terminal.out and terminal.err, no
    markup on them, and none in a bar's words, for which rich's default is markup."""
    if path == ROOT / "shared_model" / "terminal.py":
        return
    assert "rich.console" not in imports(path), "show it on terminal.out or terminal.err"
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        assert given.get("markup", "False") == "False", f"line {node.lineno}"
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
        if name == "TextColumn" and "task.description" in ast.unparse(node.args[0]):
            assert given.get("markup") == "False", f"line {node.lineno}: say markup=False"
        if ast.unparse(node.func) in ("terminal.out.print", "terminal.err.print"):
            written = "".join(ast.unparse(one) for one in node.args)
            assert "[/" not in written, f"line {node.lineno}: shown as it is; use a Text"


@pytest.mark.parametrize(
    "path", [p for p in modules() if p.name.startswith("cli_")], ids=lambda p: p.name
)
def test_commands_have_one_form_of_json(path: Path) -> None:
    """json.dumps writes NaN, which is no JSON: terminal.print_json and outputs.document do not."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in ("json.dumps", "json.dump"), f"line {node.lineno}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_choices_of_sensors_stand_in_one_place(path: Path) -> None:
    """client.fingerprints.SENSORS; a literal type has to say them itself."""
    tree = ast.parse(path.read_text())
    said = [n.slice for n in ast.walk(tree) if isinstance(n, ast.Subscript)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Tuple) and node not in said:
            assert ast.unparse(node) != "('both', 'ecg', 'ppg')", f"line {node.lineno}"
