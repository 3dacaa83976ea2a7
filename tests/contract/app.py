"""The application of the contract: the same source runs in this process and inside uWSGI.

What it can't import (``note``) is put into it: by ``app_base`` there, by the fake world here.
"""

SOURCE = '''
from uwsgi_tasks import (SPOOL_OK, SPOOL_RETRY, ArgumentsError, RetryTaskException,
                         get_current_task, task)

def ran(tag, **fields):
    current = get_current_task()
    note("ran", tag=tag, id=current.id, chain=current.chain, attempt=current.attempt,
         executor=current.executor.name, **fields)
    return current.attempt

def swallow(call):
    """RUNTIME hands a task's exception to the caller; here only what was noted counts."""
    try:
        return call()
    except (KeyError, OSError, SystemExit, ArgumentsError, RetryTaskException):
        return None

@task
def marker(tag):
    ran(tag)

@task
def echo(tag, *args, **kwargs):
    ran(tag, args=repr(args), kwargs=repr(sorted(kwargs.items())))

@task(retry_count=3)
def fails(tag, ok_at=99, kind="KeyError"):
    if ran(tag) < ok_at:
        raise {"KeyError": KeyError, "OSError": OSError}[kind](f"no {tag}")

@task(retry_count=3, retry_on=KeyError)
def fails_narrowly(tag, kind):
    ran(tag)
    raise {"KeyError": KeyError, "OSError": OSError}[kind]()

@task(retry_count=3)
def returns(tag, code, ok_at=99):
    return SPOOL_OK if ran(tag) >= ok_at else code

@task
def returns_plainly(tag, code):
    ran(tag)
    return code

@task
def asks(tag, count=None, until=99, timeout=0):
    if ran(tag) < until:
        raise RetryTaskException(count=count, timeout=timeout)

@task
def asks_once(tag, count):
    raise RetryTaskException(count=count if ran(tag) == 1 else None, timeout=0)

@task(retry_count=4)
def remembers(tag):
    buffer = get_current_task().buffer
    buffer["seen"] = [*buffer.get("seen", []), get_current_task().attempt]
    ran(tag, seen=list(buffer["seen"]))
    raise KeyError("again")

@task
def spoils_buffer(tag):
    get_current_task().buffer["f"] = lambda: 1
    ran(tag)
    raise RetryTaskException(count=3, timeout=0)

@task
def steps(tag, n):
    buffer = get_current_task().buffer
    ran(tag, n=n, seen=list(buffer.get("seen", [])))
    buffer["seen"] = [*buffer.get("seen", []), n]
    if n:
        get_current_task()(tag, n - 1)

@task
def looks(tag, key="k"):
    current = get_current_task()
    ran(tag, args=list(current.args), kwargs=dict(current.kwargs), name=current.name,
        left=current.retry_count, wait=current.retry_timeout, kind=type(current).__name__,
        setup=sorted(current.setup), nested=helper())

def helper():
    return get_current_task().id

@task
def retries_itself(tag):
    current = get_current_task()
    if current.attempt == 1:
        current.retry_count = 3
    ran(tag, left=current.retry_count)
    raise RetryTaskException(timeout=0)

@task
def exits(tag):
    ran(tag)
    raise SystemExit(3)
'''
