"""The Flask example on a real server: an application factory and tasks."""

from __future__ import annotations

import pytest

from tests.live import web
from tests.support.ledger import wait_until

pytest.importorskip("flask")


@pytest.fixture(scope="module")
def shop(module_uwsgi):
    return web.serve(module_uwsgi, "flask")


def outbox(server):
    path = server.dir / "shop" / "outbox.txt"
    return path.read_text().splitlines() if path.exists() else []


def wait_outbox(server, line, count=1):
    wait_until(lambda: outbox(server).count(line) >= count, 10.0, f"{line}\n{server.log()}")


def test_given_a_factory_when_a_page_calls_a_task_then_the_spooler_runs_it(shop):
    answer = web.post(shop, "/welcome", name="Ann & Bob", email="a@example.com")
    assert answer["executor"] == "SPOOLER"
    wait_outbox(shop, "a@example.com: Welcome: Dear Ann &amp; Bob, thank you!")


def test_given_a_task_that_fails_twice_when_a_page_calls_it_then_it_succeeds(shop):
    web.post(shop, "/purchase/7")
    wait_outbox(shop, "order 7 done at attempt 3")


def test_given_a_lazy_timer_when_a_page_starts_it_then_it_runs_twice(shop):
    web.post(shop, "/remind")
    wait_outbox(shop, "reminder", count=2)


def test_given_the_example_when_reloaded_then_tasks_run_again(uwsgi):
    server = web.serve(uwsgi, "flask")
    server.reload()
    web.wait_up(server)
    web.post(server, "/welcome", name="Ann", email="again@example.com")
    wait_outbox(server, "again@example.com: Welcome: Dear Ann, thank you!")


@pytest.mark.parametrize("more", ["shared-import = shop.views", "spooler-import = shop.tasks"])
def test_given_lazy_apps_when_the_tasks_are_imported_in_the_spooler_then_they_run(uwsgi, more):
    lines = [*web.ini_lines("flask"), "lazy-apps = true", more]
    server = web.serve(uwsgi, "flask", *lines)

    def goes_to_the_spooler():  # early calls run in the caller, until the spooler has said it is up
        answer = web.post(server, "/welcome", name="A", email="l@example.com")
        return answer["executor"] == "SPOOLER"

    wait_until(goes_to_the_spooler)
    wait_outbox(server, "l@example.com: Welcome: Dear A, thank you!")
