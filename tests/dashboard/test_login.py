"""Logging in and out."""

from __future__ import annotations

import pytest
from django.conf import settings
from django.test import Client

from tests.cast import PASSWORD, Cast


def test_the_right_password_opens_the_page_that_was_asked_for(client: Client, cast: Cast) -> None:
    answer = client.post("/login/", {"username": "bob", "password": PASSWORD, "next": "/teams/platform/?period=30d"})

    assert answer["Location"] == "/teams/platform/?period=30d"
    assert client.get("/teams/platform/").status_code == 200


def test_a_page_elsewhere_is_not_opened(client: Client, cast: Cast) -> None:
    answer = client.post("/login/", {"username": "bob", "password": PASSWORD, "next": "https://evil.example/"})

    assert answer["Location"] == "/"


@pytest.mark.parametrize(
    ("username", "password", "message"),
    [("bob", "wrong", "do not belong together"), ("", "", "Enter your user name and your password")],
)
def test_an_error_says_what_is_wrong_and_keeps_the_name(
    client: Client, cast: Cast, username: str, password: str, message: str
) -> None:
    page = client.post("/login/", {"username": username, "password": password}).content.decode()

    assert message in page
    assert 'role="alert"' in page
    assert f'value="{username}"' in page


def test_too_many_wrong_passwords_lock_the_login_and_say_for_how_long(client: Client, cast: Cast) -> None:
    for _ in range(settings.AXES_FAILURE_LIMIT):
        answer = client.post("/login/", {"username": "bob", "password": "wrong"})

    right = client.post("/login/", {"username": "bob", "password": PASSWORD})

    assert answer.status_code == right.status_code == 429
    assert b"is locked for 15 minutes" in right.content
    assert client.get("/teams/platform/").status_code == 302


def test_logging_out_ends_the_session(bob: Client) -> None:
    answer = bob.post("/logout/")

    assert answer["Location"] == "/login/"
    assert bob.get("/teams/platform/").status_code == 302


def test_pages_carry_a_policy_that_forbids_inline_scripts(bob: Client, client: Client) -> None:
    for answer in (bob.get("/teams/platform/"), Client().get("/login/")):
        policy = answer["Content-Security-Policy"]
        assert "script-src 'self';" in policy
        assert b"<script>" not in answer.content
        assert b" onclick=" not in answer.content
