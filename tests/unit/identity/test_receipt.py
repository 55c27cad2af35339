"""Receipts: what two signed envelopes prove to whoever holds the root's public key, and what breaks that proof."""

from collections.abc import Sequence
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from identity_world import DAY_US, RPC, START_US, World, at, inbox, known, meet, stream

from bus_mesh.identity.envelope import EnvelopeKind
from bus_mesh.identity.keyring import Keyring
from bus_mesh.identity.keys import NodeKey
from bus_mesh.identity.receipt import REQUEST, Failed, Proof, encode_receipt, verify_receipt
from bus_mesh.identity.refusal import Reason, Untrusted
from bus_mesh.protocol.frames import Call, Fail, Reply, encode

MINUTE_US = 60_000_000


class Pair:
    """A node that asks and one that answers."""

    def __init__(self, world: World, asker: Keyring | None = None, answerer: Keyring | None = None) -> None:
        self.asker, self.answerer = asker or world.ring("a"), answerer or world.ring("b")
        meet(self.asker, self.answerer)

    def ask(self, *ids: int, caller: str = "web", method: str = "get", subject: str = RPC, seconds: float = 0) -> Proof:
        """Return what the answerer proves by the calls `ids`."""
        frames = [encode(Call(1, id, "orders", method, 5000, caller, None, b"order %d" % id)) for id in ids]
        to = [known(self.asker, self.answerer)]
        sealed = self.asker.seal(EnvelopeKind.CALLS, subject, frames, to, at(seconds), signed=True)
        opened = self.answerer.open(subject, sealed.data, at(seconds)).proof
        assert opened is not None and opened == sealed.proof, "both ends hold the same proof"
        return opened

    def answer(self, request: Proof, *frames: Reply | Fail, seconds: float = 1) -> Proof:
        """Return what the asker proves by the answers, each of which names the request."""
        said = [encode(frame._replace(head={REQUEST: request.digest, **(frame.head or {})})) for frame in frames]
        to, subject = [known(self.answerer, self.asker)], inbox(self.asker)
        sealed = self.answerer.seal(EnvelopeKind.ANSWERS, subject, said, to, at(seconds), signed=True)
        opened = self.asker.open(subject, sealed.data, at(seconds)).proof
        assert opened is not None and opened == sealed.proof
        return opened


def ok(number: int) -> Reply:
    return Reply(2, number, {"instance": "b-1"}, b"answer %d" % number)


@pytest.fixture
def pair(world: World) -> Pair:
    return Pair(world)


def refused(ids: Sequence[int], request: Proof, answer: Proof, world: World) -> Reason:
    with pytest.raises(Untrusted) as error:
        verify_receipt(encode_receipt(ids, request, answer), world.root.public)
    return error.value.reason


def test_a_receipt_says_who_asked_what_and_who_answered_what(world: World, pair: Pair) -> None:
    request = pair.ask(7)
    (receipt,) = verify_receipt(encode_receipt([7], request, pair.answer(request, ok(7))), world.root.public)

    assert receipt[:7] == ("demo", START_US, "a", "web", "orders", "get", b"order 7")
    assert receipt[7:] == (START_US + 1_000_000, "b", b"answer 7", None)


def test_a_failure_is_an_answer_too(world: World, pair: Pair) -> None:
    request = pair.ask(7)
    answer = pair.answer(request, Fail(3, 7, 9, "OUT_OF_STOCK", "no tea", None, {"ran": "yes"}))
    (receipt,) = verify_receipt(encode_receipt([7], request, answer), world.root.public)

    assert (receipt.answer, receipt.failed) == (b"", Failed("FAILED_PRECONDITION", "OUT_OF_STOCK", "no tea"))


def test_one_record_holds_the_calls_that_shared_both_envelopes(world: World, pair: Pair) -> None:
    request = pair.ask(1, 2, 3)
    answer = pair.answer(request, ok(3), ok(1))
    receipts = verify_receipt(encode_receipt([1, 3], request, answer), world.root.public)

    assert [(receipt.request, receipt.answer) for receipt in receipts] == [
        (b"order 1", b"answer 1"),
        (b"order 3", b"answer 3"),
    ]


