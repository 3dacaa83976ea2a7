"""Settings: which place wins, what each accepts, and what is never shown."""

from __future__ import annotations

import os
from datetime import timedelta

import pytest

from uwsgi_tasks import config, engine
from uwsgi_tasks.config import Settings
from uwsgi_tasks.errors import ConfigError

SECRET = "a-secret-of-this-test"

# name: a value as configure() takes it, as a text, and what both mean
VALUES = {
    "home": ("/srv/home", "/srv/home", "/srv/home"),
    "spooler": ("/srv/spool", "/srv/spool", "/srv/spool"),
    "secret": ([SECRET], SECRET, (SECRET,)),
    "serializer": ("json", "json", "json"),
    "executor": ("mule", "mule", "mule"),
    "strict": (True, "true", True),
    "accept_unsigned": (True, "1", True),
    "naive_at": ("utc", "utc", "utc"),
    "max_attempts": (7, "7", 7),
    "unknown_grace": (1.5, "1.5", 1.5),
    "queues": ({"mail": "/srv/mail"}, '{"mail": "/srv/mail"}', (("mail", "/srv/mail"),)),
    "max_crashes": (5, "5", 5),
    "max_interruptions": (9, "9", 9),
    "allowed_packages": (["shop", "mail"], "shop, mail", ("shop", "mail")),
    "max_message_bytes": (2048, "2K", 2048),
    "dead_max_count": (10, "10", 10),
    "dead_max_bytes": (3 << 20, "3M", 3 << 20),
    "dead_max_age": (timedelta(days=2), "172800", 172800.0),
    "durability": ("disk", "disk", "disk"),
    "max_tasks": (100, "100", 100),
    "max_rss": (200 << 20, "200M", 200 << 20),
    "history": (False, "off", False),
    "history_max_age": (timedelta(days=1), "86400", 86400.0),
    "history_max_count": (500, "500", 500),
    "store_results": (True, "yes", True),
    "max_result_bytes": (4096, "4K", 4096),
    "keep_logs": (0, "0", 0),
}


def load(configured=None, environ=None, options=None):
    checked = config.check(configured or {})
    return config.load(checked, (options or {}).get, environ or {})


def variable(name):
    return f"UWSGITASKS_{name.upper()}"


def placeholder(name):
    return f"tasks-{name.replace('_', '-')}"


def test_given_the_settings_when_listed_then_this_table_has_each():
    assert set(VALUES) == set(Settings._fields)


def test_given_nothing_when_loaded_then_all_are_defaults():
    found = load()
    assert (found.settings, set(found.sources.values())) == (Settings(), {"default"})


@pytest.mark.parametrize("name", VALUES)
def test_given_configure_when_loaded_then_it_holds_and_is_the_source(name):
    value, _, expected = VALUES[name]
    found = load({name: value})
    assert (getattr(found.settings, name), found.sources[name]) == (expected, "configure()")


@pytest.mark.parametrize("name", VALUES)
def test_given_a_variable_of_the_environment_when_loaded_then_it_holds_and_is_the_source(name):
    _, text, expected = VALUES[name]
    found = load(environ={variable(name): text})
    assert (getattr(found.settings, name), found.sources[name]) == (expected, variable(name))


@pytest.mark.parametrize("name", VALUES)
def test_given_a_placeholder_of_the_ini_when_loaded_then_it_holds_and_is_the_source(name):
    _, text, expected = VALUES[name]
    found = load(options={placeholder(name): text})
    source = f"uwsgi.ini: set-ph = {placeholder(name)}"
    assert (getattr(found.settings, name), found.sources[name]) == (expected, source)


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        (("configured", "environ", "options"), 1),
        (("environ", "options"), 2),
        (("options",), 3),
        (("configured", "options"), 1),
        ((), 1000),
    ],
    ids=str,
)
def test_given_several_places_when_loaded_then_the_first_of_the_order_wins(places, expected):
    given = {
        "configured": {"max_attempts": 1},
        "environ": {"UWSGITASKS_MAX_ATTEMPTS": "2"},
        "options": {"tasks-max-attempts": "3"},
    }
    found = load(**{place: given[place] for place in places})
    assert found.settings.max_attempts == expected


