"""The envelope: what is read back, and what is refused."""

from __future__ import annotations

import contextlib
import hmac
import json
import pickle
import struct

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.support.messages import a_message
from uwsgi_tasks import wire
from uwsgi_tasks.errors import ArgumentsError, SignatureError, WireError
from uwsgi_tasks.model import Attempt, Limits, Message
from uwsgi_tasks.retry import RetryPolicy
from uwsgi_tasks.wire import Signer

KEY, OTHER = b"k" * 32, b"o" * 32
SIGNER = Signer([KEY])

GOLDEN_MESSAGE = Message(
    id="1700000000123456789-00112233aabbccdd",
    task="shop.tasks.send_email",
    payload=b'[["Welcome!"],{"to":"user@example.com"}]',
    serializer="json",
    created_at=1700000000.125,
    chain="1700000000000000000-0000000000000001",
    at=1700000060.5,
    priority=5.0,
    queue="mail",
    attempt=2,
    executions_left=3,
    policy=RetryPolicy(4, 2.0, 3.0, 20.0, 0.5),
    reads_codes=True,
    working_dir="/srv/shop",
    working_dir_asked=True,
    buffer=b'{"seen":1}',
    stored=True,
    attempts=(Attempt(1, 1700000001.0, 1700000002.0, 4711, "KeyError: 'no'"),),
    first_unknown_at=1700000003.0,
    delivery=5,
    crashes=2,
    interruptions=1,
    expires_at=1700003600.5,
    on_disk=True,
    limits=Limits(30.0, 20.0),
)
GOLDEN = bytes.fromhex(
    "555754011279804ab7319149b4cfc43e5d4967a1d48e3fe4fe4e8816fe122f20134d8e3915cd853dfe9c9717"
    "ddccbbaa3322110000002a36fe9c9717010000000000000000000840fc54d9410000204ffc54d94100000000"
    "00001440000020c4ff54d941020000000500000003000000020001000701150004000900a80000000a000000"
    "00000000280000000000000073686f702e7461736b732e73656e645f656d61696c6d61696c2f7372762f7368"
    "6f707b22706f6c696379223a5b342c322e302c332e302c32302e302c302e355d2c2272656164735f636f6465"
    "73223a747275652c22617474656d707473223a5b5b312c313730303030303030312e302c3137303030303030"
    "30322e302c343731312c224b65794572726f723a20276e6f27225d5d2c2266697273745f756e6b6e6f776e5f"
    "6174223a313730303030303030332e302c226c696d697473223a5b33302e302c32302e305d7d7b227365656e"
    "223a317d5b5b2257656c636f6d6521225d2c7b22746f223a2275736572406578616d706c652e636f6d227d5d"
)
PLAIN = wire.pack(a_message(), SIGNER)

whole = st.integers(0, 2**63 - 1)
ids = st.builds(lambda a, b: f"{a:019d}-{b:016x}", whole, st.integers(0, 2**64 - 1))
moments = st.floats(0, 1e11)
words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
names = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=40)
finite = st.floats(allow_nan=False, allow_infinity=False)
policies = st.builds(
    RetryPolicy,
    st.none() | st.integers(0, 10**6),
    moments,
    st.none() | st.floats(1, 100),
    st.none() | moments,
    moments,
)
attempts = st.builds(Attempt, st.integers(1, 100), moments, moments, st.integers(1, 2**22), words)
messages = st.builds(
    Message,
    id=ids,
    task=names,
    payload=st.binary(max_size=200),
    serializer=st.sampled_from(["pickle", "json"]),
    created_at=moments,
    chain=ids,
    at=moments,
    priority=st.none() | finite,
    queue=names,
    attempt=st.integers(1, 10**6),
    executions_left=st.none() | st.integers(0, 10**6),
    policy=st.none() | policies,
    reads_codes=st.none() | st.booleans(),
    working_dir=st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    working_dir_asked=st.booleans(),
    buffer=st.binary(max_size=100),
    stored=st.booleans(),
    attempts=st.lists(attempts, max_size=3).map(tuple),
    first_unknown_at=st.just(0.0) | moments,
    delivery=st.integers(1, 2**31),
    crashes=st.integers(0, 2**16 - 1),
    interruptions=st.integers(0, 2**16 - 1),
    expires_at=st.just(0.0) | moments,
    on_disk=st.booleans(),
    limits=st.none() | st.builds(Limits, moments, moments),
)


