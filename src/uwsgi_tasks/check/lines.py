"""Checks of what stands in the ini file: unknown options, settings, sockets, modules."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from .. import config
from ..errors import ConfigError
from .configuration import MODULES
from .ini import Entry
from .table import Facts, Problem, check

_SOCKETS = ("socket", "s", "uwsgi-socket", "suwsgi-socket", "puwsgi-socket", "upd")
_LOCAL = re.compile(r"127\.[\d.]+|localhost|\[?::1\]?")
_MARK = f"{config.PLACEHOLDER_PREFIX}worker"
"""Set in the ini file that `uwsgi-tasks worker` writes, and no setting."""
_LOGIC = re.compile(r"(if|for|end)-?.*")


@check("UT-W007", "an option that uWSGI doesn't know")
def unknown_options(facts: Facts) -> Iterator[Problem]:
    """Without ``strict`` uWSGI takes it for a placeholder and says nothing."""
    if facts.options.has("strict") or not facts.known:
        return
    declared = {value.partition(" ")[0] for value in facts.options.all("declare-option")}
    plugins = bool(facts.options.all("plugin", "plugins", "need-plugin"))
    for entry in facts.options.entries:
        name = entry.name
        if entry.is_placeholder or name in facts.known or name in declared or plugins:
            continue
        if not _LOGIC.fullmatch(name) and not _is_used(facts, name):
            hint = config.suggest(name, facts.known)
            yield Problem(
                f"{entry.place}: this uWSGI has no option {name!r} and ignores it{hint}",
                "correct or remove it; `strict = true` makes uWSGI itself refuse such lines",
                ("strict = true",),
            )


def _is_used(facts: Facts, name: str) -> bool:
    """Tell whether a name is a placeholder that the file uses."""
    try:
        with open(facts.options.path, encoding="utf-8", errors="replace") as file:
            return f"%({name})" in file.read()
    except OSError:
        return False


@check("UT-H005", "strict is off")
def not_strict(facts: Facts) -> Iterator[Problem]:
    """With it a misspelt option keeps the server from starting."""
    if facts.options.entries and not facts.options.has("strict"):
        yield Problem("uWSGI ignores a misspelt option without a word", lines=("strict = true",))


def _settings(facts: Facts) -> Iterator[tuple[Entry, str]]:
    prefix = config.PLACEHOLDER_PREFIX
    for entry in facts.options.entries:
        if entry.name.startswith(prefix) and entry.name != _MARK:
            yield entry, entry.name[len(prefix) :].replace("-", "_")


@check("UT-W008", "a setting that doesn't exist")
def unknown_settings(facts: Facts) -> Iterator[Problem]:
    """The server can't know which placeholders are settings of ours."""
    for entry, name in _settings(facts):
        if name not in config.Settings._fields:
            hint = config.suggest(name, config.Settings._fields).replace("_", "-")
            yield Problem(
                f"{entry.place}: there is no setting {entry.name!r}{hint}",
                "correct or remove the line",
            )


@check("UT-E008", "a setting with a wrong value")
def wrong_settings(facts: Facts) -> Iterator[Problem]:
    """The library refuses to start with it."""
    for entry, name in _settings(facts):
        if name in config.Settings._fields:
            try:
                config.check({name: entry.value}, entry.place)
            except ConfigError as error:
                yield Problem(str(error), "correct the line")
    if facts.refusal.startswith(config.ENV_PREFIX):
        yield Problem(facts.refusal, "correct the variable where the server is started")


@check("UT-E009", "a queue without a spooler")
def queues(facts: Facts) -> Iterator[Problem]:
    """Each queue is tied to one of the server's own spool directories."""
    if facts.origins is None or not facts.spools:
        return
    for name, path in facts.origins.settings.queues:
        if path not in [os.path.realpath(spool) for spool in facts.spools]:
            yield Problem(
                f"The queue {name!r} is tied to {path}, which is no spooler of this server: its"
                f" calls are refused",
                lines=(f"spooler = {path}",),
            )


@check("UT-W009", "settings in env lines")
def env_lines(facts: Facts) -> Iterator[Problem]:
    """Under pyuwsgi Python runs already when uWSGI reads them."""
    for entry in facts.options.entries:
        name, _, value = entry.value.partition("=")
        if entry.name == "env" and name.startswith(config.ENV_PREFIX):
            ours = name[len(config.ENV_PREFIX) :].lower().replace("_", "-")
            shown = "…" if ours == "secret" else value
            yield Problem(
                f"{entry.place}: env = {name} comes too late under pyuwsgi, where Python runs"
                f" already",
                lines=(f"set-ph = {config.PLACEHOLDER_PREFIX}{ours}={shown}",),
            )


@check("UT-W010", "a uwsgi socket that others reach")
def exposed_sockets(facts: Facts) -> Iterator[Problem]:
    """Whoever speaks the uwsgi protocol may enqueue, call RPC functions, and more."""
    has_secret = facts.origins is not None and bool(facts.origins.settings.secret)
    if facts.options.last("protocol", "socket-protocol") not in (None, "uwsgi") or has_secret:
        return
    for value in facts.options.all(*_SOCKETS):
        host, colon, port = value.rpartition(":")
        if colon and port.isdigit() and not _LOCAL.fullmatch(host):
            yield Problem(
                f"The uwsgi socket {value} accepts spool requests from whoever reaches it, without"
                f" a password: unsigned ones become dead letters, and fill the disk",
                "bind it to 127.0.0.1 or a file; between hosts set a secret on both sides",
                (f"socket = 127.0.0.1:{port}",),
            )


@check("UT-H006", "the hidden socket of http")
def http_router(facts: Facts) -> Iterator[Problem]:
    """The router talks to the workers over a uwsgi socket on a port of its own choice."""
    if facts.options.all("http", "https") and not facts.options.all("http-to", *_SOCKETS):
        yield Problem(
            "`http` opens a uwsgi socket on 127.0.0.1, to which every local user can send spool"
            " requests",
            "use http-socket, or give it a socket file",
            ("socket = %duwsgi.sock",),
        )


@check("UT-W011", "uwsgidecorators")
def decorators(facts: Facts) -> Iterator[Problem]:
    """Its import sets the hooks that ours are; its own tasks run for ever when they fail."""
    for path in _modules(facts):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                found = re.search(r"^\s*(from|import)\s+uwsgidecorators", file.read(), re.M)
        except OSError:
            continue
        if found:
            yield Problem(
                f"{path} imports uwsgidecorators, which sets uWSGI's hooks: ours stay and get"
                f" theirs, but a task of its @spool that fails runs again for ever",
                "use @task, @timer and @cron of uwsgi_tasks in its place",
            )


def _modules(facts: Facts) -> Iterator[str]:
    """Return the files of the modules that uWSGI is told to load."""
    folder = os.path.dirname(facts.options.path)
    roots = [*facts.options.all("pythonpath", "pp", "python-path"), folder]
    roots += facts.options.all("chdir")
    for value in dict.fromkeys(facts.options.all(*MODULES)):
        name = value.rpartition("=")[2].partition(":")[0]
        relative = name if name.endswith(".py") else name.replace(".", "/")
        for root in roots:
            ends = ("",) if name.endswith(".py") else (".py", "/__init__.py")
            paths = [os.path.join(folder, root, relative + end) for end in ends]
            yield from [path for path in paths if os.path.isfile(path)][:1]
