"""What uWSGI calls: spool files, mule messages, signals, and the start of each process.

``install`` is called at import and by ``set_uwsgi_callbacks``; it chains hooks that were there.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable
from typing import Any

from . import engine, legacy, letters, timekeeper, timers, wire
from .errors import WireError
from .executors import spooler as to_spool
from .middleware import drop_inherited_connections
from .model import SPOOL_OK, SPOOL_RETRY, Message, TaskExecutor
from .server import Uwsgi, is_worker_target
from .site import Site

logger = logging.getLogger(__name__)

_PAUSED_AGAIN_S = 1.0
_HOOKS = ("spooler", "mule_msg_hook", "post_fork_hook")
_previous: dict[str, Callable[..., Any]] = {}
_signals: dict[str, int] = {}
_seen: dict[str, int] = {}
_state: dict[str, Any] = {"installed": False, "keeping_time": 0, "spool": "", "started": 0}
_warned: set[str] = set()


def install() -> None:
    """Install the library's hooks in uWSGI; harmless outside of it, and when done before.

    Hooks of other libraries that were there first get the messages that aren't ours.
    """
    here = engine.current().server
    if not isinstance(here, Uwsgi):
        return
    ours = dict(zip(_HOOKS, (on_spool, on_mule_message, on_fork), strict=True))
    for name, hook in ours.items():
        _chain(name, here.hook(name))
        here.set_hook(name, hook)
    here.guard_hooks(_chain, frozenset(ours))
    if _state["installed"]:
        return
    _state["installed"] = True
    timers.on_declared.append(_on_declared)
    if here.kind() != "master":
        _start_process(here)  # loaded after the fork: under lazy-apps, or by spooler-import
    elif here.has_master:
        here.outlive_early_wake_ups()
        _state["old_files"] = legacy.old_files(here.own_spools())
    _check_server(here)


def _chain(name: str, hook: Any) -> None:
    """Remember another library's hook: it gets the messages that aren't ours.

    One that is set after ours, as ``from uwsgidecorators import *`` does, comes here too.
    """
    if hook is None or getattr(hook, "__module__", None) == __name__:
        return
    _previous[name] = hook
    if _state["installed"]:
        _warn(
            f"uwsgi.{name} was overwritten by {getattr(hook, '__module__', hook)!s} after"
            f" uwsgi_tasks was imported: ours stays, and it gets what isn't ours. Import it first,"
            f" or call uwsgi_tasks.set_uwsgi_callbacks() after it"
        )


def _check_server(here: Uwsgi) -> None:
    if not here.has_master:
        _warn(
            "uWSGI runs without a master: tasks run in their caller and timers don't fire;"
            " add `master = true` and `spooler = /path/of/a/directory` to uwsgi.ini"
        )
    elif here.in_venv_without_binary_path():
        _warn(
            "pyuwsgi in a virtual environment can't reload without `binary-path`: add"
            " `binary-path = <virtual environment>/bin/python` to uwsgi.ini"
        )
    if here.lazy_apps and not here.preloaded and here.kind() == "worker":
        _warn(
            "Under lazy-apps spoolers and mules don't load the application: add"
            " `shared-import = MODULE` with the module of the tasks to uwsgi.ini"
        )


def _warn(sentence: str) -> None:
    if sentence not in _warned:
        _warned.add(sentence)
        logger.warning(sentence)


# the start of a process


def on_fork() -> None:
    """Start a process of uWSGI: called after the fork of each worker, mule and spooler."""
    previous = _previous.get("post_fork_hook")
    if previous is not None:
        previous()
    here = engine.current().server
    if isinstance(here, Uwsgi):
        _start_process(here)


def _start_process(here: Uwsgi) -> None:
    if _state["started"] == os.getpid():
        return
    _state["started"] = os.getpid()
    _state["spool"] = ""
    _occupy_stdin()
    drop_inherited_connections()
    try:
        _open_process(here)
    except Exception as error:  # an unusable home must not keep the site from serving
        logger.error("uwsgi-tasks can't work here: %s", error)


def _occupy_stdin() -> None:
    """Let nothing of ours become descriptor 0, over which a spooler lays /dev/null (spooler.c)."""
    try:
        os.fstat(0)
    except OSError:
        os.open(os.devnull, os.O_RDONLY)  # the lowest free one, which stays open


def _open_process(here: Uwsgi) -> None:
    this, kind = engine.current(), here.kind()
    site = this.require_site()
    if kind == "mule":
        site.home.announce_mule(here.number(), here.incarnation)
    elif kind == "spooler":
        site.home.announce(f"spooler-{here.incarnation}")
    for target in ("workers", "active-workers"):
        if target in _signals and kind == "worker":
            _seen[target] = site.store.last_firing()
    if this.settings.secret:
        site.adopt_first_key()
    if kind == "spooler":
        site.home.wake_timekeeper()  # what a dead spooler left undone
    if _may_keep_time(here, site):
        _keep_time(this, site)


def _may_keep_time(here: Uwsgi, site: Site) -> bool:
    kind = here.kind()
    if kind == "spooler":
        return True
    if here.own_spools() and (
        here.preloaded or site.home.is_announced(f"spooler-{here.incarnation}")
    ):
        return False
    if kind == "mule":
        return True
    return bool(timers.declared) and not (here.has_mules() and here.preloaded)


def _keep_time(this: engine.Engine, site: Site) -> None:
    if _state["keeping_time"] == os.getpid():
        return
    _state["keeping_time"] = os.getpid()
    rows = [found.row(active=True) for found in timers.declared.values() if not found.lazy]
    site.store.declare(rows)
    timekeeper.Timekeeper(this, site, _signals).start()


def _on_declared(found: timers.SignalTask) -> None:
    this = engine.current()
    here = this.server
    if not isinstance(here, Uwsgi) or not here.has_master:
        return
    _register_target(here, found.target)
    if here.kind() == "master" or _state["started"] != os.getpid():
        return  # before the fork: the process that keeps time writes it down
    site = this.require_site()
    if not found.lazy:
        site.store.declare([found.row(active=True)])
    if _may_keep_time(here, site):
        _keep_time(this, site)
    site.home.wake_timekeeper()


def _register_target(here: Uwsgi, target: str) -> None:
    """Register the signal of a worker target, which has to happen in the master.

    Under lazy-apps the workers do it themselves; uWSGI sends a signal that its master doesn't know
    to any worker, so that only the plain ``worker`` can be meant there.
    """
    if not target:
        if here.own_spools() or (here.has_mules() and here.preloaded):
            return
        target = "worker"
    in_master = here.kind() == "master"
    lazily = here.kind() == "worker" and not here.preloaded and target == "worker"
    if is_worker_target(target) and target not in _signals and (in_master or lazily):
        _signals[target] = here.register_signal(target, lambda number: _on_signal(target))
        if lazily:
            engine.current().require_site().home.note_lazy_signal(_signals[target])


def _on_signal(target: str) -> None:
    this = engine.current()
    timekeeper.handle_signal(this, this.require_site(), target, _seen, _run_for_signal)


def _run_for_signal(message: Message) -> None:
    try:
        engine.current().process(message, TaskExecutor.RUNTIME)
    except BaseException:  # sys.exit() in a schedule must not end the web worker
        logger.exception("The schedule %s failed", message.task)


# messages


def on_spool(env: dict[Any, Any]) -> int:
    """Run the message of a spool file: uWSGI's ``spooler`` hook.

    Returns:
        ``SPOOL_OK`` when uWSGI may remove the file, ``SPOOL_RETRY`` when it stays.
    """
    try:
        if wire.MARK not in env:
            return _on_other(env)
        return _on_file(env)
    except Exception:  # a full disk: the file stays until its next state is safe
        logger.exception("The task of %s stays in the spool", _name_of(env))
        return SPOOL_RETRY


def _on_file(env: dict[Any, Any]) -> int:
    this = engine.current()
    spool = _state["spool"] or _find_spool(this)
    site = this.require_site()
    if site.home.is_paused():
        return SPOOL_RETRY
    content = env.get("body") or env.get(wire.PACKET_KEY) or b""
    try:
        message = wire.unpack(content, site.signer)
    except WireError as error:
        _bury_unreadable(site, _name_of(env), content, error, spool)
        return SPOOL_OK
    if message.at > time.time():
        site.wait(message, message.at, TaskExecutor.SPOOLER, spool, again=message.stored)
        site.home.wake_timekeeper()
    elif site.is_superseded(message):
        this.pump_if_any(site, spool)  # the process that ended it may have died before it pumped
    else:
        to_spool.hold(f"{spool}/{_name_of(env)}")
        this.process(message, TaskExecutor.SPOOLER, spool)
    return SPOOL_OK


def _find_spool(this: engine.Engine) -> str:
    here = this.server
    found = here.own_spool() if isinstance(here, Uwsgi) else os.getcwd()
    _state["spool"] = found
    return found


def _name_of(env: dict[Any, Any]) -> str:
    name = env.get("spooler_task_name", b"")
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)


def _on_other(env: dict[Any, Any]) -> int:
    """Deal with a file that isn't ours: another library's, release 0.7.3's, or nobody's."""
    this = engine.current()
    site, name = this.require_site(), _name_of(env)
    if legacy.is_old(env):
        return _on_old(this, site, env, name)
    previous = _previous.get("spooler")
    if previous is not None:
        result = previous(env)
        return SPOOL_RETRY if result is None else int(result)
    error = WireError("The file in the spool is no message of uwsgi-tasks, and no hook takes it")
    _bury_unreadable(site, name, repr(env).encode(), error, _state["spool"] or _find_spool(this))
    return SPOOL_OK


def _on_old(this: engine.Engine, site: Site, env: dict[Any, Any], name: str) -> int:
    spool = _state["spool"] or _find_spool(this)
    allowed = this.settings.accept_unsigned and name in _state.get("old_files", ())
    try:
        if not allowed:
            raise WireError(
                "Release 0.7.3 wrote it, unsigned: set accept_unsigned=True for the upgrade; it"
                " holds for files that lie in the spool when the server starts"
            )
        message = legacy.message_of(env, name)
    except WireError as error:
        _bury_unreadable(site, name, legacy.content_of(env), error, spool)
        return SPOOL_OK
    if message.at > time.time():
        site.wait(message, message.at, TaskExecutor.SPOOLER, spool)
        site.home.wake_timekeeper()
    else:
        this.process(message, TaskExecutor.SPOOLER, spool)
    return SPOOL_OK


def _bury_unreadable(site: Site, name: str, content: bytes, error: WireError, spool: str) -> None:
    ident = hashlib.sha256(name.encode() + content).hexdigest()[:36]
    reason = "bad signature" if type(error) is not WireError else "unreadable message"
    site.bury(letters.unreadable(ident, reason, str(error), spool), content)
    logger.error(
        "The message in %r didn't run and is kept as dead letter %s: %s", name, ident, error
    )


def on_mule_message(data: bytes) -> None:
    """Run a message that a mule got: uWSGI's ``mule_msg_hook``."""
    if not wire.is_ours(data):
        previous = _previous.get("mule_msg_hook")
        if previous is not None:
            previous(data)
            return
    try:
        _on_mule_message(data)
    except Exception:
        logger.exception("A message of a mule is lost")


def _on_mule_message(data: bytes) -> None:
    this = engine.current()
    site, number = this.require_site(), this.server.number()
    try:
        message = wire.unpack(data, site.signer)
    except WireError as error:
        _bury_unreadable(site, f"mule {number}", data, error, "")
        return
    now = time.time()
    if site.home.is_paused() or message.at > now:
        due = max(message.at, now + _PAUSED_AGAIN_S if site.home.is_paused() else now)
        site.wait(message, due, TaskExecutor.MULE, again=True)
        site.home.wake_timekeeper()
        return
    site.home.mark_mule_busy(number, on=True)
    try:
        this.process(message, TaskExecutor.MULE)
    finally:
        site.home.mark_mule_busy(number, on=False)
