"""Checks of uWSGI's options: processes, modules, times. Each looks at ``facts.options`` alone."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .table import Facts, Problem, check

_NEED_MASTER = re.compile(
    r"master|master-as-root|spooler|spooler-external|mules?|farm|cron2?|unique-cron"
    r"|(smart-)?attach-.*|touch-.*|cache2?|queue|metric|M"
)
_OWN_MODULES = ("module", "wsgi", "wsgi-file", "file", "mount", "app", "import", "pyimport")
_IN_SPOOLERS = ("shared-import", "shared-pyimport", "spooler-import", "spooler-pyimport")
_IN_MULES = ("shared-import", "shared-pyimport")
MODULES = (*_OWN_MODULES, *_IN_SPOOLERS)
"""Options that name a module or a file with Python code."""


@check("UT-E001", "no master", at_start=True)
def no_master(facts: Facts) -> Iterator[Problem]:
    """Without a master there is neither a spooler nor a mule."""
    has_master = facts.has_master
    if has_master is None:
        names = {entry.name for entry in facts.options.entries}
        has_master = any(_NEED_MASTER.fullmatch(name) for name in names if facts.options.has(name))
    if not has_master:
        yield Problem(
            "uWSGI runs without a master: tasks run in their caller and timers don't fire",
            lines=("master = true", "spooler = /path/of/a/directory"),
        )


@check("UT-E002", "a reload loses the virtual environment", at_start=True)
def no_binary_path(facts: Facts) -> Iterator[Problem]:
    """The wheel pyuwsgi starts itself anew as the interpreter that the environment was made of."""
    options = facts.options
    if facts.needs_binary_path and not options.all("binary-path") and facts.has_master is not False:
        yield Problem(
            "pyuwsgi in a virtual environment can't reload without `binary-path`",
            lines=("binary-path = <virtual environment>/bin/python",),
        )


@check("UT-E003", "lazy-apps without a shared import", at_start=True)
def lazy_apps(facts: Facts) -> Iterator[Problem]:
    """Under lazy-apps only workers load the application."""
    options = facts.options
    late = facts.is_loaded_late
    if late is None:
        late = options.has("lazy-apps", "lazy") and not options.all(*_IN_MULES)
        late = late and (options.has("mule", "mules") or not options.all(*_IN_SPOOLERS))
    if late:
        yield Problem(
            "Under lazy-apps spoolers and mules don't load the application",
            "add `shared-import = MODULE` with the module of the tasks to uwsgi.ini",
            ("shared-import = MODULE",),
        )


@check("UT-W001", "no spooler")
def no_spooler(facts: Facts) -> Iterator[Problem]:
    """A mule's queue is lost at a stop or reload, and without both tasks run in their caller."""
    options = facts.options
    if not options.entries or options.all("spooler", "Q", "spooler-external"):
        return
    if options.has("mule", "mules"):
        yield Problem(
            "There is no spooler: a mule's queue is lost at each stop and reload",
            lines=("spooler = %dspool",),
        )
    elif not list(no_master(facts)):
        yield Problem(
            "There is neither a spooler nor a mule: tasks run in their caller, which waits",
            lines=("spooler = %dspool",),
        )


@check("UT-E004", "spooler-frequency is 0", at_start=True)
def frequency(facts: Facts) -> Iterator[Problem]:
    """It takes what isn't a whole number from 1 for 0, and scans without a pause."""
    number = facts.options.number("spooler-frequency", "spooler-freq")
    if number is not None and number < 1:
        value = facts.options.last("spooler-frequency", "spooler-freq")
        yield Problem(
            f"spooler-frequency = {value} counts as 0: an idle spooler takes a whole CPU",
            "remove it, or use a whole number from 1",
            ("spooler-frequency = 30",),
        )


@check("UT-W002", "spooler-processes more than once")
def processes(facts: Facts) -> Iterator[Problem]:
    """It is read before all spoolers, wherever it stands: the last one counts for all."""
    values = facts.options.all("spooler-processes")
    if len(set(values)) > 1:
        yield Problem(
            f"spooler-processes stands {len(values)} times: the last one, {values[-1]}, counts for"
            f" every spooler, also for those above it",
            "keep one, and repeat a `spooler` line to give that directory another process",
        )


@check("UT-H001", "spooler-ordered is off")
def unordered(facts: Facts) -> Iterator[Problem]:
    """Priorities work without it; tasks without one run in the order of the directory."""
    if facts.options.all("spooler") and not facts.options.has("spooler-ordered"):
        yield Problem(
            "Tasks without a priority run in no particular order: priorities work all the same,"
            " but first in, first out needs spooler-ordered",
            lines=("spooler-ordered = true",),
        )


@check("UT-H002", "spooler-max-tasks")
def max_tasks(facts: Facts) -> Iterator[Problem]:
    """The server counts what a paused or full spooler gives back, too."""
    value = facts.options.number("spooler-max-tasks")
    if value:
        yield Problem(
            "spooler-max-tasks counts what is given back as well, and ends the process in the"
            " middle of a scan: max_tasks of uwsgi-tasks counts tasks",
            lines=(f"set-ph = tasks-max-tasks={value}",),
        )


