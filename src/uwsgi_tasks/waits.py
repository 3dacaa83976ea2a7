"""Who waits for the end of a run: woken at once, without looking again and again.

Who waits makes a FIFO, ``waits/<id>.<pid>.<n>``, and then raises a mapped byte that the id shares
with some others. Who ends a run looks at the byte: one look into memory where nobody waits. Where
it is raised, a byte goes into each FIFO of that id. A wake-up that a death lost is made good by
looking once a second.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import mmap
import os
import select
import time
from collections.abc import Callable, Iterator

from . import files

_SIZE = 4096
_LOOK_S = 1.0
_numbers = itertools.count()


class Waits:
    """The waits of a home.

    Args:
        path: The mapped file.
        folder: The folder of the FIFOs.
    """

    def __init__(self, path: str, folder: str) -> None:
        self.path, self.folder = path, folder
        self._map: mmap.mmap | None = None

    def _mapped(self) -> mmap.mmap:
        if self._map is None:
            descriptor, self._map = files.map_file(self.path, _SIZE)
            os.close(descriptor)
        return self._map

    def wait(self, ident: str, is_over: Callable[[], bool], timeout: float | None) -> bool:
        """Wait until something is over, woken when the run of that id ends.

        Args:
            ident: The message's id.
            is_over: Looks.
            timeout: Seconds; ``None``: for ever.

        Returns:
            Whether it is.
        """
        if is_over():
            return True
        deadline = None if timeout is None else time.monotonic() + timeout
        with self.told(ident) as fifo:
            waiter = select.poll()
            waiter.register(fifo, select.POLLIN)
            while not is_over():
                left = _LOOK_S if deadline is None else min(_LOOK_S, deadline - time.monotonic())
                if left <= 0:
                    return False
                if waiter.poll(left * 1000 + 1):
                    empty(fifo)
                self._raise(ident)  # who ended another run may have lowered it
        return True

    async def wait_in_loop(self, ident: str, is_over: Callable[[], bool]) -> None:
        """Wait in an event loop until something is over, woken when the run of that id ends."""
        import asyncio  # for whoever awaits, and nobody else

        if is_over():
            return
        loop = asyncio.get_running_loop()
        with self.told(ident) as fifo:
            told = asyncio.Event()
            loop.add_reader(fifo, told.set)
            try:
                while not is_over():
                    with contextlib.suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(told.wait(), _LOOK_S)
                    told.clear()
                    empty(fifo)
                    self._raise(ident)
            finally:
                loop.remove_reader(fifo)

    @contextlib.contextmanager
    def told(self, ident: str) -> Iterator[int]:
        """Give a descriptor on which there is something to read when the run of that id ends."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(self.folder, 0o700)
        path = os.path.join(self.folder, f"{ident}.{os.getpid()}.{next(_numbers)}")
        os.mkfifo(path, 0o600)
        fifo = -1
        try:
            fifo = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            self._raise(ident)
            yield fifo
        finally:
            if fifo >= 0:
                os.close(fifo)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def _raise(self, ident: str) -> None:
        self._mapped()[_place(ident)] = 1

    def open(self) -> None:
        """Map the file now, while there is room for it.

        Raises:
            HomeError: It can't be.
        """
        self._mapped()

    def end(self, ident: str) -> None:
        """Wake who waits for that id, which is over; never fails, for the end stands already."""
        data, place = self._map, int(ident[-3:], 16)
        if data is None:
            with contextlib.suppress(OSError):
                data = self._mapped()
        if data is None or not data[place]:
            return
        data[place] = 0  # before looking: who comes now raises it again
        others = False
        with contextlib.suppress(OSError):  # no descriptor is left, say: he looks again himself
            for name in os.listdir(self.folder):
                if name.startswith(ident):
                    self._tell(os.path.join(self.folder, name))
                else:
                    others = others or name[33:36] == ident[-3:]
        if others:
            data[place] = 1

    def _tell(self, path: str) -> None:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nobody reads it: who waited was killed
                with contextlib.suppress(OSError):
                    os.unlink(path)
            return
        try:
            with contextlib.suppress(BlockingIOError):
                os.write(descriptor, b"e")
        finally:
            os.close(descriptor)

    def sweep(self) -> None:
        """Remove the FIFOs of those that were killed while they waited."""
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self.folder):
                path = os.path.join(self.folder, name)
                try:
                    os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
                except OSError as error:
                    if error.errno == errno.ENXIO:
                        with contextlib.suppress(FileNotFoundError):
                            os.unlink(path)


def _place(ident: str) -> int:
    """Return the byte that an id shares with one in 4096 others."""
    return int(ident[-3:], 16)


def empty(fifo: int) -> None:
    """Read what is in a FIFO."""
    with contextlib.suppress(BlockingIOError):
        while os.read(fifo, 4096):
            pass
