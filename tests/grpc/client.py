"""A caller that speaks gRPC: `client.py ADDRESS AUTHORITY CHECK`. Exit code 0 if what the check says is so."""

import json
import queue
import sys
import time
from concurrent import futures

import grpc

ADDRESS, AUTHORITY, CHECK = sys.argv[1:]
options = [("grpc.default_authority", AUTHORITY), ("grpc.enable_http_proxy", 0), ("grpc.enable_retries", 0)]
channel = grpc.insecure_channel(ADDRESS, options)


def method(kind, name):
    return getattr(channel, kind)(f"/test.Echo/{name}")


unary = method("unary_unary", "Unary")
fail = method("unary_unary", "Fail")
late_fail = method("unary_stream", "LateFail")
down = method("unary_stream", "Down")
up = method("stream_unary", "Up")
both = method("stream_stream", "Both")
hang = method("unary_unary", "Hang")
stats = lambda: json.loads(method("unary_unary", "Stats")(b""))


def error(call):
    """The error that a call must end with."""
    try:
        answer = call()
    except grpc.RpcError as ended:
        return ended
    raise AssertionError(f"no error, but {answer}")


def until(what, condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"still waiting: {what}"
        time.sleep(0.01)


def four_kinds():
    assert unary(b"hello") == b"hello"
    assert unary(b"") == b""
    assert unary(b"x" * 3_000_000) == b"x" * 3_000_000
    got = list(down(json.dumps([1000, 10]).encode()))
    assert [int.from_bytes(m[:4], "big") for m in got] == list(range(1000)), len(got)
    assert sum(len(m) for m in down(json.dumps([20, 1_000_000]).encode())) == 20_000_000
    assert list(down(json.dumps([0, 0]).encode())) == []
    assert json.loads(up(b"m" * i for i in range(1000))) == [1000, 499_500]
    assert json.loads(up(b"m" * 1_000_000 for _ in range(20))) == [20, 20_000_000]
    assert json.loads(up(iter([]))) == [0, 0]


def conversation():
    """Each side waits for the other: nothing on the way may hold a message back."""
    said = queue.Queue()
    heard = both(iter(said.get, None))
    for index in range(200):
        said.put(str(index).encode())
        assert next(heard) == str(index).encode()
    said.put(None)
    assert list(heard) == []
    assert heard.code() == grpc.StatusCode.OK


def many_at_once():
    """More than one connection may carry, on every hop."""
    with futures.ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(lambda i: unary(str(i).encode()), range(3000)))
    assert answers == [str(i).encode() for i in range(3000)]
    open_ones = []
    for index in range(200):
        said = queue.Queue()
        heard = both(iter(said.get, None))
        said.put(b"a")
        assert next(heard) == b"a", index
        open_ones.append((said, heard))
    for said, heard in open_ones:
        said.put(None)
        assert list(heard) == []


def metadata():
    answer, call = unary.with_call(b"", metadata=[("x-text", "a, b"), ("x-data-bin", b"\x00\x01\xfe")])
    first = dict(call.initial_metadata())
    assert first["served-by"] == "east/a", first
    assert (first["x-text"], first["x-data-bin"]) == ("a, b", b"\x00\x01\xfe"), first
    last = dict(call.trailing_metadata())
    assert (last["trail"], last["trail-bin"]) == ("last", b"\x00\xff\n"), last


def statuses():
    for code in ["NOT_FOUND", "INVALID_ARGUMENT", "UNAUTHENTICATED", "UNAVAILABLE", "DATA_LOSS"]:
        ended = error(lambda: fail(json.dumps([code, "größer: 100%"]).encode()))
        assert (ended.code().name, ended.details()) == (code, "größer: 100%"), ended
        assert dict(ended.trailing_metadata())["trail"] == "failed"
        assert "proxy-status" not in dict(ended.initial_metadata())
    messages = late_fail(b"")
    assert next(messages) == b"first"
    ended = error(lambda: next(messages))
    assert (ended.code().name, ended.details()) == ("ABORTED", "late"), ended
    ended = error(lambda: method("unary_unary", "Nothing")(b""))
    assert ended.code() == grpc.StatusCode.UNIMPLEMENTED, ended


