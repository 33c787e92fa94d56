"""The benchmarks at tiny sizes: they run, print the promised figures, and compare equal work."""

from __future__ import annotations

import ast
import hashlib
import inspect
import itertools
import json
import math

import numpy as np
import pytest
from typer.testing import CliRunner

from shared_model.errors import OurMistake
from shared_model.secure_sum.primitives import keystream
from simulations import bench_flower_app, bench_round, bench_secure_sum
from simulations.bench import BENCHES, run_bench
from simulations.bench_bits import p_values
from simulations.bench_flower_sum import FlowerRound
from simulations.bench_our_sum import OurRound
from simulations.cli import app

TINY = bench_secure_sum.Sizes(sites=5, many_sites=7, dimension=500, repeats=1, bits=200_000)
PROMISED = {
    "speedup_vs_flower",
    "speedup_vs_flower_dropout",
    "speedup_vs_flower_with_messages",
    "completes_7_sites",
    "client_growth_7_vs_5",
    "server_vectors",
    "bytes_per_parameter",
    "share_bytes_per_n2",
    "relative_error",
    "clipped_share",
    "monobit_p",
    "runs_p",
    "chi_square_p",
    "seeds_monobit_p",
    "seeds_runs_p",
    "seeds_chi_square_p",
    "client_s",
    "server_s",
    "flower_client_s",
    "flower_server_s",
    "round_trips",
    "flower_round_trips",
    "verification_s",
    "plain_fedavg_s",
}


@pytest.fixture(scope="module")
def measured():
    told = []
    return bench_secure_sum.measure(TINY, told.append), told


def test_bench_secure_sum_prints_the_promised_figures(measured):
    """All of them, as finite numbers that a JSON reader takes."""
    found, told = measured
    assert set(found) >= PROMISED
    assert all(np.isfinite(value) for value in found.values())
    assert json.loads(json.dumps(found)) == found
    assert any("drop out" in line for line in told)


def test_bench_secure_sum_measures_a_sum_that_is_right(measured):
    """Speed is worth nothing if the mean is wrong."""
    found, _ = measured
    assert found["completes_7_sites"] == 1.0
    assert found["relative_error"] < 1e-4
    assert found["relative_error_dropout"] < 1e-4
    assert found["share_bytes_per_n2"] > 64.0
    assert found["round_trips"] == 3.0
    assert found["flower_round_trips"] == 4.0


@pytest.mark.parametrize("dropped", [frozenset(), frozenset({0, 3})])
def test_flowers_protocol_gives_its_mean_of_the_survivors(dropped):
    """Its own functions are put together as its workflow does, drop-outs included."""
    updates = [bench_secure_sum.update(200, place) for place in range(6)]
    flower = FlowerRound(4)
    flower.run(updates, dropped)
    exact = np.mean([one for place, one in enumerate(updates) if place not in dropped], axis=0)
    assert np.abs(flower.mean - exact).max() < 1e-4
    assert flower.client_s > 0.0
    assert flower.server_s > 0.0


def test_our_round_gives_the_mean_of_the_survivors_and_its_verification_holds(tmp_path):
    """Two of six never submit; the closing exchange finds the sum right."""
    updates = [bench_secure_sum.update(200, place) for place in range(6)]
    ours = OurRound(6, 200, 4, tmp_path)
    ours.run(updates.__getitem__, frozenset({0, 3}))
    exact = np.mean([updates[place] for place in (1, 2, 4, 5)], axis=0)
    assert np.abs(ours.mean - exact).max() < 1e-5
    assert ours.verify() > 0.0


def test_the_keystream_looks_like_coin_flips():
    """A fixed seed, so that the p-values are always the same."""
    stream = keystream(hashlib.sha256(b"bench").digest(), 1 << 16)
    assert min(p_values(stream).values()) > 0.01


