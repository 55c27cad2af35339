"""This node's instances as services of NATS: found, counted, and where policy exposes them called by plain clients.

    $SRV.PING|INFO|STATS[.name[.id]] ──▶ an answer of each instance that is meant
    rpc.<service>.<method>, JSON ──▶ not exposed: error 401, a few a second
                                 └─▶ exposed: the caller `anonymous`, the same gates, an answer in JSON

Plain clients have no identity: what the broker lets them publish is all that is known. They hear nothing but answers to
their own inboxes, below `_INBOX.`.
"""

import json
from collections.abc import Callable, Mapping
from itertools import count
from typing import Final

from bus_mesh.agent.inbound import Inbound, Instance, PlainCaller
from bus_mesh.agent.plain_values import from_json, to_json
from bus_mesh.agent.receive import Allowance
from bus_mesh.bus.contract import Bus
from bus_mesh.protocol import micro
from bus_mesh.protocol.call import Outcome
from bus_mesh.protocol.errors import Code, Internal, InvalidArgument, MeshError, Ran, ResourceExhausted
from bus_mesh.protocol.subjects import Subjects

INBOX: Final = "_INBOX."
LONGEST_INBOX: Final = 256
REFUSALS_PER_SECOND: Final = 10
"""Errors 401, to all plain clients together: one that knocks learns nothing by knocking more."""
ANSWERS_PER_SECOND: Final = 500
"""Answers to discovery, of all instances together."""
AT_ONCE: Final = 256
"""Calls of plain clients under way."""
DEFAULT_SECONDS: Final = 5.0
"""How long a call may take where its contract does not say."""


class Micro:
    """Answers plain clients for the instances in `instances`. `exposed(service, method)` is policy's word."""

    def __init__(
        self,
        node: str,
        bus: Bus,
        subjects: Subjects,
        instances: Mapping[str, Instance],
        inbound: Inbound,
        exposed: Callable[[str, str], bool],
        now: Callable[[], float],
        dropped: Callable[[str], None],
    ) -> None:
        self._node = node
        self._bus = bus
        self._subjects = subjects
        self._instances = instances
        self._inbound = inbound
        self._exposed = exposed
        self._now = now
        self._dropped = dropped
        self._numbers = count(1)
        self._under_way = 0
        self._answers = Allowance(ANSWERS_PER_SECOND)
        self._refusals = Allowance(REFUSALS_PER_SECOND)
        inbound.plain_done = self._done

    def __repr__(self) -> str:
        return f"Micro(under way={self._under_way})"

    async def start(self) -> None:
        """Listen to discovery: nine subjects, in no queue group, for everybody is to answer."""
        for verb in micro.VERBS:
            for narrower in ("", ".*", ".*.*"):
                await self._bus.subscribe(f"$SRV.{verb}{narrower}", self.on_question)

    def on_question(self, subject: str, reply: str, data: bytes, status: int) -> None:
        """Answer for every instance that is meant."""
        asked = micro.parse(subject)
        if asked is None or not _is_inbox(reply):
            return
        verb, name, id = asked
        for instance in list(self._instances.values()):
            meant = name in ("", instance.service) and id in ("", instance.id)
            if meant and instance.state != "leaving" and self._answers.take("", self._now()):
                self._bus.publish(reply, micro.said(verb, self._served(instance)))

    def on_plain(self, instance: Instance, method: str, reply: str, data: bytes) -> None:
        """Take in what came on a call's subject and is no envelope; without an inbox to answer to it is dropped."""
        if not _is_inbox(reply):
            self._dropped("NOT_AN_ENVELOPE")
            return
        now = self._now()
        if not self._exposed(instance.service, method):
            self._dropped("NOT_EXPOSED")
            if self._refusals.take("", now):
                text = (
                    f"{instance.service}/{method} takes sealed calls only: policy does not expose it to plain clients"
                )
                headers = {micro.ERROR: text, micro.ERROR_CODE: "401"}
                self._bus.publish_headed(reply, headers, b"")
            return
        try:
            if self._under_way >= AT_ONCE:
                raise ResourceExhausted(f"{AT_ONCE} calls of plain clients are under way", ran=Ran.NO)
            params = _parameters(data)
        except MeshError as error:
            self._fail(reply, Outcome.refusal(error))
            return
        known = instance.methods.get(method)
        seconds = known.timeout_ms / 1000 if known is not None and known.timeout_ms else DEFAULT_SECONDS
        self._under_way += 1
        caller = PlainCaller(reply, next(self._numbers))
        self._inbound.plain_call(caller, instance, method, params, now, now + seconds)

    def _done(self, caller: PlainCaller, outcome: Outcome) -> None:
        self._under_way -= 1
        if outcome.fail is not None:
            self._fail(caller.reply, outcome)
            return
        try:
            answer = to_json(outcome.payload)
        except ValueError as error:
            self._fail(caller.reply, Outcome.refusal(Internal(f"of the answer: {error}", ran=Ran.YES)))
            return
        if not self._bus.publish_headed(caller.reply, {}, answer):
            text = f"the answer has {len(answer)} bytes, or the bus is clogged"
            self._bus.publish_headed(caller.reply, micro.failure(Code.RESOURCE_EXHAUSTED, text), b"")

    def _fail(self, reply: str, outcome: Outcome) -> None:
        fail = outcome.fail
        assert fail is not None
        body = {"code": Code(fail.code).name, "reason": fail.reason, "message": fail.message, "ran": str(outcome.ran)}
        self._bus.publish_headed(reply, micro.failure(fail.code, fail.message), json.dumps(body).encode())

    def _served(self, instance: Instance) -> micro.Served:
        root = f"{self._subjects.root}.rpc.{instance.service}."
        metadata = {**instance.labels, "node": self._node, "state": instance.state}
        return micro.Served(
            instance.service, instance.id, instance.version, metadata, instance.since_us, root, instance.counts
        )


def _is_inbox(reply: str) -> bool:
    """Tell whether a plain client can be answered there: strangers choose it, and may write anything."""
    return reply.startswith(INBOX) and len(reply) <= LONGEST_INBOX and reply.isascii() and reply.isprintable()


def _parameters(data: bytes) -> bytes:
    """Return a JSON object as the parameters of a call; nothing at all is none."""
    try:
        return from_json(data if data.strip() else b"{}", kind=dict)
    except ValueError as error:
        text = f'send the parameters as a JSON object, such as {{"id": "1"}}: {error}'
        raise InvalidArgument(text, ran=Ran.NO) from None
