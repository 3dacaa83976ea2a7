"""Carrying tasks elsewhere as files: export, import."""

from __future__ import annotations

import json
import os
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from .. import calls, engine, finding, letters, observe, wire
from ..errors import SignatureError, WireError
from ..model import Message
from ..record import library_version
from ..site import Site
from .base import FOUND, OK, Command, Where, fail, pass_where
from .output import as_json, many, plain
from .parameters import json_option

FORMAT = 1
_MANIFEST = "uwsgi-tasks.json"
_CARRIED = ("queued", "scheduled", "dead", "expired")
_REASON = "imported"


@click.command(
    "export",
    cls=Command,
    examples=("export dead.zip --state dead", "export one.zip --id ID", "export a-directory"),
    see_also="import, run",
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--state", type=click.Choice(_CARRIED), help="Only those in this state.  [default: dead]"
)
@click.option("--task", metavar="NAME", help="Only those of this task.")
@click.option("--id", "ids", metavar="ID", multiple=True, help="Only this one; may be repeated.")
@click.option("--limit", type=click.IntRange(1), default=1000, show_default=True, help="How many.")
@click.option("--force", is_flag=True, help="Overwrite FILE.")
@json_option
@pass_where
def export_command(
    where: Where,
    file: Path,
    state: str | None,
    task: str | None,
    ids: tuple[str, ...],
    limit: int,
    force: bool,
    as_json_: bool,
) -> int:
    """Write tasks into FILE: their signed messages and their stories.

    It is a zip file if its name ends so, else a directory. Nothing changes here. The arguments are
    in it, as they were sent; the key isn't.
    """
    where.home()
    if file.is_file() and not force:
        fail(f"{file} is there already", "another name, or --force")
    site = engine.current().require_site()
    runs = [observe.run(ident) for ident in ids] or observe.runs(state or "dead", task, limit=limit)
    parts = list(_parts(site, runs))
    _write(file, parts)
    names = [name[: -len(".message")] for name, _ in parts if name.endswith(".message")]
    if as_json_:
        as_json({"file": file, "ids": names})
    else:
        click.echo(f"{many(len(names), 'task')} written to {file}")
    return OK if len(names) == len(runs) else FOUND


def _parts(site: Site, runs: list[observe.RunInfo]) -> Iterator[tuple[str, bytes]]:
    spools = calls.spools_of(site)
    manifest = {
        "format": FORMAT,
        "version": library_version(),
        "fingerprint": site.home.fingerprint(),
        "exported_at": time.time(),
    }
    yield _MANIFEST, json.dumps(manifest, indent=1).encode()
    for run in runs:
        message = finding.message_of(site, run.id, spools)
        if message is None:
            click.echo(f"Error: {run.id}: its message isn't kept, or can't be read", err=True)
            continue
        yield f"{run.id}.message", wire.pack(message._replace(stored=False), site.signer)
        yield f"{run.id}.json", json.dumps(plain(run), indent=1, default=str).encode()


def _write(file: Path, parts: list[tuple[str, bytes]]) -> None:
    old = os.umask(0o077)  # arguments are in it
    try:
        if file.suffix != ".zip":
            file.mkdir(parents=True, exist_ok=True)
            for name, content in parts:
                (file / name).write_bytes(content)
            return
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as opened:
            for name, content in parts:
                opened.writestr(name, content)
    except OSError as error:
        fail(f"{file} can't be written: {error.strerror}", "another place")
    finally:
        os.umask(old)


@click.command(
    "import",
    cls=Command,
    examples=(
        "import dead.zip",
        "import dead.zip --accept-key production.key",
        "run ID --pdb  # then look at one",
    ),
    see_also="export, run, dead retry",
)
@click.argument("file", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--accept-key",
    "key_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="KEYFILE",
    help="Accept what was signed with the key in this file, too: .uwsgi_tasks/key, or the secret.",
)
@json_option
@pass_where
def import_command(where: Where, file: Path, key_file: Path | None, as_json_: bool) -> int:
    """Bring in what `export` wrote, as dead letters: nothing runs by itself.

    A message that no known key signed is refused, for running it would run whatever its writer
    wants. What is accepted is signed anew with the key of this home.
    """
    where.home(make=True)
    site = engine.current().require_site()
    keys = list(site.keys)
    if key_file is not None:
        keys += [key.strip() for key in key_file.read_bytes().split(b",")]
    signer, told = wire.Signer(keys), []
    for ident, content, story in _read(file):
        try:
            message = wire.unpack(content, signer)
        except SignatureError:
            told.append((ident, False, "no known key signed it: name the key with --accept-key"))
        except WireError as error:
            told.append((ident, False, str(error)))
        else:
            told.append(_keep(site, message, story))
    return _tell(told, as_json_)


def _read(file: Path) -> Iterator[tuple[str, bytes, dict[str, Any]]]:
    try:
        if file.is_dir():
            parts = {path.name: path.read_bytes() for path in file.iterdir() if path.is_file()}
        else:
            with zipfile.ZipFile(file) as opened:
                names = [name for name in opened.namelist() if "/" not in name]
                parts = {name: opened.read(name) for name in names}
    except (OSError, zipfile.BadZipFile) as error:
        fail(f"{file} can't be read: {error}", "a file that uwsgi-tasks export wrote")
    if _MANIFEST not in parts:
        fail(f"{file} is no export: it has no {_MANIFEST}", "a file that uwsgi-tasks export wrote")
    for name in sorted(parts):
        if name.endswith(".message"):
            ident, story = name[: -len(".message")], {}
            with suppress(ValueError):
                story = json.loads(parts.get(f"{ident}.json", b"{}"))
            yield ident, parts[name], story if isinstance(story, dict) else {}


def _keep(site: Site, message: Message, story: dict[str, Any]) -> tuple[str, bool, str]:
    """Keep a message as a dead letter, with what its story tells of its end."""
    if finding.place_of(site, message.id, calls.spools_of(site)).state not in ("gone", "dead"):
        return message.id, False, "it is known here already, and not dead"
    texts = [story.get(word) for word in ("reason", "error", "traceback")]
    reason, error, trace = (text if isinstance(text, str) else "" for text in texts)
    letter = letters.letter_of(message, reason or _REASON, error, trace, "")
    site.bury(letter, wire.pack(message, site.signer))
    return message.id, True, "is a dead letter here"


def _tell(told: list[tuple[str, bool, str]], as_json_: bool) -> int:
    if as_json_:
        as_json([{"id": ident, "ok": ok, "message": words} for ident, ok, words in told])
    for ident, ok, words in told if not as_json_ else ():
        click.echo(f"{ident} {words}" if ok else f"Error: {ident}: {words}", err=not ok)
    return OK if all(ok for _, ok, _ in told) else FOUND
