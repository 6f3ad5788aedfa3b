"""The whole harness: real processes, real sockets, a fraction of a second each."""

from __future__ import annotations

import socket
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec
import pytest

from bench import disturbances, wire
from bench.__main__ import main
from bench.catalogue import OFFERS, start_gateway, title_of
from bench.gateway_target import Setup
from bench.holder import Holder
from bench.processes import PYTHON, BenchError, Child, cpu_seconds, descendants
from bench.run import Bench, Plan, measure, started
from bench.scenarios import PEERS, SCENARIOS
from bench.targets import Nginx

pytestmark = pytest.mark.e2e
SMALL = Setup(keys=100, rows=3_000, postgres=True)


def converse(port: int, body: bytes) -> bytes:
    """Send one request, and read the answer until its last byte."""
    with closing(socket.create_connection(("127.0.0.1", port), timeout=10)) as connection:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        answer = b""
        while not answer.endswith(wire.LAST_HTTP_CHUNK):
            answer += connection.recv(65536)
        return answer


def plan(*scenarios: str) -> Plan:
    return Plan(scenarios=[SCENARIOS[name] for name in scenarios], targets=(), rounds=1, seconds=0.1, count=500)


def assert_clean(bench: Bench, chosen: Plan) -> None:
    for scenario in chosen.scenarios:
        for name in bench.by_name:
            bench.place(scenario)
            sample = bench.measure(scenario, name, plan=chosen, number=1)
            assert sample.outcome.errors == 0, sample.outcome.first_error
            assert sample.outcome.measured >= 1


def test_the_mock_upstream_serves_every_scenario_and_everything_stops() -> None:
    with started(()) as bench:
        assert_clean(bench, plan("json", "low", "burst"))
        processes = [bench.load.process, bench.direct.server.process]

    assert all(process.poll() is not None for process in processes)


def test_the_mock_upstream_reports_usage_to_those_who_ask() -> None:
    asking = wire.request_body(stream=True)[:-1] + b',"stream_options":{"include_usage":true}}'
    with started(()) as bench:
        without, with_usage = (
            converse(bench.direct.port, wire.request_body(stream=True)),
            converse(bench.direct.port, asking),
        )

    assert b"prompt_tokens" not in without
    assert with_usage.count(b'"prompt_tokens":212') == 1
    assert without.count(b"data: {") == wire.STREAM_CHUNKS


def test_a_paced_stream_is_paced() -> None:
    with started(()) as bench:
        job = replace(SCENARIOS["paced-100"], connections=3).job(bench.direct, seconds=3, count=1)
        outcome = bench.perform(job, "direct")

    assert outcome.errors == 0
    assert outcome.latency_ms["p50"] > 1000  # Fifty chunks, twenty milliseconds apart.
    assert outcome.first_token_ms["p50"] < 500


def test_streams_are_held_while_something_else_is_measured() -> None:
    held = replace(SCENARIOS["json"], held=5)
    with started(()) as bench:
        sample = bench.measure(held, "direct", plan=plan("json"), number=1)

    assert sample.outcome.errors == 0
    assert bench.sent["direct"] == sample.outcome.sent + 5


def test_a_target_that_cannot_hold_streams_ends_the_run() -> None:
    """The bare ASGI server knows nothing of holding, and answers with streams that end at once."""
    with started(("echo",)) as bench, pytest.raises(BenchError, match="could not be opened"):
        Holder(bench, "echo", 2).__enter__()


def test_a_bare_asgi_server_serves_every_scenario() -> None:
    with started(("echo",)) as bench:
        assert_clean(bench, plan("json", "burst"))


@pytest.mark.skipif(not Nginx.installed(), reason="nginx is not installed")
def test_nginx_serves_every_scenario() -> None:
    with started(("nginx",)) as bench:
        assert_clean(bench, plan("json", "burst"))


