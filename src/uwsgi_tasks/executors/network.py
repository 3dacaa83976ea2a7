"""Another instance's spooler, reached over its uwsgi socket.

uWSGI stores spool requests of any client, without a body and within one packet
(``uwsgi_request_spooler`` in ``plugins/spooler``); the other side needs the same secret.
"""

from __future__ import annotations

import re
import socket

from ..errors import MessageTooBig, NotAvailable, OptionValueError
from ..wire import PACKET_LIMIT, spool_packet

SCHEME = "uwsgi://"
TIMEOUT_S = 10.0
_ADDRESS = r"uwsgi://(?:(\[[0-9a-fA-F:]+\]|[^:/\[\]]+):(\d+)|(/.+))"
_STORED = b"\xff\x00\x00\x01"


def parse(address: str) -> tuple[str, int] | str:
    """Return host and port, or the path of a unix socket.

    Raises:
        OptionValueError: The address is neither.
    """
    match = re.fullmatch(_ADDRESS, address)
    if match is None or not 0 < int(match.group(2) or 1) < 65536:
        raise OptionValueError(
            f"spooler={address!r}: a network spooler is 'uwsgi://host:port' or 'uwsgi:///path.sock'"
        )
    host, port, path = match.groups()
    return path or (host.strip("[]"), int(port))


def submit(address: str, envelope: bytes) -> None:
    """Hand a message to the spooler behind a uwsgi socket.

    Raises:
        MessageTooBig: It doesn't fit a packet, or the other side's ``buffer-size``.
        NotAvailable: Nobody answers there, or there is no spooler.
    """
    if len(envelope) > PACKET_LIMIT - 64:
        raise MessageTooBig(
            f"The message has {len(envelope)} bytes; a uwsgi packet takes {PACKET_LIMIT - 64}"
        )
    try:
        answer = _exchange(parse(address), spool_packet(envelope))
    except ConnectionResetError as error:
        raise MessageTooBig(
            f"{address} refused a packet of {len(envelope)} bytes: raise `buffer-size` there"
        ) from error
    except OSError as error:
        raise NotAvailable(f"{address} can't be reached: {error}") from error
    if not answer:
        raise MessageTooBig(
            f"{address} closed the connection on a packet of {len(envelope)} bytes:"
            f" raise `buffer-size` there"
        )
    if answer != _STORED:
        raise NotAvailable(f"{address} has no spooler, or refused the task")


def _exchange(target: tuple[str, int] | str, packet: bytes) -> bytes:
    family = socket.AF_UNIX if isinstance(target, str) else socket.AF_INET
    if not isinstance(target, str) and ":" in target[0]:
        family = socket.AF_INET6
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT_S)
        connection.connect(target)
        connection.sendall(packet)
        return connection.recv(4, socket.MSG_WAITALL)
