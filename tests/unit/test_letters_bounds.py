"""Dead letters are bounded in number, size and age: the oldest go first, never silently."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uwsgi_tasks import letters, site
from uwsgi_tasks.letters import Bounds, Letters

DAY = 86400.0


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "dead").mkdir()
    return Letters(str(tmp_path / "dead"))


def a_letter(ident):
    return letters.unreadable(ident, "why", "error", "/spool")


def keep(folder, count, size=0):
    """Keep letters, each at a moment of its own; the first is the oldest."""
    for number in range(count):
        before = os.stat(folder.folder).st_ctime_ns
        while os.stat(folder.folder).st_ctime_ns == before:  # a tick of the file system's clock
            Path(folder.folder, ".tick").touch()
            Path(folder.folder, ".tick").unlink()
        folder.keep(a_letter(f"{number}"), b"x" * size)


def idents(folder):
    return sorted(letter.id for letter in folder.list())


@pytest.mark.parametrize(("number", "left"), [(1, ["4"]), (3, ["2", "3", "4"]), (5, list("01234"))])
def test_given_more_letters_than_may_be_when_pruned_then_the_oldest_are_dropped(
    folder, number, left
):
    keep(folder, 5)
    folder.bounds = Bounds(number=number)
    assert folder.prune(time.time()) == 5 - len(left)
    assert idents(folder) == left


def test_given_more_bytes_than_may_be_when_pruned_then_the_oldest_are_dropped(folder):
    keep(folder, 4, size=100_000)
    folder.bounds = Bounds(size=250_000)
    assert (folder.prune(time.time()), idents(folder)) == (2, ["2", "3"])


def test_given_a_letter_that_alone_is_too_large_when_pruned_then_it_is_dropped(folder):
    keep(folder, 1, size=100_000)
    folder.bounds = Bounds(size=10_000)
    assert (folder.prune(time.time()), os.listdir(folder.folder)) == (1, [])


def test_given_a_large_file_of_holes_when_pruned_then_what_it_takes_on_the_disk_counts(folder):
    keep(folder, 1)
    os.truncate(Path(folder.folder, "0.message"), 1 << 40)
    folder.bounds = Bounds(size=1 << 20)
    assert folder.prune(time.time()) == 0


@pytest.mark.parametrize(("later", "dropped"), [(0, 0), (DAY - 5, 0), (DAY + 5, 3)])
def test_given_letters_that_grow_old_when_pruned_then_they_are_dropped_after_their_age(
    folder, later, dropped
):
    keep(folder, 3)
    folder.bounds = Bounds(age=DAY)
    assert folder.prune(time.time() + later) == dropped


def test_given_letters_within_their_bounds_when_pruned_then_nothing_is_said(folder, caplog):
    keep(folder, 3)
    assert (folder.prune(time.time()), caplog.records) == (0, [])


def test_given_dropped_letters_when_logged_then_number_and_settings_are_named(folder, caplog):
    keep(folder, 3)
    folder.bounds = Bounds(number=1)
    folder.prune(time.time())
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "2 dead letters were dropped, the oldest of 3" in record.getMessage()
    assert "dead_max_count, dead_max_bytes or dead_max_age" in record.getMessage()


def test_given_dropped_letters_when_looked_at_then_neither_story_nor_message_is_left(folder):
    keep(folder, 3)
    folder.bounds = Bounds(number=1)
    folder.prune(time.time())
    assert sorted(os.listdir(folder.folder)) == ["2.json", "2.message"]


def test_given_a_message_whose_story_was_never_written_when_pruned_then_it_goes_too(folder):
    Path(folder.folder, "half.message").write_bytes(b"x")
    keep(folder, 1)
    folder.bounds = Bounds(number=1)
    folder.prune(time.time())
    assert sorted(os.listdir(folder.folder)) == ["0.json", "0.message"]


def test_given_foreign_and_half_written_files_when_pruned_then_they_are_left_alone(folder):
    for name in ("notes.txt", ".a.json.1", "README"):
        Path(folder.folder, name).touch()
    folder.bounds = Bounds(number=1, size=1)
    assert (folder.prune(time.time() + 365 * DAY), len(os.listdir(folder.folder))) == (0, 3)


@given(
    sizes=st.lists(st.integers(0, 40_000), max_size=6),
    number=st.integers(1, 7),
    size=st.integers(1, 150_000),
)
@settings(max_examples=25)
def test_given_any_letters_when_pruned_then_the_newest_are_left_and_within_the_bounds(
    tmp_path_factory, sizes, number, size
):
    folder = Letters(str(tmp_path_factory.mktemp("dead")), Bounds(number, size))
    for place, length in enumerate(sizes):
        folder.keep(a_letter(f"{place}"), bytes(length))
    blocks = {
        place: sum(
            Path(folder.folder, f"{place}.{kind}").stat().st_blocks * 512
            for kind in ("json", "message")
        )
        for place in range(len(sizes))
    }
    dropped, left = folder.prune(time.time()), [int(ident) for ident in idents(folder)]
    assert len(left) == len(sizes) - dropped
    assert len(left) <= number
    assert sum(blocks[place] for place in left) <= size


def test_given_many_letters_when_buried_then_the_bounds_are_kept_on_the_way_and_it_is_counted(
    fake, monkeypatch
):
    from uwsgi_tasks import engine

    monkeypatch.setattr(site, "_PRUNE_EVERY", 4)
    fake(settings={"dead_max_count": 2})
    here = engine.current().site()
    for number in range(9):
        here.bury(a_letter(f"{number}"), b"")
    assert len(here.letters.list()) <= 2 + 4
    assert here.home.counters()["dead_dropped"] == 9 - len(here.letters.list())


# a message that is a file


@pytest.mark.parametrize("move", [True, False])
def test_given_a_file_when_kept_then_it_is_there_byte_by_byte_and_moved_where_asked(
    folder, tmp_path, move
):
    path = tmp_path / "file"
    path.write_bytes(b"content")
    folder.keep_file(a_letter("a"), str(path), move=move)
    assert (folder.content("a"), path.exists()) == (b"content", not move)


def test_given_a_file_that_is_kept_already_when_kept_again_then_there_is_one_letter(
    folder, tmp_path
):
    path = tmp_path / "file"
    path.write_bytes(b"content")
    for _ in range(2):
        folder.keep_file(a_letter("a"), str(path), move=False)
    assert (len(folder.list()), folder.content("a")) == (1, b"content")


def test_given_a_letter_for_the_disk_when_kept_then_files_and_folder_are_flushed(
    folder, monkeypatch
):
    flushed = []
    monkeypatch.setattr(
        os, "fsync", lambda number: flushed.append(os.readlink(f"/proc/self/fd/{number}"))
    )
    folder.keep(a_letter("a"), b"", sync=True)
    kinds = [
        Path(path).name.split(".")[-2] if path != folder.folder else "folder" for path in flushed
    ]
    assert kinds == ["message", "json", "folder"]