def test_a_run_prints_a_table_and_writes_figures_and_plots(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--scenarios", "json", "--targets", "echo", "--rounds", "1", "--seconds", "0.1"]

    code = main([*options, "--output", str(tmp_path)])

    assert code == 0
    assert "ASGI echo" in capsys.readouterr().out
    assert "ASGI echo" in (tmp_path / "report.md").read_text()
    assert "<svg" in (tmp_path / "json-cpu.svg").read_text()
    written = msgspec.json.decode((tmp_path / "run.json").read_bytes())
    assert [row["target"] for row in written["rows"]] == ["direct", "echo"]
    assert written["machine"]["cores"] >= 1
    assert written["problems"] == []


def test_a_target_that_does_not_start_ends_the_run_with_its_output() -> None:
    with (
        Child([PYTHON, "-c", "raise SystemExit('no such luck')"]) as child,
        pytest.raises(BenchError, match="no such luck"),
    ):
        child.wait_until(lambda: False, what="its port is open")


def test_a_run_that_is_terminated_stops_what_it_has_started(tmp_path: Path) -> None:
    command = [PYTHON, "-m", "bench", "--scenarios", "low", "--targets", "echo", "--seconds", "30"]
    with Child([*command, "--output", str(tmp_path)]) as run:
        run.wait_until(lambda: len(descendants(run.pid)) == 3, what="upstream, load and echo")
        below = descendants(run.pid)
        run.process.terminate()
        assert run.process.wait(10) == 143

    assert not any(Path(f"/proc/{pid}").exists() for pid in below)


def test_a_target_that_is_not_ready_in_time_is_stopped() -> None:
    child = Child([PYTHON, "-c", "input()"], talks=True)

    with pytest.raises(BenchError, match="its port is open not after 0 s"):
        child.wait_until(lambda: False, what="its port is open", timeout_s=0.05)

    assert child.process.poll() is not None


def test_processes_are_read_from_the_kernel() -> None:
    with Child([PYTHON, "-c", "sum(range(5 * 10**7)); print('done', flush=True); input()"], talks=True) as child:
        assert child.read_line() == b"done\n"
        assert cpu_seconds(child.pid) >= 0.05
        assert descendants(child.pid) == []


def test_peers_that_are_not_installed_are_told_and_not_fetched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    options = ["--scenarios", "low", "--targets", "echo", "--peers", "--rounds", "1", "--seconds", "0.05"]

    assert main([*options, "--output", str(tmp_path / "out")]) == 0

    told = capsys.readouterr().out
    assert all(f"Not measured: {title_of(name)}." in told for name in PEERS)
    assert not (tmp_path / "cache").exists()


@pytest.mark.slow
def test_the_gateway_is_measured_with_everything_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The ledger must hold every request at its exact price, or the run fails."""
    options = ["--scenarios", "json,burst", "--targets", "gateway", "--rounds", "1", "--seconds", "0.3"]

    code = main([*options, "--output", str(tmp_path)])

    assert code == 0, capsys.readouterr().out
    written = msgspec.json.decode((tmp_path / "run.json").read_bytes())
    [books] = [books for books in written["books"] if books["target"] == "gateway"]
    assert books["ledger"]["rows"] == books["ledger"]["with_provider_usage"] == books["requests"] > 16


@pytest.mark.slow
@pytest.mark.parametrize("name", ["postgres", "redis", "two-workers", "daphne", "limits-12", "aliases-10", "keys-100"])
def test_every_kind_of_gateway_balances_its_books(name: str) -> None:
    scenario = replace(SCENARIOS["json"], targets=(name,))
    chosen = Plan(scenarios=[scenario], targets=(name,), rounds=1, seconds=0.1, count=100)

    result = measure(chosen, say=print)

    assert result.problems == []
    [books] = [books for books in result.books if books.target == name]
    assert books.requests > 100


@pytest.mark.slow
@pytest.mark.parametrize("disturbance", ["config", "drain", "rollups", "pages"])
def test_a_disturbance_disturbs(disturbance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disturbances, "BACKLOG", 500)
    monkeypatch.setitem(OFFERS, "large", replace(OFFERS["large"], start=partial(start_gateway, "large", SMALL)))
    scenario = replace(SCENARIOS[f"reload-{disturbance}"], targets=("large",), at_least_s=0.5)

    result = measure(Plan(scenarios=[scenario], targets=("large",), rounds=1, seconds=0.5), say=print)

    assert result.problems == []
    assert (result.samples[0].disturbances or 0) > 0