def test_given_one_setting_of_each_place_when_loaded_then_all_hold():
    found = load({"strict": True}, {"UWSGITASKS_EXECUTOR": "mule"}, {"tasks-serializer": "json"})
    assert found.settings == Settings(strict=True, executor="mule", serializer="json")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *[(word, True) for word in ("1", "true", "True", "yes", "ON", "")],
        *[(word, False) for word in ("0", "false", "no", "Off")],
    ],
)
def test_given_a_word_for_a_flag_when_loaded_then_it_is_true_or_false(text, expected):
    assert load(options={"tasks-strict": text}).settings.strict is expected


BAD = [
    ("home", 5, "path|str"),
    ("home", "", "path"),
    ("home", b"/bytes", "path"),
    ("spooler", [], "path|str"),
    ("secret", "short", "16 characters"),
    ("secret", [SECRET, "short"], "16 characters"),
    ("secret", 5, "iterable|16 characters"),
    ("serializer", "yaml", "pickle, json"),
    ("executor", "celery", "auto, spooler, mule, runtime"),
    ("strict", "perhaps", "true or false"),
    ("strict", 1, "true or false"),
    ("accept_unsigned", None, "true or false"),
    ("naive_at", "rome", "local, utc"),
    ("max_attempts", 0, "whole number from 1"),
    ("max_attempts", "many", "many"),
    ("max_attempts", 2.5, "whole number"),
    ("max_attempts", True, "whole number"),
    ("unknown_grace", -1, "seconds"),
    ("unknown_grace", "nan", "seconds"),
    ("unknown_grace", "soon", "soon"),
    ("unknown_grace", True, "seconds"),
    ("queues", "{", "Expecting"),
    ("queues", "[]", "mapping|items"),
    ("queues", {"mail": ""}, "mapping"),
    ("queues", {"": "/srv"}, "mapping"),
    ("queues", {"mail": 5}, "mapping"),
    ("queues", 5, "iterable|mapping"),
    ("max_crashes", 0, "whole number from 1"),
    ("max_crashes", None, "whole number"),
    ("max_crashes", "few", "few"),
    ("max_interruptions", 1.5, "whole number"),
    ("max_interruptions", "-1", "whole number"),
    ("allowed_packages", "", "names of packages"),
    ("allowed_packages", "shop,,mail", "names of packages"),
    ("allowed_packages", ["shop", " "], "names of packages"),
    ("allowed_packages", 5, "iterable|names"),
    ("allowed_packages", [5], "strip|names"),
    ("max_message_bytes", 0, "number of bytes"),
    ("max_message_bytes", -5, "number of bytes"),
    ("max_message_bytes", 1.5, "number of bytes"),
    ("max_message_bytes", True, "number of bytes"),
    ("max_message_bytes", None, "number of bytes"),
    ("max_message_bytes", "", "'200M'"),
    ("max_message_bytes", "M", "'200M'"),
    ("max_message_bytes", "5T", "'200M'"),
    ("max_message_bytes", "5KK", "'200M'"),
    ("max_message_bytes", "-5K", "'200M'"),
    ("max_message_bytes", "1.5M", "'200M'"),
    ("dead_max_count", 0, "whole number from 1"),
    ("dead_max_bytes", "many", "number of bytes"),
    ("dead_max_age", -1, "seconds"),
    ("dead_max_age", "inf", "seconds"),
    ("durability", "tape", "os, disk, memory"),
    ("durability", None, "os, disk, memory"),
    ("max_tasks", -1, "whole number from 1"),
    ("max_tasks", "many", "many"),
    ("max_tasks", True, "whole number"),
    ("max_rss", "-1", "number of bytes"),
    ("max_rss", 1.5, "number of bytes"),
]


@pytest.mark.parametrize(("name", "value", "told"), BAD, ids=repr)
def test_given_a_value_that_cannot_be_meant_when_configured_then_the_error_tells(name, value, told):
    with pytest.raises(ConfigError, match=rf"configure\(\): {name}=.*({told})"):
        config.check({name: value})


@pytest.mark.parametrize(("name", "value", "told"), [b for b in BAD if isinstance(b[1], str)])
def test_given_a_bad_value_in_the_environment_when_loaded_then_the_variable_is_named(
    name, value, told
):
    with pytest.raises(ConfigError, match=variable(name)):
        load(environ={variable(name): value})


