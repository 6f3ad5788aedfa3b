"""`./gateway test --live`: tried against the fake provider, whose answers have the real ones' form."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.e2e.harness import PROVIDER_SECRET, Provider
from tests.e2e.launched import gateway

NO_KEYS = dict.fromkeys(("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "CLAUDE_API_KEY", "GEMINI_API_KEY"), "")


def trial(*arguments: str, provider: Provider, **keys: str) -> tuple[int, str]:
    addresses = {"openai": "v1", "anthropic": "v1", "gemini": "v1beta"}
    there = [f"--base-url={name}=http://127.0.0.1:{provider.port}/{path}" for name, path in addresses.items()]
    done = gateway("test", "--live", *arguments, *there, **{**NO_KEYS, **keys})
    assert PROVIDER_SECRET not in done.stdout + done.stderr
    return done.returncode, done.stdout + done.stderr


def test_each_provider_with_a_key_is_tried_and_the_cost_told(provider: Provider) -> None:
    provider.reset()

    status, output = trial(
        "openai",
        "anthropic",
        "gemini",
        provider=provider,
        OPENAI_API_KEY=PROVIDER_SECRET,
        CLAUDE_API_KEY=PROVIDER_SECRET,
    )

    assert status == 0, output
    for model in ("openai gpt-4o-mini", "anthropic claude-haiku-4-5"):
        for step in ("chat", "stream", "tools"):
            assert f"{model} {step}: works" in output
    assert "gemini: not run, for GEMINI_API_KEY" in output
    assert len(provider.sent) == 6
    costs = [float(cost) for cost in re.findall(r": cost ([0-9.]+) USD", output)]
    total = re.search(r"In all ([0-9.]+) USD of at most 0.05 USD", output)
    assert total is not None
    assert float(total[1]) == pytest.approx(sum(costs))
    assert min(costs) > 0


def test_the_ceiling_is_never_passed_and_failures_are_told(provider: Provider) -> None:
    provider.reset()

    status, output = trial("openai", "--max-usd", "0.000001", provider=provider, OPENAI_API_KEY=PROVIDER_SECRET)

    assert status == 1
    assert output.count("FAILED: 402") == 3
    assert "In all 0 USD of at most 0.000001 USD." in output
    assert provider.sent == []


def test_without_keys_nothing_runs_and_nothing_fails(provider: Provider) -> None:
    status, output = trial("openai", provider=provider)

    assert (status, "Nothing was run" in output) == (0, True)


@pytest.mark.parametrize("wrong", [("--max-usd", "free"), ("--model", "openai"), ("nobody",)])
def test_what_makes_no_sense_is_refused(wrong: tuple[str, ...], provider: Provider, tmp_path: Path) -> None:
    status, output = trial(*wrong, provider=provider)

    assert status == 2
    assert "error:" in output
