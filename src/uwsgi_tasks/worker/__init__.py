"""The worker: an embedded, headless uWSGI beside whatever serves the site.

``run_worker`` is what ``uwsgi-tasks worker`` calls: a small parent process that starts uWSGI, owns
its life, and ends with it.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["WorkerOptions", "run_worker"]


class WorkerOptions(NamedTuple):
    """What a worker is told.

    Attributes:
        targets: What to import: ``package.module``, ``package.module:function`` (called without
            arguments, as an application factory is), or the path of a ``.py`` file. None is needed
            where ``DJANGO_SETTINGS_MODULE`` names a project: the ``tasks`` modules of its
            applications are imported.
        processes: Spoolers: tasks that run at the same time.
        mules: Mules.
        home: Directory for all that is kept; by default ``UWSGITASKS_HOME`` (or the setting's
            other places), else ``.uwsgi-tasks`` in the current directory. The spool lies in it,
            but for a home ``.uwsgi_tasks``, which itself lies in the spool.
        queues: Name of a queue, and number of its own spoolers.
        max_tasks: A spooler or mule ends after so many tasks, and a new one starts.
        max_rss: The same, with more memory than so many bytes.
        grace: Seconds that tasks get to end before a stop or reload.
        reload: Watch the source files, and reload when one changes; for development.
        once: Run what is ready, and end.
        quiet: Log warnings and errors only.
        verbose: Log all, uWSGI's own lines too.
    """

    targets: tuple[str, ...] = ()
    processes: int = 1
    mules: int = 0
    home: str | None = None
    queues: tuple[tuple[str, int], ...] = ()
    max_tasks: int | None = None
    max_rss: int | None = None
    grace: float = 30.0
    reload: bool = False
    once: bool = False
    quiet: bool = False
    verbose: bool = False


def run_worker(options: WorkerOptions) -> int:
    """Run a worker until it is told to end; call it in the main thread.

    Args:
        options: What it is told.

    Returns:
        The exit code: 0 it ended in order, 1 it couldn't start or died, 2 the options can't be
        meant, 130 or 143 a second SIGINT or SIGTERM ended it at once.
    """
    from .parent import Parent

    return Parent(options).run()
