import pytest
from identity_world import DAY_US, START_US, World, stream

from bus_mesh.identity.certificate import (
    May,
    NodeCertificate,
    Role,
    certify_node,
    certify_operator,
    delegate,
    verify_chain,
    verify_delegation,
    verify_operator,
)
from bus_mesh.identity.document import pack_row
from bus_mesh.identity.keyring import own_identity
from bus_mesh.identity.keys import NodeKey
from bus_mesh.identity.refusal import Untrusted
from bus_mesh.protocol.errors import InvalidName

NODE = NodeKey.generate(stream("node"))
TIMES = {"not_before_us": START_US, "not_after_us": START_US + DAY_US}


def chain_of(world: World, issuer: NodeKey | None = None, delegation: bytes | None = None, **changed: object) -> bytes:
    fields: dict = {
        "mesh": "demo",
        "node": "a",
        "key": NODE.public,
        "serve": ["pay"],
        "call_as": ["web"],
        "serial": "1",
    }
    return certify_node(issuer or world.issuer, delegation or world.delegation, **(fields | TIMES | changed))


def test_a_chain_from_the_root_holds(world: World) -> None:
    found = verify_chain(chain_of(world), "demo", world.root.public, START_US)

    assert found == NodeCertificate(
        "demo", "a", NODE.public, frozenset({"pay"}), frozenset({"web"}), *TIMES.values(), "1"
    )


def test_a_chain_of_another_root_is_refused(world: World) -> None:
    with pytest.raises(Untrusted, match="BAD_SIGNATURE"):
        verify_chain(chain_of(world), "demo", World(seed="other").root.public, START_US)


def test_a_certificate_of_a_node_that_plays_issuer_is_refused(world: World) -> None:
    with pytest.raises(Untrusted, match="BAD_SIGNATURE"):
        verify_chain(chain_of(world, issuer=NODE), "demo", world.root.public, START_US)


@pytest.mark.parametrize("role", [Role.POLICY, Role.OPERATOR])
def test_only_an_issuer_certifies_nodes(world: World, role: Role) -> None:
    signer = NodeKey.generate(stream("signer"))
    delegation = delegate(world.root, "demo", role, signer.public, term=1, **TIMES)

    with pytest.raises(Untrusted, match="WRONG_ROLE"):
        verify_chain(chain_of(world, signer, delegation), "demo", world.root.public, START_US)


@pytest.mark.parametrize(("mesh", "certified"), [("prod", "demo"), ("demo", "prod")])
def test_a_chain_of_another_mesh_is_refused(world: World, mesh: str, certified: str) -> None:
    with pytest.raises(Untrusted, match="WRONG_MESH"):
        verify_chain(chain_of(world, mesh=certified), mesh, world.root.public, START_US)


def test_a_certificate_holds_from_its_first_microsecond_to_before_its_last(world: World) -> None:
    chain, root = chain_of(world), world.root.public

    verify_chain(chain, "demo", root, START_US)
    verify_chain(chain, "demo", root, START_US + DAY_US - 1)
    with pytest.raises(Untrusted, match="NOT_YET_VALID"):
        verify_chain(chain, "demo", root, START_US - 1)
    with pytest.raises(Untrusted, match="EXPIRED"):
        verify_chain(chain, "demo", root, START_US + DAY_US)


def test_a_certificate_ends_with_the_delegation_above_it(world: World) -> None:
    times = {"not_before_us": START_US, "not_after_us": START_US + 1000}
    delegation = delegate(world.root, "demo", Role.ISSUER, world.issuer.public, term=2, **times)

    found = verify_chain(chain_of(world, delegation=delegation), "demo", world.root.public, START_US)

    assert found.not_after_us == START_US + 1000


def test_a_weak_key_is_not_certified(world: World) -> None:
    with pytest.raises(Untrusted, match="WEAK_KEY"):
        chain_of(world, key=bytes(32))


def test_a_hostile_name_is_not_certified(world: World) -> None:
    for wrong in ({"node": "a.b"}, {"serve": ["pay>"]}, {"call_as": ["*"]}, {"mesh": ""}):
        with pytest.raises(InvalidName):
            chain_of(world, **wrong)


def test_a_lone_delegation_is_no_node_chain(world: World) -> None:
    with pytest.raises(Untrusted, match="MALFORMED"):
        verify_chain(pack_row((world.delegation,)), "demo", world.root.public, START_US)


def test_a_chain_over_its_limit_is_refused(world: World) -> None:
    huge = pack_row((world.delegation, bytes(20_000)))

    with pytest.raises(Untrusted, match="MALFORMED"):
        verify_chain(huge, "demo", world.root.public, START_US)


def test_a_delegation_tells_its_term(world: World) -> None:
    signed = delegate(world.root, "demo", Role.POLICY, NODE.public, term=7, name="policy", **TIMES)

    found = verify_delegation(signed, "demo", world.root.public, START_US, Role.POLICY)

    assert (found.term, found.role, found.key, found.name) == (7, Role.POLICY, NODE.public, "policy")


def test_the_operator_of_the_root_may_everything(world: World) -> None:
    first = pack_row((delegate(world.root, "demo", Role.OPERATOR, NODE.public, term=1, name="ann", **TIMES),))

    found = verify_operator(first, "demo", world.root.public, START_US)

    assert (found.name, found.may) == ("ann", frozenset(May))


def test_an_operator_of_the_issuer_may_what_its_certificate_says(world: World) -> None:
    fields = {"mesh": "demo", "name": "bob", "key": NODE.public, "serial": "1"}
    chain = certify_operator(world.issuer, world.delegation, may=[May.OBSERVE], **fields, **TIMES)

    found = verify_operator(chain, "demo", world.root.public, START_US)

    assert (found.name, found.may) == ("bob", frozenset({May.OBSERVE}))


def test_a_node_is_no_operator_and_an_operator_no_node(world: World) -> None:
    fields = {"mesh": "demo", "name": "bob", "key": NODE.public, "serial": "1"}
    operator = certify_operator(world.issuer, world.delegation, may=[], **fields, **TIMES)

    with pytest.raises(Untrusted, match="MALFORMED"):
        verify_operator(chain_of(world), "demo", world.root.public, START_US)
    with pytest.raises(Untrusted, match="MALFORMED"):
        verify_chain(operator, "demo", world.root.public, START_US)


def test_a_chain_for_another_key_is_not_our_identity(world: World) -> None:
    with pytest.raises(Untrusted, match="another key"):
        own_identity(world.issuer, chain_of(world), "demo", world.root.public, START_US)
