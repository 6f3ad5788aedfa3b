"""What exists is documented, and what is documented exists."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from llmgateway.api import anthropic, media, mistral, openai, simple
from llmgateway.cli import COMMANDS
from llmgateway.conf import Conf
from providers.adapters.registry import adapter_names, get_adapter
from providers.fake_server.scripts import Script

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]


def text_of(page: str) -> str:
    return (DOCS / page).read_text()


def source(*folders: str) -> str:
    return "\n".join(path.read_text() for folder in folders for path in sorted((ROOT / folder).rglob("*.py")))


def missing(names: set[str], page: str) -> set[str]:
    """Those names that the page does not mention as a whole word."""
    text = text_of(page)
    return {name for name in names if not re.search(rf"(?<![\w/-]){re.escape(name)}(?![\w-])", text)}


def test_every_setting_is_documented() -> None:
    assert not missing({setting.name for setting in Conf.settings()}, "configuration.md")


def test_every_command_is_documented_and_the_documented_exist() -> None:
    documented = set(re.findall(r"`\./gateway ([a-z-]+)`", text_of("commands.md")))

    assert documented == set(COMMANDS)


def test_every_route_is_documented() -> None:
    routes = {
        *openai.routes(),
        *anthropic.routes(),
        *media.routes(),
        *mistral.routes(),
        *simple.routes(),
        *re.findall(r'"(/(?:health|metrics|v1/models)[a-z/]*)"', source("llmgateway/api")),
    }
    pages = {route.rstrip("/") for route in routes}

    assert {"/health/ready", "/v1/models"} <= pages
    assert not {route for route in pages if route not in text_of("api.md")}


def test_every_header_of_an_answer_is_documented_and_the_documented_exist() -> None:
    code = source("llmgateway/pipeline", "llmgateway/api")
    # As a name of its own, or within lines that are formatted together; `%b` stands for requests and for tokens.
    sent = set(re.findall(r'\(b"(x-[a-z-]+[a-z])",', code))
    for name in re.findall(r'(?:b"|\\n|%b)(x-[a-z%-]+): ', code):
        sent |= {name.replace("%b", kind) for kind in ("requests", "tokens")}
    # Those that a caller sends.
    sent |= {
        "x-gateway-strict",
        "x-gateway-model",
        "x-gateway-bypass-health",
        "x-gateway-session-id",
        "x-gateway-task-type",
        "x-gateway-usage-comment",
        "x-gateway-provider-key",
    }
    documented = set(re.findall(r"`(x-(?:gateway|llm|ratelimit|budget|should)-[a-z-]+)", text_of("api.md")))

    # Proxies read this one, not applications.
    assert not missing(sent - {"x-accel-buffering"}, "api.md")
    assert documented <= sent


def test_every_error_code_is_documented() -> None:
    tree = (ROOT / "llmgateway/pipeline/errors.py").read_text().split('"""')[1]
    codes = set(re.findall(r"\b[a-z]+(?:_[a-z]+)+\b", tree))

    assert "model_not_found" in codes
    assert not missing(codes, "api.md")


def test_every_metric_is_documented_and_the_documented_exist() -> None:
    code = source("llmgateway/api")
    exported = set(re.findall(r'"((?:llmproxy|llmgateway|gen_ai)_[a-z_]+)"', code))
    documented = set(re.findall(r"`((?:llmproxy|llmgateway|gen_ai)_[a-z_]+)`", text_of("metrics.md")))

    assert {name.removesuffix("_total") for name in documented} <= exported
    assert not {name for name in exported if name not in text_of("metrics.md")}


def test_every_adapter_is_documented_with_its_keys() -> None:
    variables = {each for name in adapter_names() for each in get_adapter(name).api_key_variables}

    assert not missing(set(adapter_names()) | variables, "providers.md")


def test_every_field_of_a_fake_script_is_documented() -> None:
    assert not missing({field.name for field in msgspec.structs.fields(Script)}, "providers.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?://|mailto:|#)([^)#\s]+)", page.read_text())

    assert not [link for link in links if not (page.parent / link).exists()]
