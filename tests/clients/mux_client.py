"""A client of Thrift by Mux, Scales: mux_client.py GENERATED PORT CHECK [MORE]. Exits with 0 if what it checks holds."""

import sys

generated, port, check, *rest = sys.argv[1:]
sys.path.insert(0, generated)

import gevent.monkey  # noqa: E402

gevent.monkey.patch_all()

import collections  # noqa: E402
import time  # noqa: E402

from scales.dispatch import ScalesError  # noqa: E402
from scales.message import TimeoutError  # noqa: E402
from scales.thriftmux import ThriftMux  # noqa: E402
from store import Store  # noqa: E402
from store.ttypes import Entry  # noqa: E402


def client(timeout=30):
    return ThriftMux.NewClient(Store.Iface, f"tcp://127.0.0.1:{port}", timeout=timeout)


def echo():
    """Whatever a call holds arrives, and comes back."""
    store = client()
    for size in [0, 1, 70_000, 1 << 20]:
        entry = Entry("abc", b"\x80\x01" * size, {"k": [1, -2]}, True)
        assert store.echo(entry) == Entry("cba", b"\x80\x01" * size, {"k": [1, -2]}, True)
    try:
        store.find("x")
        raise AssertionError("it was found")
    except ScalesError as error:
        assert "NotFound(key='x')" in str(error), error
    assert len(store.fill(3 << 20)) == 3 << 20


def who(number):
    """Who answers so many calls, one after the other."""
    store = client()
    print(dict(collections.Counter(store.who() for _ in range(int(number)))))


def at_once(number):
    """So many on one connection are under way at once, and each has its own answer."""
    store, began = client(), time.monotonic()
    slow = [store.slow_async(f"slow-{n % 7}", 500) for n in range(int(number))]
    echoes = [store.echo_async(Entry(str(n), b"", {}, False)) for n in range(int(number))]
    for n, answer in enumerate(echoes):
        assert answer.get().key == str(n)[::-1]
    for answer in slow:
        answer.get()
    assert time.monotonic() - began < 0.5 * int(number) / 2, "one after the other"


def late():
    """A call that takes too long is given up, by its caller."""
    store = client(timeout=2)
    store.who()
    # When it began is told in whole seconds: within the first moments of one, the deadline that the call states is hardly
    # behind the caller's own, and whoever serves it may be the first to give it up.
    time.sleep((1.5 - time.time() % 1) % 1)
    try:
        store.slow("late", 60_000)
        raise AssertionError("it was answered")
    except TimeoutError:
        pass


def excepted(call, *given):
    """Why a call is not served."""
    try:
        call(*given)
        raise AssertionError("it was answered")
    except ScalesError as error:
        return error


def refused():
    """A call that nobody serves is soon told so."""
    began = time.monotonic()
    print(excepted(client().who))
    assert time.monotonic() - began < 3, "it waits for nothing"


def broken(method):
    """A call that a server broke off."""
    store = client()
    print(excepted(getattr(store, method), method))
    assert store.who()


def slow(ms):
    """A call that takes longer than the policy gives."""
    store = client()
    print(excepted(store.slow, "late", int(ms)))
    assert store.slow("soon", 0) >= 1


def until(name):
    """Calls until a server of this name answers."""
    store = client()
    while store.who() != name:
        pass


def many(seconds):
    """Calls for so long, none of which fails."""
    store, until, served = client(), time.monotonic() + float(seconds), 0
    while time.monotonic() < until:
        store.who()
        served += 1
    print(served)


def counted(name):
    print(client().count(name))


checks = {
    "echo": echo, "who": who, "atOnce": at_once, "late": late, "refused": refused, "many": many, "counted": counted,
    "broken": broken, "slow": slow, "until": until,
}
checks[check](*rest)