def test_a_direct_call_has_a_receipt_like_one_to_the_group(world: World, pair: Pair) -> None:
    request = pair.ask(7, subject=inbox(pair.answerer))

    assert verify_receipt(encode_receipt([7], request, pair.answer(request, ok(7))), world.root.public)


def test_a_receipt_holds_after_the_certificates_have_ended(world: World) -> None:
    brief = world.ring("a", own=world.own("a", until_us=START_US + 2 * MINUTE_US))
    pair = Pair(world, brief)
    request = pair.ask(7, seconds=100)
    (receipt,) = verify_receipt(
        encode_receipt([7], request, pair.answer(request, ok(7), seconds=101)), world.root.public
    )

    assert receipt.asked_us == START_US + 100_000_000, "verified as of then, and it says when that was"


def test_what_was_signed_after_the_certificate_had_ended_does_not_hold(world: World) -> None:
    pair = Pair(world, world.ring("a", own=world.own("a", until_us=START_US + MINUTE_US)))
    # No honest receiver would open this; who keeps receipts need not be honest.
    call, to = encode(Call(1, 7, "orders", "get", 5000, "web", None, b"")), [known(pair.asker, pair.answerer)]
    late = pair.asker.seal(EnvelopeKind.CALLS, RPC, [call], to, at(61), signed=True).proof
    assert late is not None

    assert refused([7], late, pair.answer(late, ok(7)), world) is Reason.EXPIRED


def test_keys_and_certificates_may_be_renewed_between_request_and_answer(world: World, pair: Pair) -> None:
    request = pair.ask(7)
    pair.asker.renew(world.own("a", key=NodeKey.generate(stream("renewed"))), at(1))
    pair.answerer.rotate(at(1))
    meet(pair.asker, pair.answerer, at(1))
    answer = pair.answer(request, ok(7), seconds=2)
    (receipt,) = verify_receipt(encode_receipt([7], request, answer), world.root.public)

    assert (receipt.node, receipt.answered_by) == ("a", "b")
    later = pair.ask(8, seconds=3)
    assert later.chain != request.chain
    assert verify_receipt(encode_receipt([8], later, pair.answer(later, ok(8), seconds=4)), world.root.public)


def test_a_failure_with_the_code_of_a_success_is_no_success(world: World, pair: Pair) -> None:
    request = pair.ask(7)
    answer = pair.answer(request, Fail(3, 7, 0, "OK", "", None, None))
    (receipt,) = verify_receipt(encode_receipt([7], request, answer), world.root.public)

    assert receipt.failed == Failed("UNKNOWN", "OK", "")


def test_another_root_proves_nothing(world: World, pair: Pair) -> None:
    request = pair.ask(7)
    record = encode_receipt([7], request, pair.answer(request, ok(7)))

    with pytest.raises(Untrusted, match="the request, as of when it was signed"):
        verify_receipt(record, World(seed="other").root.public)


def test_who_may_not_speak_for_the_caller_proves_nothing(world: World, pair: Pair) -> None:
    request = pair.ask(7, caller="billing")

    assert refused([7], request, pair.answer(request, ok(7)), world) is Reason.NOT_GRANTED


def test_who_may_not_serve_the_service_answers_nothing(world: World) -> None:
    pair = Pair(world, answerer=world.ring("b", own=world.own("b", serve=("stock",))))
    request = pair.ask(7)

    assert refused([7], request, pair.answer(request, ok(7)), world) is Reason.NOT_GRANTED


def test_an_answer_to_another_request_with_the_same_number_is_not_its_answer(world: World, pair: Pair) -> None:
    request = pair.ask(7)
    another_boot = Pair(world, world.ring("a", boot="b0"), world.ring("b", boot="b0"))
    earlier = another_boot.ask(7)

    assert refused([7], request, pair.answer(earlier, ok(7)), world) is Reason.NOT_ITS_ANSWER
    assert refused([7], earlier, pair.answer(request, ok(7)), world) is Reason.NOT_ITS_ANSWER
    assert refused([7], request, another_boot.answer(earlier, ok(7)), world) is Reason.NOT_ITS_ANSWER


def test_an_answer_to_another_call_is_not_its_answer(world: World, pair: Pair) -> None:
    request = pair.ask(7)

    assert refused([7], request, pair.answer(request, ok(8)), world) is Reason.NOT_ITS_ANSWER
    assert refused([8], request, pair.answer(request, ok(8)), world) is Reason.NOT_ITS_ANSWER


