"""Each mistake is told with file, line and field; all at once; and nothing is saved."""

from __future__ import annotations

import pytest

from billing.models import Budget, Price
from llmgateway.models import ApiKey, RateLimit, Team
from providers.models import Deployment, ModelAlias, Provider
from tests.llmgateway.config_file.conftest import load, problems

pytestmark = pytest.mark.django_db

ROUTES = """\
providers:
  openai: {credentials: [{name: main, api_key: sk-test}]}
deployments:
  small: {provider: openai, credential: main, model: gpt-4o-mini}
teams: {platform: {}}
"""
"""Lines 2 to 6 of a file: something for the mistakes to refer to."""

SECRET = "a-secret-of-my-own-choice"


def only(text: str) -> str:
    found = problems(ROUTES + text)
    assert len(found) == 1, found
    return found[0]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("providers: {acme: {}}", "providers.acme.adapter"),
        ("providers: {admin: {adapter: openai}}", "providers.admin"),
        ("providers: {openai: {adapter: acme}}", "providers.openai.adapter"),
        ("providers: {openai: {base_url: 'ftp://x'}}", "providers.openai.base_url"),
        ("providers: {openai: {base_url: 'http://127.0.0.1/v1'}}", "providers.openai.base_url"),
        ("providers: {openai: {allow_private_network: maybe}}", "providers.openai.allow_private_network"),
        ("providers: {openai: {credentials: [{name: a}]}}", "providers.openai.credentials[0].api_key"),
        ("providers: {openai: {credentials: [{api_key: 'a b'}]}}", "providers.openai.credentials[0].api_key"),
        ("providers: {openai: {credentials: [{api_key: 'env:'}]}}", "providers.openai.credentials[0].api_key"),
        ("providers: {openai: {credentials: [{name: 'a b', api_key: x}]}}", "providers.openai.credentials[0].name"),
        ("providers: {openai: {credentials: [{api_key: x}, {api_key: y}]}}", "providers.openai.credentials[1].name"),
        ("providers: {openai: {credentials: main}}", "providers.openai.credentials"),
        ("providers: [openai]", "providers"),
        ("providers: {'a b': {}}", "providers.a b"),
        ("pepper: [x]", "pepper"),
        ("surprise: 1", "surprise"),
        ("settings: {retries: {attempts: -1}}", "settings.retries.attempts"),
        ("settings: {retries: {attempts: 1.5}}", "settings.retries.attempts"),
        ("settings: {retries: {attempts: 99999}}", "settings.retries.attempts"),
        ("settings: {retries: 2}", "settings.retries"),
        ("settings: {request_body_limit_mb: 0}", "settings.request_body_limit_mb"),
        ("settings: {port: 8000}", "settings.port"),
        ("networks: {office: ['10.0.0.0/8', '10.0.0.300']}", "networks.office[1]"),
        ("networks: {office: '10.0.0.0/8'}", "networks.office"),
        ("limits: [{metric: requests, per: minute, amount: 1, scope: planet}]", "limits[0].scope"),
        ("limits: [{metric: requests, per: minute}]", "limits[0].amount"),
        ("limits: [{metric: requests, per: minute, amount: -1}]", "limits[0].amount"),
        ("limits: [{metric: requests, per: minute, amount: 1e3}]", "limits[0].amount"),
        ("limits: [{metric: requests, per: minute, amount: 99999999999999999999}]", "limits[0].amount"),
        ("limits: [{metric: requests, amount: 1}]", "limits[0].per"),
        ("limits: [{metric: wishes, per: minute, amount: 1}]", "limits[0].metric"),
        ("limits: [{metric: requests, per: fortnight, amount: 1}]", "limits[0].per"),
        ("budgets: [{window: day, limit_usd: lots}]", "budgets[0].limit_usd"),
        ("budgets: [{window: day, limit_usd: -1}]", "budgets[0].limit_usd"),
        ("budgets: [{window: day, limit_usd: 4000001}]", "budgets[0].limit_usd"),
        ("budgets: [{window: day, limit_usd: 0.0000000000001}]", "budgets[0].limit_usd"),
        ("budgets: [{window: day}]", "budgets[0].limit_usd"),
        ("budgets: [{window: decade, limit_usd: 1}]", "budgets[0].window"),
        ("budgets: [{limit_usd: 1}]", "budgets[0].window"),
        ("budgets: [{window: day, limit_usd: 1, name: 'a b'}]", "budgets[0].name"),
        ("budgets: [{window: day, limit_usd: 1}, {window: day, limit_usd: 2}]", "budgets[1].name"),
        ("budgets: [{window: day, limit_usd: 1, mode: hopeful}]", "budgets[0].mode"),
        ("limits: [{metric: concurrency, per: minute, amount: 1}]", "limits[0].per"),
        ("limits: [{metric: requests, per: day, amount: 1, burst: 2}]", "limits[0].burst"),
        ("limits: [{metric: requests, per: day, amount: 1, starts_on: monday}]", "limits[0].starts_on"),
        ("limits: [{metric: requests, per: week, amount: 1, starts_on: 3}]", "limits[0].starts_on"),
        ("limits: [{metric: requests, per: month, amount: 1, starts_on: 29}]", "limits[0].starts_on"),
        ("limits: [{metric: requests, per: total, amount: 1, reset: soon}]", "limits[0].reset"),
        ("limits: [{metric: requests, per: day, amount: 1, reset: 30d}]", "limits[0].reset"),
        ("limits: [{metric: requests, per: total, amount: 1, reset_anchor: 2026-01-01}]", "limits[0].reset_anchor"),
        ("limits: [{metric: requests, per: day, amount: 1, oversize: maybe}]", "limits[0].oversize"),
        ("limits: [{metric: requests, per: day, amount: 1, oversize: first_in_window}]", "limits[0].oversize"),
        ("limits: [{metric: requests, per: day, amount: 1, shadow: deep}]", "limits[0].shadow"),
        ("limits: [{metric: requests, per: day, amount: 1, model: 'a b'}]", "limits[0].model"),
        ("limits: [{metric: requests, per: day, amount: 1, model: a, scope: model}]", "limits[0].model"),
        ("limits: [{metric: requests, per: day, amount: 1, model: nothing}]", "limits[0].model"),
        ("teams: {t: {limits: [{metric: requests, per: day, amount: 1, model: no}]}}", "teams.t.limits[0].model"),
        ("limits: [&a {metric: requests, per: day, amount: 1}, *a]", "limits[1]"),
        ("budgets: [{window: day, limit_usd: 1, scope: model}]", "budgets[0].scope"),
        ("budgets: [{window: day, limit_usd: 1, starts_on: monday}]", "budgets[0].starts_on"),
        ("budgets: [{window: day, limit_usd: 1, alerts: [50, much]}]", "budgets[0].alerts[1]"),
        ("budgets: [{window: day, limit_usd: 1, alerts: [50, 50]}]", "budgets[0].alerts"),
        ("budgets: [{window: day, limit_usd: 1, increase: {until: 2030-01-01}}]", "budgets[0].increase.amount_usd"),
        ("budgets: [{window: day, limit_usd: 1, increase: {amount_usd: 1}}]", "budgets[0].increase.until"),
        (
            "budgets: [{window: day, limit_usd: 1, increase: {amount_usd: 1, until: 2030-01-01, by: me}}]",
            "budgets[0].increase.by",
        ),
        ("budgets: [{window: day, limit_usd: 1, credits: [{amount_usd: 1}]}]", "budgets[0].credits[0].budget"),
        ("budgets: [{window: total, limit_usd: 1, credits: [{amount_usd: 0}]}]", "budgets[0].credits[0].amount_usd"),
        ("budgets: [{window: total, limit_usd: 1, credits: [{note: x}]}]", "budgets[0].credits[0].amount_usd"),
        (
            "budgets: [{window: total, limit_usd: 3000000, credits: [{amount_usd: 1000001}]}]",
            "budgets[0].credits[0].amount_usd",
        ),
        ("settings: {retries: {factor: 0.5}}", "settings.retries.factor"),
        ("settings: {retries: {jitter: half}}", "settings.retries.jitter"),
        ("settings: {admission: {quota_status: 500}}", "settings.admission.quota_status"),
        ("settings: {admission: {absent_cap_share: 0}}", "settings.admission.absent_cap_share"),
        ("settings: {admission: {patience: 1}}", "settings.admission.patience"),
        ("settings: {estimation: {bytes_per_token: 0}}", "settings.estimation.bytes_per_token"),
        (
            "settings: {estimation: {chars_per_token_by_provider: {openai: none}}}",
            "settings.estimation.chars_per_token_by_provider.openai",
        ),
        (
            "settings: {estimation: {chars_per_token_by_provider: {nobody: 3}}}",
            "settings.estimation.chars_per_token_by_provider.nobody",
        ),
        (
            "providers: {openai: {limits: [{metric: requests, per: day, amount: 1, scope: ip}]}}",
            "providers.openai.limits[0].scope",
        ),
        (
            "providers: {openai: {limits: [{metric: requests, per: day, amount: 1, model: m}]}}",
            "providers.openai.limits[0].model",
        ),
        ("aliases: {a: {budgets: [{window: day, limit_usd: x}]}}", "aliases.a.budgets[0].limit_usd"),
        ("deployments: {d: {provider: openai, model: m, health: {colour: x}}}", "deployments.d.health.colour"),
        ("deployments: {d: {provider: openai, model: m, health: {interval_s: 0}}}", "deployments.d.health.interval_s"),
        ("providers: {mistral: {health: {path: /}}}", "providers.mistral.health"),
    ],
)
def test_a_mistake_names_its_line_and_field(text: str, place: str) -> None:
    found = problems(text)

    assert len(found) == 1, found
    assert found[0].startswith(f"config.yaml:2: {place}: "), found[0]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("aliases: {a: {targets: [{deployment: nope}]}}", "aliases.a.targets[0].deployment"),
        ("aliases: {a: {targets: [{weight: 1}]}}", "aliases.a.targets[0].deployment"),
        ("aliases: {a: {targets: [{deployment: small, weight: 0}]}}", "aliases.a.targets[0].weight"),
        ("aliases: {a: {targets: [{deployment: small, weight: heavy}]}}", "aliases.a.targets[0].weight"),
        ("aliases: {a: {targets: [{deployment: small}, {deployment: small}]}}", "aliases.a.targets[1].deployment"),
        ("aliases: {a: {strategy: astrology}}", "aliases.a.strategy"),
        ("aliases: {'a b': {}}", "aliases.a b"),
        ("aliases: {a: {targets: [{deployment: small, alias: b}]}}", "aliases.a.targets[0].deployment"),
        ("aliases: {a: {targets: [{alias: nope}]}}", "aliases.a.targets[0].alias"),
        ("aliases: {a: {targets: [{deployment: small, canary_percent: 101}]}}", "aliases.a.targets[0].canary_percent"),
        ("aliases: {a: {sticky: glue}}", "aliases.a.sticky"),
        ("aliases: {a: {health: {}}}", "aliases.a.health"),
        ("aliases: {a: {rules: [{when: 'true'}]}}", "aliases.a.rules[0].use"),
        ("aliases: {a: {rules: [{when: 'true', use: nope}]}}", "aliases.a.rules[0].use"),
        ("aliases: {b: {}, a: {rules: [{when: request., use: b}]}}", "aliases.a.rules[0].when"),
        ("aliases: {b: {}, a: {rules: [{when: request.nope, use: b}]}}", "aliases.a.rules[0].when"),
        ("aliases: {a: {fallbacks: [nope]}}", "aliases.a.fallbacks[0]"),
        ("aliases: {a: {fallbacks: [{on: rain, use: b}]}}", "aliases.a.fallbacks[0].on"),
        ("aliases: {b: {}, a: {fallbacks: [b, {use: b}]}}", "aliases.a.fallbacks[1]"),
        ("aliases: {a: {parameters: {defaults: 5}}}", "aliases.a.parameters.defaults"),
        ("aliases: {a: {parameters: {overrides: {model: x}}}}", "aliases.a.parameters.overrides"),
        ("aliases: {a: {parameters: {overrides: {temperature: .nan}}}}", "aliases.a.parameters.overrides"),
        ("aliases: {a: {timeouts: {connect_s: 5}}}", "aliases.a.timeouts.connect_s"),
        ("aliases: {a: {timeouts: {total_s: 0}}}", "aliases.a.timeouts.total_s"),
        ("aliases: {a: {retries: {attempts: 21}}}", "aliases.a.retries.attempts"),
        ("aliases: {a: {cache: {mode: exact}}}", "aliases.a.cache.ttl_s"),
        ("aliases: {a: {cache: {ttl_s: 9, mode: semantic}}}", "aliases.a.cache.embeddings"),
        ("aliases: {a: {cache: {ttl_s: 9, embeddings: nope}}}", "aliases.a.cache.embeddings"),
        ("aliases: {a: {hedge: {after_s: 1}}}", "aliases.a.hedge.max_usd"),
        ("aliases: {a: {mirror: {alias: nope, percent: 1}}}", "aliases.a.mirror.alias"),
        ("aliases: {b: {}, a: {mirror: {alias: b}}}", "aliases.a.mirror.percent"),
        ("aliases: {a: {fallbacks: [b]}, b: {targets: [{alias: a}]}}", "aliases.b.targets[0].alias"),
        ("aliases: {a: {mirror: {alias: a, percent: 1}}}", "aliases.a.mirror.alias"),
        ("keys: {k: {team: platform, priority: 101}}", "keys.k.priority"),
        ("keys: {k: {team: platform, tenants: [nope]}}", "keys.k.tenants[0]"),
        ("settings: {circuits: {mode: on}}", "settings.circuits.mode"),
        ("settings: {circuits: {failures: 0}}", "settings.circuits.failures"),
        ("settings: {cache: {max_mb: 0}}", "settings.cache.max_mb"),
        ("settings: {vendor_models: {'a b': c}}", "settings.vendor_models"),
        ("prices: [{provider: nope, model: m, input: 1}]", "prices[0].provider"),
        ("prices: [{provider: openai, input: 1}]", "prices[0].model"),
        ("prices: [{provider: openai, model: m}]", "prices[0].input"),
        ("prices: [{provider: openai, model: m, input: '0.0000001'}]", "prices[0].input"),
        ("prices: [{provider: openai, model: m, input: 0.0000001}]", "prices[0].input"),
        ("prices: [{provider: openai, model: m, input: -1}]", "prices[0].input"),
        ("prices: [{provider: openai, model: m, input: nan}]", "prices[0].input"),
        ("prices: [{provider: openai, model: m, input: 1, output: 1e30}]", "prices[0].output"),
        ("prices: [{provider: openai, model: m, input: 1, effective_from: soon}]", "prices[0].effective_from"),
        ("prices: [{provider: openai, model: m, input: 1, tokens: 2}]", "prices[0].tokens"),
        (
            "prices: [{provider: openai, model: m, input: 1}, {provider: openai, model: m, input: 2}]",
            "prices[1]",
        ),
        ("keys: {k: {}}", "keys.k.team"),
        ("keys: {k: {team: nope}}", "keys.k.team"),
        ("keys: {k: {team: platform, secret: short}}", "keys.k.secret"),
        (f"keys: {{k: {{team: platform, secret: {SECRET} with space}}}}", "keys.k.secret"),
        ("keys: {k: {team: platform, secret: yes}}", "keys.k.secret"),
        ("keys: {k: {team: platform, digest: abc}}", "keys.k.digest"),
        ("keys: {k: {team: platform, networks: [nope]}}", "keys.k.networks[0]"),
        ("keys: {k: {team: platform, models: [ok, 'not ok']}}", "keys.k.models[1]"),
        ("keys: {k: {team: platform, allowed_ips: [localhost]}}", "keys.k.allowed_ips[0]"),
        ("keys: {k: {team: platform, starts_at: 2027-01-01, expires_at: 2026-01-01}}", "keys.k.expires_at"),
        ("keys: {k: {team: platform, expires_at: never}}", "keys.k.expires_at"),
        ("keys: {k: {team: platform, public_id: 'sk-gw'}}", "keys.k.public_id"),
        ("keys: {k: {team: platform, limits: [{metric: requests, per: minute}]}}", "keys.k.limits[0].amount"),
        (
            "keys: {k: {team: platform, limits: [{metric: requests, per: minute, amount: 1, scope: global}]}}",
            "keys.k.limits[0].scope",
        ),
        (
            f"keys: {{a: {{team: platform, secret: {SECRET}}}, b: {{team: platform, secret: {SECRET}}}}}",
            "keys.b.secret",
        ),
    ],
)
def test_a_mistake_beside_sound_parts_names_its_line_and_field(text: str, place: str) -> None:
    assert only(text).startswith(f"config.yaml:7: {place}: ")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("d: {provider: nope, model: m}", "d.provider"),
        ("d: {model: m}", "d.provider"),
        ("d: {provider: openai}", "d.model"),
        ("d: {provider: openai, model: 'a b'}", "d.model"),
        ("d: {provider: openai, model: no}", "d.model"),
        ("d: {provider: openai, credential: nope, model: m}", "d.credential"),
        ("d: {provider: openai, model: m, timeouts: {connect_s: 0}}", "d.timeouts.connect_s"),
        ("d: {provider: openai, model: m, timeouts: {connect_s: nan}}", "d.timeouts.connect_s"),
        ("d: {provider: openai, model: m, timeouts: {total_s: long}}", "d.timeouts.total_s"),
        ("d: {provider: openai, model: m, timeouts: {naps_s: 1}}", "d.timeouts.naps_s"),
        ("d: {provider: openai, model: m, timeout: {}}", "d.timeout"),
    ],
)
def test_a_mistake_in_a_deployment_names_its_line_and_field(text: str, place: str) -> None:
    found = problems(ROUTES.replace("teams:", f"  {text}\nteams:"))

    assert len(found) == 1, found
    assert found[0].startswith(f"config.yaml:6: deployments.{place}: "), found[0]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("t: {time_zone: Mars/Olympus}", "t.time_zone"),
        ("t: {own_keys: maybe}", "t.own_keys"),
        ("t: {members: [{email: ana@example.org, role: king}]}", "t.members[0].role"),
        ("t: {members: [{role: member}]}", "t.members[0].email"),
        ("t: {members: [{email: not-an-address}]}", "t.members[0].email"),
        ("t: {members: [{username: nobody}]}", "t.members[0].username"),
        ("t: {members: [{email: a@b.org}, {email: A@b.org}]}", "t.members[1].email"),
        ("t: {budgets: [{window: day, limit_usd: x}]}", "t.budgets[0].limit_usd"),
        ("t: {colour: blue}", "t.colour"),
    ],
)
def test_a_mistake_in_a_team_names_its_line_and_field(text: str, place: str) -> None:
    found = problems(f"teams:\n  {text}")

    assert len(found) == 1, found
    assert found[0].startswith(f"config.yaml:3: teams.{place}: "), found[0]


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("keys: {k: {team: t, rules: []}}", "rules"),
        ("keys: {k: {team: t, cache: {ttl_s: 300}}}", "cache"),
    ],
)
def test_what_a_later_version_brings_is_refused_and_says_so(text: str, field: str) -> None:
    found = [line for line in problems(text) if "not supported" in line]

    assert len(found) == 1
    assert found[0].startswith("config.yaml:2: ")
    assert f"`{field}` is not supported" in found[0]
    assert "by this version yet" in found[0]


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ("{parsec: 1}", "Parsec is no unit that has a price; there are second, minute,"),
        ("{second: 0.1, minute: 6}", "Sound has one price; minute and second are two."),
        ("{image: 0.0000000000001}", "has more than 12 decimals."),
        ("{search: -1}", "-1 is negative."),
        ("{search: 1001}", "surely a slip"),
        ("expensive", "Expected figures by name"),
    ],
)
def test_a_unit_that_has_no_price_is_told(units: str, message: str) -> None:
    assert message in only(f"prices: [{{provider: openai, model: m, input: 1, units: {units}}}]")


