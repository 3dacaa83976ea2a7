"""What uWSGI passes over for ever is moved away, once, with its reason; nothing else is touched."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.support.messages import a_message
from uwsgi_tasks import sweeping, wire
from uwsgi_tasks.executors import spooler as to_spool

MOST = 1000
NAME = "uwsgi_spoolfile_on_host_1"


def lie(spool, content, age=0.0, name=NAME):
    path = Path(spool, name)
    path.write_bytes(content)
    os.utime(path, (time.time() - age,) * 2)
    return path


def reasons(site):
    return [letter.reason for letter in site.letters.list()]


@pytest.mark.parametrize("size", [0, 1, 3])
def test_given_a_file_that_is_too_short_when_it_is_old_then_it_is_moved_away(site, spool, size):
    path = lie(spool, b"x" * size, age=61)
    assert sweeping.sweep(site, spool, MOST) == 1
    assert (path.exists(), reasons(site)) == (False, ["it is too short for a message"])
    assert site.letters.content(site.letters.list()[0].id) == b"x" * size


@pytest.mark.parametrize(("size", "age"), [(0, 0), (3, 55), (4, 9999), (MOST, 9999)])
def test_given_a_file_that_may_be_written_to_or_a_message_when_swept_then_it_stays(
    site, spool, size, age
):
    path = lie(spool, b"x" * size, age)
    assert sweeping.sweep(site, spool, MOST) == 0
    assert (path.read_bytes(), reasons(site)) == (b"x" * size, [])


def test_given_a_message_of_ours_when_swept_then_it_stays(site, spool):
    message = a_message()
    content = wire.spool_file(wire.pack(message, site.signer))
    to_spool.submit(spool, message.id, 1, content)
    assert sweeping.sweep(site, spool, MOST) == 0


def test_given_a_file_that_is_too_large_when_swept_then_it_is_moved_and_never_read(site, spool):
    path = lie(spool, b"")
    os.truncate(path, 1 << 40)  # a hole of a terabyte
    assert sweeping.sweep(site, spool, MOST) == 1
    (letter,) = site.letters.list()
    assert (path.exists(), letter.reason, letter.has_message) == (False, "message too big", False)
    assert Path(site.letters.folder, f"{letter.id}.message").stat().st_size == 1 << 40


def test_given_a_link_when_swept_then_it_is_removed_and_what_it_leads_to_is_not_kept(
    site, spool, tmp_path
):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    os.symlink(secret, Path(spool, NAME))
    assert sweeping.sweep(site, spool, MOST) == 1
    (letter,) = site.letters.list()
    assert (letter.reason, letter.error) == ("it is a link", f"it leads to {str(secret)!r}")
    assert (os.path.lexists(Path(spool, NAME)), secret.read_text()) == (False, "secret")
    assert site.letters.content(letter.id) == b""


def test_given_a_link_that_leads_nowhere_when_swept_then_it_is_removed(site, spool):
    os.symlink("/nowhere", Path(spool, NAME))
    sweeping.sweep(site, spool, MOST)
    assert (os.path.lexists(Path(spool, NAME)), reasons(site)) == (False, ["it is a link"])


def test_given_a_fifo_when_swept_then_it_is_moved_away_without_waiting_for_a_writer(site, spool):
    os.mkfifo(Path(spool, NAME))
    assert sweeping.sweep(site, spool, MOST) == 1
    assert reasons(site) == ["it is no regular file"]


def test_given_a_file_that_may_not_be_read_when_swept_then_it_is_moved_away(
    site, spool, monkeypatch
):
    path = lie(spool, b"content")
    monkeypatch.setattr(os, "access", lambda name, mode: name != str(path))
    sweeping.sweep(site, spool, MOST)
    assert (path.exists(), reasons(site)) == (False, ["it can't be read and written"])


@pytest.mark.parametrize("name", ["notes.txt", f".{NAME}", "spoolfile", ".uwsgi_tasks-x"])
def test_given_a_file_of_another_name_when_swept_then_it_is_left_alone(site, spool, name):
    path = lie(spool, b"", age=9999, name=name)
    assert (sweeping.sweep(site, spool, MOST), path.exists()) == (0, True)


def test_given_a_directory_when_swept_then_it_is_left_alone(site, spool):
    Path(spool, NAME).mkdir()
    assert (sweeping.sweep(site, spool, MOST), Path(spool, NAME).is_dir()) == (0, True)


def test_given_a_file_that_vanishes_meanwhile_when_swept_then_the_others_are_swept(
    site, spool, monkeypatch
):
    first, second = (lie(spool, b"", age=99, name=f"{NAME}{n}") for n in range(2))
    problem = sweeping._problem

    def and_gone(path, found, most):
        if path == str(first):
            first.unlink()
            raise FileNotFoundError(path)
        return problem(path, found, most)

    monkeypatch.setattr(sweeping, "_problem", and_gone)
    assert (sweeping.sweep(site, spool, MOST), second.exists()) == (1, False)


def test_given_a_name_with_control_characters_when_swept_then_no_log_line_is_forged(
    site, spool, caplog
):
    lie(spool, b"", age=99, name=f"{NAME}\nERROR forged")
    sweeping.sweep(site, spool, MOST)
    assert "\n" not in caplog.records[0].getMessage()
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_given_a_name_that_is_no_text_when_swept_then_it_is_moved_away(site, spool):
    path = os.fsencode(spool) + b"/uwsgi_spoolfile_on_\xff\xfe"
    with open(path, "wb"):
        os.utime(path, (1, 1))
    assert sweeping.sweep(site, spool, MOST) == 1
    assert (os.path.lexists(path), len(reasons(site))) == (False, 1)


def test_given_two_files_of_one_name_when_each_is_swept_then_there_is_a_letter_of_both(site, spool):
    kept = lie(spool, b"a", age=99)
    os.link(kept, f"{spool}/kept")  # its inode isn't used again
    sweeping.sweep(site, spool, MOST)
    lie(spool, b"b", age=99)
    sweeping.sweep(site, spool, MOST)
    found = [site.letters.content(letter.id) for letter in site.letters.list()]
    assert sorted(found) == [b"a", b"b"]


@pytest.mark.parametrize(
    ("size", "files", "told"), [(2 << 20, 0, True), (2 << 20, 1, False), (4096, 0, False)]
)
def test_given_a_directory_that_was_large_when_it_is_empty_then_it_is_said(
    spool, monkeypatch, caplog, size, files, told
):
    for number in range(files):
        Path(spool, f"uwsgi_spoolfile_on_{number}").write_bytes(b"content")
    found = os.stat(spool)
    values = [*found[:6], size, *found[7:]]
    monkeypatch.setattr(sweeping.os, "stat", lambda path: os.stat_result(values))
    assert (sweeping.tell_of_size(spool), "every scan reads" in caplog.text) == (told, told)
