"""The file of a message in a spool: whole, its owner's, and named so that it sorts by time."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.messages import a_message
from uwsgi_tasks import wire
from uwsgi_tasks.executors import spooler as to_spool


def lie(site, spool, message):
    """Put a message into the spool directly, as an ordinary call does."""
    content = wire.spool_file(wire.pack(message, site.signer))
    to_spool.submit(spool, message.id, message.delivery, content)
    return Path(spool, to_spool.file_name(message.id, message.delivery))


def test_given_a_file_for_the_spool_when_written_then_its_mode_is_for_the_owner_only(site, spool):
    assert lie(site, spool, a_message()).stat().st_mode & 0o777 == 0o600


def test_given_a_file_for_the_spool_when_written_then_no_other_name_is_left(site, spool):
    path = lie(site, spool, a_message())
    assert [n for n in os.listdir(spool) if n != ".uwsgi_tasks"] == [path.name]


def test_given_ids_that_follow_each_other_when_named_then_the_files_sort_by_time():
    first, second = a_message(), a_message()
    assert to_spool.file_name(first.id, 9) < to_spool.file_name(second.id, 1)
