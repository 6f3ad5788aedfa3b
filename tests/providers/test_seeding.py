"""The first start: each provider key in the environment becomes ordinary rows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from auditlog.models import LogEntry

from billing.models import Price
from llmgateway import conf as conf_module
from llmgateway.conf import Conf
from llmgateway.models import GatewaySettings
from providers.adapters.registry import adapter_names, api_key_variables, get_adapter
from providers.models import Credential, Deployment, ModelAlias, Provider
from providers.seeding import seed_from_environment

pytestmark = pytest.mark.django_db

Environment = Callable[..., None]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Environment:
    def set_variables(**values: str) -> None:
        monkeypatch.setattr(conf_module, "conf", Conf(conf_module.conf.values | values))

    return set_variables


@pytest.mark.parametrize(
    ("variable", "provider", "model"),
    [
        ("OPENAI_API_KEY", "openai", "gpt-4o-mini"),
        ("ANTHROPIC_API_KEY", "anthropic", "claude-sonnet-4-5"),
        ("CLAUDE_API_KEY", "anthropic", "claude-sonnet-4-5"),
        ("GEMINI_API_KEY", "gemini", "gemini-2.5-flash"),
        ("MISTRAL_API_KEY", "mistral", "mistral-small-latest"),
        ("GROQ_API_KEY", "groq", "llama-3.3-70b-versatile"),
        ("XAI_API_KEY", "xai", "grok-4.5"),
        ("GROK_API_KEY", "xai", "grok-4.5"),
        ("GLM_API_KEY", "zhipu", "glm-4.7"),
    ],
)
def test_each_documented_variable_becomes_a_provider_with_its_models(
    environment: Environment, variable: str, provider: str, model: str
) -> None:
    environment(**{variable: "sk-from-outside"})

    seeded = seed_from_environment()

    assert [(item.provider, item.variable) for item in seeded] == [(provider, variable)]
    row = Provider.objects.get()
    assert (row.name, row.adapter, row.allow_private_network) == (provider, provider, False)
    credential = Credential.objects.get()
    assert credential.stored_secret() == f"env:{variable}"
    assert credential.resolve_secret() == "sk-from-outside"
    target = ModelAlias.objects.get(name=model).targets.get()
    assert target.deployment is not None
    assert (target.deployment.model, target.deployment.credential) == (model, credential)
    assert Price.objects.filter(provider=row, model=model, input__gt=0, output__gt=0).exists()
    assert seeded[0].models == Deployment.objects.count() == ModelAlias.objects.exclude(name="auto").count() > 5


def test_every_seeded_model_has_a_price(environment: Environment) -> None:
    environment(GROQ_API_KEY="sk-x")

    seed_from_environment()

    assert set(Deployment.objects.values_list("model", flat=True)) == set(Price.objects.values_list("model", flat=True))


def test_nothing_is_set_up_without_keys() -> None:
    assert seed_from_environment() == []
    assert not Provider.objects.exists()


def test_an_empty_key_is_none(environment: Environment) -> None:
    environment(GROQ_API_KEY=" ")

    assert seed_from_environment() == []


def test_the_preferred_name_of_a_variable_wins(environment: Environment) -> None:
    environment(XAI_API_KEY="sk-one", GROK_API_KEY="sk-two")

    assert [item.variable for item in seed_from_environment()] == ["XAI_API_KEY"]


def test_only_a_start_without_providers_is_the_first(environment: Environment) -> None:
    """What an admin removed must not come back, and what they changed must not be touched."""
    Provider.objects.create(name="own", adapter="openai")
    environment(GROQ_API_KEY="sk-x")

    assert seed_from_environment() == []
    assert [row.name for row in Provider.objects.all()] == ["own"]


def test_two_providers_with_a_model_of_one_name_get_an_alias_each(environment: Environment) -> None:
    environment(GROQ_API_KEY="sk-x", MISTRAL_API_KEY="sk-x", OPENAI_API_KEY="sk-x", ANTHROPIC_API_KEY="sk-x")

    seed_from_environment()

    assert Deployment.objects.count() == ModelAlias.objects.exclude(name="auto").count()
    assert not ModelAlias.objects.filter(targets=None).exists()


def test_an_adapter_without_an_address_is_left_out(environment: Environment) -> None:
    without = [name for name in adapter_names() if not get_adapter(name).base_url]
    environment(**{variable: "sk-x" for name in without for variable in api_key_variables(get_adapter(name))})

    assert without
    assert seed_from_environment() == []


def test_a_provider_on_this_machine_may_be_called(environment: Environment) -> None:
    local = next(name for name in sorted(adapter_names()) if "127.0.0.1" in get_adapter(name).base_url)
    environment(**{api_key_variables(get_adapter(local))[0]: "x"})

    assert [item.provider for item in seed_from_environment()] == [local]
    Provider.objects.get().full_clean()


def test_the_rows_are_recorded_as_of_the_first_start(environment: Environment) -> None:
    environment(GROQ_API_KEY="sk-x")

    seed_from_environment()

    entry = LogEntry.objects.get_for_object(Provider.objects.get()).get()
    assert entry.additional_data["source"] == "first start"


def test_kinds_of_task_and_words_for_vendors_lead_to_usual_models(environment: Environment) -> None:
    environment(GROQ_API_KEY="sk-x", MISTRAL_API_KEY="sk-x", OPENAI_API_KEY="sk-x", ANTHROPIC_API_KEY="sk-x")

    seed_from_environment()

    auto = ModelAlias.objects.get(name="auto")
    assert GatewaySettings.objects.get().vendor_models == {
        "openai": "gpt-4o-mini", "claude": "claude-haiku-4-5", "mistral": "mistral-small-latest"
    }  # fmt: skip
    assert {rule.when: rule.use.name for rule in auto.rules.all()} == {
        'request.task_type == "text_generation"': "gpt-4o-mini",
        'request.task_type == "summarization"': "claude-haiku-4-5",
        'request.task_type == "question_answering"': "mistral-small-latest",
    }
    targets = [target.deployment.model for target in auto.targets.all() if target.deployment]
    assert targets == ["gpt-4o-mini", "claude-haiku-4-5", "mistral-small-latest"]


def test_without_any_of_these_vendors_nothing_decides(environment: Environment) -> None:
    environment(GROQ_API_KEY="sk-x")

    seed_from_environment()

    assert not ModelAlias.objects.filter(name="auto").exists()
    assert not GatewaySettings.objects.exclude(vendor_models={}).exists()