@check("UT-W003", "a time limit above harakiri", at_start=True)
def above_harakiri(facts: Facts) -> Iterator[Problem]:
    """The spooler is killed first: the task's own limit never comes."""
    harakiri = facts.options.number("spooler-harakiri") or 0
    longest = max(facts.timeouts, key=lambda pair: pair[1], default=("", 0.0))
    if 0 < harakiri <= longest[1]:
        yield Problem(
            f"spooler-harakiri = {harakiri} kills a task before its timeout: {longest[0]} may run"
            f" {longest[1]:g} s",
            "raise spooler-harakiri above every timeout, or remove it: each task has its own",
            (f"spooler-harakiri = {int(longest[1]) + 10}",),
        )


@check("UT-E005", "two applications in two interpreters", at_start=True)
def interpreters(facts: Facts) -> Iterator[Problem]:
    """Hooks are read from the interpreter that was made last."""
    options = facts.options
    if len(options.all("mount")) > 1 and not options.has("single-interpreter", "i"):
        yield Problem(
            "Several applications have an interpreter each: tasks of all of them come to the last",
            lines=("single-interpreter = true",),
        )


@check("UT-E006", "py-call-uwsgi-fork-hooks", at_start=True)
def fork_hooks(facts: Facts) -> Iterator[Problem]:
    """Seen with uWSGI 2.0.30: every mule dies at its start, again and again."""
    options = facts.options
    if options.has("py-call-uwsgi-fork-hooks") and options.has("mule", "mules"):
        yield Problem(
            "py-call-uwsgi-fork-hooks makes every mule crash at its start",
            "remove it from uwsgi.ini",
        )


@check("UT-W004", "a reload that doesn't reload tasks")
def partial_reloads(facts: Facts) -> Iterator[Problem]:
    """Some reloads leave spoolers and mules on the old code; one kills what runs."""
    for entry in facts.options.entries:
        if entry.name in ("touch-chain-reload", "touch-workers-reload"):
            yield Problem(
                f"{entry.name} leaves spoolers and mules on the old code",
                "use touch-reload, or better `uwsgi-tasks reload`",
            )
        elif entry.name == "touch-spoolers-reload":
            yield Problem(
                "touch-spoolers-reload kills a running task after a second",
                "use `uwsgi-tasks reload`, which waits for it",
            )


@check("UT-H003", "no master-fifo")
def no_fifo(facts: Facts) -> Iterator[Problem]:
    """`uwsgi-tasks reload` waits for tasks and then tells the master, which has to listen."""
    if facts.options.all("spooler") and not facts.options.all("master-fifo"):
        yield Problem(
            "Every reload of uWSGI kills the running tasks, which start again; `uwsgi-tasks"
            " reload` waits for them, but has no way to tell the master",
            lines=("master-fifo = %dmaster.fifo",),
        )


@check("UT-H004", "SIGTERM reloads")
def no_die_on_term(facts: Facts) -> Iterator[Problem]:
    """It is a stop only with die-on-term."""
    if facts.options.entries and not facts.options.has("die-on-term"):
        yield Problem(
            "SIGTERM, with which systemd and containers stop a server, reloads this one",
            lines=("die-on-term = true",),
        )


@check("UT-W005", "attach-daemon without exec")
def daemons(facts: Facts) -> Iterator[Problem]:
    """A shell stays between uWSGI and the program, and takes the signals."""
    for entry in facts.options.entries:
        command = entry.value
        if entry.name == "attach-daemon2":
            match = re.search(r"(?:^|,)(?:cmd|exec)=([^,]*)", command)
            command = match[1] if match else "exec"
        elif entry.name not in ("attach-daemon", "attach-daemon-dumb"):
            continue
        if not command.startswith("exec "):
            yield Problem(
                f"{entry.name} = {entry.value} runs under a shell: when it stops slowly there are"
                f" two of it, and it outlives a killed master",
                lines=(f"{entry.name} = {entry.value.replace(command, 'exec ' + command)}",),
            )


@check("UT-W006", "a mule's queue is made smaller")
def mule_queue(facts: Facts) -> Iterator[Problem]:
    """It sets the socket's buffer, whose default is larger than most values that are set."""
    size = facts.options.number("mule-msg-size")
    if size is not None and size <= 212_992:
        yield Problem(
            f"mule-msg-size = {size} makes the mules' queues smaller than the default does",
            lines=("mule-msg-size = 8388608",),
        )


@check("UT-E007", "a farm of mules that aren't there")
def farms(facts: Facts) -> Iterator[Problem]:
    """A farm names mules by their numbers, from 1."""
    options = facts.options
    mules = len(options.all("mule")) + (options.number("mules") or 0)
    for value in options.all("farm"):
        name, _, members = value.partition(":")
        numbers = [int(number) for number in members.split(",") if number.strip().isdigit()]
        wrong = [number for number in numbers if not 1 <= number <= mules]
        if wrong:
            yield Problem(
                f"The farm {name} has mule {wrong[0]}, and there are {mules}",
                f"number them from 1 to {mules}, or add mules",
                (f"mules = {max(numbers)}",),
            )
