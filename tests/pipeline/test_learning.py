"""What is learned of how much models say."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmgateway.pipeline.learning import ENOUGH, HALVED_AT, OutputLearner, _bucket, _upper_bound


@given(st.integers(0, 10**7))
def test_a_bucket_holds_its_numbers_and_is_at_most_a_quarter_wide(tokens: int) -> None:
    top = _upper_bound(_bucket(tokens))

    assert tokens <= top <= tokens * 1.25 + 1
    assert _bucket(top) == _bucket(tokens) != _bucket(top + 1)


def test_a_few_answers_teach_nothing() -> None:
    learner = OutputLearner()
    for _ in range(ENOUGH - 1):
        learner.learn("1", "gpt", 100)

    assert learner.expected("1", "gpt") is None
    learner.learn("1", "gpt", 100)
    assert learner.expected("1", "gpt") == 111


@given(st.lists(st.integers(0, 100_000), min_size=64, max_size=300))
def test_what_is_expected_covers_95_of_100_answers_and_little_more(answers: list[int]) -> None:
    learner = OutputLearner()
    for tokens in answers[: len(answers) // 16 * 16]:
        learner.learn("1", "gpt", tokens)
    seen = sorted(answers[: len(answers) // 16 * 16])
    percentile = seen[len(seen) * 95 // 100 - 1]

    expected = learner.expected("1", "gpt")

    assert expected is not None
    assert percentile <= expected <= percentile * 1.25 + 1


def test_keys_and_models_are_learned_apart() -> None:
    learner = OutputLearner()
    for _ in range(ENOUGH):
        learner.learn("1", "gpt", 10)

    assert learner.expected("2", "gpt") is None
    assert learner.expected("1", "other") is None


def test_new_habits_replace_old_ones() -> None:
    learner = OutputLearner()
    for _ in range(HALVED_AT):
        learner.learn("1", "gpt", 10_000)
    for _ in range(HALVED_AT * 20):
        learner.learn("1", "gpt", 10)

    assert (learner.expected("1", "gpt") or 0) < 20
