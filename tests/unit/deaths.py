"""What processes that died in a message leave behind, made without killing any."""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path

from uwsgi_tasks import consumer, engine, handlers, wire
from uwsgi_tasks.executors import spooler as to_spool
from uwsgi_tasks.inflight import SPOOLER
from uwsgi_tasks.model import SPOOL_OK

NO_PID = 2**31 - 1  # beyond the kernel's largest


def instance():
    return consumer.instance_of(engine.current().server)


def dies(site, message, kind=SPOOLER, of=None, envelope=b"", number=0, ago=0.0):
    """Leave the record of a process that died in a message; return it."""
    table = site.inflight
    table.claim(kind, number, of or instance())
    table.begin(message.id, message.delivery, envelope)
    at = 4096 + table.place * 128
    table._map[at + 67 : at + 79] = struct.pack("<IQ", NO_PID, 1)
    if ago:
        table._map[at + 40 : at + 48] = struct.pack("<d", time.time() - ago)
    place, table.place = table.place, None
    os.close(os.open(table.path, os.O_RDWR))  # gives the lock away
    return table.record(place)


def write(site, spool, message):
    content = wire.spool_file(wire.pack(message, site.signer))
    to_spool.submit(spool, message.id, message.delivery, content)
    return Path(spool, to_spool.file_name(message.id, message.delivery))


def scan(site, spool, message):
    """Let uWSGI hand the file of a message over; return what it is told."""
    path = Path(spool, to_spool.file_name(message.id, message.delivery))
    body = wire.envelope_of_file(path.read_bytes())
    answer = handlers.on_spool({"spooler_task_name": path.name, wire.MARK: b"1", "body": body})
    if answer == SPOOL_OK:
        path.unlink()
    return answer


def waiting(site):
    """Return what waits in the store or lies in the spool as the next delivery."""
    if not site.has_store():
        return []
    rows = site.store.connection().execute("SELECT envelope FROM waiting WHERE state < 3")
    return [wire.unpack(row[0], site.signer) for row in rows]


def reasons(site):
    return [letter.reason for letter in site.letters.list()]