def deadline():
    """The caller's deadline reaches the endpoint, and what it left behind ends."""
    before = stats()
    started = time.monotonic()
    ended = error(lambda: hang(b"", timeout=2))
    assert ended.code() == grpc.StatusCode.DEADLINE_EXCEEDED, ended
    assert time.monotonic() - started < 20
    until("the endpoint sees the end", lambda: stats()["cancelled"] == before["cancelled"] + 1)


def total():
    """The gateway's own deadline, for a caller without one."""
    ended = error(lambda: hang(b""))
    assert ended.code() == grpc.StatusCode.DEADLINE_EXCEEDED, ended
    assert "west.gateway; error=http_response_timeout" in proxy_status(ended), ended
    until("the endpoint sees the end", lambda: stats()["cancelled"] == 1)


def cancel():
    before = stats()
    call = hang.future(b"")
    until("it is there", lambda: stats()["calls"] == before["calls"] + 1)
    call.cancel()
    until("the endpoint sees the cancellation", lambda: stats()["cancelled"] == before["cancelled"] + 1)


def stalled():
    """A reader that takes nothing is given up after the idle time; others of the same connection never notice."""
    slow = down(json.dumps([100, 1_000_000]).encode())
    next(slow)
    said = queue.Queue()
    heard = both(iter(said.get, None))
    for _ in range(60):
        said.put(b"x")
        assert next(heard) == b"x"
        time.sleep(0.1)
    said.put(None)
    assert list(heard) == []
    ended = error(lambda: [m for m in slow])
    assert ended.code() != grpc.StatusCode.OK, ended


def proxy_status(ended):
    fields = list(ended.initial_metadata() or []) + list(ended.trailing_metadata() or [])
    return dict(fields).get("proxy-status", "")


def unimplemented():
    ended = error(lambda: unary(b""))
    assert ended.code() == grpc.StatusCode.UNIMPLEMENTED, ended
    assert "error=destination_not_found" in proxy_status(ended), ended
    assert "no service `nothing.shop.mesh`" in ended.details(), ended


def unavailable():
    ended = error(lambda: unary(b""))
    assert ended.code() == grpc.StatusCode.UNAVAILABLE, ended
    assert "west.gateway; error=" in proxy_status(ended), ended


def refused_here():
    ended = error(lambda: unary(b""))
    assert (ended.code().name, ended.details()) == ("UNAVAILABLE", "west/a is unavailable"), ended
    assert proxy_status(ended) == "", ended


def served_by_east():
    for _ in range(10):
        _, call = unary.with_call(b"")
        assert dict(call.initial_metadata())["served-by"] == "east/a"


def drain():
    """Says when a call is open; the gateway is then told to drain. The call goes on, and ends well."""
    said = queue.Queue()
    heard = both(iter(said.get, None))
    said.put(b"before")
    assert next(heard) == b"before"
    print("open", flush=True)
    sys.stdin.readline()
    for _ in range(50):
        said.put(b"after")
        assert next(heard) == b"after"
        time.sleep(0.01)
    said.put(None)
    assert list(heard) == []
    assert heard.code() == grpc.StatusCode.OK


def steady():
    """Calls without a pause until told to end; none may fail on the way. A server of grpcio that stops cancels what it
    has accepted and not begun: its own answer, as every caller gets it."""
    with futures.ThreadPoolExecutor(8) as pool:
        stop = pool.submit(sys.stdin.readline)

        def ask():
            count = 0
            while not stop.done():
                try:
                    assert unary(b"x") == b"x"
                except grpc.RpcError as ended:
                    assert ended.code() == grpc.StatusCode.CANCELLED and not proxy_status(ended), ended
                count += 1
            return count

        asking = [pool.submit(ask) for _ in range(6)]
        print("open", flush=True)
        total = sum(a.result() for a in asking)
    assert total > 100, total
    print(total)


globals()[CHECK]()