def test_an_unknown_field_suggests_the_nearest_known_one() -> None:
    assert only("keys: {k: {team: platform, modles: []}}").endswith("Did you mean `models`?")


@pytest.mark.parametrize(("text", "place"), [("", "version"), ("version: 2\n", "version"), ("version: x\n", "version")])
def test_a_file_of_another_version_is_refused(text: str, place: str) -> None:
    from llmgateway.config_file.importing import import_text
    from llmgateway.config_file.problems import ConfigFileError

    with pytest.raises(ConfigFileError) as raised:
        import_text(text + "teams: {platform: {}}\n")

    assert len(raised.value.lines) == 1
    assert f"config.yaml:1: {place}: " in raised.value.lines[0]
    assert not Team.objects.exists()


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file() -> None:
    found = problems(
        "providers:\n"
        "  openai: {base_ur: x}\n"
        "deployments:\n"
        "  d: {provider: nope, model: m}\n"
        "teams:\n"
        "  platform: {time_zone: Mars/Olympus}\n"
        "keys:\n"
        "  k: {team: platform, limits: [{metric: wishes, per: day, amount: x}]}\n"
    )

    assert [line.split(": ")[0:2] for line in found] == [
        ["config.yaml:3", "providers.openai.base_ur"],
        ["config.yaml:5", "deployments.d.provider"],
        ["config.yaml:7", "teams.platform.time_zone"],
        ["config.yaml:9", "keys.k.limits[0].metric"],
        ["config.yaml:9", "keys.k.limits[0].amount"],
    ]