class Bomb:
    """Unpickling it is seen."""

    went_off = False

    def __reduce__(self):
        return (_go_off, ())


def _go_off():
    Bomb.went_off = True


# reading back


@given(messages)
def test_given_any_message_when_packed_and_unpacked_then_it_is_the_same(message):
    assert wire.unpack(wire.pack(message, SIGNER), SIGNER) == message


def test_given_the_golden_message_when_packed_then_its_bytes_are_those_of_version_one():
    assert wire.pack(GOLDEN_MESSAGE, SIGNER).hex() == GOLDEN.hex()


def test_given_the_golden_bytes_when_unpacked_then_it_is_the_golden_message():
    assert wire.unpack(GOLDEN, SIGNER) == GOLDEN_MESSAGE


def test_given_a_message_without_chain_when_unpacked_then_it_is_its_own_chain():
    message = a_message(chain="")
    assert wire.unpack(wire.pack(message, SIGNER), SIGNER).chain == message.id


def test_given_a_directory_that_is_no_utf8_when_unpacked_then_it_is_the_same_directory():
    message = a_message(working_dir="/srv/\udcff")
    assert wire.unpack(wire.pack(message, SIGNER), SIGNER).working_dir == "/srv/\udcff"


def test_given_a_large_payload_when_unpacked_then_it_is_whole():
    message = a_message(args=["x" * 3_000_000])
    assert wire.unpack(wire.pack(message, SIGNER), SIGNER) == message


def test_given_a_retry_count_meant_as_for_ever_when_packed_then_it_is_not_refused():
    message = a_message(executions_left=2**62)
    assert wire.unpack(wire.pack(message, SIGNER), SIGNER).executions_left >= 2**31 - 1


@pytest.mark.parametrize("field", ["crashes", "interruptions"])
def test_given_a_count_beyond_its_room_when_packed_then_it_stays_at_the_most(field):
    message = a_message(**{field: 70_000})
    found = wire.unpack(wire.pack(message, SIGNER), SIGNER)
    assert getattr(found, field) == 65_535


def test_given_twenty_long_errors_of_wide_letters_when_packed_then_they_are_read_back():
    attempts = tuple(Attempt(n, 1.0, 2.0, 3, "\U0001f4a5" * 500) for n in range(1, 21))
    message = a_message(attempts=attempts)
    assert wire.unpack(wire.pack(message, SIGNER), SIGNER).attempts == attempts


# refusing


@pytest.mark.parametrize("field", ["task", "queue"])
@pytest.mark.parametrize("letter", ["\n", "\0", "\x1b", "\x7f", "\u2028", "\u202e"], ids=ascii)
def test_given_a_name_with_control_characters_when_unpacked_then_it_is_refused(field, letter):
    forged = a_message()._replace(**{field: f"app{letter}forged"})
    with pytest.raises(WireError, match="control characters"):
        wire.unpack(wire.pack(forged, SIGNER), SIGNER)


@pytest.mark.parametrize("bit", [0x01, 0x80])
@pytest.mark.parametrize("envelope", [PLAIN, GOLDEN], ids=["plain", "golden"])
def test_given_an_envelope_when_any_byte_is_changed_then_it_is_refused(envelope, bit):
    for position in range(len(envelope)):
        changed = bytearray(envelope)
        changed[position] ^= bit
        with pytest.raises(WireError):
            wire.unpack(bytes(changed), SIGNER)


@pytest.mark.parametrize("envelope", [PLAIN, GOLDEN], ids=["plain", "golden"])
def test_given_an_envelope_when_truncated_anywhere_then_it_is_refused(envelope):
    for length in range(len(envelope)):
        with pytest.raises(WireError):
            wire.unpack(envelope[:length], SIGNER)


@st.composite
def mutations(draw):
    """An envelope, and what somebody without the key made of it and of a second one."""
    one, other = (wire.pack(draw(messages), SIGNER) for _ in range(2))
    at, end = sorted(draw(st.tuples(*[st.integers(0, len(one))] * 2)))
    some = draw(st.binary(min_size=1, max_size=40))
    changed = draw(
        st.sampled_from(
            [
                one[:at] + bytes([one[at % len(one)] ^ (some[0] or 1)]) + one[at + 1 :],
                one[:at] + some + one[at:],  # insert
                one[:at] + some + one[end:],  # replace
                one[:at] + one[end:],  # delete
                one[:at],  # truncate
                one + some,  # extend
                one[:end] + one[at:],  # a part of it twice
                one[:at] + one[at:end][::-1] + one[end:],
                one[:at] + other[at:],  # splices of two
                one[:at] + other[end:],
                one + other,
                one[:4] + other[4 : 4 + wire.MAC_SIZE] + one[4 + wire.MAC_SIZE :],
            ]
        )
    )
    assume(changed not in (one, other))
    return changed


