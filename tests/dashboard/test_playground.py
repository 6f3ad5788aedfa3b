"""The playground's page: for people who are logged in, without anything of any key, and with no script of its own."""

from __future__ import annotations

import re

from django.test import Client


def test_nobody_else_sees_it(client: Client) -> None:
    answer = client.get("/playground/")

    assert (answer.status_code, answer.headers["Location"]) == (302, "/login/?next=/playground/")


def test_its_short_address_leads_there(bob: Client) -> None:
    assert bob.get("/playground").headers["Location"] == "/playground/"


def test_a_member_is_told_how_to_get_a_key_and_an_admin_where_to_make_one(bob: Client, alice: Client) -> None:
    member, admin = bob.get("/playground/").content.decode(), alice.get("/playground/").content.decode()

    assert "Ask an admin of this gateway" in member
    assert "/admin/" not in member
    assert 'href="/admin/llmgateway/apikey/add/"' in admin


def test_no_script_stands_in_the_page_and_none_from_elsewhere_would_run(bob: Client) -> None:
    answer = bob.get("/playground/")

    assert re.findall(r"<script(?![^>]*\bsrc=)", answer.content.decode()) == []
    policy = answer.headers["Content-Security-Policy"]
    assert "script-src 'self';" in policy
    assert "connect-src 'self';" in policy


def test_the_other_pages_lead_to_it(bob: Client) -> None:
    assert 'href="/playground/"' in bob.get("/teams/platform/").content.decode()