def test_a_broken_object_is_told_once_and_not_again_by_who_refers_to_it() -> None:
    found = problems(
        "providers: {openai: {base_url: 'ftp://x', credentials: [{name: main, api_key: x}]}}\n"
        "deployments: {d: {provider: openai, credential: main, model: m}}\n"
        "aliases: {a: {targets: [{deployment: d}]}}\n"
        "prices: [{provider: openai, model: m, input: 1}]\n"
    )

    assert len(found) == 1
    assert "providers.openai.base_url" in found[0]


def test_nothing_is_saved_when_one_row_is_bad() -> None:
    """The mistake is found by the database's own rules, after other rows were written in the transaction."""
    text = ROUTES + (
        "aliases: {small: {targets: [{deployment: small}]}}\n"
        "prices: [{provider: openai, model: gpt-4o-mini, input: 1}]\n"
        "limits: [{metric: requests, per: minute, amount: 1}]\n"
        "budgets: [{window: day, limit_usd: 1}]\n"
        "keys: {good: {team: platform}, bad: {team: platform, starts_at: 2027-01-01, expires_at: 2026-01-01}}\n"
    )

    found = problems(text)

    assert len(found) == 1
    for model in (Provider, Deployment, ModelAlias, Price, Team, ApiKey, RateLimit, Budget):
        assert not model._default_manager.exists(), model


def test_the_same_file_without_the_bad_row_is_saved() -> None:
    load(ROUTES + "keys: {good: {team: platform}}\n")

    assert ApiKey.objects.get().name == "good"


def test_a_secret_never_stands_in_a_message() -> None:
    secret = "sk-live with a space"

    found = problems(f"providers: {{openai: {{credentials: [{{api_key: '{secret}'}}]}}}}")

    assert secret not in "\n".join(found)
