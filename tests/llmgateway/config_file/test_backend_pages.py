"""The configuration that the pages on servers of one's own show can be imported as it stands."""

from __future__ import annotations

import re

import pytest

from llmgateway.conf import PROJECT_ROOT
from llmgateway.config_file.importing import import_text
from llmgateway.config_loader import load_snapshot
from tests.llmgateway.config_file.conftest import Environment

PAGES = sorted((PROJECT_ROOT / "docs" / "backends").glob("*.md"))


@pytest.mark.django_db
@pytest.mark.parametrize("name", ["vllm", "tgi", "ollama", "llamacpp"])
def test_the_configuration_on_a_page_makes_a_model_that_can_be_called(name: str, environment: Environment) -> None:
    environment(VLLM_KEY="sk-local", LLAMA_KEY="sk-local")
    page = (PROJECT_ROOT / "docs" / "backends" / f"{name}.md").read_text()
    found = re.search(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert found is not None

    import_text(found[1])

    snapshot = load_snapshot()
    (deployment,) = snapshot.deployments
    assert (snapshot.problems, deployment.problem, deployment.adapter.name) == ((), "", name)
    assert deployment.prices
    assert [each.name for alias in snapshot.aliases.values() for each in alias.deployments] == [deployment.name]


def test_every_page_is_tested() -> None:
    assert {page.stem for page in PAGES} == {"README", "vllm", "tgi", "ollama", "llamacpp"}
