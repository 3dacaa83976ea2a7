"""Bytes ↔ Message: the signed envelope, serialisers, and uWSGI's spool packet.

The only module that knows how a message looks. Nothing is unpickled before the signature over the
exact bytes was verified, and the payload stays bytes until ``load`` is called for the run.
"""

from __future__ import annotations

import hmac
import io
import json
import math
import pickle
import struct
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

from .errors import ArgumentsError, SignatureError, WireError
from .model import DEFAULT_QUEUE, Attempt, Limits, Message
from .retry import RetryPolicy

VERSION = 1
MAGIC = b"UWT" + bytes([VERSION])
MAC_SIZE = 32
PREFIX = b"UWT"
MARK = b"uwsgi_tasks"
PACKET_KEY = b"uwsgi_tasks_message"
PACKET_LIMIT = 65535

_FIXED = struct.Struct("<QQQQddddIIiHHBBHHHIQQ")
_START = len(MAGIC) + MAC_SIZE
_STORED, _ASKED, _ON_DISK = 1, 2, 4
_RESULT = {None: 0, False: 8, True: 16}
_SERIALIZERS = ("pickle", "json")
_BY_POLICY = -2
_MOST = 2**31 - 1
_SHORT = 2**16 - 1


class Signer:
    """Signs with one key and accepts several, so that keys can be rotated.

    It is HMAC-SHA256 by its definition (RFC 2104), both hashes fed with the key once: copying them
    takes half the time of copying an object of ``hmac``.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._prepared = [_prepared(key) for key in keys]

    def sign(self, data: bytes) -> bytes:
        """Return the signature of the bytes (the magic included)."""
        return _mac(*self._prepared[0], data)

    def verify(self, data: bytes, signature: bytes) -> bool:
        """Tell whether one of the keys made the signature."""
        for inner, outer in self._prepared:
            if hmac.compare_digest(_mac(inner, outer, data), signature):
                return True
        return False


def _prepared(key: bytes) -> tuple[Any, Any]:
    block = (sha256(key).digest() if len(key) > 64 else key).ljust(64, b"\0")
    inner, outer = (sha256(bytes(byte ^ pad for byte in block)) for pad in (0x36, 0x5C))
    inner.update(MAGIC)
    return inner, outer


def _mac(inner: Any, outer: Any, data: bytes) -> bytes:
    inner, outer = inner.copy(), outer.copy()
    inner.update(data)
    outer.update(inner.digest())
    mac: bytes = outer.digest()
    return mac


def fingerprint(key: bytes) -> str:
    """Return what may be written down of a key."""
    return sha256(b"uwsgi-tasks fingerprint\0" + key).hexdigest()[:32]


def pack(message: Message, signer: Signer) -> bytes:
    """Return the signed envelope of a message."""
    task = message.task.encode()
    queue = b"" if message.queue == DEFAULT_QUEUE else message.queue.encode()
    folder = message.working_dir.encode("utf-8", "surrogateescape")
    extra = _pack_extra(message)
    ident = _numbers(message.id)
    fixed = _FIXED.pack(
        *ident,
        *(ident if message.chain in ("", message.id) else _numbers(message.chain)),
        message.created_at,
        message.at,
        math.nan if message.priority is None else message.priority,
        message.expires_at,
        message.attempt,
        message.delivery,
        _BY_POLICY if message.executions_left is None else min(message.executions_left, _MOST),
        min(message.crashes, _SHORT),
        min(message.interruptions, _SHORT),
        (_STORED if message.stored else 0)
        | (_ASKED if message.working_dir_asked else 0)
        | (_ON_DISK if message.on_disk else 0)
        | _RESULT[message.store_result],
        _SERIALIZERS.index(message.serializer),
        len(task),
        len(queue),
        len(folder),
        len(extra),
        len(message.buffer),
        len(message.payload),
    )
    data = b"".join((fixed, task, queue, folder, extra, message.buffer, message.payload))
    return b"".join((MAGIC, signer.sign(data), data))


def _numbers(ident: str) -> tuple[int, int]:
    clock, tail = ident.split("-")
    return int(clock), int(tail, 16)


def _pack_extra(message: Message) -> bytes:
    if (
        message.policy is None
        and message.reads_codes is None
        and not message.attempts
        and not message.first_unknown_at
        and message.limits is None
    ):
        return b""
    extra = {
        "policy": message.policy,
        "reads_codes": message.reads_codes,
        "attempts": message.attempts,
        "first_unknown_at": message.first_unknown_at,
        "limits": message.limits,
    }
    return json.dumps(extra, separators=(",", ":")).encode()


def is_ours(data: bytes) -> bool:
    """Tell whether the bytes claim to be an envelope of ours, of any version."""
    return data[:3] == PREFIX


def unpack(data: bytes, signer: Signer) -> Message:
    """Return the message of a signed envelope.

    Raises:
        SignatureError: Nobody with one of our keys wrote these bytes.
        WireError: No envelope, or one of a version that this release doesn't know.
    """
    if data[:4] != MAGIC:
        if is_ours(data) and len(data) > 3:
            raise WireError(f"The message has version {data[3]}; this release reads {VERSION}")
        raise WireError("These bytes are no message of uwsgi-tasks")
    if not signer.verify(data[_START:], data[4:_START]):
        raise SignatureError(
            "The signature of the message is wrong: it was changed, or another key signed it"
        )
    try:
        return _unpack_fields(data)
    except (struct.error, ValueError, LookupError, TypeError) as error:
        raise WireError(f"The message can't be read: {error}") from error


def _unpack_fields(data: bytes) -> Message:
    (
        clock, tail, chain_clock, chain_tail, created_at, at, priority, expires_at, attempt,
        delivery, left, crashes, interruptions, flags, serializer, task_size, queue_size,
        folder_size, extra_size, buffer_size, payload_size,
    ) = _FIXED.unpack_from(data, _START)  # fmt: skip
    task_at = _START + _FIXED.size
    queue_at = task_at + task_size
    folder_at = queue_at + queue_size
    extra_at = folder_at + folder_size
    buffer_at = extra_at + extra_size
    payload_at = buffer_at + buffer_size
    if payload_at + payload_size != len(data):
        raise WireError("its parts don't add up to its length")
    ident = f"{clock:019d}-{tail:016x}"
    message = Message(
        ident,
        data[task_at:queue_at].decode(),
        data[payload_at:],
        _SERIALIZERS[serializer],
        created_at,
        ident
        if clock == chain_clock and tail == chain_tail
        else f"{chain_clock:019d}-{chain_tail:016x}",
        at,
        None if priority != priority else priority,
        data[queue_at:folder_at].decode() if queue_size else DEFAULT_QUEUE,
        attempt,
        None if left == _BY_POLICY else left,
        None,
        None,
        data[folder_at:extra_at].decode("utf-8", "surrogateescape") if folder_size else "",
        bool(flags & _ASKED),
        data[buffer_at:payload_at] if buffer_size else b"",
        bool(flags & _STORED),
        (),
        0.0,
        delivery,
        crashes,
        interruptions,
        expires_at,
        bool(flags & _ON_DISK),
    )
    if flags & (_RESULT[False] | _RESULT[True]):
        message = message._replace(store_result=bool(flags & _RESULT[True]))
    if not (message.task.isprintable() and message.queue.isprintable()):
        raise WireError("its names hold control characters")
    return _with_extra(message, data[extra_at:buffer_at]) if extra_size else message


def _with_extra(message: Message, extra: bytes) -> Message:
    values = json.loads(extra)
    policy, attempts, limits = values["policy"], values["attempts"], values["limits"]
    return message._replace(
        policy=None if policy is None else RetryPolicy(*policy),
        reads_codes=values["reads_codes"],
        attempts=tuple(Attempt(*attempt) for attempt in attempts),
        first_unknown_at=values["first_unknown_at"],
        limits=None if limits is None else Limits(*limits),
    )


def dump(value: Any, serializer: str) -> bytes:
    """Serialise arguments or a buffer.

    Raises:
        ArgumentsError: The value can't be serialised.
    """
    try:
        if serializer == "json":
            return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
        return pickle.dumps(value, 5)
    except Exception as error:  # pickle raises whatever an object's own method raises
        raise ArgumentsError(f"{type(error).__name__}: {error}") from error


def load(data: bytes, serializer: str) -> Any:
    """Return what ``dump`` wrote; only for bytes whose signature was verified."""
    if serializer == "json":
        return json.loads(data)
    return pickle.loads(data)  # noqa: S301  signed by one of our keys


def load_arguments(message: Message) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the positional and keyword arguments of a verified message."""
    args, kwargs = load(message.payload, message.serializer)
    return tuple(args), kwargs


