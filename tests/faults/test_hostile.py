"""Hostile input at every door: nothing of it runs, nothing loops, and the processes live on."""

from __future__ import annotations

import itertools
import os
import pickle
import re

import pytest

from tests.faults import forgery
from tests.support import processes
from tests.support.ledger import wait_until
from uwsgi_tasks import wire
from uwsgi_tasks.model import new_id

MUTATIONS = 2000
KEPT = 60
APP = """
import uwsgi
from uwsgi_tasks import control, get_current_task, sweeping, task, TaskExecutor, timekeeper

timekeeper._SWEEP_EVERY_S = timekeeper._LONGEST_SLEEP_S = timekeeper._PRUNE_EVERY_S = 0.3
sweeping._YOUNG_S = 0.5

@task(executor=TaskExecutor.SPOOLER)
def takes(*args):
    note("ran", args=repr(args)[:100])

@task(executor=TaskExecutor.MULE)
def muled(*args):
    note("ran", args=repr(args)[:100])

def feed(mule, messages):
    "Queue what there is room for; return how many."
    texts = list(messages)
    for number, text in enumerate(texts):
        if not uwsgi.mule_msg(bytes.fromhex(text), mule):
            return number
    return len(texts)
"""
LINES = ("mule = true", "socket = {dir}/uwsgi.sock", "buffer-size = 65535", "spooler-quiet = true")
OUTSIDER = """
import os
os.mkdir(os.path.join(os.environ["TEST_DIR"], "imported"))
from app_base import note
from uwsgi_tasks import task

@task(executor="spooler")
def does(*args):
    note("ran", args=repr(args))
"""


@pytest.fixture(scope="module")
def shared(module_uwsgi):
    """A server that moves hostile files away at once, and waits for no unknown task."""
    env = {"UWSGITASKS_UNKNOWN_GRACE": "0"}
    return module_uwsgi(APP, *LINES, env=env, files={"outsider.py": OUTSIDER})


@pytest.fixture
def server(shared):
    """The shared server, which has to survive each test with the same processes."""
    wait_until(lambda: shared.pids("spooler") and shared.pids("mule"), what="both are there")
    before = shared.pids("spooler"), shared.pids("mule")
    yield shared
    assert (shared.pids("spooler"), shared.pids("mule")) == before
    tag = new_id()
    shared.call("takes", tag)
    shared.ledger.wait_one("ran", args=f"({tag!r},)")


def new_letters(server, before, count=1):
    """Wait for so many dead letters that weren't there before; return them."""

    def found():
        there = server.letters()
        new = [letter for ident, letter in there.items() if ident not in before]
        return new if len(new) >= count else None

    return wait_until(found, what=f"{count} dead letters")


def lines_about(server, text):
    return [line for line in server.log().splitlines() if text in line]


# many


def genuine_messages(server):
    signer = forgery.signer_of(server)
    crater = forgery.bomb(server)
    good = [forgery.envelope(signer, "app.takes", *args)[1] for args in ((), ("a" * 50,), (1, 2))]
    bad = [forgery.envelope(forgery.OTHER_KEY, "app.takes", crater)[1] for _ in range(3)]
    return good, bad


