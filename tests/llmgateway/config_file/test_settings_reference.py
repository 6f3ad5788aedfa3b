"""The documentation of settings is what `conf.py` says, and `.env.example` can be read by it."""

from __future__ import annotations

import pytest

from llmgateway.conf import PROJECT_ROOT, Conf
from llmgateway.config_file.settings_reference import (
    DOCUMENT,
    ENV_BY_HAND,
    ENV_EXAMPLE,
    document_with_table,
    env_example,
)

HINT = "run `manage.py settings_reference --write`"


def test_the_documentation_lists_every_setting_as_it_is() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")

    assert document_with_table(text) == text, HINT
    for setting in Conf.settings():
        assert f"| `{setting.name}` |" in text


def test_env_example_lists_every_setting_as_it_is() -> None:
    text = ENV_EXAMPLE.read_text(encoding="utf-8")

    assert env_example(text) == text, HINT
    for setting in Conf.settings():
        assert f"\n#{setting.name}={setting.default_text}\n" in text


def test_every_line_of_env_example_can_be_taken_as_it_stands() -> None:
    """Whoever takes all the # off gets the defaults."""
    lines = ENV_EXAMPLE.read_text(encoding="utf-8").partition(ENV_BY_HAND)[0].splitlines()
    taken = dict(line[1:].split("=", 1) for line in lines if line.startswith("#") and not line.startswith("# "))
    taken.pop("GATEWAY_DATA_DIR")

    filled, empty = Conf(taken), Conf({})

    assert len(taken) == len(list(Conf.settings())) - 1
    for attribute in vars(Conf):
        if attribute.islower() and not attribute.startswith("_") and attribute != "settings":
            assert getattr(filled, attribute) == getattr(empty, attribute), attribute


@pytest.mark.parametrize(
    "name",
    [
        "OPENAI_API_KEY",
        "ANTHROPIC_API_KEY",
        "CLAUDE_API_KEY",
        "GEMINI_API_KEY",
        "MISTRAL_API_KEY",
        "GROQ_API_KEY",
        "XAI_API_KEY",
        "GROK_API_KEY",
        "GLM_API_KEY",
    ],
)
def test_env_example_names_the_keys_of_providers(name: str) -> None:
    assert f"\n#{name}=\n" in ENV_EXAMPLE.read_text(encoding="utf-8")


def test_the_documentation_shows_the_example_file() -> None:
    assert (PROJECT_ROOT / "config.example.yaml").is_file()
    assert "(../config.example.yaml)" in DOCUMENT.read_text(encoding="utf-8")