@given(mutations())
def test_given_any_envelope_when_anything_in_it_is_changed_then_it_is_refused(changed):
    with pytest.raises(WireError):
        wire.unpack(changed, SIGNER)


@given(message=messages, at=st.integers(0, 200), byte=st.integers(0, 255))
def test_given_a_changed_message_when_our_key_signed_it_then_it_is_read_or_refused(
    message, at, byte
):
    data = bytearray(wire.pack(message, SIGNER)[len(wire.MAGIC) + wire.MAC_SIZE :])
    data[at % len(data)] = byte
    with contextlib.suppress(WireError):
        found = wire.unpack(wire.MAGIC + SIGNER.sign(bytes(data)) + bytes(data), SIGNER)
        assert wire.unpack(wire.pack(found, SIGNER), SIGNER).payload == found.payload


@given(st.binary(max_size=300))
def test_given_any_bytes_when_unpacked_then_they_are_refused(data):
    with pytest.raises(WireError):
        wire.unpack(data, SIGNER)


@given(st.binary(max_size=300))
def test_given_signed_bytes_that_are_no_message_when_unpacked_then_they_are_refused(data):
    with pytest.raises(WireError):
        wire.unpack(wire.MAGIC + SIGNER.sign(data) + data, SIGNER)


@pytest.mark.parametrize(
    "change", [lambda data: data + b"x", lambda data: data[:-1]], ids=["longer", "shorter"]
)
def test_given_a_signed_message_of_a_wrong_length_when_unpacked_then_it_is_refused(change):
    data = change(PLAIN[len(wire.MAGIC) + wire.MAC_SIZE :])
    with pytest.raises(WireError, match="add up"):
        wire.unpack(wire.MAGIC + SIGNER.sign(data) + data, SIGNER)


def test_given_an_envelope_when_something_follows_it_then_it_is_refused():
    with pytest.raises(SignatureError):
        wire.unpack(PLAIN + b"\0", SIGNER)


def test_given_a_newer_version_when_unpacked_then_the_error_names_both_versions():
    with pytest.raises(WireError, match="version 2; this release reads 1") as caught:
        wire.unpack(b"UWT\x02" + PLAIN[4:], SIGNER)
    assert type(caught.value) is WireError


def test_given_another_key_when_unpacked_then_the_signature_is_wrong():
    with pytest.raises(SignatureError, match="another key"):
        wire.unpack(PLAIN, Signer([OTHER]))


@pytest.mark.parametrize(
    ("data", "expected"),
    [(b"", False), (b"UW", False), (b"XWT\x01", False), (b"UWT\x01", True), (b"UWT\x63x", True)],
)
def test_given_bytes_when_asked_whether_they_are_ours_then_the_prefix_tells(data, expected):
    assert wire.is_ours(data) is expected


# what is unpickled, and when


def test_given_a_wrong_signature_when_unpacked_then_nothing_was_unpickled():
    Bomb.went_off = False
    envelope = wire.pack(a_message(args=[Bomb()], buffer=pickle.dumps(Bomb())), Signer([OTHER]))
    with pytest.raises(SignatureError):
        wire.unpack(envelope, SIGNER)
    assert not Bomb.went_off


def test_given_a_right_signature_when_unpacked_then_the_arguments_are_bytes_still():
    Bomb.went_off = False
    wire.unpack(wire.pack(a_message(args=[Bomb()]), SIGNER), SIGNER)
    assert not Bomb.went_off


def test_given_a_verified_message_when_its_arguments_are_loaded_then_they_are_unpickled():
    Bomb.went_off = False
    message = wire.unpack(wire.pack(a_message(args=[Bomb()]), SIGNER), SIGNER)
    wire.load_arguments(message)
    assert Bomb.went_off


def test_given_json_when_loaded_then_nothing_is_unpickled(monkeypatch):
    monkeypatch.setattr(wire, "pickle", None)
    message = a_message(args=[1, "a"], kwargs={"b": None}, serializer="json")
    assert wire.load_arguments(message) == ((1, "a"), {"b": None})


