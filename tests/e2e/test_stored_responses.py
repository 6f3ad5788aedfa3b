"""Conversations that go on by `previous_response_id`, through OpenAI's unmodified SDK: kept by the gateway or a provider."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from tests.e2e.harness import KEY, Product, Provider, running_product, running_provider, wait_for
from tests.postgres import TEMPLATE

STRANGER = "sk-gw-stranger00-0123456789abcdefghij"
MORE = f"  stranger: {{team: others, secret: {STRANGER}}}"


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Product, Provider]]:
    folder = tmp_path_factory.mktemp("gateway")
    settings = {"RESPONSES_RETENTION_HOURS": "1"}
    if request.param == "postgresql":
        server = request.getfixturevalue("postgres_server")
        settings["DATABASE_URL"] = server.url(server.create_database(template=TEMPLATE))
    with running_provider(folder) as provider, running_product(folder, provider, more=MORE, **settings) as product:
        yield product, provider


@pytest.fixture
def stranger(product: Product) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{product.url}/v1", api_key=STRANGER, max_retries=0) as client:
        yield client


@pytest.mark.parametrize("model", ["chat", "claude", "flash", "keeper"])
def test_a_conversation_goes_on_from_an_answer_and_from_a_stream(
    client: openai.OpenAI, provider: Provider, model: str
) -> None:
    first = client.responses.create(model=model, input="First question")
    with client.responses.stream(model=model, input="Second question", previous_response_id=first.id) as stream:
        second = stream.until_done().get_final_response()

    third = client.responses.create(model=model, input="Third question", previous_response_id=second.id)

    assert third.previous_response_id == second.id
    listed = client.responses.input_items.list(third.id, order="asc").to_dict()
    assert [str(listed).find(each) > 0 for each in ("First q", "Second q", "Third q", first.output_text[:20])] == [
        True
    ] * 4
    if model != "keeper":
        sent = str(provider.last["body"])
        assert sent.index("First q") < sent.index(first.output_text[:20]) < sent.index("Second q") < sent.index("Third")


@pytest.mark.parametrize("model", ["chat", "keeper"])
def test_a_response_is_shown_and_removed(
    client: openai.OpenAI, product: Product, provider: Provider, model: str
) -> None:
    created = client.responses.create(model=model, input="Hello")

    shown = client.responses.with_raw_response.retrieve(created.id)
    client.responses.delete(created.id)

    assert shown.parse().output_text == created.output_text
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(created.id)
    rows = [row for row in product.usage() if row["request_id"] == shown.headers["x-request-id"]]
    assert [row["cost_pico_usd"] for row in rows] in ([], [0]), "what was paid for once is not charged again"


@pytest.mark.parametrize("model", ["chat", "keeper"])
def test_a_key_of_another_team_finds_nothing(client: openai.OpenAI, stranger: openai.OpenAI, model: str) -> None:
    created = client.responses.create(model=model, input="Secret")

    with pytest.raises(openai.NotFoundError):
        stranger.responses.retrieve(created.id)
    with pytest.raises(openai.NotFoundError):
        stranger.responses.delete(created.id)
    with pytest.raises(openai.NotFoundError):
        stranger.responses.input_items.list(created.id)
    with pytest.raises(openai.NotFoundError) as refused:
        stranger.responses.create(model=model, input="And now?", previous_response_id=created.id)

    assert refused.value.code == "previous_response_not_found"
    assert client.responses.retrieve(created.id).id == created.id


def test_what_is_not_to_be_stored_is_not(client: openai.OpenAI) -> None:
    created = client.responses.create(model="chat", input="Hello", store=False)

    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="chat", input="And now?", previous_response_id=created.id)


def test_a_complete_response_cannot_be_cancelled(client: openai.OpenAI) -> None:
    created = client.responses.create(model="chat", input="Hello")

    with pytest.raises(openai.BadRequestError):
        client.responses.cancel(created.id)


def test_a_conversation_outlives_the_process(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("restarted")
    with (
        running_provider(folder) as provider,
        running_product(folder, provider, RESPONSES_RETENTION_HOURS="1") as product,
        openai.OpenAI(base_url=f"{product.url}/v1", api_key=KEY, max_retries=0) as client,
    ):
        created = client.responses.create(model="chat", input="First question")
        product.stop()
        product.restart()

        wait_for(
            lambda: client.responses.create(model="chat", input="Second", previous_response_id=created.id),
            "an answer after the restart",
        )

        assert "First question" in str(provider.last["body"])
