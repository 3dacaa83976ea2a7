"""Where a message can go from this process: its spools, mules and homes, or why it can't."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

from . import config, home, record, server
from .errors import NotAvailable, OptionValueError
from .letters import Bounds
from .model import Placement, TaskExecutor
from .site import Site
from .stopping import Stopper

MULE_START_S = 5.0


class Places:
    """What the server of this process offers, under the settings in force.

    Args:
        here: The server that this process belongs to.
        configured: What ``configure()`` was given.
    """

    def __init__(self, here: server.Server, configured: dict[str, Any] | None = None) -> None:
        self.server = here
        self.settings, self.sources = config.load(configured or {}, here.option)
        named = self.settings.spooler
        self._named_spool = os.path.realpath(named) if named else ""
        self.remote = self._remote()
        self._sites: dict[str, Site] = {}
        self._lock = threading.RLock()
        self.stopper = Stopper()
        self._warned: set[tuple[str, str]] = set()
        self._plain: str | None = None

    def _remote(self) -> record.Remote | None:
        """Return the server that this process outside of it is to submit to, if one is named."""
        if self.server.inside or not (self.settings.home or self._named_spool):
            return None
        path = record.home_at(self.settings.home or self._named_spool)
        if not self.settings.home:
            path = os.path.join(self._named_spool, home.NAME)
        return record.Remote(path, required=not self._named_spool)

    def spools(self) -> list[str]:
        """Return the spool directories that tasks can go to, the default one first.

        Raises:
            HomeError: The home of a server is named, and doesn't tell.
        """
        known, named = self.server.spools(), self._named_spool
        if self.remote is not None:
            known = self.remote.spools()
        return [named, *(spool for spool in known if spool != named)] if named else [*known]

    def site(self, spool: str = "") -> Site | None:
        """Return the site of a spool directory, or this instance's own; ``None``: there is none.

        Raises:
            HomeError: The home can't be used.
            ConfigError: It was written with another key.
        """
        found = self._sites.get(spool)
        return found if found is not None else self._open_site(spool)

    def _open_site(self, spool: str) -> Site | None:
        with self._lock:
            if spool and self._is_foreign(spool):
                located: tuple[str, bool] | None = (os.path.join(spool, home.NAME), True)
            elif self.remote is not None:
                self.remote.check()
                located = (self.remote.home, True)
            else:
                located = home.locate(self.settings.home, self.server)
            if located is None:
                return None
            path, durable = located
            site = next((s for s in self._sites.values() if s.home.path == path), None)
            if site is None:
                site = Site(home.Home(path, durable=durable), self.settings.secret)
                site.letters.bounds = self._bounds()
                if not durable:
                    home.remove_stale_ephemeral(path)
            self._sites[spool] = site
            return site

    def _bounds(self) -> Bounds:
        chosen = self.settings
        return Bounds(chosen.dead_max_count, chosen.dead_max_bytes, chosen.dead_max_age)

    def _is_foreign(self, spool: str) -> bool:
        """Tell whether another instance serves the spool: then its home and key are the ones."""
        own = self.server.own_spools()
        return not self.settings.home and bool(own) and spool not in own

    def require_site(self, spool: str = "") -> Site:
        """Return the site, which has to be there.

        Raises:
            NotAvailable: There is no home.
        """
        site = self.site(spool)
        if site is None:
            raise NotAvailable(
                "There is no home here: set UWSGITASKS_HOME, or configure(home=…) to the"
                " .uwsgi_tasks directory of the server"
            )
        return site

    def present_site(self, spool: str = "") -> Site:
        """Return the site as it is now: opened anew if its home was removed meanwhile.

        Raises:
            NotAvailable: There is no home.
        """
        site = self.require_site(spool)
        if site.is_replaced(time.time()):
            self._sites = {name: one for name, one in self._sites.items() if one is not site}
            site = self.require_site(spool)
        return site

    def spool_for(self, queue: str, placement: Placement) -> str:
        """Return the spool directory that a call asks for.

        Raises:
            OptionValueError: It isn't one of the configured ones.
        """
        spools = self.spools()
        if placement.spooler:
            path, origin = os.path.realpath(placement.spooler), f"spooler={placement.spooler!r}"
        else:
            path, origin = dict(self.settings.queues).get(queue, ""), f"the queue {queue!r}"
            if not path and self.remote is not None:
                path = self.remote.queues().get(queue, "")
        if path and path not in spools:
            raise OptionValueError(
                f"{origin}: {path} is no spooler of this server; there are {', '.join(spools)}"
            )
        return path or spools[0]

    def tied_queues(self) -> dict[str, str]:
        """Return the queues that are tied to a spool directory: here, or by the server told of."""
        told = self.remote.queues() if self.remote is not None else {}
        return {**told, **dict(self.settings.queues)}

    def own_spool_of(self, queue: str) -> str:
        """Return the spool directory that only this queue uses.

        Raises:
            OptionValueError: There is none.
        """
        tied = self.tied_queues()
        spool = self.spool_for(queue, Placement(TaskExecutor.SPOOLER))
        others = [name for name, path in tied.items() if path == spool and name != queue]
        if spool == self.spools()[0] and queue != "default":
            others.append("default")
        if queue not in tied or others:
            shared = f", which it shares with {', '.join(map(repr, others))}" if others else ""
            raise OptionValueError(
                f"The queue {queue!r} has no spool directory of its own (it goes to"
                f" {spool}{shared}): add `spooler = DIRECTORY` to uwsgi.ini and tie it to that with"
                f" queues={{{queue!r}: DIRECTORY}}"
            )
        return spool

    def theirs(self, spool: str) -> str:
        """Return what the server calls a spool directory; another container may say otherwise."""
        return spool if self.remote is None else self.remote.theirs(spool)

    def max_message_bytes(self) -> int:
        """Return the largest arguments: as set here, else as the server that gets them says."""
        if self.remote is not None and self.sources["max_message_bytes"] == "default":
            return self.remote.max_message_bytes() or self.settings.max_message_bytes
        return self.settings.max_message_bytes

    # why not

    def problem(self, executor: int, placement: Placement) -> str | None:
        """Return why an executor can't be used from here, or ``None``.

        Raises:
            OptionValueError: The mule asked for doesn't exist.
        """
        if executor == TaskExecutor.SPOOLER:
            return self._spooler_problem()
        if executor == TaskExecutor.MULE:
            return self._mule_problem(placement.mule)
        return None

    def _spooler_problem(self) -> str | None:
        here = self.server
        if not self.spools():
            return "there is no spooler: add `spooler = /path/of/a/directory` to uwsgi.ini"
        if self._plain or here.preloaded or not here.own_spools():
            return None
        site = self.site()
        if site is not None and site.home.is_announced(f"spooler-{here.incarnation}"):
            self._plain = "announced"
            return None
        return (
            "no spooler has loaded uwsgi_tasks, which was imported after the fork: add"
            " `shared-import = MODULE` (or `spooler-import = MODULE`) with the module of the tasks"
            " to uwsgi.ini, or import it where uWSGI loads the application"
        )

    def _mule_problem(self, mule: int | str | None) -> str | None:
        here = self.server
        if not here.inside or not here.has_mules():
            return "there is no mule: add `mule = true` to uwsgi.ini"
        if not here.preloaded:
            return (
                "no mule has loaded uwsgi_tasks, which was imported after the fork: add"
                " `shared-import = MODULE` with the module of the tasks to uwsgi.ini"
            )
        if isinstance(mule, int) and not self._has_mule(mule):
            there = self.require_site().home.announced_mules(here.incarnation) or "none"
            raise OptionValueError(f"mule={mule}: there is no such mule; there are {there}")
        return None

    def _has_mule(self, mule: int) -> bool:
        """Tell whether a mule announced itself, waiting for one that may be starting."""
        here, site = self.server, self.require_site()
        deadline = time.monotonic() + MULE_START_S - server.process_age()
        while not site.home.is_mule_announced(mule, here.incarnation):
            if time.monotonic() > deadline or here.kind() == "master":
                return False
            time.sleep(0.01)
        return True

    def first_time(self, task: str, matter: str) -> bool:
        """Tell whether a matter comes up for the first time in this process, to warn once."""
        if (task, matter) in self._warned:
            return False
        self._warned.add((task, matter))
        return True
