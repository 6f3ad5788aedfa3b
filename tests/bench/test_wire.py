"""What goes over the wire of a bench."""

from __future__ import annotations

from bench import wire


def test_the_first_token_is_the_first_word_and_not_the_role_before_it() -> None:
    assert [wire.says_a_word(event) for event in wire.stream_events()[:3]] == [False, True, False]
    assert wire.says_a_word(wire.chat_answer())
