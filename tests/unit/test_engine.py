"""Where a call goes: the chain of executors, its warnings, and what is refused."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import pytest

from tests.support.messages import a_message
from uwsgi_tasks import engine, places, wire
from uwsgi_tasks.errors import MessageTooBig, NotAvailable, OptionValueError, QueueFull
from uwsgi_tasks.executors import network
from uwsgi_tasks.model import Placement, TaskExecutor, TaskSpec
from uwsgi_tasks.retry import RetryPolicy

AUTO, SPOOLER, MULE, RUNTIME = TaskExecutor
RUNS: list[object] = []


def work(*args):
    RUNS.append(args)
    return "worked"


@pytest.fixture(autouse=True)
def registered():
    RUNS.clear()
    engine.registry.add(TaskSpec("app.task", work))


def submit(executor=AUTO, message=None, **placement):
    return engine.current().submit(message or a_message(), Placement(executor, **placement))


def files(spool):
    return sorted(path.name for path in Path(spool).glob("uwsgi_spoolfile_on_*"))


# the chain


@pytest.mark.parametrize(
    ("spooler", "mules", "asked", "expected"),
    [
        (True, 1, AUTO, SPOOLER),
        (True, 0, AUTO, SPOOLER),
        (False, 1, AUTO, MULE),
        (False, 0, AUTO, RUNTIME),
        (True, 1, SPOOLER, SPOOLER),
        (False, 1, SPOOLER, MULE),
        (False, 0, SPOOLER, RUNTIME),
        (True, 1, MULE, MULE),
        (True, 0, MULE, SPOOLER),
        (False, 0, MULE, RUNTIME),
        (True, 1, RUNTIME, RUNTIME),
    ],
)
def test_given_these_processes_when_submitted_then_the_first_of_the_chain_takes_it(
    fake, spool, spooler, mules, asked, expected
):
    server = fake(spoolers=[spool] if spooler else [], mules=mules)
    assert submit(asked).executor == expected
    assert (len(files(spool)), len(server.queue), len(RUNS)) == (
        expected == SPOOLER,
        expected == MULE,
        expected == RUNTIME,
    )


@pytest.mark.parametrize(
    ("asked", "told"),
    [(SPOOLER, "spooler = /path/of/a/directory"), (MULE, "mule = true")],
)
def test_given_a_fall_back_when_submitted_twice_then_one_warning_names_the_ini_line(
    fake, caplog, asked, told
):
    fake(spoolers=[])
    submit(asked)
    submit(asked)
    warnings = [record for record in caplog.records if told in record.getMessage()]
    assert [(record.levelname, record.action, record.task) for record in warnings] == [
        ("WARNING", "fallback", "app.task")
    ]


def test_given_auto_when_it_goes_down_the_chain_then_nothing_is_warned_of(fake, caplog):
    fake(spoolers=[])
    submit(AUTO)
    assert caplog.records == []


def test_given_no_server_when_submitted_then_it_runs_here_and_nothing_is_warned_of(caplog):
    with caplog.at_level(logging.WARNING):
        assert submit(SPOOLER).outcome.result == "worked"
    assert caplog.records == []


def test_given_no_master_when_submitted_then_the_warning_names_it(fake, caplog):
    fake(spoolers=[], master=False)
    submit(SPOOLER)
    assert "add `master = true`" in caplog.text


@pytest.mark.parametrize("executor", ["spooler", "mule", "runtime"])
def test_given_the_setting_executor_when_auto_is_submitted_then_it_decides(fake, executor):
    fake(mules=1, settings={"executor": executor})
    assert submit(AUTO).executor.name.lower() == executor


@pytest.mark.parametrize("asked", [SPOOLER, MULE])
@pytest.mark.parametrize(
    ("settings", "said", "refused"),
    [
        ({"strict": True}, None, True),
        ({}, True, True),
        ({"strict": True}, False, False),
        ({}, None, False),
    ],
)
def test_given_strict_when_its_executor_is_missing_then_it_is_refused(
    fake, asked, settings, said, refused
):
    fake(spoolers=[], settings=settings)
    if not refused:
        assert submit(asked, strict=said).executor == RUNTIME
        return
    with pytest.raises(NotAvailable, match=r"Task app\.task: there is no"):
        submit(asked, strict=said)
    assert RUNS == []


# mules


@pytest.mark.parametrize("spooler", [True, False])
def test_given_a_full_queue_when_submitted_then_the_spooler_gets_it_or_the_caller_is_told(
    fake, spool, spooler
):
    fake(spoolers=[spool] if spooler else [], mules=1).room = 0
    if spooler:
        assert submit(MULE).executor == SPOOLER
        return
    with pytest.raises(QueueFull):
        submit(MULE)
    assert RUNS == []


@pytest.mark.parametrize("spooler", [True, False])
def test_given_a_message_too_big_for_a_mule_when_submitted_then_the_spooler_gets_it_or_it_is_told(
    fake, spool, spooler
):
    server = fake(spoolers=[spool] if spooler else [], mules=1)
    message = a_message(args=["x" * 70_000])
    if spooler:
        assert submit(MULE, message).executor == SPOOLER
        return
    with pytest.raises(MessageTooBig, match="a mule takes 65536"):
        submit(MULE, message)
    assert (RUNS, server.queue) == ([], [])


def test_given_a_message_that_just_fits_when_submitted_then_the_mule_gets_it(fake):
    server = fake(mules=1)
    size = len(wire.pack(a_message(args=[""]), engine.current().site().signer))
    submit(MULE, a_message(args=["x" * (65536 - size - 3)]))
    assert 65500 < len(server.queue[0][0]) <= 65536


def test_given_a_farm_when_submitted_then_the_mules_of_that_name_get_it(fake):
    server = fake(mules=1)
    submit(MULE, mule="farm")
    assert server.queue[0][1] == b"farm"


def test_given_an_unknown_farm_when_submitted_then_the_ini_line_is_named(fake):
    fake(mules=1)
    with pytest.raises(OptionValueError, match="farm = nowhere:1,2"):
        submit(MULE, mule="nowhere")


def test_given_a_mule_that_announced_itself_when_submitted_then_it_gets_it(fake):
    server = fake(mules=2)
    this = engine.current()
    this.site().home.announce_mule(2, this.server.incarnation)
    submit(MULE, mule=2)
    assert server.queue[0][1] == 2


def test_given_a_mule_that_is_not_there_when_submitted_then_it_never_reaches_uwsgi(
    fake, monkeypatch
):
    server = fake(mules=1)
    monkeypatch.setattr(places, "MULE_START_S", 0.0)
    with pytest.raises(OptionValueError, match="mule=9: there is no such mule"):
        submit(MULE, mule=9)
    assert server.queue == []


# lazy-apps


def test_given_lazy_apps_when_no_spooler_loaded_the_tasks_then_the_warning_names_the_cure(
    fake, caplog
):
    fake(preloaded=False, lazy_apps=True)
    assert submit(SPOOLER).executor == RUNTIME
    assert "spooler-import = MODULE" in caplog.text


def test_given_lazy_apps_when_a_spooler_announced_itself_then_it_gets_the_task(fake):
    fake(preloaded=False, lazy_apps=True)
    this = engine.current()
    this.site().home.announce(f"spooler-{this.server.incarnation}")
    assert submit(SPOOLER).executor == SPOOLER


# spoolers


@pytest.fixture
def two_spools(fake, tmp_path):
    paths = [tmp_path / "one", tmp_path / "two"]
    [path.mkdir() for path in paths]
    return fake, [str(path) for path in paths]


@pytest.mark.parametrize("index", [0, 1])
def test_given_two_spoolers_when_one_is_named_then_the_file_lies_there(two_spools, index):
    fake, paths = two_spools
    fake(spoolers=paths)
    assert submit(SPOOLER, spooler=paths[index]).spool == paths[index]
    assert [len(files(path)) for path in paths] == [index == 0, index == 1]


def test_given_an_unknown_spooler_when_named_then_the_known_ones_are_listed(two_spools):
    fake, paths = two_spools
    fake(spoolers=paths)
    with pytest.raises(OptionValueError, match=rf"no spooler of this server.*{paths[1]}"):
        submit(SPOOLER, spooler="/elsewhere")


def test_given_a_queue_that_is_tied_to_a_spooler_when_submitted_then_the_file_lies_there(
    two_spools,
):
    fake, paths = two_spools
    fake(spoolers=paths, settings={"queues": (("mail", paths[1]),)})
    assert submit(SPOOLER, a_message(queue="mail")).spool == paths[1]
    assert submit(SPOOLER, a_message(queue="other")).spool == paths[0]


def test_given_a_queue_that_is_tied_to_no_spooler_when_submitted_then_it_is_told(fake):
    fake(settings={"queues": (("mail", "/elsewhere"),)})
    with pytest.raises(OptionValueError, match=r"'mail'.*/elsewhere"):
        submit(SPOOLER, a_message(queue="mail"))


def test_given_a_spool_that_takes_no_file_when_submitted_then_nothing_is_left_and_it_is_told(
    two_spools, tmp_path
):
    fake, paths = two_spools
    fake(spoolers=paths)
    os.rename(paths[1], tmp_path / "away")
    with pytest.raises(NotAvailable, match="nothing was submitted"):
        submit(SPOOLER, spooler=paths[1])
    assert ([*files(paths[0]), *files(tmp_path / "away")], RUNS) == ([], [])


def test_given_a_spool_that_was_removed_when_submitted_then_it_is_told_until_it_is_back(
    fake, spool, tmp_path
):
    fake()
    submit(SPOOLER)
    os.rename(spool, tmp_path / "away")
    with pytest.raises(NotAvailable, match=spool):
        submit(SPOOLER)
    assert (len(files(tmp_path / "away")), RUNS) == (1, [])
    os.rename(tmp_path / "away", spool)
    submit(SPOOLER)
    assert len(files(spool)) == 2


def test_given_a_later_moment_when_submitted_then_it_waits_in_the_store(fake, spool):
    fake()
    due = time.time() + 60
    submit(SPOOLER, a_message(at=due))
    assert (files(spool), engine.current().site().store.next_due()) == ([], due)


def test_given_a_priority_when_submitted_then_one_file_enters_and_the_others_wait(fake, spool):
    fake()
    for priority in (5.0, 1.0, 3.0):
        submit(SPOOLER, a_message(priority=priority))
    assert len(files(spool)) == 1
    assert engine.current().site().home.priorities_wait() is True


def test_given_waiting_priorities_when_an_ordinary_task_comes_then_it_queues_as_a_hundred(
    fake, spool
):
    fake()
    submit(SPOOLER, a_message(priority=5.0))
    submit(SPOOLER, a_message())
    site = engine.current().site()
    assert [row.priority for row in site.store.most_urgent(spool, 9)] == [100.0]


# over the network


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("uwsgi://127.0.0.1:3031", ("127.0.0.1", 3031)),
        ("uwsgi://host.example:1", ("host.example", 1)),
        ("uwsgi://[::1]:3031", ("::1", 3031)),
        ("uwsgi:///run/app.sock", "/run/app.sock"),
    ],
)
def test_given_an_address_when_parsed_then_it_is_a_host_and_port_or_a_path(address, expected):
    assert network.parse(address) == expected


def test_given_no_common_secret_when_sent_over_the_network_then_it_is_refused(fake):
    fake()
    with pytest.raises(NotAvailable, match="UWSGITASKS_SECRET"):
        submit(spooler="uwsgi://127.0.0.1:1")


def test_given_nobody_there_when_sent_over_the_network_then_it_is_told(fake, tmp_path):
    fake(settings={"secret": ("the-secret-of-both-sides",)})
    with pytest.raises(NotAvailable, match="can't be reached"):
        submit(spooler=f"uwsgi://{tmp_path}/no.sock")


def test_given_a_message_over_a_packet_when_sent_over_the_network_then_it_is_too_big(fake):
    fake(settings={"secret": ("the-secret-of-both-sides",)})
    with pytest.raises(MessageTooBig, match="a uwsgi packet takes"):
        submit(message=a_message(args=["x" * 66_000]), spooler="uwsgi://127.0.0.1:1")


# settled


def process(function, executor=SPOOLER, spool="", message=None, **spec):
    engine.registry.add(TaskSpec("app.task", function, **spec))
    this = engine.current()
    this.process(message or a_message(), executor, spool)
    return this.site()


def fails():
    RUNS.append("fails")
    raise KeyError("no")


def test_given_a_task_that_succeeds_when_processed_then_the_store_is_not_even_opened(fake, spool):
    fake()
    engine.current().require_site().history.journal.begin(0)  # as each process that takes messages
    site = process(work, spool=spool)
    assert not os.path.exists(site.home.file("store.db"))


def test_given_a_task_that_fails_when_processed_then_a_letter_tells_its_story(fake, spool):
    fake()
    (letter,) = process(fails, spool=spool).letters.list()
    assert (letter.task, letter.error, letter.spool) == ("app.task", "KeyError: 'no'", spool)
    assert "in fails" in letter.traceback
    assert [attempt["attempt"] for attempt in letter.attempts] == [1]


def test_given_a_retry_at_once_when_processed_in_a_spooler_then_its_file_lies_there(fake, spool):
    fake()
    process(fails, spool=spool, policy=RetryPolicy(2))
    assert [name.rpartition(".")[2] for name in files(spool)] == ["2"]


def test_given_a_retry_with_a_wait_when_processed_then_it_waits_that_long(fake, spool):
    fake()
    before = time.time()
    site = process(fails, spool=spool, policy=RetryPolicy(2, wait=60.0))
    assert before + 60 <= site.store.next_due() <= time.time() + 60


def test_given_a_retry_at_once_when_processed_in_a_mule_then_it_runs_there_again(fake):
    fake(mules=1)
    site = process(fails, MULE, policy=RetryPolicy(3))
    (letter,) = site.letters.list()
    assert (len(RUNS), len(letter.attempts)) == (3, 3)


def test_given_a_task_that_never_stops_retrying_when_processed_then_twenty_attempts_are_kept(fake):
    fake(mules=1, settings={"max_attempts": 30})
    (letter,) = process(fails, MULE, policy=RetryPolicy(99)).letters.list()
    assert [attempt["attempt"] for attempt in letter.attempts] == list(range(11, 31))
    assert "max_attempts=30" in letter.reason


def test_given_max_attempts_of_the_task_when_processed_then_it_counts_before_the_setting(fake):
    fake(mules=1)
    process(fails, MULE, policy=RetryPolicy(99), max_attempts=2)
    assert len(RUNS) == 2


def test_given_a_retry_meant_as_for_ever_when_processed_then_the_next_attempt_is_there(fake, spool):
    fake()
    process(fails, spool=spool, policy=RetryPolicy(10**12))
    assert len(files(spool)) == 1


def test_given_an_unknown_task_when_processed_then_it_waits_and_is_not_yet_dead(fake, spool):
    fake()
    this = engine.current()
    this.process(a_message("nowhere.task"), SPOOLER, spool)
    assert this.site().letters.list() == []
    assert time.time() < this.site().store.next_due() <= time.time() + 5


def test_given_an_unknown_task_when_its_grace_is_over_then_it_is_dead(fake, spool):
    fake()
    this = engine.current()
    this.process(a_message("nowhere.task", first_unknown_at=time.time() - 61), SPOOLER, spool)
    (letter,) = this.site().letters.list()
    assert letter.reason == "unknown task"


def test_given_arguments_that_do_not_load_when_processed_then_it_is_dead(fake, spool):
    fake()
    site = process(work, spool=spool, message=a_message()._replace(payload=b"garbage"))
    assert [letter.reason for letter in site.letters.list()] == ["its arguments don't load"]