def test_given_a_bad_value_in_the_ini_when_loaded_then_the_placeholder_is_named():
    with pytest.raises(ConfigError, match="tasks-max-attempts: max_attempts='many'"):
        load(options={"tasks-max-attempts": "many"})


def test_given_an_unknown_setting_when_configured_then_the_near_one_is_suggested():
    with pytest.raises(ConfigError, match="no setting 'serialiser', did you mean 'serializer'"):
        config.check({"serialiser": "json"})


def test_given_a_setting_like_no_other_when_configured_then_all_are_listed():
    with pytest.raises(ConfigError, match="Settings: home, spooler, secret"):
        config.check({"zzz": 1})


def test_given_a_secret_that_is_too_short_when_refused_then_it_is_not_shown():
    with pytest.raises(ConfigError) as caught:
        config.check({"secret": "tiny-secret"})
    assert "tiny-secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, ()),
        (SECRET, (SECRET,)),
        (f"{SECRET},{SECRET}-new", (SECRET, f"{SECRET}-new")),
        ((SECRET.encode(),), (SECRET,)),
    ],
)
def test_given_a_secret_when_checked_then_it_is_a_list_of_keys(value, expected):
    assert config.check({"secret": value}) == {"secret": expected}


def test_given_a_relative_home_when_checked_then_it_is_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config.check({"home": "here"}) == {"home": str(tmp_path / "here")}


def test_given_a_timedelta_of_grace_when_checked_then_it_is_seconds():
    assert config.check({"unknown_grace": timedelta(minutes=2)}) == {"unknown_grace": 120.0}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (5, 5),
        ("1", 1),
        ("7b", 7),
        ("2k", 2048),
        ("2KB", 2048),
        ("200M", 200 << 20),
        ("200mb", 200 << 20),
        (" 1G ", 1 << 30),
        ("4gb", 4 << 30),
    ],
)
def test_given_a_number_of_bytes_when_checked_then_units_are_powers_of_1024(value, expected):
    assert config.check({"max_message_bytes": value}) == {"max_message_bytes": expected}


@pytest.mark.parametrize("name", ["max_tasks", "max_rss"])
@pytest.mark.parametrize("value", [None, 0, "0", ""], ids=repr)
def test_given_nothing_as_a_limit_of_a_process_when_checked_then_there_is_none(name, value):
    assert config.check({name: value}) == {name: None}


@pytest.mark.parametrize("value", ["*", ["*"], ("*",)])
def test_given_a_star_as_package_when_checked_then_it_is_taken(value):
    assert config.check({"allowed_packages": value}) == {"allowed_packages": ("*",)}


def test_given_an_environment_that_changed_when_put_back_then_it_is_as_before(monkeypatch):
    monkeypatch.setenv("OF_THIS_TEST", "before")
    monkeypatch.setenv("TO_BE_REMOVED", "there")
    before = config.environment()
    assert config.is_environment_changed(before) is False
    monkeypatch.setenv("OF_THIS_TEST", "after")
    monkeypatch.delenv("TO_BE_REMOVED")
    monkeypatch.setenv("NEW", "\udcff")
    assert config.is_environment_changed(before) is True
    config.put_environment_back(before)
    assert config.is_environment_changed(before) is False
    assert (os.environ["OF_THIS_TEST"], os.environ["TO_BE_REMOVED"]) == ("before", "there")
    assert os.environ.get("NEW") is None


def test_given_a_link_to_a_spool_when_tied_to_a_queue_then_the_real_directory_is_meant(tmp_path):
    (tmp_path / "real").mkdir()
    os.symlink(tmp_path / "real", tmp_path / "link")
    found = config.check({"queues": {"mail": str(tmp_path / "link")}})
    assert found == {"queues": (("mail", str(tmp_path / "real")),)}


def test_given_two_calls_of_configure_when_settings_are_used_then_they_add_up():
    engine.configure(strict=True)
    engine.configure(serializer="json")
    assert engine.current().settings == Settings(strict=True, serializer="json")


def test_given_a_wrong_setting_when_configured_then_the_right_one_beside_it_is_not_kept():
    with pytest.raises(ConfigError):
        engine.configure(strict=True, serializer="yaml")
    assert engine.current().settings == Settings()