def test_given_2000_mutated_messages_at_every_door_when_all_were_seen_then_none_ran(uwsgi):
    env = {"UWSGITASKS_DEAD_MAX_COUNT": str(KEPT)}
    server = uwsgi(APP, *LINES, env=env)
    server.call("takes")
    server.ledger.wait_one("ran")  # the home is there
    before = server.pids("spooler"), server.pids("mule")
    made = forgery.mutations(*genuine_messages(server), seed=20261124)

    for number, data in enumerate(itertools.islice(made, MUTATIONS // 2)):
        whole = wire.spool_file(data)
        forgery.put(server, f"{new_id()}.{number % 3}", data if number % 10 == 0 else whole)
    for data in itertools.islice(made, MUTATIONS // 4):
        variables = {wire.MARK: b"1", wire.PACKET_KEY: data}
        assert forgery.send(server, forgery.packet(variables)) == b"\xff\x00\x00\x01"
    queue = [data.hex() for data in itertools.islice(made, MUTATIONS // 4)]
    while queue:
        taken = server.call("feed", 1, queue[:100])
        queue = queue[taken:]

    server.wait_empty(timeout=30)
    server.call("muled", "last")
    server.ledger.wait_one("ran", args="('last',)")
    assert len(server.ledger.rows("ran")) == 2
    assert not forgery.crater(server).exists()
    assert (server.pids("spooler"), server.pids("mule")) == before
    kept = server.home / "dead"
    wait_until(lambda: len(list(kept.glob("*.json"))) <= KEPT, what="the letters are bounded")
    told = re.findall(r"kept as dead letter ([0-9a-f]{36})", server.log())
    dropped = server.eval("control.counters()['dead_dropped']")
    assert len(set(told)) - KEPT <= dropped <= len(told)  # the same bytes are the same letter


def test_given_many_bad_files_when_found_then_each_is_handed_over_once(uwsgi):
    server = uwsgi(APP, "mule = true")  # uWSGI tells of each file that it takes
    server.call("takes")
    server.ledger.wait_one("ran")
    made = forgery.mutations(*genuine_messages(server), seed=7)
    names = [
        forgery.put(server, new_id(), wire.spool_file(data)).name
        for data in itertools.islice(made, 100)
    ]
    server.wait_empty()
    log = server.log()
    assert {log.count(f"managing request {name}") for name in names} == {1}


# what uWSGI passes over for ever


def make_link(server, path):
    secret = server.write("secret", "not for the dead letters")
    path.symlink_to(secret)


def make_fifo(server, path):
    os.mkfifo(path)


def make_short(server, path):
    path.write_bytes(b"\x11\x00")


def make_empty(server, path):
    path.touch()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (make_link, "it is a link"),
        (make_fifo, "it is no regular file"),
        (make_short, "it is too short for a message"),
        (make_empty, "it is too short for a message"),
    ],
)
def test_given_a_file_that_uwsgi_never_takes_when_swept_then_it_is_a_dead_letter(
    server, make, reason
):
    before = server.letters()
    path = server.spool / f"uwsgi_spoolfile_on_{new_id()}.1"
    make(server, path)
    (letter,) = new_letters(server, before)
    assert (letter["reason"], letter["has_message"]) == (reason, False)
    wait_until(lambda: not os.path.lexists(path))
    assert len(lines_about(server, path.name)) == 1


def test_given_a_link_when_swept_then_what_it_leads_to_is_left_alone(server):
    before = server.letters()
    path = server.spool / f"uwsgi_spoolfile_on_{new_id()}.1"
    make_link(server, path)
    (letter,) = new_letters(server, before)
    assert (server.dir / "secret").read_text() == "not for the dead letters"
    assert (server.home / "dead" / f"{letter['id']}.message").read_bytes() == b""
    assert "secret" in letter["error"]


def test_given_a_directory_with_a_tasks_name_when_others_come_then_it_harms_nobody(server):
    path = server.spool / f"uwsgi_spoolfile_on_{new_id()}.1"
    path.mkdir()
    before = server.letters()
    forgery.put(server, new_id(), b"xx")
    new_letters(server, before)  # the sweep went on behind it
    path.rmdir()


def test_given_a_file_that_cannot_be_moved_when_swept_then_the_others_are_moved(uwsgi):
    if os.stat("/dev/shm").st_dev == os.stat("/tmp").st_dev:
        pytest.skip("/dev/shm is no file system of its own")
    home = f"/dev/shm/uwsgi-tasks-test-{new_id()}"
    server = uwsgi(APP, *LINES, env={"UWSGITASKS_HOME": home})
    server.home = type(server.home)(home)
    try:
        for _ in range(3):
            forgery.put(server, new_id(), b"x")
        forgery.put(server, new_id(), b"\x11\x00\x00\x00" + bytes(80))
        new_letters(server, {}, 4)
        server.wait_empty()
        forgery.put(server, new_id(), wire.spool_file(wire.MAGIC + bytes(66 << 20)))
        new_letters(server, {}, 5)
        server.wait_empty()
    finally:
        server.close()
        __import__("shutil").rmtree(home)


# too big


def memory_of(pid):
    with open(f"/proc/{pid}/status") as file:
        return int(re.search(r"VmRSS:\s+(\d+) kB", file.read())[1]) >> 10


@pytest.mark.parametrize("start", [wire.spool_file(b"UWT\x01"), b""], ids=["marked", "foreign"])
def test_given_a_sparse_file_of_96_mb_when_found_then_it_costs_one_line_and_no_memory(uwsgi, start):
    server = uwsgi(
        "from uwsgi_tasks import task, timekeeper\n"
        "timekeeper.Timekeeper._clean = lambda self, now: None  # the spooler comes first\n"
        "@task(executor='spooler')\n"
        "def takes(number):\n"
        "    note('ran', number=number)\n",
        "spooler-quiet = true",
    )
    server.call("takes", 1)
    server.ledger.wait_one("ran", number=1)
    (pid,) = server.pids("spooler")
    before = memory_of(pid)
    with open(server.dir / "big", "wb") as file:
        file.write(start)
        file.truncate(96 << 20)
    path = server.spool / "uwsgi_spoolfile_on_big"
    (server.dir / "big").rename(path)
    forgery.wake(server)
    letter = server.wait_letter(timeout=20)
    server.wait_empty()
    server.call("takes", 2)
    server.ledger.wait_one("ran", number=2)
    assert letter["reason"] == "message too big"
    assert len(lines_about(server, path.name)) == 1
    assert server.pids("spooler") == [pid]
    wait_until(lambda: memory_of(pid) < before + 16, what="the memory came back")
    blocks = (server.home / "dead" / f"{letter['id']}.message").stat().st_blocks
    assert blocks * 512 < 1 << 20, "the sparse file was filled"


# doors that uWSGI opens


@pytest.mark.parametrize(
    ("name", "value"),
    [(b"priority", b"../../evil"), (b"spooler", b"/etc"), (b"spooler", b"../evil"), (b"at", b"-1")],
)
def test_given_a_forged_packet_with_a_way_out_of_the_spool_when_sent_then_nothing_runs(
    server, name, value
):
    ran = len(server.ledger.rows("ran"))
    _, data = forgery.envelope(forgery.OTHER_KEY, "app.takes", forgery.bomb(server))
    forgery.send(server, forgery.packet({wire.MARK: b"1", wire.PACKET_KEY: data, name: value}))
    server.wait_empty()
    assert not forgery.crater(server).exists()
    assert len(server.ledger.rows("ran")) == ran
    assert not any("uwsgi_spoolfile" in entry for entry in os.listdir("/etc"))


def test_given_a_genuine_message_in_many_copies_when_sent_then_it_runs_once(server):
    tag = new_id()
    _, data = forgery.envelope(forgery.signer_of(server), "app.takes", tag)
    for _ in range(5):
        forgery.send(server, forgery.packet({wire.MARK: b"1", wire.PACKET_KEY: data}))
        forgery.put(server, new_id(), wire.spool_file(data))
        server.call("feed", 1, [data.hex()])
    server.wait_empty()
    server.call("muled", "after")
    server.ledger.wait("ran", args="('after',)")
    assert len(server.ledger.rows("ran", args=f"({tag!r},)")) == 1


# lines of the log

FORGED = "FORGED everything is fine"


@pytest.mark.parametrize("text", [f"a\n{FORGED}", f"a\r{FORGED}", f"\x1b[2K\n{FORGED}\x07"])
def test_given_line_ends_in_names_and_tasks_when_logged_then_no_line_is_forged(server, text):
    before = server.letters()
    signer = forgery.signer_of(server)
    forgery.put(server, text, wire.spool_file(wire.MAGIC + bytes(200)))
    forgery.put(server, text + "short", b"x")
    forgery.put(server, text + "old", forgery.old_file(text, ()))
    forgery.put(server, text + "nobody's", forgery.packet({text.encode(): b"x"}))
    forgery.put_message(server, *forgery.envelope(signer, f"app.{text}"))
    forgery.put_message(
        server, *forgery.envelope(signer, "app.takes", queue=text, working_dir=text)
    )
    new_letters(server, before, 5)
    server.wait_empty()
    lines = re.split(r"[\n\r]", server.log())
    assert [line for line in lines if line.lstrip("\x1b[2K").startswith(FORGED)] == []


# what may be unpickled, imported and run


def test_given_an_unsigned_old_file_with_a_bomb_when_not_allowed_then_it_is_not_unpickled(server):
    before = server.letters()
    forgery.put(
        server, "old_1_2_3_1700000000_1", forgery.old_file("app.takes", forgery.bomb(server))
    )
    (letter,) = new_letters(server, before)
    assert "accept_unsigned" in letter["error"]
    assert not forgery.crater(server).exists()


@pytest.mark.parametrize("how", ["at the start", "later"])
def test_given_an_old_file_that_kills_when_allowed_then_it_kills_once_at_most(uwsgi, how):
    env = {"UWSGITASKS_ACCEPT_UNSIGNED": "true"}
    server = uwsgi(APP, *LINES, env=env, started=False)
    content = forgery.old_file("app.takes", forgery.Bomb(os._exit, 1))
    if how == "at the start":
        server.spool.mkdir()
        forgery.put(server, "old_1_2_3_1700000000_1", content)
    server.start()
    if how == "later":
        forgery.put(server, "old_1_2_3_1700000000_1", content)
    letter = server.wait_letter()
    server.wait_empty()
    server.call("takes", "good")
    server.ledger.wait_one("ran", args="('good',)")
    assert ("died" in letter["error"]) is (how == "at the start")
    spawned = lines_about(server, "spawned the uWSGI spooler")
    assert len(spawned) == (2 if how == "at the start" else 1)


@pytest.mark.parametrize("task", ["os.system", "os.mkdir", "posix.mkdir", "app.os.mkdir"])
def test_given_a_signed_message_that_names_no_task_when_found_then_nothing_is_called(server, task):
    argument = str(forgery.crater(server))
    text = f"mkdir {argument}" if task == "os.system" else argument
    ident, data = forgery.envelope(forgery.signer_of(server), task, text)
    forgery.put_message(server, ident, data)
    assert server.wait_letter(ident)["reason"] == "unknown task"
    assert not forgery.crater(server).exists()


@pytest.mark.parametrize("task", ["outsider.does", "outsider.sub.does"])
def test_given_a_module_of_no_package_of_the_server_when_named_then_it_is_not_imported(
    server, task
):
    ident, data = forgery.envelope(forgery.signer_of(server), task)
    forgery.put_message(server, ident, data)
    assert "allowed_packages" in server.wait_letter(ident)["error"]
    assert not (server.dir / "imported").exists()


@pytest.mark.parametrize("allowed", ["outsider", "other,*"])
def test_given_its_package_is_allowed_when_named_then_it_is_imported_and_runs(uwsgi, allowed):
    env = {"UWSGITASKS_ALLOWED_PACKAGES": allowed}
    server = uwsgi(APP, *LINES, env=env, files={"outsider.py": OUTSIDER})
    server.call("takes")
    server.ledger.wait_one("ran")
    forgery.put_message(server, *forgery.envelope(forgery.signer_of(server), "outsider.does", 5))
    server.ledger.wait_one("ran", args="(5,)")
    assert (server.dir / "imported").exists()


# other libraries

OTHERS = """
import uwsgi

def theirs(env):
    note("theirs", keys=sorted(repr(key) for key in env))
    return uwsgi.SPOOL_OK

def theirs_in_mule(data):
    note("theirs", data=repr(data))

uwsgi.spooler, uwsgi.mule_msg_hook = theirs, theirs_in_mule
"""


def test_given_another_librarys_hooks_when_messages_come_then_each_gets_its_own(uwsgi):
    server = uwsgi(OTHERS + APP, *LINES)
    server.call("takes", "ours")
    server.ledger.wait_one("ran", args="('ours',)")
    server.eval("uwsgi.spool({b'their': b'key'})")
    server.call("feed", 1, [b"their message".hex()])
    server.ledger.wait("theirs", count=2)
    forgery.put(server, new_id(), wire.spool_file(b"broken"))
    forgery.put(server, new_id(), wire.spool_file(wire.MAGIC + pickle.dumps(0)))
    server.call("feed", 1, [(wire.MAGIC + bytes(99)).hex()])
    new_letters(server, {}, 3)
    assert len(server.ledger.rows("theirs")) == 2
    assert all(processes.is_alive(pid) for pid in server.pids("spooler"))
