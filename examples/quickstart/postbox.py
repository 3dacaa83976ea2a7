"""A post office on this machine: the receiving end of a real SMTP conversation.

Every message is kept as a file, so that the web page and curious people can read it.
"""

from __future__ import annotations

import itertools
import os
import socket
from asyncio import AbstractServer
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session


class Postbox:
    """An SMTP server on a free port of 127.0.0.1, in a thread of its own.

    Args:
        folder: Where the messages are kept, one `.eml` file each.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self._numbers = itertools.count(1)
        self._controller = OnFreePort(self)

    @property
    def address(self) -> str:
        """Host and port it listens on."""
        return f"{self._controller.hostname}:{self._controller.port}"

    def start(self) -> None:
        """Listen."""
        self._controller.start()

    def stop(self) -> None:
        """Stop listening."""
        self._controller.stop(no_assert=True)

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Keep a message; aiosmtpd calls this when one has come in whole."""
        content = envelope.original_content or b""
        name = f"{next(self._numbers):04d}.eml"
        unfinished = self.folder / f".{name}"
        unfinished.write_bytes(content)
        os.replace(unfinished, self.folder / name)
        return "250 Message accepted for delivery"


class OnFreePort(Controller):
    """A controller that lets the system choose its port."""

    def __init__(self, handler: Any) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        host, port = self._socket.getsockname()
        super().__init__(handler, hostname=host, port=port)

    def _create_server(self) -> Awaitable[AbstractServer]:
        """Listen on the socket that is bound already."""
        return self.loop.create_server(self._factory_invoker, sock=self._socket)