def test_an_answer_that_went_to_another_node_is_not_its_answer(world: World, pair: Pair) -> None:
    request = pair.ask(7)
    other = Pair(world, world.ring("c"), pair.answerer)

    assert refused([7], request, other.answer(request, ok(7)), world) is Reason.NOT_ITS_ANSWER


def test_a_direct_call_is_answered_by_the_node_that_it_went_to(world: World, pair: Pair) -> None:
    request = pair.ask(7, subject=inbox(pair.answerer))
    other = Pair(world, pair.asker, world.ring("c"))

    assert refused([7], request, other.answer(request, ok(7)), world) is Reason.NOT_ITS_ANSWER


def test_a_call_must_be_of_the_method_that_its_subject_names(world: World, pair: Pair) -> None:
    request = pair.ask(7, method="delete")

    assert refused([7], request, pair.answer(request, ok(7)), world) is Reason.NOT_ITS_ANSWER


def test_two_calls_under_one_number_leave_open_which_was_meant(world: World, pair: Pair) -> None:
    request = pair.ask(7, 7)

    assert refused([7], request, pair.answer(request, ok(7)), world) is Reason.NOT_ITS_ANSWER


def test_request_and_answer_are_not_taken_for_each_other(world: World, pair: Pair) -> None:
    request = pair.ask(7)
    answer = pair.answer(request, ok(7))

    assert refused([7], answer, request, world) is Reason.MALFORMED


@pytest.mark.parametrize(
    ("name", "other"), [(b"web", b"app"), (b"orders", b"stocks"), (b"get", b"put"), (b"order 7", b"order 9")]
)
def test_a_changed_name_or_payload_breaks_the_signature(world: World, pair: Pair, name: bytes, other: bytes) -> None:
    request = pair.ask(7)
    answer = pair.answer(request, ok(7))
    assert name in request.signed
    changed = request._replace(signed=request.signed.replace(name, other))

    assert refused([7], changed, answer, world) is Reason.BAD_SIGNATURE


@cache
def one_record() -> tuple[bytes, bytes]:
    world = World()
    pair = Pair(world)
    request = pair.ask(7)
    return encode_receipt([7], request, pair.answer(request, ok(7))), world.root.public


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_any_flipped_bit_breaks_a_receipt(data: st.DataObject) -> None:
    record, root = one_record()
    at_bit = data.draw(st.integers(0, len(record) * 8 - 1))
    changed = bytearray(record)
    changed[at_bit // 8] ^= 1 << at_bit % 8

    with pytest.raises(Untrusted):
        verify_receipt(bytes(changed), root)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_changed_byte_of_a_proof_breaks_a_receipt(data: st.DataObject) -> None:
    world = World()
    pair = Pair(world)
    request = pair.ask(7)
    proofs = [request, pair.answer(request, ok(7))]
    which = data.draw(st.integers(0, 1))
    part = data.draw(st.sampled_from(["signed", "signature", "chain"]))
    value = bytearray(getattr(proofs[which], part))
    where = data.draw(st.integers(0, len(value) - 1))
    value[where] ^= data.draw(st.integers(1, 255))
    proofs[which] = proofs[which]._replace(**{part: bytes(value)})

    with pytest.raises(Untrusted):
        verify_receipt(encode_receipt([7], *proofs), world.root.public)


@given(st.binary(max_size=200))
def test_any_bytes_are_no_receipt_and_raise_nothing_else(data: bytes) -> None:
    with pytest.raises(Untrusted):
        verify_receipt(data, bytes(32))


def test_a_chain_is_judged_as_of_the_moment_of_signing_and_not_of_now(world: World, pair: Pair) -> None:
    early = pair.asker.own.certificate.not_before_us - START_US
    assert early == -MINUTE_US and pair.asker.own.certificate.not_after_us == START_US + DAY_US
    call, to = encode(Call(1, 7, "orders", "get", 5000, "web", None, b"")), [known(pair.asker, pair.answerer)]
    before = pair.asker.seal(EnvelopeKind.CALLS, RPC, [call], to, at(-61), signed=True).proof
    assert before is not None

    assert refused([7], before, pair.answer(before, ok(7)), world) is Reason.NOT_YET_VALID
