"""Rules in CEL make the fake provider fail as told, as often as told, and the same way again."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from llmgateway.http import httpx
from providers.adapters.anthropic import Anthropic
from providers.adapters.base import Adapter
from providers.adapters.gemini import Gemini
from providers.adapters.openai import OpenAI
from providers.adapters.types import ErrorKind
from providers.fake_server.app import FakeProvider
from providers.fake_server.faults import Faults, Plan, PlanError, Rule, read_plan
from tests.providers.fake_server.conftest import Running


def set_rules(provider: Running, *rules: dict[str, Any], seed: int | None = 1) -> httpx.Response:
    return provider.client.put("/_control/faults", json={"seed": seed, "rules": list(rules)})


def asked(faults: Faults, **facts: Any) -> dict[str, Any]:
    usual: dict[str, Any] = {"model": "fake-chat", "path": "/v1/chat/completions", "stream": False, "headers": {}}
    return dict(faults.of(**{**usual, **facts}))


class TestRules:
    def test_the_first_rule_that_holds_decides(self) -> None:
        faults = Faults()
        faults.follow(
            Plan(
                (
                    Rule({"status": 503}, 'model == "fake-large"'),
                    Rule({"status": 429}, "stream"),
                    Rule({"delay_ms": 5}, 'headers["x-kind"] == "slow"'),
                )
            )
        )

        assert asked(faults, model="fake-large", stream=True) == {"status": 503}
        assert asked(faults, stream=True) == {"status": 429}
        assert asked(faults, headers={"x-kind": "slow"}) == {"delay_ms": 5}
        assert asked(faults) == {}

    def test_chances_are_drawn_once_per_request_and_again_the_same_with_the_seed(self) -> None:
        plan = Plan((Rule({"status": 500}, "chance < 0.1"), Rule({"status": 429}, "chance < 0.3")), seed=5)
        runs = []
        for _ in range(2):
            faults = Faults()
            faults.follow(plan)
            runs.append([asked(faults).get("status") for _ in range(2000)])

        assert runs[0] == runs[1]
        assert 150 < runs[0].count(500) < 250
        assert 330 < runs[0].count(429) < 470

    def test_without_a_seed_one_is_drawn_and_shown(self) -> None:
        first, second = Faults(), Faults()
        for faults in (first, second):
            faults.follow(Plan((Rule({"status": 500}, "chance < 0.5"),)))
        again = Faults()
        again.follow(Plan((Rule({"status": 500}, "chance < 0.5"),), seed=first.standing()["seed"]))

        assert [asked(first) for _ in range(64)] == [asked(again) for _ in range(64)]
        assert first.seed != second.seed

    def test_every_third_request_and_a_minute_later(self) -> None:
        now = [100.0]
        faults = Faults(lambda: now[0])
        faults.follow(Plan((Rule({"status": 500}, "count % 3 == 0"), Rule({"reset": True}, "seconds >= 60.0"))))

        assert [asked(faults) for _ in range(4)] == [{}, {}, {"status": 500}, {}]
        now[0] = 160.0
        assert asked(faults) == {"reset": True}

    def test_a_rule_that_fails_for_a_request_does_not_hold_and_says_so(self) -> None:
        faults = Faults()
        faults.follow(Plan((Rule({"status": 500}, 'headers["x-kind"] == "slow"', name="slow ones"),)))

        assert asked(faults) == {}
        [rule] = faults.standing()["rules"]
        assert (rule["name"], rule["matched"], rule["failed"]) == ("slow ones", 0, 1)
        assert "x-kind" in rule["last_error"]

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ({"rules": [{"when": "model ==", "do": {}}]}, "Syntax error"),
            ({"rules": [{"when": "true", "do": {"statos": 500}}]}, "statos"),
            ({"rules": [{"when": "false && nope > 1", "do": {}}]}, "asks for nope; there is chance"),
            ({"rules": [{"when": "count + 1", "do": {}}]}, "neither true nor false"),
            ({"rules": [{"when": "model > 3", "do": {}}]}, "No such overload"),
            ({"rules": [{"if": "true", "do": {}}]}, "if"),
            ({"rules": [{"when": "true"}]}, "do"),
            ([], "Write {seed: 7"),
        ],
    )
    def test_a_plan_that_cannot_be_followed_says_why_and_changes_nothing(self, content: Any, said: str) -> None:
        faults = Faults()
        faults.follow(Plan((Rule({"status": 500}),)))

        with pytest.raises(PlanError, match=said):
            faults.follow(read_plan(content))

        assert asked(faults) == {"status": 500}

    def test_lists_may_be_searched(self) -> None:
        faults = Faults()
        faults.follow(Plan((Rule({"status": 500}, '["a", "b"].exists(name, name == model)'),)))

        assert (asked(faults, model="b"), asked(faults, model="c")) == ({"status": 500}, {})


class TestControl:
    def test_rules_hold_until_others_are_set_and_count_what_they_hit(self, provider: Running) -> None:
        set_rules(provider, {"name": "busy", "when": 'model == "fake-chat"', "do": {"status": 429, "retry_after": "2"}})

        refused = [provider.chat() for _ in range(3)]
        assert provider.chat(model="fake-large").status_code == 200

        assert [(each.status_code, each.headers["retry-after"]) for each in refused] == [(429, "2")] * 3
        standing = provider.client.get("/_control/faults").json()
        assert (standing["seed"], standing["requests"], standing["rules"][0]["matched"]) == (1, 4, 3)
        set_rules(provider)
        assert provider.chat().status_code == 200

    def test_a_bad_rule_is_refused_in_words(self, provider: Running) -> None:
        answer = set_rules(provider, {"when": "chance <", "do": {}})

        assert answer.status_code == 400
        assert "'chance <'" in answer.json()["error"]["message"]
        assert provider.client.put("/_control/faults", content=b"{").status_code == 400

    def test_a_request_says_more_than_a_rule_and_a_queued_script_everything(self, provider: Running) -> None:
        set_rules(provider, {"do": {"tokens": 2, "delay_ms": 1}})
        provider.client.post("/_control/scripts", json={"script": {"status": 503}})

        assert provider.chat().status_code == 503
        assert provider.chat().json()["usage"]["completion_tokens"] == 2
        assert provider.chat(x_fake={"tokens": 7}).json()["usage"]["completion_tokens"] == 7

    def test_models_in_paths_count_as_well(self, provider: Running) -> None:
        set_rules(provider, {"when": 'model == "gemini-x" && stream', "do": {"status": 503}})
        body = {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]}

        streamed = provider.client.post("/v1beta/models/gemini-x:streamGenerateContent?alt=sse", json=body)
        whole = provider.client.post("/v1beta/models/gemini-x:generateContent", json=body)

        assert (streamed.status_code, whole.status_code) == (503, 200)

    def test_a_closed_control_answers_nobody_and_keeps_nothing(self) -> None:
        app = FakeProvider(control=False)
        with httpx.Client(transport=_InProcess(app), base_url="http://fake") as client:
            assert client.get("/v1/models").status_code == 200
            answers = [
                client.get("/_control/requests"),
                client.get("/_control/faults"),
                client.put("/_control/faults", json={"rules": [{"do": {"status": 500}}]}),
                client.post("/_control/scripts", json={"script": {"status": 500}}),
                client.post("/_control/reset"),
            ]
            assert client.get("/v1/models").status_code == 200

        assert {answer.status_code for answer in answers} == {404}
        assert app.records == []


class TestEffects:
    def test_latency_with_jitter(self, provider: Running) -> None:
        set_rules(provider, {"do": {"delay_ms": 20, "jitter_ms": 60}}, seed=3)
        took = []
        for _ in range(6):
            start = time.monotonic()
            provider.chat()
            took.append(time.monotonic() - start)

        assert min(took) >= 0.02
        assert max(took) - min(took) > 0.01

    @pytest.mark.parametrize("status", [401, 429, 500, 503, 529])
    def test_errors_of_a_status(self, provider: Running, status: int) -> None:
        set_rules(provider, {"do": {"status": status}})

        assert provider.chat().status_code == status

    @pytest.mark.parametrize(
        ("error", "kind"),
        [("context_too_long", ErrorKind.CONTEXT_TOO_LONG), ("content_policy", ErrorKind.CONTENT_POLICY)],
    )
    @pytest.mark.parametrize(
        ("adapter", "path", "body"),
        [
            (OpenAI(), "/v1/chat/completions", {"model": "m", "messages": []}),
            (Anthropic(), "/v1/messages", {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}),
            (Gemini(), "/v1beta/models/m:generateContent", {"contents": [{"role": "user", "parts": [{"text": "x"}]}]}),
        ],
    )  # fmt: skip
    def test_reasons_are_told_as_each_dialect_tells_them(  # noqa: PLR0917  # parametrized
        self, provider: Running, adapter: Adapter, path: str, body: dict[str, Any], error: str, kind: ErrorKind
    ) -> None:
        """The adapter of the dialect recognizes them."""
        set_rules(provider, {"do": {"error": error}})

        answer = provider.client.post(path, json=body, headers={"anthropic-version": "2023-06-01"})

        assert answer.status_code == 400
        assert adapter.error_kind(answer.status_code, answer.json()) is kind

    def test_an_error_inside_a_200(self, provider: Running) -> None:
        set_rules(provider, {"do": {"status": 503, "inside_200": True}})

        answer = provider.chat()

        assert (answer.status_code, answer.json()["error"]["code"]) == (200, "overloaded")
        assert provider.last.billed is None

    @pytest.mark.parametrize("stream", [False, True])
    def test_a_reset_after_the_headers(self, provider: Running, stream: bool) -> None:
        set_rules(provider, {"do": {"reset_after": 0}})

        with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
            provider.chat(stream=stream)

        assert provider.last.headers_sent_at
        assert provider.last.reset_at
        assert provider.last.finished_at is None

    @pytest.mark.parametrize("effect", ["reset_after", "truncate_after"])
    def test_an_answer_that_breaks_off_in_the_middle(self, provider: Running, effect: str) -> None:
        set_rules(provider, {"do": {effect: 1}})

        received, announced = _read_until_it_breaks_off(provider)

        assert 0 < received == announced // 2

    def test_a_stream_that_ends_too_early_without_a_word(self, provider: Running) -> None:
        set_rules(provider, {"do": {"truncate_after": 4}})

        text = provider.chat(stream=True, stream_options={"include_usage": True}).text

        assert text.count("data: ") == 4
        assert "[DONE]" not in text
        assert provider.last.billed is not None
        assert provider.last.billed["completion_tokens"] == 3

    def test_malformed_json(self, provider: Running) -> None:
        set_rules(provider, {"do": {"malformed_after": 2}})

        whole = provider.chat()
        events = provider.chat(stream=True).text.strip().split("\n\n")

        with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
            whole.json()
        broken = [number for number, event in enumerate(events[:-1]) if not _is_json(event)]
        assert broken == [2]

    def test_a_slow_drip(self, provider: Running) -> None:
        fast = provider.chat().content
        set_rules(provider, {"do": {"drip": 2000}})

        start = time.monotonic()
        slow = provider.chat().content

        assert json.loads(slow)["choices"] == json.loads(fast)["choices"]
        # The last piece need not be waited for.
        assert time.monotonic() - start >= (len(slow) - 2 * 100) / 2000


def _read_until_it_breaks_off(provider: Running) -> tuple[int, int]:
    """Bytes that came, and as many as were announced."""
    received = 0
    body = {"model": "m", "messages": []}
    with provider.client.stream("POST", "/v1/chat/completions", json=body) as answer:
        announced = int(answer.headers["content-length"])
        try:
            for piece in answer.iter_raw():
                received += len(piece)
        except (httpx.ReadError, httpx.RemoteProtocolError):
            return received, announced
    raise AssertionError("the answer was whole")


class TestCommandLine:
    def test_rules_from_a_file_that_cannot_be_followed_stop_the_start(self, tmp_path: Path) -> None:
        plan = tmp_path / "faults.yaml"
        plan.write_text("rules: [{when: chance <, do: {status: 500}}]")

        done = _run("--faults", str(plan), "--port", "0")

        assert done.returncode == 2
        assert "The rule 'chance <' cannot be used" in done.stderr


def _run(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "providers.fake_server", *options]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=20)


def _is_json(event: str) -> bool:
    try:
        json.loads(event.removeprefix("data: "))
    except ValueError:
        return False
    return True


class _InProcess(httpx.BaseTransport):
    """Asks an ASGI application without a server."""

    def __init__(self, app: FakeProvider) -> None:
        self._transport = httpx.ASGITransport(app=app)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        import asyncio

        async def ask() -> httpx.Response:
            response = await self._transport.handle_async_request(request)
            return httpx.Response(response.status_code, content=await response.aread())

        return asyncio.run(ask())
