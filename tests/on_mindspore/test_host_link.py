"""Ranks exchange objects in rank order, and none outlives another that has died."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client
from typing import Any

import pytest
from mindrlhf_grpo_mindspore import host_link
from mindrlhf_grpo_mindspore.host_link import HostLink

from mindrlhf_grpo.errors import RunFailed


class Ranks:
    """Links of all ranks in this process; ``ended`` collects (rank, message) instead of ending the process."""

    def __init__(self, world_size: int) -> None:
        self.ended: list[tuple[int, str]] = []
        self.anyone_ended = threading.Event()
        listener, self.key = host_link.listen("127.0.0.1")
        self.address = listener.address
        with ThreadPoolExecutor(world_size) as pool:
            hub = pool.submit(host_link.accept, listener, world_size, self.end(0))
            others = [
                pool.submit(host_link.join, self.address, self.key, rank, self.end(rank))
                for rank in range(1, world_size)
            ]
            self.links: list[HostLink] = [link.result(timeout=10) for link in (hub, *others)]

    def end(self, rank: int) -> Callable[[str], None]:
        def note(message: str) -> None:
            self.ended.append((rank, message))
            self.anyone_ended.set()
            self.links[rank].closed.set()

        return note

    def on_all(self, call: Callable[[HostLink], Any]) -> list[Any]:
        """Result or error of ``call`` on every rank, run at the same time."""
        with ThreadPoolExecutor(len(self.links)) as pool:
            calls = [pool.submit(call, link) for link in self.links]
            return [done.exception(timeout=20) or done.result() for done in calls]

    def kill(self, rank: int) -> None:
        """Close the sockets as the kernel does for a killed process."""
        self.links[rank].closed.set()
        for connection in (*self.links[rank].talks.values(), *self.links[rank].watches.values()):
            connection.close()


@pytest.fixture
def three() -> Iterator[Ranks]:
    ranks = Ranks(3)
    yield ranks
    for link in ranks.links:
        link.close()


def test_every_rank_receives_every_item_in_rank_order(three: Ranks) -> None:
    assert three.on_all(lambda link: link.gather({"rank": link.rank})) == [[{"rank": 0}, {"rank": 1}, {"rank": 2}]] * 3


def test_large_items_pass(three: Ranks) -> None:
    assert (
        three.on_all(lambda link: [len(item) for item in link.gather(b"x" * 3_000_000 * link.rank)])
        == [[0, 3_000_000, 6_000_000]] * 3
    )


@pytest.mark.parametrize("dead", [0, 1, 2])
def test_death_of_a_rank_ends_all_others_and_is_named(three: Ranks, dead: int) -> None:
    three.kill(dead)
    for _ in range(100):
        if len(three.ended) == 2:
            break
        threading.Event().wait(0.05)
    assert sorted(rank for rank, _ in three.ended) == sorted({0, 1, 2} - {dead})
    assert all(message.startswith(f"rank {dead} has ended (killed") for _, message in three.ended)


def test_a_farewell_is_no_death(three: Ranks) -> None:
    three.links[1].close()
    three.links[0].close()
    three.links[2].close()
    assert not three.anyone_ended.wait(1.5)


def test_a_rank_that_goes_on_alone_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_link, "GRACE", 0.2)
    two = Ranks(2)
    two.links[1].close()
    assert two.anyone_ended.wait(5)
    assert two.ended[0][0] == 0


def test_waiting_for_a_rank_that_left_fails_on_every_rank(three: Ranks) -> None:
    def leave_or_gather(link: HostLink) -> Any:
        if link.rank == 1:
            link.close()
            for connection in link.talks.values():
                connection.close()
            return None
        return link.gather(link.rank)

    first, _, third = three.on_all(leave_or_gather)
    for error in (first, third):
        assert isinstance(error, RunFailed)
        assert str(error).startswith("rank 1 has left the run")


def test_a_stranger_is_not_let_in() -> None:
    listener, key = host_link.listen("127.0.0.1")
    with ThreadPoolExecutor(3) as pool:
        hub = pool.submit(host_link.accept, listener, 2)
        with pytest.raises(AuthenticationError):
            Client(listener.address, authkey=b"another key")
        other = pool.submit(host_link.join, listener.address, key, 1)
        links = [hub.result(timeout=10), other.result(timeout=10)]
        gathered = [pool.submit(link.gather, link.rank) for link in links]
        assert [done.result(timeout=10) for done in gathered] == [[0, 1], [0, 1]]
    for link in links:
        link.close()


def test_the_local_address_towards_this_machine_is_loopback() -> None:
    assert host_link.local_address("127.0.0.1") == "127.0.0.1"
