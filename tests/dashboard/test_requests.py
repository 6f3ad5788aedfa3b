"""The list of requests and the page of one."""

from __future__ import annotations

from datetime import timedelta
from itertools import chain
from typing import Any

import pytest
from django.test import Client

from billing.models import Price
from providers.models import Provider
from tests.cast import Cast
from tests.conftest import NOON
from tests.dashboard.seeding import row, save

pytestmark = pytest.mark.usefixtures("frozen_time")


def pages(client: Client, link: str) -> list[list[str]]:
    """The ids on each page, from `link` on, by following "Older"."""
    found = []
    while link:
        context: Any = client.get(link).context
        found.append([record.id for record in context["records"]])
        link = context["older"]
    return found


def test_the_newest_fifty_are_on_the_team_page_and_the_rest_behind_links(bob: Client, cast: Cast) -> None:
    # Two each begin at the same moment: the cursor must neither lose nor repeat one of them.
    save(
        row(NOON - timedelta(seconds=number // 2), id=f"r{number:03}", team_id=cast.platform.id)
        for number in range(121)
    )

    found = pages(bob, "/teams/platform/")

    assert [len(page) for page in found] == [50, 50, 21]
    assert sorted(chain.from_iterable(found)) == [f"r{number:03}" for number in range(121)]
    assert found[0][:3] == ["r001", "r000", "r003"]


@pytest.mark.parametrize("before", ["", "nonsense", "2026-03-14T12:00:00,r1", ",", "2026-13-40T00:00:00+00:00,x"])
def test_a_mangled_cursor_shows_the_first_page(bob: Client, cast: Cast, before: str) -> None:
    save([row(NOON, id="r1", team_id=cast.platform.id)])

    answer = bob.get("/requests/", {"team": "platform", "before": before})

    assert [record.id for record in answer.context["records"]] == ["r1"]


def test_tokens_of_a_request_count_every_bucket(bob: Client, cast: Cast) -> None:
    save([row(NOON, team_id=cast.platform.id, input=1, cache_read=20, image_input=300, output=4, reasoning=50)])

    record = bob.get("/requests/", {"team": "platform"}).context["records"][0]

    assert (record.input_tokens, record.output_tokens) == (321, 54)


@pytest.fixture
def price(db: None) -> Price:
    provider = Provider.objects.create(name="openai", adapter="openai")
    return Price.objects.create(
        provider=provider, model="gpt-4o-mini", effective_from=NOON, input=150_000, output=600_000, cache_read=75_000,
        request=1_000,
    )  # fmt: skip


def test_the_lines_of_the_bill_add_up_to_what_was_charged(bob: Client, cast: Cast, price: Price) -> None:
    charged = 100 * 150_000 + 40 * 75_000 + 20 * 600_000 + 7 * 600_000 + 1_000
    save([row(NOON, id="r1", team_id=cast.platform.id, price_id=price.pk, input=100, cache_read=40, output=20,
              reasoning=7, cost_pico_usd=charged)])  # fmt: skip

    context = bob.get("/requests/r1/").context

    lines = {line.label: line.cost_pico_usd for line in context["token_costs"]}
    assert list(lines) == ["input", "cache read", "output", "reasoning"]
    assert sum(lines.values()) + context["fee"] == charged


def test_the_page_of_a_request_tells_attempts_and_timings(bob: Client, cast: Cast) -> None:
    attempts = [
        {"deployment": "first", "status": 503, "cause": "server_error", "duration_us": 12_000, "cost_pico_usd": 0},
        {"deployment": "second", "status": 200, "cause": "completed", "duration_us": 800_000, "cost_pico_usd": 5},
    ]
    save([row(NOON, id="r1", team_id=cast.platform.id, attempts=attempts, ttft_us=217_000, overhead_us=430,
              client_request_id="theirs", cost_pico_usd=5)])  # fmt: skip

    page = bob.get("/requests/r1/").content.decode()

    for text in ("503 server_error", "200 completed", "217 ms", "0.43 ms", "theirs", "$0.000000000005"):
        assert text in page


def test_an_unpriced_request_says_so(bob: Client, cast: Cast) -> None:
    save([row(NOON, id="r1", team_id=cast.platform.id, priced=False)])

    assert b"unpriced is not free" in bob.get("/requests/r1/").content
    assert b"unpriced" in bob.get("/requests/?team=platform").content


def test_a_request_at_the_default_price_shows_its_cost_and_says_so(bob: Client, cast: Cast) -> None:
    at_default = {"priced": False, "default_price": True, "cost_pico_usd": 2 * 10**12}
    save([row(NOON, id="r1", team_id=cast.platform.id, **at_default)])

    for path in ("/requests/r1/", "/requests/?team=platform"):
        page = bob.get(path).content
        assert b"$2.00" in page
        assert b"charged at the default price" in page
        assert b"unpriced" not in page


def test_what_clients_sent_is_shown_as_text(bob: Client, cast: Cast) -> None:
    hostile = "<script>alert(1)</script>"
    save([row(NOON, id="r1", team_id=cast.platform.id, end_user=hostile, model=hostile, response_model=hostile)])

    for path in ("/teams/platform/", "/requests/?team=platform", "/requests/r1/"):
        assert b"<script>alert" not in bob.get(path).content


def test_a_kept_answer_says_so_and_what_it_saved(bob: Client, cast: Cast) -> None:
    kept = {"provider": "", "deployment": "", "model": "gpt-5", "cache": "hit", "saved_pico_usd": 20_000_000_000}
    save([row(NOON, id="r1", team_id=cast.platform.id, attempts=[], cost_pico_usd=0, **kept)])

    page = bob.get("/requests/r1/").content.decode()

    assert "kept answer of gpt-5, which saved $0.02" in page
    assert "nobody" not in page
