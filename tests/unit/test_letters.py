"""Dead letters on disk, and what users do with them."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from tests.support.messages import a_message
from uwsgi_tasks import dead, engine, letters, runner, wire
from uwsgi_tasks.errors import NotAvailable
from uwsgi_tasks.letters import DeadLetter, Letters
from uwsgi_tasks.model import Attempt, TaskExecutor, TaskSpec
from uwsgi_tasks.retry import RetryPolicy

ATTEMPTS = (Attempt(1, 10.0, 11.0, 100, "KeyError: 'a'"), Attempt(2, 20.0, 21.0, 101, "x"))


@pytest.fixture
def folder(tmp_path):
    return Letters(str(tmp_path))


def a_letter(ident="a", dead_at=1.0, **fields):
    letter = letters.unreadable(ident, "why", "error", "/spool")
    return letter._replace(dead_at=dead_at, **fields)


def test_given_a_letter_when_kept_then_it_is_read_as_it_was(folder):
    letter = letters.letter_of(a_message(attempts=ATTEMPTS), "why", "KeyError", "trace", "/spool")
    folder.keep(letter, b"message")
    assert folder.read(letter.id) == letter


def test_given_a_message_when_a_letter_is_made_then_its_attempts_are_plain_rows():
    letter = letters.letter_of(a_message(attempts=ATTEMPTS), "why", "", "", "")
    assert letter.attempts[0] == {
        "attempt": 1,
        "started": 10.0,
        "finished": 11.0,
        "pid": 100,
        "error": "KeyError: 'a'",
    }


def test_given_a_letter_when_kept_then_its_message_is_there_byte_by_byte(folder):
    folder.keep(a_letter(), b"\x00\xffmessage")
    assert folder.content("a") == b"\x00\xffmessage"


def test_given_letters_when_listed_then_the_oldest_comes_first(folder):
    for ident, dead_at in [("b", 2.0), ("c", 3.0), ("a", 1.0)]:
        folder.keep(a_letter(ident, dead_at), b"")
    assert [letter.id for letter in folder.list()] == ["a", "b", "c"]


def test_given_a_letter_that_is_half_written_when_listed_then_it_is_left_out(folder, tmp_path):
    (tmp_path / ".a.json.1").write_text('{"id": ')
    (tmp_path / "a.message").write_text("")
    assert folder.list() == []


@pytest.mark.parametrize("kind", ["json", "message"])
def test_given_a_letter_when_kept_then_its_files_are_for_the_owner_only(folder, tmp_path, kind):
    folder.keep(a_letter(), b"")
    assert stat.S_IMODE((tmp_path / f"a.{kind}").stat().st_mode) == 0o600


def test_given_an_error_with_half_a_character_when_kept_then_it_can_be_read(folder):
    folder.keep(a_letter(error="\udcff"), b"")
    assert folder.read("a").error == "\udcff"


def test_given_a_letter_when_removed_then_nothing_of_it_is_left(folder, tmp_path):
    folder.keep(a_letter(), b"")
    assert (folder.has("a"), folder.remove("a"), folder.remove("a")) == (True, True, False)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("ident", ["../secret", "/etc/secret", "x/../../secret"])
def test_given_an_id_that_is_a_path_when_read_then_it_stays_in_the_folder(tmp_path, ident):
    (tmp_path / "dead").mkdir()
    (tmp_path / "secret.json").write_text(json.dumps(a_letter()._asdict()))
    assert Letters(str(tmp_path / "dead")).read(ident) is None


# what users call


@pytest.fixture
def buried(fake, spool):
    """Bury a message in the home of a fake server; return it."""
    fake()
    site = engine.current().site()

    def bury(content=None, **fields):
        message = a_message(attempts=ATTEMPTS, attempt=2, **fields)
        letter = letters.letter_of(message, "it raised an exception", "KeyError", "", spool)
        site.bury(letter, wire.pack(message, site.signer) if content is None else content)
        return message

    return bury


def in_spool(spool):
    site = engine.current().site()
    contents = [path.read_bytes() for path in Path(spool).glob("*spoolfile*")]
    return [wire.unpack(wire.envelope_of_file(content), site.signer) for content in contents]


def test_given_a_dead_letter_when_listed_and_shown_then_it_is_the_same(buried):
    message = buried()
    assert dead.list() == [dead.show(message.id)]


def test_given_a_dead_letter_when_dropped_then_it_is_gone(buried):
    dead.drop(buried().id)
    assert dead.list() == []


@pytest.mark.parametrize("what", [dead.show, dead.drop, dead.retry])
def test_given_an_unknown_id_when_handled_then_it_is_a_key_error(buried, what):
    with pytest.raises(KeyError, match="no dead letter 'never'"):
        what("never")


@pytest.mark.parametrize("what", [dead.show, dead.drop, dead.retry])
def test_given_no_home_when_handled_then_the_cure_is_told(what):
    with pytest.raises(NotAvailable, match="UWSGITASKS_HOME"):
        what("a")


def test_given_a_dead_letter_when_retried_then_it_enters_its_spool_with_its_next_attempt(
    buried, spool
):
    message = buried()
    dead.retry(message.id)
    (again,) = in_spool(spool)
    assert (again.id, again.attempt, again.payload) == (message.id, 3, message.payload)
    assert dead.list() == []


def test_given_a_dead_letter_of_a_policy_when_retried_then_its_executions_are_anew(buried, spool):
    dead.retry(buried(policy=RetryPolicy(4), executions_left=0).id)
    assert in_spool(spool)[0].executions_left == 4


def test_given_a_dead_letter_of_a_registered_task_when_retried_then_its_policy_counts(
    buried, spool
):
    engine.registry.add(TaskSpec("app.task", print, RetryPolicy(3)))
    dead.retry(buried(executions_left=0).id)
    assert in_spool(spool)[0].executions_left == 3


def test_given_a_dead_letter_of_a_task_of_elsewhere_when_retried_then_its_server_counts_anew(
    buried, spool
):
    dead.retry(buried(task="elsewhere.task", executions_left=0).id)
    message = in_spool(spool)[0]
    spec = TaskSpec("elsewhere.task", print, RetryPolicy(3))
    run, _ = runner.run(message, TaskExecutor.SPOOLER, lambda name: spec, lambda run: None)
    assert (run.message.attempt > 1, run.executions_left) == (True, 3)


def test_given_an_unreadable_letter_when_retried_then_it_is_refused_and_stays(buried):
    buried()
    site = engine.current().site()
    site.bury(a_letter("bad"), b"no message")
    with pytest.raises(NotAvailable, match="bad can't be retried"):
        dead.retry("bad")
    assert len(dead.list()) == 2


def test_given_a_letter_whose_message_was_changed_when_retried_then_it_is_refused(buried, spool):
    message = buried(content=b"UWT\x01changed")
    with pytest.raises(NotAvailable, match="can't be retried"):
        dead.retry(message.id)
    assert in_spool(spool) == []


def test_given_a_dead_letter_when_its_fields_are_listed_then_they_are_the_documented_ones():
    assert DeadLetter._fields == (
        "id",
        "task",
        "reason",
        "error",
        "traceback",
        "attempts",
        "dead_at",
        "queue",
        "spool",
        "has_message",
    )
