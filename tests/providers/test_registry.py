"""Adapters are found, never listed."""

from __future__ import annotations

from pathlib import Path

import pytest

from providers.adapters.errors import UnknownAdapterError
from providers.adapters.registry import adapter_names, get_adapter
from tests.providers.contract import FIXTURES


def test_every_adapter_has_fixtures_and_a_contract_test() -> None:
    names = adapter_names()
    # Their answers are those of another adapter's dialect, and its fixtures.
    borrowing = {"vertex", "vertex_anthropic"}

    assert names - borrowing == {folder.name for folder in FIXTURES.iterdir()}
    assert all((Path(__file__).parent / f"test_{name}.py").is_file() for name in names - {"vertex_anthropic"})


def test_an_unknown_name_says_what_there_is() -> None:
    with pytest.raises(UnknownAdapterError, match=r"no adapter named nonesuch; there are anthropic,"):
        get_adapter("nonesuch")


def test_an_adapter_is_shared() -> None:
    assert get_adapter("vllm") is get_adapter("vllm")


def test_keys_come_from_the_variables_that_people_have() -> None:
    assert get_adapter("anthropic").api_key_variables == ("ANTHROPIC_API_KEY", "CLAUDE_API_KEY")
    assert get_adapter("xai").api_key_variables == ("XAI_API_KEY", "GROK_API_KEY")
    assert get_adapter("zhipu").api_key_variables == ("GLM_API_KEY",)
