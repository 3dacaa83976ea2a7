"""Every example of the original README, in Python 3 syntax, as it stands, on a real server.

What an example leaves open with ``...`` is filled in before or after it, never inside, but for
the one line "make something with order id". The examples wait as long as they say (five and ten
seconds), so all of them run at once on one server; that is why these tests are slow. The examples
of the project's set-up run in ``tests/live/test_django.py``.
"""

from __future__ import annotations

import email
import re
import time
from itertools import pairwise

import pytest

from tests.support.ledger import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

MAIL = """
# myapp/__init__.py
from django.core.mail import send_mail
from uwsgi_tasks import task, TaskExecutor

@task(executor=TaskExecutor.SPOOLER)
def send_email_async(subject, body, email_to):
    # Execute task asynchronously on first available spooler
    return send_mail(subject, body, 'noreply@domain.com', [email_to])

...

def my_view():
    # Execute tasks asynchronously on first available spooler
    send_email_async('Welcome!', 'Thank you!', 'user@domain.com')
"""

WRAPPED = """
from functools import wraps
from uwsgi_tasks import task, TaskExecutor, SPOOL_OK, SPOOL_RETRY

def task_wrapper(func):
    @wraps(func)  # required!
    def _inner(*args, **kwargs):
        print('Task started with parameters:', args, kwargs)
        try:
            func(*args, **kwargs)
        except Exception as ex:  # example
            print('Exception is occurred', ex, 'repeat the task')
            return SPOOL_RETRY

        print('Task ended', func)
        return SPOOL_OK

    return _inner

@task(executor=TaskExecutor.SPOOLER, retry_count=3, retry_timeout=5)
@task_wrapper
def spooler_task(text):
    print('Hello, spooler! text =', text)
    raise Exception('Sorry, task failed!')
"""

PURCHASE = """
import logging
from uwsgi_tasks import RetryTaskException, task, TaskExecutor

@task(executor=TaskExecutor.SPOOLER, retry_count=2)
def process_purchase(order_id):

    try:
        # make something with order id
        charge(order_id)
    except Exception as ex:
        logging.exception('Something bad happened')
        # retry task in 10 seconds for the last time
        raise RetryTaskException(timeout=10)
"""
PURCHASE_REST = """
def charge(order_id):
    from app_base import note
    note("charge", order_id=order_id)
    raise IOError("the bank is closed")
"""

SCHEDULES = """
from uwsgi_tasks import *

@timer(seconds=5)
def print_every_5_seconds(signal_number):
    '''Prints string every 5 seconds

    Keep in mind: task is created on initialization.
    '''
    print('Task for signal', signal_number)

@timer(seconds=5, iterations=3, target='workers')
def print_every_5_seconds(signal_number):
    '''Prints string every 5 seconds 3 times'''
    print('Task with iterations for signal', signal_number)

@timer_lazy(seconds=5)
def print_every_5_seconds_after_call(signal_number):
    '''Prints string every 5 seconds'''
    print('Lazy task for signal', signal_number)

@cron(minute=-2)
def print_every_2_minutes(signal_number):
    print('Cron task:', signal_number)

@cron_lazy(minute=-2, target='mule')
def print_every_2_minutes_after_call(signal_number):
    print('Cron task:', signal_number)

...

def my_view():
   print_every_5_seconds_after_call()
   print_every_2_minutes_after_call()
"""

SEQUENTIAL_HEAD = """
import datetime, logging, os
from uwsgi_tasks import task, TaskExecutor

logger = logging.getLogger("readme")
logger.addHandler(logging.StreamHandler())
logger.setLevel(logging.INFO)
FOLDER = os.path.join(os.environ["TEST_DIR"], "to_remove")

def select_file_for_removal(previous):
    return next(iter(sorted(os.listdir(FOLDER))), None)

def del_file(name):
    from app_base import note
    note("del_file", name=name)
    locked = os.path.join(os.environ["TEST_DIR"], "locked")
    if os.path.exists(locked):
        os.remove(locked)
        raise IOError("it is locked")
    os.remove(os.path.join(FOLDER, name))
"""
SEQUENTIAL = """
from uwsgi_tasks import get_current_task

@task(executor=TaskExecutor.SPOOLER, at=datetime.timedelta(seconds=10))
def remove_files_sequentially(previous_selected_file=None):
    # get current SpoolerTask object
    current_task = get_current_task()

    selected_file = select_file_for_removal(previous_selected_file)

    # we should stop the task here
    if selected_file is None:
        logger.info('All files were removed')
        for filename, removed_at in current_task.buffer['results'].items():
            logger.info('File "%s" was removed at "%s"', filename, removed_at)
        for filename, error_message in current_task.buffer['errors'].items():
            logger.info('File "%s", error: "%s"', filename, error_message)
        return

    try:
        logger.info('Removing the file "%s"', selected_file)
        # ... remove the file ...
        del_file(selected_file)
    except IOError as ex:
        logger.exception('Cannot delete file "%s"', selected_file)

        # let's try to remove this one more time later
        io_errors = current_task.buffer.setdefault('errors', {}).get(selected_file)
        if not io_errors:
            current_task.buffer['errors'][selected_file] = str(ex)
            current_task.at = datetime.timedelta(seconds=20)
            return current_task(previous_selected_file)

    # save datetime of removal
    current_task.buffer.setdefault('results', {})[selected_file] = datetime.datetime.now()

    # run in async mode
    return current_task(selected_file)
"""

