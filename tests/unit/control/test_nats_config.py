"""The text of a server's configuration, and the certificates beside it."""

import datetime
import os
import ssl

import pytest
from cryptography import x509

from bus_mesh.control.nats_authority import KEYS, Authority
from bus_mesh.control.nats_config import ServerSettings, server_config, written_for
from bus_mesh.control.nats_tls import BadHost, Ca, Pair

NOW = datetime.datetime(2027, 1, 1, tzinfo=datetime.UTC)
AUTHORITY = Authority.generate("demo", os.urandom)


def text(monitor: tuple[str, int] | None = None) -> str:
    accounts = {"ASYS": "a.b.c", "AMESH": "d.e.f"}
    return server_config(AUTHORITY, accounts, 1_800_000_000, ServerSettings("::1", 4222, monitor))


def test_it_says_what_a_hardened_server_needs() -> None:
    lines = [line.strip() for line in text().splitlines()]

    for line in (
        'host: "::1"',
        "port: 4222",
        f'operator: "{AUTHORITY.operator_token(1_800_000_000)}"',
        f'system_account: "{AUTHORITY.system.public}"',
        "type: full",
        'AMESH: "d.e.f"',
        'min_version: "1.3"',
        "handshake_first: true",
        "max_payload: 1MB",
        'write_deadline: "2s"',
        'ping_interval: "5s"',
        'lame_duck_duration: "30s"',
    ):
        assert line in lines
    assert "no_auth_user" not in text()
    assert "http" not in text()


def test_the_monitor_is_on_only_where_it_is_asked_for() -> None:
    assert 'http: "127.0.0.1:8222"' in text(("127.0.0.1", 8222))


def test_no_private_key_is_in_it() -> None:
    assert not [name for name in KEYS if getattr(AUTHORITY, name).seed in text()]


def test_it_knows_itself_again_and_no_other() -> None:
    assert written_for(text(), "demo")
    assert not written_for(text(), "dem")
    assert not written_for("# by hand\n" + text(), "demo")


def test_a_servers_certificate_holds_its_names_and_is_signed_by_the_authority() -> None:
    ca = Ca.generate("demo", NOW)
    pair = ca.server(["bus.example.com", "10.0.0.1", "::1"], NOW)
    found = x509.load_pem_x509_certificate(pair.certificate)
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value

    found.verify_directly_issued_by(x509.load_pem_x509_certificate(ca.pair.certificate))
    assert names.get_values_for_type(x509.DNSName) == ["bus.example.com"]
    assert [str(one) for one in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.1", "::1"]
    assert found.not_valid_before_utc < NOW < found.not_valid_after_utc <= NOW + datetime.timedelta(days=365)


def test_an_authority_is_kept_as_two_files_and_is_the_same_again() -> None:
    ca = Ca.generate("demo", NOW)
    again = Ca(ca.pair)

    signed = x509.load_pem_x509_certificate(again.server(["localhost"], NOW).certificate)
    signed.verify_directly_issued_by(x509.load_pem_x509_certificate(ca.pair.certificate))
    assert ca.pair.key not in repr(ca).encode() + repr(ca.pair).encode()


def test_an_authority_signs_servers_and_no_further_authority() -> None:
    found = x509.load_pem_x509_certificate(Ca.generate("demo", NOW).pair.certificate)
    constraint = found.extensions.get_extension_for_class(x509.BasicConstraints)

    assert (constraint.critical, constraint.value.ca, constraint.value.path_length) == (True, True, 0)


def test_strict_checks_of_certificates_are_met() -> None:
    ca = Ca.generate("demo", datetime.datetime.now(datetime.UTC))
    context = ssl.create_default_context(cadata=ca.pair.certificate.decode())
    context.verify_flags |= ssl.VERIFY_X509_STRICT

    assert len(context.get_ca_certs()) == 1


@pytest.mark.parametrize("host", ["", "a b", "*.example.com", "-a", "a..b", "ä.example", "a" * 64, "a\n", 'a"'])
def test_what_is_no_host_never_gets_into_a_certificate(host: str) -> None:
    with pytest.raises(BadHost):
        Ca.generate("demo", NOW).server([host], NOW)


def test_a_key_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError):
        Ca(Pair(Ca.generate("demo", NOW).pair.certificate, b"no key"))
