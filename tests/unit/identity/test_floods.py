"""Floods, bombs and rubbish: nothing but a refusal comes of them, and memory stays as it was."""

import random
import tracemalloc

import pytest
from identity_world import RPC, World, at, call, friends, inbox, known, meet

from bus_mesh.identity import document
from bus_mesh.identity.envelope import HEADER, PREFIX
from bus_mesh.identity.keyring import Dropped, NotARecipient, Untrusted


def mutated(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at_byte = chance.randrange(len(changed))
        match chance.randrange(4):
            case 0:
                changed[at_byte] = chance.randrange(256)
            case 1:
                del changed[at_byte : at_byte + chance.randint(1, 40)]
            case 2:
                changed[at_byte:at_byte] = chance.randbytes(chance.randint(1, 40))
            case _:
                changed = changed[:at_byte]
        if not changed:
            break
    return bytes(changed)


def test_ten_thousand_hostile_documents_raise_nothing_but_untrusted(world: World) -> None:
    b, chance = world.ring("b"), random.Random(7)
    honest = world.ring("a").announcement
    for i in range(10_000):
        data = mutated(honest, chance) if i % 2 else chance.randbytes(chance.randrange(300))
        if data == honest:
            continue
        with pytest.raises(Untrusted):
            b.accept(data, at(i / 100))
    assert len(b._peers) == 1


def test_ten_thousand_hostile_envelopes_raise_nothing_but_dropped(world: World) -> None:
    a, b = world.ring("a"), world.ring("b")
    meet(a, b)
    a.open(RPC, call(b, [a]).data, at(0))
    known(a, b).knows_me, chance = False, random.Random(8)
    stranger = world.ring("stranger")
    stranger.accept(b.announcement, at(0))
    honest = [call(ring, [b], b"x" * 50, now=at(0)).data for ring in (a, stranger)]
    for i in range(10_000):
        data = mutated(honest[i % 2], chance) if i % 3 else PREFIX + chance.randbytes(chance.randrange(300))
        if data in honest:
            continue
        with pytest.raises((Dropped, NotARecipient)):
            b.open(chance.choice([RPC, inbox(b)]), data, at(i / 1000))
    assert sum(b.dropped.values()) >= 9_900


def test_a_bomb_as_an_announcement_costs_nothing(world: World) -> None:
    b, own = world.ring("b"), world.own("a")
    head = document.sign("busmesh announcement 1", (), own.key)
    bomb = head[: head.index(b"announcement 1") + 14] + b"\x91" * 60_000
    tracemalloc.start()
    for _ in range(10):
        with pytest.raises(Untrusted, match="MALFORMED"):
            b.accept(bomb, at(0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 300_000


def test_a_flood_of_documents_spends_its_budget_and_known_nodes_are_still_heard(world: World) -> None:
    a, (b,) = friends(world, 1)
    stranger = world.ring("stranger").announcement
    for i in range(1000):
        with pytest.raises(Untrusted):
            b.accept(stranger[:-8] + i.to_bytes(8, "big"), at(5))

    assert b.dropped["BUDGET"] > 800
    assert b.accept(a.announce((), at(5)), at(5), "a").news


def test_equal_bytes_are_verified_once(world: World) -> None:
    b = world.ring("b")
    forged = world.ring("stranger").announcement[:-1] + b"\x00"
    for _ in range(1000):
        with pytest.raises(Untrusted, match="BAD_SIGNATURE"):
            b.accept(forged, at(5))

    assert b.dropped["BUDGET"] == 0


def test_a_hundred_thousand_strangers_do_not_make_memory_grow(world: World) -> None:
    a, (b,) = friends(world, 1)
    chance = random.Random(9)
    document_bytes = world.ring("stranger").announcement

    def strangers(count: int) -> None:
        for i in range(count):
            kind, id = chance.choice((0, 1)), chance.randbytes(8)
            head = HEADER.pack(PREFIX, 1, 1, kind, 1, id, i + 1, at(0).wall_us) + b.key_id
            word = document_bytes[:-8] + id
            try:
                b.open(RPC, head + (len(word).to_bytes(4, "big") + word if kind else b"") + bytes(32), at(i / 50_000))
            except Dropped:
                continue
            raise AssertionError("a stranger was believed")

    strangers(20_000)
    tracemalloc.start()
    strangers(80_000)
    grown = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()

    assert grown < 1_500_000  # the bounded memory of refusals may still fill up
    assert len(b._peers) == 2
    assert set(b.dropped) == set(world.ring("c").dropped)
    assert b.open(RPC, call(a, [b]).data, at(3)).frames
