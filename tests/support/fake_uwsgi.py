"""A stand-in for the module ``uwsgi`` of a running server, for tests in one process.

    fake = FakeUwsgi(spoolers=[path], mules=1)
    engine.reset(Engine(fake.server()))
    fake.queue            # what was sent to mules, the oldest first

By default it looks as from a worker of a server with a master that loaded the application.
"""

from __future__ import annotations

import os
import types
from collections.abc import Callable, Iterable
from typing import Any

from uwsgi_tasks.server import Uwsgi


class FakeUwsgi:
    """The state behind the module; each attribute may be changed during a test.

    Attributes:
        queue: Messages for mules that nobody took yet: data, and the mule asked for.
        room: How many messages the mules' queue holds.
        pids: Pids of the spoolers, 0 for one that belongs to another instance.
        raised: Numbers of the signals that were raised.
        harakiris: Seconds of each user harakiri that was set, 0 where it was taken back.
        reloads: How often the server was told to reload.
        handlers: Registered signals: number → target and handler.
        worker: Number of the worker that this process plays, 0 for none.
        mule: Number of the mule that this process plays, 0 for none.
        spooler: It plays a spooler.
    """

    def __init__(
        self,
        *,
        spoolers: Iterable[Any] = (),
        mules: int = 0,
        worker: int = 1,
        master: bool = True,
        preloaded: bool = True,
        **options: Any,
    ) -> None:
        self.queue: list[tuple[bytes, int | bytes | None]] = []
        self.room = 100
        self.farms = {b"farm"}
        self.raised: list[int] = []
        self.harakiris: list[int] = []
        self.reloads = 0
        self.handlers: dict[int, tuple[str, Callable[[int], None]]] = {}
        self.worker, self.mule, self.spooler = worker, 0, False
        self._master = 0 if not master else os.getpid() if preloaded else 1
        paths = [os.fsencode(path) for path in spoolers]
        self.pids = [0] * len(paths)
        self.module = module = types.ModuleType("uwsgi")
        opt: dict[str, Any] = {name.replace("_", "-"): value for name, value in options.items()}
        if paths:
            opt["spooler"] = paths[-1]
            vars(module).update(spoolers=tuple(paths), spooler_pids=lambda: self.pids)
        if mules:
            opt["mules"] = str(mules).encode()
        vars(module).update(
            opt=opt,
            numproc=2,
            started_on=1700000000,
            masterpid=lambda: self._master,
            worker_id=lambda: self.worker,
            mule_id=lambda: self.mule,
            i_am_the_spooler=lambda: self.spooler or None,
            mule_msg=self._mule_msg,
            in_farm=lambda name: name.encode() in self.farms,
            signal_registered=lambda number: number in self.handlers,
            register_signal=self._register_signal,
            signal=self.raised.append,
            set_user_harakiri=self.harakiris.append,
            reload=self._reload,
        )

    def server(self) -> Uwsgi:
        """Return the server as the library sees it from here."""
        return Uwsgi(self.module)

    def _mule_msg(self, data: bytes, target: int | bytes | None = None) -> bool:
        if isinstance(target, bytes) and target not in self.farms:
            raise ValueError("unknown farm")
        if len(self.queue) >= self.room:
            return False
        self.queue.append((data, target))
        return True

    def _reload(self) -> None:
        self.reloads += 1

    def _register_signal(self, number: int, target: str, handler: Callable[[int], None]) -> None:
        self.handlers[number] = (target, handler)
