"""The mule: a message goes through a socket to a process of the same server. Nothing durable."""

from __future__ import annotations

from ..errors import MessageTooBig, OptionValueError, QueueFull
from ..server import MULE_LIMIT, Uwsgi


def submit(server: Uwsgi, envelope: bytes, mule: int | str | None) -> None:
    """Queue a message for a mule, a farm, or any mule.

    Args:
        server: The running server.
        envelope: The signed message.
        mule: Number of a mule that announced itself, name of a farm, or ``None`` for any.

    Raises:
        MessageTooBig: A mule would cut it.
        QueueFull: The mule's queue took nothing.
        OptionValueError: There is no such farm.
    """
    if len(envelope) > MULE_LIMIT:
        raise MessageTooBig(
            f"The message has {len(envelope)} bytes, a mule takes {MULE_LIMIT} at most:"
            f" use a spooler, or pass a reference to the data"
        )
    try:
        taken = server.send_to_mule(envelope, mule)
    except ValueError as error:
        raise OptionValueError(
            f"mule={mule!r}: {error}; configure it with `farm = {mule}:1,2`"
        ) from None
    if not taken:
        raise QueueFull("The mule's queue is full: nothing was submitted")