@pytest.mark.parametrize(
    ("data", "which"),
    [
        (bytes(8000), "monobit_p"),
        (b"\x55" * 8000, "runs_p"),
        (bytes(range(0, 256, 2)) * 64, "chi_square_p"),
        (hashlib.shake_256(b"x").digest(8000).replace(b"\x00", b"\x01"), "chi_square_p"),
    ],
    ids=["zeros", "alternating", "even bytes only", "no zero bytes"],
)
def test_broken_generators_are_found(data, which):
    """Each by the test that is made for it."""
    assert p_values(data)[which] < 1e-3


def test_p_values_are_those_of_the_formulas_counted_bit_by_bit():
    """SP 800-22, sections 2.1.4 and 2.3.4, on the first 64 binary digits of pi."""
    bits = "1100100100001111110110101010001000100001011010001100001000110100"
    ones, runs = bits.count("1"), 1 + sum(a != b for a, b in itertools.pairwise(bits))
    data = np.packbits([int(bit) for bit in bits], bitorder="little").tobytes()
    found = p_values(data)
    share = ones / 64
    assert found["monobit_p"] == pytest.approx(
        math.erfc(abs(2 * ones - 64) / math.sqrt(64) / math.sqrt(2))
    )
    expected = abs(runs - 128 * share * (1 - share)) / (2 * math.sqrt(128) * share * (1 - share))
    assert found["runs_p"] == pytest.approx(math.erfc(expected))


def test_flowers_app_takes_nothing_of_ours_but_the_training():
    """It travels as a bundle of one file: Flower's processes import it by itself. What it shares
    with ours is the function that trains; nothing of ledger, policy, sum or round."""
    tree = ast.parse(inspect.getsource(bench_flower_app))
    froms = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    ours = {name for name in froms | names if name.split(".")[0] in ("client", "shared_model")}
    assert ours == {
        "client.training",
        "shared_model",
        "shared_model.config",
        "shared_model.noise",
    }
    assert {name.split(".")[0] for name in (froms | names) - ours} <= {
        "__future__",
        "collections",
        "pathlib",
        "flwr",
        "json",
        "time",
        "numpy",
    }


def test_the_overhead_of_a_round_is_without_its_slowest_sites_training(tmp_path):
    """Site two trained longest in round 2, site one in round 3; the first and last do not count."""
    notes = [tmp_path / "one", tmp_path / "two"]
    for path, seconds in zip(notes, ((9.0, 1.0, 3.0, 9.0), (9.0, 2.0, 1.0, 9.0)), strict=True):
        lines = [{"round": n + 1, "training_s": s} for n, s in enumerate(seconds)]
        path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    found = bench_round.rounds_of([0.0, 50.0, 57.0, 65.0], notes)
    assert [(one.wall_s, one.training_s) for one in found] == [(7.0, 2.0), (8.0, 3.0)]
    assert [one.overhead_s for one in found] == [5.0, 5.0]


def test_a_round_lasts_until_the_next_begins_and_the_first_is_left_out():
    """The first one waits for the sites to connect."""
    assert bench_round._between([0.0, 100.0, 107.0, 115.0]) == [7.0, 8.0]


def test_run_bench_names_machine_and_versions(monkeypatch):
    """What a figure cannot be read without."""
    monkeypatch.setattr(bench_secure_sum, "QUICK", TINY)
    found = run_bench("secure-sum", quick=True)
    assert (found["name"], found["quick"]) == ("secure-sum", True)
    assert set(found["versions"]) >= {"flwr", "numpy", "cryptography"}
    assert {"cores", "threads"} <= set(found["machine"])


def test_the_command_prints_json_and_tells_on_stderr_what_it_does(monkeypatch):
    """So that its output can be piped while a person watches."""
    monkeypatch.setattr(bench_secure_sum, "QUICK", TINY)
    done = CliRunner().invoke(app, ["bench", "secure-sum", "--quick", "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["figures"]["round_trips"] == 3.0
    assert "turn 1 of 1" in done.stderr


def test_an_unknown_benchmark_is_refused_with_the_names_of_the_others():
    """The operator sees what there is."""
    with pytest.raises(OurMistake) as caught:
        run_bench("sum")
    assert all(name in caught.value.do for name in BENCHES)