# keys


def test_given_two_keys_when_signing_then_the_first_signs():
    assert Signer([KEY, OTHER]).sign(b"data") == Signer([KEY]).sign(b"data")


@pytest.mark.parametrize("key", [KEY, OTHER])
def test_given_two_keys_when_either_signed_then_it_is_accepted(key):
    message = a_message()
    assert wire.unpack(wire.pack(message, Signer([key])), Signer([OTHER, KEY])) == message


def test_given_a_rotated_key_when_the_old_one_is_no_longer_listed_then_it_is_refused():
    with pytest.raises(SignatureError):
        wire.unpack(wire.pack(a_message(), Signer([OTHER])), Signer([KEY]))


def test_given_a_key_when_its_fingerprint_is_taken_then_it_does_not_show_the_key():
    found = wire.fingerprint(KEY)
    assert (len(found), found == wire.fingerprint(KEY)) == (32, True)
    assert KEY.decode() not in found
    assert found != wire.fingerprint(OTHER)


# arguments


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@pytest.mark.parametrize("serializer", ["pickle", "json"])
@given(value=json_values)
def test_given_any_json_value_when_dumped_then_it_is_loaded_again(serializer, value):
    assert wire.load(wire.dump(value, serializer), serializer) == value


class Hostile:
    def __reduce__(self):
        raise ZeroDivisionError("hostile")


@pytest.mark.parametrize(
    ("value", "serializer", "kind"),
    [
        (lambda: 1, "pickle", "pickle"),
        (Hostile(), "pickle", "ZeroDivisionError: hostile"),
        (object(), "json", "TypeError"),
        (b"bytes", "json", "TypeError"),
        (float("nan"), "json", "ValueError"),
        ({1, 2}, "json", "TypeError"),
    ],
)
def test_given_a_value_that_cannot_be_sent_when_dumped_then_the_error_tells_why(
    value, serializer, kind
):
    with pytest.raises(ArgumentsError, match=kind):
        wire.dump(value, serializer)


# uWSGI's packet, read as uWSGI reads it


def variables_of(packet):
    """Read a uwsgi packet: modifier1, size, modifier2, variables; what follows is the body."""
    modifier1, size, modifier2 = struct.unpack_from("<BHB", packet)
    found, at = {}, 4
    while at < 4 + size:
        pair = []
        for _ in range(2):
            (length,) = struct.unpack_from("<H", packet, at)
            pair.append(packet[at + 2 : at + 2 + length])
            at += 2 + length
        found[pair[0]] = pair[1]
    assert at == 4 + size
    return (modifier1, modifier2), found, packet[4 + size :]


def test_given_a_spool_file_when_read_as_uwsgi_does_then_it_has_our_mark_and_the_envelope_as_body():
    assert variables_of(wire.spool_file(PLAIN)) == ((17, 0), {b"uwsgi_tasks": b"1"}, PLAIN)


def test_given_a_network_packet_when_read_as_uwsgi_does_then_the_envelope_is_a_variable():
    modifiers, found, body = variables_of(wire.spool_packet(PLAIN))
    assert (modifiers, body) == ((17, 0), b"")
    assert found == {b"uwsgi_tasks": b"1", b"uwsgi_tasks_message": PLAIN}


def test_given_a_spool_file_with_variables_of_uwsgi_when_read_then_the_envelope_is_found():
    extra = wire._pair(wire.MARK, b"1") + wire._pair(b"spooler", b"/x" * 500)
    content = struct.pack("<BHB", 17, len(extra), 0) + extra + PLAIN
    assert wire.envelope_of_file(content) == PLAIN


def test_given_a_pickle_with_an_old_name_when_mapped_then_the_new_class_is_made():
    data = pickle.dumps(json.JSONDecodeError, 0)
    mapped = wire.MappedUnpickler(data, {("json.decoder", "JSONDecodeError"): KeyError})
    assert mapped.load() is KeyError


@pytest.mark.parametrize("size", [1, 16, 63, 64, 65, 200])
def test_given_a_key_of_any_size_when_signed_then_it_is_hmac_sha256_of_the_library(size):
    key, data = bytes(range(size)), b"some bytes"
    expected = hmac.digest(key, wire.MAGIC + data, "sha256")
    assert wire.Signer([key]).sign(data) == expected
