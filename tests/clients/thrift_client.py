"""A client of Apache Thrift for Python: thrift_client.py GENERATED PORT TRANSPORT PROTOCOL CHECK [ARGS]; fails if what a
check says is not so."""

import collections
import sys
import time

generated, port, transport, protocol, check, *rest = sys.argv[1:]
sys.path.insert(0, generated)

from store import Store  # noqa: E402
from store.ttypes import Entry, NotFound  # noqa: E402
from thrift.protocol import TBinaryProtocol, TCompactProtocol  # noqa: E402
from thrift.Thrift import TApplicationException, TMessageType  # noqa: E402
from thrift.transport import TSocket, TTransport  # noqa: E402


def connect():
    socket = TSocket.TSocket("127.0.0.1", int(port))
    socket.setTimeout(30_000)
    wrap = {"framed": TTransport.TFramedTransport, "buffered": TTransport.TBufferedTransport}[transport](socket)
    speak = {
        "binary": TBinaryProtocol.TBinaryProtocol,
        "compact": TCompactProtocol.TCompactProtocol,
    }[protocol](wrap)
    wrap.open()
    return Store.Client(speak), speak, socket


client, speak, raw = connect()


def excepted(call):
    """The exception of a call that is not served."""
    try:
        return call(), None
    except TApplicationException as exception:
        return None, exception


def everything():
    """Every kind of call and of answer, small and large."""
    for size in (0, 10, 100_000, 3_000_000):
        entry = Entry("abc", bytes(range(256)) * (size // 256 + 1), {"a": [1, -(1 << 50)], "b": []}, True)
        said = client.echo(entry)
        assert (said.key, said.value, said.counts, said.whole) == ("cba", entry.value, entry.counts, True)
    try:
        client.find("x")
        raise SystemExit("found")
    except NotFound as missing:
        assert missing.key == "x"
    for _ in range(3):
        client.note(rest[0])
    while client.count(rest[0]) < 3:
        pass
    assert client.count(rest[0]) == 3
    speak.writeMessageBegin("nobody", TMessageType.CALL, 77)
    Store.who_args().write(speak)
    speak.writeMessageEnd()
    speak.trans.flush()
    _, kind, number = speak.readMessageBegin()
    exception = TApplicationException()
    exception.read(speak)
    speak.readMessageEnd()
    assert (kind, number, exception.type) == (TMessageType.EXCEPTION, 77, TApplicationException.UNKNOWN_METHOD)
    assert client.who()


def who():
    """Prints who answers so many calls on one connection."""
    print(dict(collections.Counter(client.who() for _ in range(int(rest[0])))))


def until():
    """Calls until a server of this name answers; no call may fail."""
    while client.who() != rest[0]:
        pass


def refused():
    """A call that nobody serves is soon an exception that says why, and the connection goes on."""
    for _ in range(2):
        began = time.monotonic()
        _, exception = excepted(client.who)
        assert time.monotonic() - began < 3, "it waits for nothing"
        assert exception.type == TApplicationException.INTERNAL_ERROR, exception
        print(exception.message)


def slow():
    """A call that takes too long is an exception, and the connection goes on."""
    _, exception = excepted(lambda: client.slow("late", int(rest[0])))
    assert exception.type == TApplicationException.INTERNAL_ERROR, exception
    print(exception.message)
    assert client.slow("soon", 0) >= 1


def broken():
    """A call that a server broke off."""
    _, exception = excepted(lambda: getattr(client, rest[0])(rest[0]))
    print(exception.message)
    assert client.who()


def large():
    """Answers that are too large: each call is made once, is an exception, and the connection goes on."""
    for _ in range(6):
        _, exception = excepted(lambda: client.fill(17_000_000))
        assert "http_response_body_size" in exception.message, exception.message
    assert client.who()


def halves():
    """A call of which one half is sent, and the other once a line is read."""
    memory = TTransport.TMemoryBuffer()
    entry = Entry("abc", bytes(3_000_000), {}, True)
    Store.Client(TBinaryProtocol.TBinaryProtocol(TTransport.TFramedTransport(memory))).send_echo(entry)
    call = memory.getvalue()
    raw.handle.sendall(call[: len(call) // 2])
    print("half", flush=True)
    sys.stdin.readline()
    raw.handle.sendall(call[len(call) // 2 :])
    assert client.recv_echo().value == entry.value


def counted():
    """Prints how many calls of this name a server has counted."""
    print(client.count(rest[0]))


def many():
    """Calls for so many seconds; none may fail."""
    end = time.monotonic() + float(rest[0])
    while time.monotonic() < end:
        assert client.who()


def pipelined():
    """Many calls at once on one connection: answers in their order, although the first is the slowest."""
    for n in range(50):
        client.send_slow("many", 300 if n == 0 else 0)
    for _ in range(50):
        client.recv_slow()
    client.send_who()
    assert client.recv_who()


def upgrade():
    """What Finagle asks is answered that nobody knows it."""
    speak.writeMessageBegin("__can__finagle__trace__v3__", TMessageType.CALL, 0)
    Store.who_args().write(speak)
    speak.writeMessageEnd()
    speak.trans.flush()
    _, exception = excepted(client.recv_who)
    assert exception.type == TApplicationException.UNKNOWN_METHOD
    assert client.who()


checks = (everything, who, until, refused, slow, broken, large, halves, counted, many, pipelined, upgrade)
{c.__name__: c for c in checks}[check]()
