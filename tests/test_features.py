"""`docs/features.md` claims only what a test proves."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "features.md"
STATES = {"works", "partly", "planned"}
_PROOF = re.compile(r"`(tests/[^`:]+)(?:::(\w+))?`")
_ROW = re.compile(r"^\| ([A-Z]?\d+) \| (.+?) \| (.*?) \|(.*)\|$")


@dataclass(frozen=True)
class Feature:
    number: str
    capability: str
    state: str
    missing: str
    proofs: tuple[tuple[str, str], ...]
    """File, and the test or class in it; empty: the whole file."""


def read(text: str) -> list[Feature]:
    rows = [found for line in text.splitlines() if (found := _ROW.match(line))]
    return [_feature(*row.groups()) for row in rows]


def _feature(number: str, capability: str, told: str, proof: str) -> Feature:
    state, _, missing = told.partition(": ")
    return Feature(number, capability, state, missing, tuple(_PROOF.findall(proof)))


FEATURES = read(PAGE.read_text(encoding="utf-8"))


def exists(proof: tuple[str, str]) -> bool:
    file, name = proof
    path = ROOT / file
    return path.is_file() and (
        not name or re.search(rf"(def|class) {name}\b", path.read_text(encoding="utf-8")) is not None
    )


def test_every_layer_is_there_once() -> None:
    counted = Counter(feature.number for feature in FEATURES)
    layers = Counter(re.sub(r"\d", "", number) for number in counted)

    assert [number for number, times in counted.items() if times > 1] == []
    assert layers == {"": 100, "G": 20, "U": 15, "N": 15}


@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.number)
def test_a_claim_has_its_proof(feature: Feature) -> None:
    assert feature.state in STATES
    assert [proof for proof in feature.proofs if not exists(proof)] == []
    if feature.state == "works":
        assert feature.proofs, f"{feature.capability} is said to work: name the test that proves it"
    if feature.state == "partly":
        assert feature.missing, f"{feature.capability} works partly: say what works, or what is missing"


def test_a_proof_that_does_not_exist_is_noticed() -> None:
    [feature] = read("| 1 | Flying | works | `tests/test_features.py::test_of_wings` `tests/test_nothing.py` |")

    assert feature == Feature(
        "1", "Flying", "works", "", (("tests/test_features.py", "test_of_wings"), ("tests/test_nothing.py", ""))
    )
    assert not any(exists(proof) for proof in feature.proofs)
    assert exists(("tests/test_features.py", "Feature"))
