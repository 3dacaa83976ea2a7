"""What uWSGI calls: spool files, mule messages, signals, and the start of each process.

``install`` is called at import and by ``set_uwsgi_callbacks``; it chains hooks that were there.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from . import (
    consumer,
    engine,
    inflight,
    legacy,
    letters,
    record,
    recovery,
    sweeping,
    targets,
    timekeeper,
    timers,
    wire,
)
from .errors import UwsgiTasksError, WireError
from .executors import spooler as to_spool
from .home import ACTIVE
from .middleware import drop_inherited_connections
from .model import SPOOL_OK, SPOOL_RETRY, Message, TaskExecutor
from .server import Uwsgi, is_worker_target
from .site import Site

logger = logging.getLogger(__name__)

_PAUSED_AGAIN_S = 1.0
_HOOKS = ("spooler", "mule_msg_hook", "post_fork_hook", "atexit")
_ANY_WORKER = ("worker", "workers", "active-workers")
_FATAL = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT}
_TOLD_TO_END = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
_previous: dict[str, Callable[..., Any]] = {}
_signals = targets.signals
_seen: dict[str, int] = {}
_state: dict[str, Any] = {"installed": False, "keeping_time": 0, "spool": "", "started": 0}
_state["started_at"] = time.time()
_warned: set[str] = set()
_REPLACED = "its home was removed, or made anew"


def install() -> None:
    """Install the library's hooks in uWSGI; harmless outside of it, and when done before.

    Hooks of other libraries that were there first get the messages that aren't ours.
    """
    here = engine.current().server
    if not isinstance(here, Uwsgi):
        return
    ours = dict(zip(_HOOKS, (on_spool, on_mule_message, on_fork, on_exit), strict=True))
    for name, hook in ours.items():
        _chain(name, here.hook(name))
        here.set_hook(name, hook)
    here.guard_hooks(_chain, frozenset(ours))
    if _state["installed"]:
        return
    _state["installed"] = True
    timers.on_declared.append(_on_declared)
    targets.on_added.append(_on_added)
    if here.kind() != "master":
        _start_process(here)  # loaded after the fork: under lazy-apps, or by spooler-import
    elif here.has_master:
        here.outlive_early_wake_ups()
        record.library_version()
        for target in _ANY_WORKER:  # for schedules that are added when it is too late for that
            _register_target(here, target)
        _state["old_files"] = legacy.old_files(here.own_spools())
    _check_server(here)


def _chain(name: str, hook: Any) -> None:
    """Remember another library's hook: it gets the messages that aren't ours.

    One that is set after ours, as ``from uwsgidecorators import *`` does, comes here too.
    """
    if hook is None or getattr(hook, "__module__", None) == __name__:
        return
    _previous[name] = hook
    if _state["installed"] and name != "atexit":
        _warn(
            f"uwsgi.{name} was overwritten by {getattr(hook, '__module__', hook)!s} after"
            f" uwsgi_tasks was imported: ours stays, and it gets what isn't ours. Import it first,"
            f" or call uwsgi_tasks.set_uwsgi_callbacks() after it"
        )


def _check_server(here: Uwsgi) -> None:
    from . import check  # in a server only

    for finding in check.at_start(check.of_server(here, engine.registry.specs.values())):
        _warn(str(finding))


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
    _state["started"], _state["started_at"] = os.getpid(), time.time()
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
    site.home.note_incarnation(here.incarnation)
    if kind == "mule":
        site.home.announce_mule(here.number(), here.incarnation)
    elif kind == "spooler":
        site.home.announce(f"spooler-{here.incarnation}")
        if site.home.announce(f"checked-{here.incarnation}"):
            _check_server(here)  # now that the tasks and their time limits are known
    if this.settings.secret:
        site.adopt_first_key()
    site.inflight.forget_stop(consumer.instance_of(here))
    if kind in ("spooler", "mule"):
        consumer.start(this, site, here, kind)
        site.home.wake_timekeeper()  # what a dead one left undone
    if _may_keep_time(here, site):
        _keep_time(this, site)


def on_exit() -> None:
    """End a process of uWSGI in order: its ``atexit`` hook, also where a signal told it to end."""
    previous = _previous.get("atexit")
    if previous is not None:
        previous()
    this = engine.current()
    here = this.server
    if isinstance(here, Uwsgi) and _state["started"] == os.getpid():
        with contextlib.suppress(UwsgiTasksError):  # it never worked here, and said so
            _note_exit(this, here)


def _note_exit(this: engine.Engine, here: Uwsgi) -> None:
    site, handled = this.require_site(), signal.pthread_sigmask(signal.SIG_BLOCK, ())
    if handled & _FATAL:
        return  # uWSGI's handler of a segmentation fault comes here too
    # else the master was killed, and this process ends because of it
    told = os.getppid() == here.master and not inflight.is_dying(here.master)
    if told and here.kind() in ("worker", "mule"):
        site.inflight.note_stop(consumer.instance_of(here))
    if handled & _TOLD_TO_END:  # blocked while it is handled: a C library's exit() is a crash
        site.inflight.mark()


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
    if here.has_mules() and here.preloaded:
        return False
    return bool(timers.declared) or (site.has_store() and site.store.next_schedule() is not None)


def _keep_time(this: engine.Engine, site: Site) -> None:
    if _state["keeping_time"] == os.getpid():
        return
    _state["keeping_time"] = os.getpid()
    rows = [found.row() for found in timers.declared.values() if not found.lazy]
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
        site.store.declare([found.row()])
    if _may_keep_time(here, site):
        _keep_time(this, site)
    site.home.wake_timekeeper()


def _on_added() -> None:
    this = engine.current()
    here, site = this.server, this.require_site()
    if not isinstance(here, Uwsgi) or _state["started"] != os.getpid():
        return
    if here.has_master and _may_keep_time(here, site):  # of workers alone, none did so far
        _keep_time(this, site)


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
    targets.handle_signal(this.require_site(), target, _seen, _run_for_signal, _state["started_at"])


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
    consumer.end_if_due()
    marks = None
    try:
        site = engine.current().require_site()
        marks = site.inflight
        marks.enter()
        if site.home.note_activity():  # uWSGI's own producers don't, and wake idle spoolers only
            site.home.wake_timekeeper(ACTIVE)
        if wire.MARK not in env:
            return _on_other(env)
        return _on_file(env)
    except Exception:  # a full disk: the file stays until its next state is safe
        logger.exception("The task of %s stays in the spool", _name_of(env))
        return SPOOL_RETRY
    finally:
        if marks is not None and marks.leave():
            consumer.scan_again(engine.current())


def _on_file(env: dict[Any, Any]) -> int:
    this = engine.current()
    spool = _state["spool"] or _find_spool(this)
    site = this.require_site()
    if site.is_replaced(time.time()):
        consumer.end_now(_REPLACED)
    if not consumer.may_take(this, site, spool):
        return SPOOL_RETRY
    content = env.get("body") or env.get(wire.PACKET_KEY) or b""
    name = _name_of(env)
    try:
        if len(content) > this.settings.max_message_bytes + sweeping.OVERHEAD:
            consumer.keep_too_big(this, site, f"{spool}/{name}", len(content))
            return SPOOL_OK
        message = wire.unpack(content, site.signer)
    except WireError as error:
        if site.is_replaced():  # another key signs now
            consumer.end_now(_REPLACED)
        _bury_unreadable(site, name, content, error, spool)
        return SPOOL_OK
    if name != to_spool.file_name(message.id, message.delivery):
        # from the network: under its own name its deaths are counted, and a copy isn't run twice
        return consumer.put_again(this, site, message, wire.spool_file(content), spool)
    return consumer.take(this, site, message, spool, f"{spool}/{name}")


def _find_spool(this: engine.Engine) -> str:
    here = this.server
    found = here.own_spool() if isinstance(here, Uwsgi) else os.getcwd()
    _state["spool"] = found
    return found


def _name_of(env: dict[Any, Any]) -> str:
    name = env.get("spooler_task_name", b"")
    return name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else str(name)


def _on_other(env: dict[Any, Any]) -> int:
    """Deal with a file that isn't ours: another library's, release 0.7.3's, or nobody's."""
    this = engine.current()
    site, name = this.require_site(), _name_of(env)
    is_old, previous = legacy.is_old(env), _previous.get("spooler")
    if not is_old and previous is not None:
        result = previous(env)
        return SPOOL_RETRY if result is None else int(result)
    size = len(env.get("body", b""))
    if size > this.settings.max_message_bytes + sweeping.OVERHEAD:
        spool = _state["spool"] or _find_spool(this)
        consumer.keep_too_big(this, site, f"{spool}/{name}", size)
        return SPOOL_OK
    if is_old:
        return _on_old(this, site, env, name)
    error = WireError("The file in the spool is no message of uwsgi-tasks, and no hook takes it")
    _bury_unreadable(site, name, repr(env).encode(), error, _state["spool"] or _find_spool(this))
    return SPOOL_OK


def _on_old(this: engine.Engine, site: Site, env: dict[Any, Any], name: str) -> int:
    spool = _state["spool"] or _find_spool(this)
    allowed = this.settings.accept_unsigned and name in _state.get("old_files", ())
    ident = legacy.id_of(name)
    try:
        if not allowed:
            raise WireError(
                "Release 0.7.3 wrote it, unsigned: set accept_unsigned=True for the upgrade; it"
                " holds for files that lie in the spool when the server starts"
            )
        if recovery.died_in(this, site, ident):
            raise WireError("The process that read this file of release 0.7.3 died of it")
        site.inflight.begin(ident, 1)  # reading it unpickles it
        message = legacy.message_of(env, name)
    except WireError as error:
        _bury_unreadable(site, name, legacy.content_of(env), error, spool)
        return SPOOL_OK
    finally:
        site.inflight.release()
    content = wire.spool_file(wire.pack(message, site.signer))
    return consumer.put_again(this, site, message, content, spool)


def _bury_unreadable(site: Site, name: str, content: bytes, error: WireError, spool: str) -> None:
    ident = hashlib.sha256(name.encode() + content).hexdigest()[:36]
    reason = "bad signature" if type(error) is not WireError else "unreadable message"
    site.bury(letters.unreadable(ident, reason, f"{error} (it came as {name!r})", spool), content)
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
        logger.exception("A message of a mule couldn't be dealt with")


def _present_site(this: engine.Engine) -> Site:
    before, site = this.require_site(), this.present_site()
    if site is not before and isinstance(this.server, Uwsgi):
        _open_process(this.server)
    return site


def _on_mule_message(data: bytes) -> None:
    this = engine.current()
    site, number = _present_site(this), this.server.number()
    try:
        message = wire.unpack(data, site.signer)
    except WireError as error:
        if site.is_replaced():  # another key signs now
            _on_mule_message(data)
        else:
            _bury_unreadable(site, f"mule {number}", data, error, "")
        return
    if this.unsettled:
        with contextlib.suppress(Exception):  # it is logged, and tried again
            this.settle_again()
    _run_in_mule(this, site, message, data)


def _run_in_mule(this: engine.Engine, site: Site, message: Message, data: bytes) -> None:
    now = time.time()
    if site.inflight.knows(message.id) and recovery.is_over(site, message):
        return
    if site.home.is_paused() or message.at > now:
        due = max(message.at, now + _PAUSED_AGAIN_S if site.home.is_paused() else now)
        again = message._replace(delivery=message.delivery + 1)
        site.wait(again, due, TaskExecutor.MULE)
        site.home.wake_timekeeper()
    elif message.expires_at and message.expires_at <= now:
        this.expire(site, message, TaskExecutor.MULE, "")
    else:
        try:
            outcome = this.process(message, TaskExecutor.MULE, envelope=data)
        finally:
            consumer.after_task(this)
        if outcome is engine.PAUSED:
            _run_in_mule(this, site, message, data)  # it waits