SETUP = """
from uwsgi_tasks import timer_lazy

@timer_lazy(target='worker')
def run_me_periodically(signal):
    print('Running with signal:', signal)

def my_view(request):
    run_me_periodically.add_setup(seconds=10, iterations=2)
    run_me_periodically()
"""

FILES = {
    "myapp/__init__.py": MAIL,
    "wrapped.py": WRAPPED,
    "purchase.py": PURCHASE + PURCHASE_REST,
    "schedules.py": SCHEDULES,
    "sequential.py": SEQUENTIAL_HEAD + SEQUENTIAL,
    "setup_later.py": SETUP,
    "my_project/__init__.py": """
# my_project/__init__.py
from uwsgi_tasks import set_uwsgi_callbacks

set_uwsgi_callbacks()
""",
}
APP = """
import os, time
from django.conf import settings

settings.configure(
    EMAIL_BACKEND="django.core.mail.backends.filebased.EmailBackend",
    EMAIL_FILE_PATH=os.path.join(os.environ["TEST_DIR"], "mail"),
)

import my_project
import myapp, wrapped, purchase, schedules, sequential, setup_later
from uwsgi_tasks import get_current_task

def start():
    myapp.my_view()
    wrapped.spooler_task("a text")
    purchase.process_purchase(7)
    schedules.my_view()
    sequential.remove_files_sequentially()
    setup_later.my_view(None)
    return time.time()

def next_of(schedule, moment):
    return schedule.rule().next_after(moment, None)
"""
LINES = ("processes=2", "mule=true", "spooler-processes=2", "spooler-frequency=10")


@pytest.fixture(scope="module")
def readme(module_uwsgi):
    pytest.importorskip("django")
    server = module_uwsgi(
        APP, *LINES, files=FILES, env={"PYTHONUNBUFFERED": "1", "TZ": "UTC"}, started=False
    )
    server.write("to_remove/a.txt", "")
    server.write("locked", "")
    server.start()
    server.started_at = server.eval("start()")
    return server


def printed(server, text):
    return len(re.findall(text, server.log()))


def wait_printed(server, text, count, timeout):
    wait_until(lambda: printed(server, text) >= count, timeout, f"{count} times {text}")


def test_given_the_mail_example_when_called_then_the_letter_is_sent(readme):
    (path,) = wait_until(lambda: list((readme.dir / "mail").glob("*.log")), 10.0)
    letter = wait_until(lambda: email.message_from_string(path.read_text())["Subject"], 5.0)
    assert letter == "Welcome!"


def test_given_the_wrapper_example_when_it_fails_then_it_runs_three_times_at_maximum(readme):
    wait_until(lambda: letter_of(readme, "wrapped.spooler_task"), 40.0, "a dead letter")
    assert printed(readme, "Hello, spooler! text = a text") == 3


def test_given_the_wrapper_example_when_it_fails_then_five_seconds_are_between(readme):
    letter = wait_until(lambda: letter_of(readme, "wrapped.spooler_task"), 40.0, "a dead letter")
    started = [attempt["started"] for attempt in letter["attempts"]]
    gaps = [b - a for a, b in pairwise(started)]
    assert all(5.0 <= gap < 7.0 for gap in gaps), gaps


def test_given_the_purchase_example_when_it_fails_then_it_is_tried_once_more(readme):
    wait_until(lambda: letter_of(readme, "purchase.process_purchase"), 40.0, "a dead letter")
    first, second = readme.ledger.rows("charge", order_id=7)
    assert 10.0 <= second["time"] - first["time"] < 12.0


def test_given_the_timer_example_when_up_then_it_prints_every_five_seconds(readme):
    wait_printed(readme, r"Task for signal \d+", 2, 20.0)


def test_given_the_iterations_example_when_over_then_each_worker_printed_three_times(readme):
    wait_printed(readme, r"Task for signal \d+", 5, 40.0)
    assert printed(readme, r"Task with iterations for signal \d+") == 6


def test_given_the_lazy_timer_example_when_called_then_it_prints_again_and_again(readme):
    wait_printed(readme, r"Lazy task for signal \d+", 2, 20.0)


@pytest.mark.parametrize("name", ["print_every_2_minutes", "print_every_2_minutes_after_call"])
def test_given_the_cron_examples_when_asked_then_they_are_due_at_even_minutes(readme, name):
    due = readme.eval(f"next_of(schedules.{name}, 1700000040.0)")
    assert time.gmtime(due)[3:5] == (22, 16)


def test_given_the_setup_example_when_over_then_it_printed_exactly_twice(readme):
    wait_printed(readme, r"Running with signal: \d+", 2, 30.0)
    wait_printed(readme, r"Lazy task for signal \d+", 6, 40.0)
    assert printed(readme, r"Running with signal: \d+") == 2


def test_given_the_sequential_example_when_over_then_it_tells_what_it_did(readme):
    wait_printed(readme, "All files were removed", 1, 60.0)
    assert re.search('File "a.txt" was removed at "', readme.log())
    assert re.search('File "a.txt", error: "it is locked"', readme.log())


def test_given_the_sequential_example_when_it_runs_then_it_waits_as_long_as_it_says(readme):
    wait_printed(readme, "All files were removed", 1, 60.0)
    first, second = (row["time"] for row in readme.ledger.rows("del_file"))
    assert 10.0 <= first - readme.started_at < 12.0
    assert 20.0 <= second - first < 22.0


def letter_of(server, task):
    return next((x for x in server.letters().values() if x["task"] == task), None)
