"""How an agent gets in at the broker: what its settings say under `bus`, and what is wrong with its files."""

import base64
import datetime
import os
import ssl
from pathlib import Path

import pytest

from bus_mesh.bus.access import Access
from bus_mesh.bus_access import access_of
from bus_mesh.config import Bus, BusTls, ConfigError
from bus_mesh.control.nats_tls import Ca
from bus_mesh.identity.bus_credentials import Credentials
from bus_mesh.identity.keys import verifies
from bus_mesh.identity.nkeys import Kind, Nkey, public_bytes

PLAIN, TLS = ("nats://127.0.0.1:4222",), ("tls://127.0.0.1:4222",)


def refused(bus: Bus) -> str:
    with pytest.raises(ConfigError) as caught:
        access_of(bus)
    return str(caught.value)


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    file = tmp_path / "ca.pem"
    file.write_bytes(Ca.generate("demo", datetime.datetime.now(datetime.UTC)).pair.certificate)
    return file


def test_an_open_bus_needs_nothing() -> None:
    assert access_of(Bus(url=PLAIN)) == Access()


def test_a_user_signs_what_the_broker_asks_and_is_read_anew_for_each_connection(tmp_path: Path) -> None:
    file, keys = tmp_path / "bus.creds", [Nkey.generate(Kind.USER, os.urandom) for _ in range(2)]
    file.write_text(Credentials("first.a.b", keys[0]).text())
    access = access_of(Bus(url=PLAIN, credentials=file))
    assert access.jwt is not None and access.sign is not None
    assert access.jwt() == b"first.a.b"

    file.write_text(Credentials("second.a.b", keys[1]).text())

    assert access.jwt() == b"second.a.b"
    signature = base64.b64decode(access.sign("nonce"))
    assert verifies(public_bytes(keys[1].public, Kind.USER), signature, b"nonce")


def test_a_ca_is_trusted_alone_and_tls_is_1_3(ca: Path) -> None:
    access = access_of(Bus(url=TLS, tls=BusTls(ca=ca)))

    assert access.tls is not None and access.tls_first
    assert len(access.tls.get_ca_certs()) == 1
    assert (access.tls.verify_mode, access.tls.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert access.tls.minimum_version == ssl.TLSVersion.TLSv1_3


def test_an_address_that_says_tls_means_it() -> None:
    access = access_of(Bus(url=TLS))

    assert access.tls is not None and access.tls.verify_mode == ssl.CERT_REQUIRED
    assert not access.tls_first


def test_files_that_are_not_there_or_none_say_what_to_do(tmp_path: Path, ca: Path) -> None:
    missing, junk = tmp_path / "missing", tmp_path / "junk"
    junk.write_bytes(b"\xff\xfe")

    assert "missing: cannot be read: No such file or directory" in refused(Bus(url=PLAIN, credentials=missing))
    assert "busmesh node add" in refused(Bus(url=PLAIN, credentials=missing))
    assert "junk: is not UTF-8 text" in refused(Bus(url=PLAIN, credentials=junk))
    assert "ca.pem: it holds 0 of the two parts of a credentials file" in refused(Bus(url=PLAIN, credentials=ca))
    junk.write_text("no certificate")
    assert "junk: no certificate in PEM format" in refused(Bus(url=TLS, tls=BusTls(ca=junk)))
    assert "missing: cannot be read" in refused(Bus(url=TLS, tls=BusTls(ca=missing)))
    junk.write_text("")
    assert "junk: no certificate in PEM format" in refused(Bus(url=TLS, tls=BusTls(ca=junk)))
