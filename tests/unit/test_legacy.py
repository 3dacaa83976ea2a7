"""Files of release 0.7.3: recognised by their variables, read only when allowed."""

from __future__ import annotations

import pickle
from datetime import datetime
from pathlib import Path

import pytest

from uwsgi_tasks import legacy, wire
from uwsgi_tasks.errors import WireError
from uwsgi_tasks.model import is_id
from uwsgi_tasks.retry import RetryPolicy

DATA = Path(__file__).parents[1] / "compat" / "data"
NAME = "uwsgi_spoolfile_on_host_11_22_33_1700000000_000001"
SAMPLES = sorted(path.stem for path in DATA.glob("*.spool"))


def sample(name):
    """Return what uWSGI gives its hook for one of the samples."""
    content = (DATA / f"{name}.spool").read_bytes()
    size = int.from_bytes(content[1:3], "little")
    found, at = {"spooler_task_name": NAME}, 4
    while at < 4 + size:
        pair = []
        for _ in range(2):
            length = int.from_bytes(content[at : at + 2], "little")
            pair.append(content[at + 2 : at + 2 + length])
            at += 2 + length
        found[pair[0]] = pair[1]
    if content[4 + size :]:
        found["body"] = content[4 + size :]
    return found


def message(name):
    return legacy.message_of(sample(name), NAME)


def test_given_the_samples_when_listed_then_there_are_some():
    assert len(SAMPLES) > 10


@pytest.mark.parametrize("name", SAMPLES)
def test_given_a_sample_when_looked_at_then_it_is_recognised(name):
    assert legacy.is_old(sample(name)) is True


@pytest.mark.parametrize("env", [{}, {b"args": b""}, {wire.MARK: b"1", "body": b""}], ids=str)
def test_given_another_file_when_looked_at_then_it_is_not_recognised(env):
    assert legacy.is_old(env) is False


@pytest.mark.parametrize("name", SAMPLES)
def test_given_a_sample_when_read_then_it_can_be_packed_and_has_an_id_of_its_own_file(name):
    found = message(name)
    assert is_id(found.id)
    assert found.id.startswith("1700000000000001000-")
    signer = wire.Signer([b"k" * 32])
    assert wire.unpack(wire.pack(found, signer), signer).payload == found.payload


@pytest.mark.parametrize(
    ("name", "args", "kwargs"),
    [
        ("plain", ("one", 2, 3.5, None), {}),
        ("plain_empty", (), {}),
        ("bytes", (b"\x00\xff", "é"), {}),
        ("bare", (1,), {}),
        ("retried", ("a",), {"b": 1}),
        ("chained", ("second",), {"step": 2}),
        ("mid_retry", ("a",), {"b": 2}),
    ],
)
def test_given_a_sample_when_read_then_it_has_its_arguments(name, args, kwargs):
    assert wire.load_arguments(message(name)) == (args, kwargs)


@pytest.mark.parametrize(
    ("name", "at"),
    [("plain", 0.0), ("at_stamp", 4000000000.0)],
)
def test_given_a_sample_when_read_then_it_is_due_at_its_moment(name, at):
    assert message(name).at == at


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        ("plain", None),
        ("retried", RetryPolicy(3, 5.0)),
        ("retried_delta", RetryPolicy(3, 120.0)),
    ],
)
def test_given_a_sample_when_read_then_it_has_its_retries(name, policy):
    assert message(name).policy == policy


def test_given_a_sample_in_the_midst_of_its_retries_when_read_then_its_buffer_is_there():
    found = message("mid_retry")
    buffer = wire.load(found.buffer, "pickle")
    assert buffer == {"seen": ["first"], "when": datetime(2024, 2, 29, 12, 0)}
    assert type(buffer) is dict


@pytest.mark.parametrize("name", ["returns_code", "retried"])
def test_given_a_sample_whose_codes_count_when_read_then_they_are_read(name):
    assert message(name).reads_codes is True


def test_given_arguments_in_the_body_when_read_then_they_are_those():
    env = sample("plain")
    env["body"] = pickle.dumps({"args": ("x" * 200_000,), "kwargs": {"k": 1}}, 2)
    assert wire.load_arguments(legacy.message_of(env, NAME)) == (("x" * 200_000,), {"k": 1})


@pytest.mark.parametrize("key", [b"args", b"kwargs", b"setup"])
@pytest.mark.parametrize("value", [b"", b"garbage", b"cno_such_module\nthing\n."])
def test_given_a_part_that_cannot_be_read_when_read_then_it_is_told(key, value):
    with pytest.raises(WireError, match=r"0\.7\.3 can't be read"):
        legacy.message_of({**sample("plain"), key: value}, NAME)


@pytest.mark.parametrize("name", ["odd", "uwsgi_spoolfile_on_x", "a_b_c", ""])
def test_given_a_name_of_another_form_when_read_then_the_id_is_still_one(name):
    first, second = (legacy.message_of(sample("plain"), name) for _ in range(2))
    assert is_id(first.id)
    assert first.id == second.id


def test_given_spools_when_the_server_starts_then_files_one_level_down_are_listed_too(tmp_path):
    (tmp_path / "5").mkdir()
    for name in ("uwsgi_spoolfile_on_a", "5/uwsgi_spoolfile_on_b", "other"):
        (tmp_path / name).write_text("")
    found = legacy.old_files([str(tmp_path)])
    assert found == {"uwsgi_spoolfile_on_a", "uwsgi_spoolfile_on_b"}
