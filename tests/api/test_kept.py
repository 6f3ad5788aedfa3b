"""Files, batches and the like pass through; a team sees its own, and pays for a batch's results once."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from llmgateway.key_secrets import digest
from llmgateway.pipeline.errors import LedgerUnavailableError
from llmgateway.pipeline.kept_objects import MemoryBook
from llmgateway.pipeline.protocols import Owner
from llmgateway.pipeline.snapshot import BudgetRule, ForeignKeys, KeyDigest, Limit
from providers.adapters.registry import get_adapter
from tests.fakes import Reply, ScriptedUpstream
from tests.gateways import PEPPER, PRICE, SECRET, Caller, House, alias, deployment, key, snapshot
from tests.providers.dialects.test_multipart import encoded

OPENAI = deployment(provider="acme", model="gpt-4o-mini", adapter=get_adapter("openai"))
CLAUDE = deployment("claude", 2, provider="other", adapter=get_adapter("anthropic"))
BOBS = "sk-gw-bobbobbobb-0123456789abcdef"
BOB = key("bob", id="2", public_id="bobbobbobb", team_id=4, team_name="blue")
MATE = key("mate", id="3", public_id="matematema")
MATES = "sk-gw-matematema-0123456789abcdef"
FILE = {"id": "file-1", "object": "file", "purpose": "batch", "status": "processed"}
BATCH = {
    "id": "batch_1",
    "object": "batch",
    "status": "completed",
    "input_file_id": "file-1",
    "output_file_id": "file-out",
}


def line(number: int, model: str = "gpt-4o-mini-2024-07-18", **usage: int) -> bytes:
    used = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120, **usage}
    body = {"object": "chat.completion", "model": model, "choices": [], "usage": used}
    result = {"id": f"batch_req_{number}", "custom_id": str(number), "error": None,
              "response": {"status_code": 200, "request_id": "r", "body": body}}  # fmt: skip
    return json.dumps(result).encode() + b"\n"


RESULTS = line(1) + line(2) + b'{"custom_id":"3","response":null,"error":{"code":"x"}}\n'


def house(*replies: Reply | Exception, who: Any = None, made: Any = OPENAI, **changes: Any) -> House:
    mine = snapshot(alias("chat", made), alias("about", CLAUDE), who=who, deployments=(made, CLAUDE), **changes)
    others = {digest(secret.encode(), PEPPER): KeyDigest(each) for secret, each in ((BOBS, BOB), (MATES, MATE))}
    return House(ScriptedUpstream(*replies), replace(mine, keys={**mine.keys, **others}))


def content(body: bytes = RESULTS) -> Reply:
    return Reply(200, {"content-type": "application/octet-stream"}, (body,))


async def upload(of: House, **headers: str) -> Any:
    body = encoded({"purpose": "batch"}, {"file": b"{}"})
    return await of.post("/v1/files", body, content_type="multipart/form-data; boundary=xYz-1", **headers)


async def with_batch(*replies: Reply, **changes: Any) -> House:
    """A house in which alice has made a batch whose results are in `file-out`."""
    of = house(Reply.json(FILE), Reply.json(BATCH), *replies, **changes)
    await upload(of)
    await of.post("/v1/batches", {"input_file_id": "file-1", "endpoint": "/v1/chat/completions"})
    return of


# ── passing through ──


async def test_a_file_is_passed_on_as_it_is_to_the_first_model_that_leads_anywhere() -> None:
    of = house(Reply.json(FILE))

    answer = await upload(of)

    sent = of.upstream.requests[0]
    assert answer.json() == FILE
    assert str(sent.url) == "http://main.test/v1/files"
    assert sent.content == encoded({"purpose": "batch"}, {"file": b"{}"})
    assert sent.headers["content-type"] == "multipart/form-data; boundary=xYz-1"
    assert sent.headers["authorization"] == "Bearer provider-secret"
    assert (of.row["status"], of.row["operation"], of.row["cost_pico_usd"]) == ("completed", "passthrough", 0)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/batches/batch_1"),
        ("POST", "/v1/batches/batch_1/cancel"),
        ("DELETE", "/v1/files/file-1"),
        ("GET", "/v1/files/file-1?x=1"),
        ("GET", "/v1//files//file-1/"),
    ],
)
async def test_calls_for_an_object_of_the_own_team_reach_the_provider(method: str, path: str) -> None:
    of = await with_batch(Reply.json({"id": "batch_1"}))

    answer = await of.request(method, path, b"", {"authorization": f"Bearer {MATES}"})

    assert answer.status_code == 200
    assert of.upstream.requests[-1].method == method
    assert str(of.upstream.requests[-1].url) == "http://main.test" + path.replace("//", "/").rstrip("/")


async def test_fine_tuning_and_vector_stores() -> None:
    of = house(Reply.json(FILE), Reply.json({"id": "ftjob-1", "result_files": ["file-r"]}), Reply.json({"object": "list", "data": []}),
               Reply.json({"id": "vs_1"}), Reply.json({"id": "file-1"}))  # fmt: skip
    await upload(of)

    answers = [
        await of.post("/v1/fine_tuning/jobs", {"model": "gpt-4o-mini", "training_file": "file-1"}),
        await of.get("/v1/fine_tuning/jobs/ftjob-1/events"),
        await of.post("/v1/vector_stores", {"name": "x", "file_ids": ["file-1"]}),
        await of.post("/v1/vector_stores/vs_1/files", {"file_id": "file-1"}),
    ]

    assert [answer.status_code for answer in answers] == [200, 200, 200, 200]
    assert [request.url.path for request in of.upstream.requests[1:]] == [
        "/v1/fine_tuning/jobs", "/v1/fine_tuning/jobs/ftjob-1/events", "/v1/vector_stores", "/v1/vector_stores/vs_1/files",
    ]  # fmt: skip


JOB = {"id": "ftjob-1", "object": "fine_tuning.job", "status": "queued"}


@pytest.mark.parametrize(
    ("base", "sent"),
    [("gpt-4o-2024-08-06", "gpt-4o-2024-08-06"), ("chat", "gpt-4o-mini"), ("gpt-4o-mini", "gpt-4o-mini")],
    ids=["of the provider alone", "alias", "deployed"],
)
@pytest.mark.parametrize("path", ["/v1/fine_tuning/jobs", "/acme/v1/fine_tuning/jobs"])
async def test_any_model_of_the_provider_can_be_fine_tuned(path: str, base: str, sent: str) -> None:
    of = house(Reply.json(FILE), Reply.json(JOB), Reply.json(JOB))
    await upload(of)

    made = await of.post(path, {"model": base, "training_file": "file-1", "suffix": "mine"})
    shown = await of.get("/v1/fine_tuning/jobs/ftjob-1")

    assert (made.status_code, shown.status_code) == (200, 200)
    assert json.loads(of.upstream.requests[1].content) == {"model": sent, "training_file": "file-1", "suffix": "mine"}
    assert of.upstream.requests[1].headers["authorization"] == "Bearer provider-secret"
    assert [(row["provider"], row["status"]) for row in of.ledger.closed] == [("acme", "completed")] * 3


async def test_a_header_chooses_the_account_that_fine_tunes() -> None:
    second = deployment(
        "second", 3, provider="acme", adapter=get_adapter("openai"), model="o", base_url="http://b.test/v1"
    )
    of = House(
        ScriptedUpstream(Reply.json(FILE), Reply.json(JOB)),
        snapshot(alias("chat", OPENAI), alias("zeta", second), deployments=(OPENAI, second)),
    )
    await upload(of, x_gateway_model="zeta")

    await of.post("/v1/fine_tuning/jobs", {"model": "gpt-9", "training_file": "file-1"}, x_gateway_model="zeta")

    assert [request.url.host for request in of.upstream.requests] == ["b.test", "b.test"]


async def test_a_base_that_nobody_calls_is_no_way_around_a_list_of_models_or_a_budget() -> None:
    listed, strict = (
        key(models=frozenset({"chat"})),
        key(budgets=(BudgetRule(1, "day", "key", "1", "day", 10**13, "UTC"),)),
    )
    job = {"model": "gpt-4o-2024-08-06", "training_file": "file-1"}
    answers = []

    for who in (listed, strict):
        of = house(Reply.json(FILE), Reply.json(JOB), who=who)
        await upload(of)
        answers.append(await of.post("/v1/fine_tuning/jobs", job))

    codes = [(answer.status_code, answer.json()["error"]["code"]) for answer in answers]
    assert codes == [(403, "model_not_allowed"), (402, "cost_not_boundable")]


async def test_other_calls_that_name_an_unknown_model_are_refused() -> None:
    of = house(Reply.json(FILE))
    await upload(of)

    for path in ("/v1/fine_tuning/alpha/graders/run", "/v1/vector_stores"):
        answer = await of.post(path, {"model": "gpt-9", "file_ids": ["file-1"]})

        assert (answer.status_code, answer.json()["error"]["code"]) in {
            (404, "model_not_found"),
            (404, "object_not_found"),
        }


async def test_a_header_names_a_model_of_the_provider() -> None:
    second = deployment("second", 3, provider="beta", adapter=get_adapter("openai"))
    of = House(
        ScriptedUpstream(Reply.json(FILE), Reply.json(FILE)),
        snapshot(alias("chat", OPENAI), alias("zeta", second), deployments=(OPENAI, second)),
    )

    await upload(of, x_gateway_model="zeta")
    await of.get("/v1/files/file-1")

    assert [request.url.host for request in of.upstream.requests] == ["second.test", "second.test"]


async def test_no_model_that_leads_anywhere_and_no_such_model() -> None:
    of = house(who=key(models=frozenset({"about"})))

    nowhere, unknown = await upload(of), await upload(of, x_gateway_model="nonesuch")

    assert (nowhere.status_code, unknown.status_code) == (400, 404)
    assert "x-gateway-model" in nowhere.json()["error"]["message"]
    assert unknown.json()["error"]["code"] == "model_not_found"


async def test_a_key_with_a_list_of_models_makes_no_batches() -> None:
    of = house(Reply.json(FILE), who=key(models=frozenset({"chat"})))
    await upload(of)

    answer = await of.post("/v1/batches", {"input_file_id": "file-1"})

    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "model_not_allowed")


@pytest.mark.parametrize("path", ["/v1/files/../batches", "/v1/files/%2e%2e/models"])
async def test_a_path_that_climbs_is_none_of_these(path: str) -> None:
    assert (await house().get(path)).status_code == 404


async def test_a_limit_holds_and_a_wrong_method_is_told() -> None:
    limit = Limit("limit:1", "1 request per minute", "key", 1, 1)
    of = house(Reply.json(FILE), who=key(limits=(limit,)))

    first, second = await upload(of), await upload(of)
    wrong = await of.request("PATCH", "/v1/files", b"", {"authorization": f"Bearer {SECRET}"})

    assert (first.status_code, second.status_code, wrong.status_code) == (200, 429, 405)


# ── whose it is ──


@pytest.mark.parametrize(
    "path", ["/v1/files/file-1", "/v1/files/file-out/content", "/v1/batches/batch_1", "/acme/v1/files/file-1"]
)
async def test_another_team_finds_nothing(path: str) -> None:
    of = await with_batch()

    answer = await of.request("GET", path, b"", {"authorization": f"Bearer {BOBS}"})

    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "object_not_found")
    assert len(of.upstream.requests) == 2


async def test_another_team_cannot_use_a_file_in_a_batch() -> None:
    of = await with_batch()

    body = json.dumps({"input_file_id": "file-1", "endpoint": "/v1/chat/completions"}).encode()
    answer = await of.request("POST", "/v1/batches", body, {"authorization": f"Bearer {BOBS}"})

    assert answer.status_code == 404
    assert len(of.upstream.requests) == 2


async def test_what_nobody_made_here_is_not_there_and_below_a_prefix_it_passes() -> None:
    of = house(Reply.json({"id": "file-x"}))

    assert (await of.get("/v1/files/file-x")).status_code == 404
    assert (await of.get("/acme/v1/files/file-x")).status_code == 200


async def test_a_list_has_the_own_team_s_alone() -> None:
    listed = {
        "object": "list",
        "data": [{**FILE, "id": each} for each in ("file-1", "file-bob", "file-old")],
        "has_more": False,
    }
    of = await with_batch(Reply.json({"id": "file-bob"}), *[Reply.json(listed)] * 3)
    await upload(of, authorization=f"Bearer {BOBS}")

    def shown(answer: Any) -> list[str]:
        return [item["id"] for item in answer.json()["data"]]

    mine = await of.get("/v1/files")
    bobs = await of.request("GET", "/v1/files", b"", {"authorization": f"Bearer {BOBS}"})
    native = await of.get("/acme/v1/files")

    assert (shown(mine), shown(bobs), shown(native)) == (["file-1"], ["file-bob"], ["file-1", "file-old"])
    assert mine.json()["has_more"] is False


async def test_keys_without_a_team_share_nothing() -> None:
    one, other = Owner("p", 0, "1"), Owner("p", 0, "2")

    assert one.shares_with(one)
    assert not one.shares_with(other)


# ── the bill ──


async def test_results_are_charged_when_they_are_fetched_and_only_once() -> None:
    of = await with_batch(content(), content())

    first, second = await of.get("/v1/files/file-out/content"), await of.get("/v1/files/file-out/content")

    assert first.content == second.content == RESULTS
    charged, free = of.ledger.closed[2:]
    assert (charged["input"], charged["output"], charged["cost_pico_usd"]) == (200, 40, 200 * 2 + 40 * 10)
    assert (charged["usage_source"], charged["model"], charged["price_id"]) == ("provider", "gpt-4o-mini", 7)
    assert charged["usage_raw"] == {"requests": 2, "models": {"gpt-4o-mini-2024-07-18": 2}}
    assert (free["cost_pico_usd"], free["usage_source"]) == (0, "none")
    assert charged["id"] == first.headers["x-request-id"]


async def test_of_many_at_once_one_is_charged() -> None:
    of = await with_batch(*[content()] * 20)

    await asyncio.gather(*[of.get("/v1/files/file-out/content") for _ in range(20)])

    assert sorted(row["cost_pico_usd"] for row in of.ledger.closed[2:]) == [0] * 19 + [800]


async def test_batches_have_a_price_of_their_own_if_one_is_given() -> None:
    half = replace(PRICE, id=8, input=1, output=5)
    of = await with_batch(content(), made=replace(OPENAI, batch_prices=(half,)))

    await of.get("/v1/files/file-out/content")

    assert (of.ledger.closed[-1]["cost_pico_usd"], of.ledger.closed[-1]["price_id"]) == (200 * 1 + 40 * 5, 8)


async def test_results_below_a_provider_s_prefix_are_charged_too() -> None:
    of = await with_batch(content(), content())

    await of.get("/acme/v1//files/file-out/content")
    await of.get("/v1/files/file-out/content")

    assert [row["cost_pico_usd"] for row in of.ledger.closed[2:]] == [800, 0]


async def test_a_part_of_the_results_cannot_be_asked_for() -> None:
    of = await with_batch(content())

    await of.get("/v1/files/file-out/content", range="bytes=0-10")

    assert "range" not in of.upstream.requests[-1].headers
    assert of.ledger.closed[-1]["cost_pico_usd"] == 800


async def test_results_of_a_model_without_a_price_are_marked() -> None:
    of = await with_batch(content(line(1, model="gpt-9")))

    await of.get("/v1/files/file-out/content")

    assert of.ledger.closed[-1]["priced"] is False
    assert of.ledger.closed[-1]["input"] == 100


async def test_a_file_that_holds_no_results_costs_nothing() -> None:
    of = await with_batch(content(b'{"custom_id":"1","body":{}}\n\xff\n[1]\n'))

    answer = await of.get("/v1/files/file-1/content")

    assert answer.content == b'{"custom_id":"1","body":{}}\n\xff\n[1]\n'
    assert (of.ledger.closed[-1]["cost_pico_usd"], of.ledger.closed[-1]["usage_source"]) == (0, "none")


async def test_embeddings_and_responses_in_batches() -> None:
    vectors = {"object": "list", "model": "gpt-4o-mini", "usage": {"prompt_tokens": 7, "total_tokens": 7}}
    response = {"object": "response", "model": "gpt-4o-mini", "usage": {"input_tokens": 5, "output_tokens": 3}}
    results = b"".join(
        json.dumps({"custom_id": "1", "response": {"body": body}}).encode() + b"\n" for body in (vectors, response)
    )
    of = await with_batch(content(results))

    await of.get("/v1/files/file-out/content")

    assert (of.ledger.closed[-1]["input"], of.ledger.closed[-1]["output"]) == (12, 3)


class SlowBook(MemoryBook):
    """Takes its time to claim, and may fail."""

    def __init__(self) -> None:
        super().__init__()
        self.claiming = asyncio.Event()
        self.go_on = asyncio.Event()
        self.is_away = False

    async def claim(self, object_id: str, owner: Owner, *, request_id: str, now: float) -> bool:
        if self.is_away:
            raise LedgerUnavailableError("The database is away.")
        self.claiming.set()
        await self.go_on.wait()
        return await super().claim(object_id, owner, request_id=request_id, now=now)


async def test_a_client_that_leaves_while_its_claim_is_made_is_charged() -> None:
    of = await with_batch(content())
    book = SlowBook()
    await book.remember(["file-out"], Owner("acme", 3, "1"))
    of.app._kept._book = book
    caller = Caller()
    calling = asyncio.create_task(
        caller.call(of.app, "GET", "/v1/files/file-out/content", b"", {"authorization": f"Bearer {SECRET}"})
    )
    await book.claiming.wait()

    of.gateway.exchanges.tick()
    caller.left.set()
    await asyncio.sleep(0.01)
    book.go_on.set()
    await asyncio.wait([calling], timeout=5)

    row = of.ledger.closed[-1]
    assert (row["status"], row["cost_pico_usd"]) == ("cancelled", 800)


async def test_results_that_cannot_be_charged_are_not_handed_out() -> None:
    of = await with_batch(content())
    book = SlowBook()
    book.is_away = True
    await book.remember(["file-out"], Owner("acme", 3, "1"))
    of.app._kept._book = book

    answer = await of.get("/v1/files/file-out/content")

    assert answer.status_code == 503
    assert b"batch_req" not in answer.content


# ── budgets ──


async def test_a_budget_is_charged_and_needs_a_largest_cost_for_a_batch() -> None:
    day = BudgetRule(1, "day", "key", "1", "day", 10**12, "UTC")
    of = house(Reply.json(FILE), who=key(budgets=(day,)))
    await upload(of)
    refused = await of.post("/v1/batches", {"input_file_id": "file-1"})
    able = await with_batch(content(), who=key(budgets=(day,)), made=replace(OPENAI, max_request_pico_usd=10**9))
    await able.get("/v1/files/file-out/content")

    assert (refused.status_code, refused.json()["error"]["code"]) == (402, "cost_not_boundable")
    assert (await able.store.state(day)).settled_pico_usd == 800


async def test_a_caller_s_own_key_reaches_what_the_provider_keeps_for_it() -> None:
    of = house(Reply.json({"id": "file-own"}), foreign=ForeignKeys())

    native = await of.request("GET", "/acme/v1/files/file-own", b"", {"authorization": "Bearer sk-proj-own"})
    ours = await of.request("GET", "/v1/files/file-own", b"", {"authorization": "Bearer sk-proj-own"})

    assert (native.status_code, ours.status_code) == (200, 401)
    assert of.upstream.requests[0].headers["authorization"] == "Bearer sk-proj-own"
