"""Text to values: lines, columns, variables, and what is not YAML."""

from __future__ import annotations

import pytest

from llmgateway.config_file.problems import Problems
from llmgateway.config_file.reading import Fields, Scalar, Sequence, read


def tree_of(text: str, **variables: str) -> tuple[Fields, list[str]]:
    problems = Problems("config.yaml")
    tree = read(text, variables, problems)
    return tree, problems.lines()


def scalar(tree: Fields, name: str) -> Scalar:
    value = tree.items[name]
    assert isinstance(value, Scalar)
    return value


def test_a_value_knows_its_line_column_and_path() -> None:
    tree, _ = tree_of("a:\n  b:\n    - x\n    - y: 1\n")

    outer = tree.items["a"]
    assert isinstance(outer, Fields)
    items = outer.items["b"]
    assert isinstance(items, Sequence)
    inner = items.items[1]
    assert isinstance(inner, Fields)
    place = inner.items["y"].place
    assert (place.path, place.line, place.column) == ("a.b[1].y", 4, 10)


def test_a_number_keeps_the_text_of_the_file() -> None:
    tree, _ = tree_of("a: 0.10\nb: 1:30\n")

    assert scalar(tree, "a").text == "0.10"
    assert scalar(tree, "b").text == "1:30"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${NAME}", "value"),
        ("pre-${NAME}-post", "pre-value-post"),
        ("${MISSING:-default}", "default"),
        ("${MISSING:-}", ""),
        ("${EMPTY:-default}", "default"),
        ("${NAME:-default}", "value"),
        ("$${NAME}", "${NAME}"),
        ("$$${NAME}", "$${NAME}"),
        ("costs $5", "costs $5"),
    ],
)
def test_variables_are_replaced(text: str, expected: str) -> None:
    tree, problems = tree_of(f'a: "{text}"\n', NAME="value", EMPTY="")

    assert scalar(tree, "a").text == expected
    assert problems == []


def test_a_variable_that_looks_like_yaml_stays_text() -> None:
    """A secret such as `no` or `1e3` must not turn into something else."""
    tree, _ = tree_of("a: ${NAME}\n", NAME="no")

    assert (scalar(tree, "a").text, scalar(tree, "a").kind) == ("no", "str")


def test_a_variable_cannot_bring_in_other_variables() -> None:
    tree, _ = tree_of("a: ${NAME}\n", NAME="${OTHER}", OTHER="secret")

    assert scalar(tree, "a").text == "${OTHER}"


def test_a_missing_variable_is_named_with_its_line() -> None:
    _, problems = tree_of("a: 1\nb: {c: '${NOPE}'}\n")

    assert problems == ["config.yaml:2: b.c: The environment variable NOPE is not set."]


def test_a_malformed_variable_says_how_to_write_one() -> None:
    _, problems = tree_of("a: '${not a name}'\n")

    assert len(problems) == 1
    assert problems[0].startswith("config.yaml:1: a: `${` starts a variable")


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        ("a: [1, 2\nb: 3\n", 2, "not YAML"),
        ("a: 1\n\tb: 2\n", 2, "not YAML"),
        ("a: 1\nb: \x07\n", 2, "does not allow"),
        ("", 1, "empty"),
        ("- a\n", 1, "top of the file"),
        ("a: 1\nb: 2\na: 3\n", 3, "twice; the first is on line 1"),
        ("a: 1\n? [x]\n: 2\n", 2, "plain text"),
        ("a: &x\n  b: *x\n", 1, "contains itself"),
        ("a: *nowhere\n", 1, "not YAML"),
    ],
)
def test_what_cannot_be_read_says_where(text: str, line: int, part: str) -> None:
    _, problems = tree_of(text)

    assert len(problems) == 1
    assert problems[0].startswith(f"config.yaml:{line}: ")
    assert part in problems[0]


def test_aliases_of_aliases_do_not_grow_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmgateway.config_file.reading.MAX_VALUES", 1000)
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]

    _, problems = tree_of("\n".join(lines))

    assert len(problems) == 1
    assert "too large" in problems[0]


def test_objects_of_python_are_never_made() -> None:
    tree, _ = tree_of("a: !!python/object/apply:os.system [echo]\n")

    assert isinstance(tree.items["a"], Sequence)