def pack_result(value: Any, ident: str, serializer: str, signer: Signer) -> bytes:
    """Return the signed bytes of what a task returned.

    Raises:
        ArgumentsError: It can't be serialised.
    """
    data = bytes([_SERIALIZERS.index(serializer)]) + dump(value, serializer)
    return signer.sign(_result_digest(ident, data)) + data


def load_result(data: bytes, ident: str, signer: Signer) -> Any:
    """Return what ``pack_result`` was given.

    Raises:
        SignatureError: Nobody with one of our keys wrote it, or not for this id.
    """
    signature, data = data[:MAC_SIZE], data[MAC_SIZE:]
    if not data or not signer.verify(_result_digest(ident, data), signature):
        raise SignatureError(f"The stored result of {ident} was changed, or another key signed it")
    return load(data[1:], _SERIALIZERS[data[0]])


def _result_digest(ident: str, data: bytes) -> bytes:
    """Return what is signed of a result: too short to be taken for a message."""
    return b"result" + sha256(ident.encode() + data).digest()


def spool_file(envelope: bytes) -> bytes:
    """Return the content of a spool file: uWSGI's packet with our mark, the envelope as body.

    Source: ``uwsgi_spool_request`` in uWSGI's ``core/spooler.c``: modifier1 17, the size of the
    variables as a little-endian 16 bit number, modifier2 0, the variables, then the body.
    """
    return _MARKED + envelope


def spool_packet(envelope: bytes) -> bytes:
    """Return a uwsgi packet that hands the message to another instance's spooler."""
    variables = _pair(MARK, b"1") + _pair(PACKET_KEY, envelope)
    return struct.pack("<BHB", 17, len(variables), 0) + variables


def envelope_of_file(content: bytes) -> bytes:
    """Return the envelope in the content of a spool file; the packet's variables are skipped."""
    return content[4 + struct.unpack_from("<H", content, 1)[0] :]


def _pair(key: bytes, value: bytes) -> bytes:
    return struct.pack("<H", len(key)) + key + struct.pack("<H", len(value)) + value


_MARKED = struct.pack("<BHB", 17, len(_pair(MARK, b"1")), 0) + _pair(MARK, b"1")


class MappedUnpickler(pickle.Unpickler):
    """Unpickles messages of an older release, whose own classes have other names now.

    Args:
        data: The pickle; from whom the user trusts.
        renamed: What stands for a module and name of the older release.
    """

    def __init__(self, data: bytes, renamed: Mapping[tuple[str, str], Any]) -> None:
        super().__init__(io.BytesIO(data))
        self._renamed = renamed

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for the name now."""
        return self._renamed.get((module, name)) or super().find_class(module, name)
