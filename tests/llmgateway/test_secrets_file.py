"""The file of generated secrets, and the folder that it makes for itself."""

from __future__ import annotations

from pathlib import Path

from llmgateway.secrets_file import ensure_secrets


def test_a_new_data_folder_is_its_owners_alone(tmp_path: Path) -> None:
    folder = tmp_path / "data"

    ensure_secrets(folder / "secrets.env")

    # The database lies there too, with sessions and password hashes, and SQLite makes it readable to everybody.
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "secrets.env").stat().st_mode & 0o777 == 0o600


def test_secrets_that_exist_stay(tmp_path: Path) -> None:
    file = tmp_path / "secrets.env"
    ensure_secrets(file)
    before = file.read_text()

    ensure_secrets(file)

    assert file.read_text() == before
