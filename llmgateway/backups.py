"""`./gateway backup` and `restore`: database, secrets and journals in one file. No Django.

A backup looks like what a crash leaves behind: the database as it was at one moment, and journals that reach beyond
it. Whoever starts on it settles the journals, as after a crash, so nothing is missing and nothing counts twice.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sqlite3
import tarfile
import tempfile
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from llmgateway.conf import Conf, read_environment
from llmgateway.postgresql_dumps import DumpError, restore_dump, save_dump
from llmgateway.supervisor import StartError, check_data_folder, lock_data_folder, say
from llmgateway.version import version

SQLITE_NAME = "gateway.sqlite3"
DUMP_NAME = "gateway.pgdump"
SETTING_FILES = ("secrets.env", ".env")
MANIFEST = "manifest.json"
ATTEMPTS = 10
NOT_DATA = frozenset({"gateway.lock", "static", "broker", "install.log"})
"""What a data folder may hold without holding data."""


class BackupError(Exception):
    """It cannot be saved or put back; the message is one line that says what to do."""


def backup_command(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="./gateway backup",
        description="Save database, secrets and journals in one file, readable by its owner only. Works beside a "
        "running gateway. Whoever has the file can read every provider credential: keep it safe.",
    )
    parser.add_argument("target", help="a file ending in .tar.gz, or a folder to make one in")
    target = Path(parser.parse_args(arguments).target).expanduser()
    conf = Conf(read_environment(dict(os.environ)))
    try:
        file = save(conf, target)
    except (BackupError, DumpError, OSError, sqlite3.Error) as error:
        say(f"no backup was made: {error}")
        return 1
    print(f"Saved {file} ({file.stat().st_size / 2**20:.1f} MiB).")
    for name in _secrets_elsewhere(conf):
        say(f"{name} comes from the environment and is not in the backup; without it the backup is of little use.")
    return 0


def restore_command(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="./gateway restore",
        description="Put a backup back into a data folder (--data DIR). The same keys work afterwards.",
    )
    parser.add_argument("file", help="what `./gateway backup` made")
    parser.add_argument("--force", action="store_true", help="replace what the data folder and database hold")
    options = parser.parse_args(arguments)
    conf = Conf(read_environment(dict(os.environ)))
    try:
        restore(conf, Path(options.file).expanduser(), force=options.force)
    except (BackupError, DumpError, StartError, OSError, tarfile.TarError, sqlite3.Error) as error:
        say(f"nothing was restored: {error}")
        return 1
    print(f"Restored into {conf.data_dir}. Start it with: ./gateway --data {conf.data_dir}")
    return 0


def save(conf: Conf, target: Path) -> Path:
    """Write a backup and return its file.

    Raises:
        BackupError: there is nothing to save, or it changes too fast.
        DumpError: PostgreSQL cannot be saved.
    """
    if target.is_dir():
        target = target / f"gateway-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.tar.gz"
    with tempfile.TemporaryDirectory(prefix="gateway-backup-", dir=target.parent) as folder:
        copy = Path(folder)
        _copy_all(conf, copy)
        _write_manifest(conf, copy)
        draft = copy.with_suffix(".draft")
        try:
            _pack(copy, draft)
            draft.rename(target)
        finally:
            draft.unlink(missing_ok=True)
    return target


def _copy_all(conf: Conf, copy: Path) -> None:
    for name in SETTING_FILES:
        if (conf.data_dir / name).is_file():
            shutil.copyfile(conf.data_dir / name, copy / name)
    for _ in range(ATTEMPTS):
        before = _segments(conf.journal_dir)
        _copy_database(conf, copy)
        shutil.rmtree(copy / "journal", ignore_errors=True)
        copied = _copy_journals(conf.journal_dir, copy / "journal")
        # A segment goes when all of it is in the database, which may have been after the copy of the database.
        if before <= copied:
            return
    raise BackupError("the journals changed during every attempt; try again when there is less traffic.")


def _copy_database(conf: Conf, copy: Path) -> None:
    if conf.database_url:
        save_dump(conf.database_url, copy / DUMP_NAME)
        return
    source = conf.data_dir / SQLITE_NAME
    if not source.is_file():
        raise BackupError(f"there is no database in {conf.data_dir}; choose the data folder with --data DIR.")
    (copy / SQLITE_NAME).unlink(missing_ok=True)
    with (
        closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as live,
        closing(sqlite3.connect(copy / SQLITE_NAME)) as file,
    ):
        live.backup(file)
        file.execute("PRAGMA journal_mode=DELETE")


def _segments(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.glob("*/*.journal")}


def _copy_journals(folder: Path, copy: Path) -> set[str]:
    """Copy what is there and say what that was; files that go meanwhile are left out."""
    copied = set()
    for file in sorted([*folder.glob("*/*.journal"), *folder.glob("*.jsonl")]):
        name = file.relative_to(folder)
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(file, copy / name)
        except FileNotFoundError:
            continue
        copied.add(str(name))
    return copied


def _write_manifest(conf: Conf, copy: Path) -> None:
    files = {str(file.relative_to(copy)): _sha256(file) for file in sorted(copy.rglob("*")) if file.is_file()}
    content = {
        "version": version(),
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "database": "postgresql" if conf.database_url else "sqlite",
        "files": files,
    }
    (copy / MANIFEST).write_text(json.dumps(content, indent=2) + "\n")


def _pack(folder: Path, target: Path) -> None:
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        with tarfile.open(fileobj=out, mode="w:gz", compresslevel=6) as archive:
            archive.add(folder / MANIFEST, MANIFEST, filter=_anonymous)
            for file in sorted(folder.rglob("*")):
                if file.is_file() and file.name != MANIFEST:
                    archive.add(file, str(file.relative_to(folder)), filter=_anonymous)
        out.flush()
        os.fsync(out.fileno())


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without the user that made it, and for the eyes of the one who unpacks it only."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o600
    return member


def restore(conf: Conf, file: Path, *, force: bool) -> None:
    """Put the backup `file` into the data folder, and into PostgreSQL if it came from there.

    Raises:
        BackupError: it is damaged, of another database, or would overwrite data.
        DumpError: PostgreSQL does not take it, and is as it was.
        StartError: the data folder cannot be written, or a gateway runs on it.
    """
    data_dir = conf.data_dir
    check_data_folder(data_dir)
    lock = lock_data_folder(data_dir, wait_s=0)
    try:
        if _holds_data(data_dir) and not force:
            raise BackupError(f"{data_dir} holds data already; choose an empty folder with --data DIR, or add --force.")
        with tempfile.TemporaryDirectory(prefix=".restore-", dir=data_dir) as folder:
            unpacked = Path(folder)
            manifest = _unpack(file, unpacked)
            if manifest["database"] == "postgresql":
                _restore_postgresql(unpacked, force=force)
            _replace(data_dir, unpacked)
    finally:
        os.close(lock)


def _holds_data(folder: Path) -> bool:
    return any(entry.name not in NOT_DATA for entry in folder.iterdir())


def _unpack(file: Path, folder: Path) -> dict[str, str]:
    """Unpack plain files below `folder`, checked against the manifest, which comes first."""
    with tarfile.open(file, "r:gz") as archive:
        first = archive.next()
        content = archive.extractfile(first) if first is not None and first.name == MANIFEST else None
        if content is None:
            raise BackupError(f"{file} is not a backup of the gateway: it does not begin with {MANIFEST}.")
        manifest = json.load(content)
        wanted: dict[str, str] = dict(manifest["files"])
        while (member := archive.next()) is not None:
            _unpack_one(archive, member, folder, wanted)
    if wanted:
        raise BackupError(f"{file} is incomplete: {', '.join(sorted(wanted))} is missing.")
    return {"database": manifest["database"]}


def _unpack_one(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path, wanted: dict[str, str]) -> None:
    target = folder / member.name
    content = archive.extractfile(member)
    if content is None or member.name not in wanted or not target.resolve().is_relative_to(folder.resolve()):
        raise BackupError(f"the backup holds {member.name}, which its manifest does not name.")
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        shutil.copyfileobj(content, out)
    if _sha256(target) != wanted.pop(member.name):
        raise BackupError(f"the backup is damaged: {member.name} is not what was saved.")


def _restore_postgresql(unpacked: Path, *, force: bool) -> None:
    values = read_environment({**os.environ, "GATEWAY_DATA_DIR": str(unpacked)})
    url = values.get("DATABASE_URL", "")
    if not url:
        raise BackupError("it is a backup of PostgreSQL: set DATABASE_URL to the database that shall take it.")
    dump = unpacked / DUMP_NAME
    restore_dump(url, dump, replace=force)
    dump.unlink()


def _replace(data_dir: Path, unpacked: Path) -> None:
    for name in (SQLITE_NAME, f"{SQLITE_NAME}-wal", f"{SQLITE_NAME}-shm", *SETTING_FILES):
        (data_dir / name).unlink(missing_ok=True)
    shutil.rmtree(data_dir / "journal", ignore_errors=True)
    for entry in unpacked.iterdir():
        entry.rename(data_dir / entry.name)


def _secrets_elsewhere(conf: Conf) -> list[str]:
    """The secrets that the copied files do not hold."""
    names = (Conf.secret_key.name, Conf.field_keys.name, Conf.key_peppers.name)
    return [name for name in names if os.environ.get(name) == conf.values.get(name)]


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
