"""What others build on: public names, and tables in docstrings that must say what the code does."""

import importlib
import inspect
import pkgutil
import re
from types import ModuleType
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bus_mesh.policy
import bus_mesh.protocol
import bus_mesh.testing
from bus_mesh.protocol import errors, frames, names, session
from bus_mesh.protocol.errors import Code, InvalidName, MeshError
from bus_mesh.protocol.subjects import Subjects


def modules(package: ModuleType) -> list[ModuleType]:
    found = [
        importlib.import_module(f"{package.__name__}.{info.name}") for info in pkgutil.iter_modules(package.__path__)
    ]
    return [package, *found]


MODULES = [*modules(bus_mesh.protocol), *modules(bus_mesh.policy), bus_mesh.testing]


def documented(owner: ModuleType | type, within: str) -> list[str]:
    """Return the public functions, classes, methods and properties of `owner` that say nothing of themselves."""
    silent = []
    for name, value in vars(owner).items():
        value = getattr(value, "__func__", value)
        if name.startswith("_") or getattr(value, "__module__", within) != within:
            continue
        if isinstance(value, type) or inspect.isfunction(value) or isinstance(value, property):
            if not (value.__doc__ or "").strip():
                silent.append(f"{within}.{owner.__name__}.{name}")
            if isinstance(value, type) and value is not owner:
                silent += documented(value, within)
    return silent


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_public_name_says_what_it_is(module: ModuleType) -> None:
    assert (module.__doc__ or "").strip()
    assert documented(module, module.__name__) == []


@pytest.mark.parametrize(
    "module", [module for module in MODULES if hasattr(module, "__all__")], ids=lambda module: module.__name__
)
def test_what_a_module_offers_is_there_and_named_once(module: ModuleType) -> None:
    assert len(set(module.__all__)) == len(module.__all__)
    assert all(hasattr(module, name) for name in module.__all__)


def test_the_errors_offered_are_the_errors_defined() -> None:
    defined = {name for name, value in vars(errors).items() if getattr(value, "__module__", "") == errors.__name__}

    assert {name for name in defined if not name.startswith("_")} == set(errors.__all__)


class Drawn(NamedTuple):
    name: str
    parent: str
    code: str
    reason: str


def drawn_tree() -> list[Drawn]:
    found, parents = list[Drawn](), {0: "MeshError"}
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^    ([│ ]*)[├└]── (\w+) +(?:· )?([A-Z_]+)", line)
        if match:
            depth = len(match[1]) // 4
            parents[depth + 1] = match[2]
            parent = getattr(errors, parents[depth])
            mark = "·" in line
            found.append(Drawn(match[2], parent.__name__, parent.code.name if mark else match[3], match[3]))
    return found


def test_the_tree_of_errors_is_drawn_as_it_is() -> None:
    tree = drawn_tree()

    assert len(tree) == sum(issubclass(getattr(errors, n), MeshError) for n in errors.__all__ if n[0] != "_") - 1
    for drawn in tree:
        kind = getattr(errors, drawn.name)
        assert kind.__bases__ == (getattr(errors, drawn.parent),)
        assert (kind.code.name, kind.reason) == (drawn.code, drawn.reason)


def test_the_table_of_frames_says_what_they_are() -> None:
    rows = re.findall(r"^\| (\d+) \| ([A-Z]+) \| ([\w, ]*)\|$", frames.__doc__ or "", re.M)
    shapes = {"CALL": "Call", "REPLY": "Reply", "FAIL": "Fail", "CANCEL": "Cancel", "REFUSED": "Refused"}
    checked = 0
    for number, name, fields in rows:
        shape = getattr(frames, shapes.get(name, name.capitalize()), None)
        assert frames.Kind[name] == int(number)
        assert shape is not None, name
        assert ", ".join(shape._fields[1:]) == fields.strip()
        checked += 1

    assert checked == len(frames._SHAPES) - 2, "PING and PONG share a row"


def test_the_diagram_of_a_session_shows_every_state() -> None:
    assert all(state.name in (session.__doc__ or "") for state in session.State)


@pytest.mark.parametrize("kind", [c for c in Code if c is not Code.OK], ids=lambda code: code.name)
def test_every_code_is_somebody_s_to_act_on(kind: Code) -> None:
    arrived = MeshError.from_wire(int(kind), kind.name, "", None, None)

    assert arrived.fault in errors.Fault
    assert arrived.to_wire()[0] == kind


@given(st.text(max_size=70) | st.text("abz09-_.*> \n", max_size=70))
def test_a_name_is_taken_as_it_is_or_not_at_all(text: str) -> None:
    rules = (
        (names.service_name, r"[a-z][a-z0-9-]{0,62}"),
        (names.node_name, r"[a-z][a-z0-9-]{0,62}"),
        (names.mesh_name, r"[a-z][a-z0-9-]{0,62}"),
        (names.method_name, r"[a-z][a-z0-9_]{0,62}"),
    )
    for take, rule in rules:
        if re.compile(rule, re.ASCII).fullmatch(text):
            assert take(text) is text
        else:
            with pytest.raises(InvalidName) as caught:
                take(text)
            assert len(str(caught.value)) < 500


@given(st.sampled_from(["rpc", "find", "found", "none", "node"]), st.lists(st.text("ab*>_-0.", max_size=6), max_size=4))
def test_no_hostile_token_is_taken_out_of_a_subject(kind: str, tokens: list[str]) -> None:
    subjects = Subjects("demo")
    subject = ".".join([subjects.root, kind, *tokens])
    for pair in (subjects.parse_rpc(subject), subjects.parse_find(subject), subjects.parse_found(subject)):
        if pair is not None:
            assert names.is_service(pair[0]) or pair[0] == "_"
            assert names.is_method(pair[1]) or names.is_node(pair[1])
            assert subject.endswith(".".join(pair))
    subjects.parse_none(subject)
