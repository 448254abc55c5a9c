"""Certificates that Flower and TLS accept, and one message for each that they would not."""

from __future__ import annotations

import socket
import ssl
import stat
import threading
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from trustsnn.errors import ConfigError
from trustsnn.federated.certificates import check, handshake, make

PAST = datetime.now(UTC) - timedelta(days=400)


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """A folder for two nodes. Do not change it."""
    folder = tmp_path_factory.mktemp("deployment") / "keys"
    make(folder, ["127.0.0.1", "localhost"], 2)
    return folder


@pytest.fixture
def own(tmp_path):
    make(tmp_path / "keys", ["127.0.0.1", "localhost"], 2)
    return tmp_path / "keys"


@contextmanager
def serving(folder):
    """The address of a server that shows the certificate of `folder`, once."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer():
            with listening.accept()[0] as plain, suppress(OSError):  # the other side goes away, as it should
                context.wrap_socket(plain, server_side=True).close()

        thread = threading.Thread(target=answer)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        thread.join()


def test_the_files_and_who_may_read_them(keys):
    found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in keys.iterdir()}
    names = {"ca.pem", "server.pem", "server.key", "node-0.key", "node-0.pub", "node-1.key", "node-1.pub"}
    assert found.keys() == names
    assert {name for name, mode in found.items() if mode == 0o600} == {name for name in names if name.endswith(".key")}
    assert stat.S_IMODE(keys.stat().st_mode) == 0o700
    assert b"PRIVATE" not in (keys / "ca.pem").read_bytes()


def test_the_key_of_the_ca_is_nowhere(keys):
    ca = x509.load_pem_x509_certificate((keys / "ca.pem").read_bytes()).public_key()
    server = serialization.load_pem_private_key((keys / "server.key").read_bytes(), None)
    nodes = [serialization.load_ssh_private_key((keys / f"node-{n}.key").read_bytes(), None) for n in range(2)]
    assert all(key.public_key() != ca for key in [server, *nodes])


def test_flower_reads_the_node_keys(keys):
    register = pytest.importorskip("flwr.cli.supernode.register")
    supernode = pytest.importorskip("flwr.supernode.cli.flower_supernode")
    arguments = type("Arguments", (), {"auth_supernode_private_key": str(keys / "node-1.key"), "auth_supernode_public_key": None})
    private, public = supernode._try_setup_client_authentication(arguments)
    assert isinstance(private.curve, ec.SECP384R1)
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert register.try_load_public_key(keys / "node-1.pub") == pem


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_strict_client_trusts_the_server_under_each_of_its_names(keys, host):
    context = ssl.create_default_context(cafile=str(keys / "ca.pem"))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    with (
        serving(keys) as address,
        socket.create_connection(("127.0.0.1", int(address.split(":")[1]))) as plain,
        context.wrap_socket(plain, server_hostname=host) as secure,
    ):
        assert secure.version() >= "TLSv1.2"


def test_what_is_in_order_is_told(keys, cli):
    told = check(keys)
    assert [line.partition(":")[0] for line in told] == ["ca.pem", "server.pem", "node-0.key", "node-1.key"]
    assert "127.0.0.1, localhost" in told[1]
    with serving(keys) as address:
        assert f"{address}: trusted" in cli("federate", "check", keys, "--server", address).output


def test_a_node_checks_what_it_has(own):
    for name in ("server.pem", "server.key", "node-0.key", "node-0.pub", "node-1.pub"):
        (own / name).unlink()
    assert len(check(own)) == 2


def test_nothing_is_written_over(own, cli):
    before = {path.name: path.read_bytes() for path in own.iterdir()}
    with pytest.raises(ConfigError, match="never written over"):
        cli("federate", "certificates", own)
    assert {path.name: path.read_bytes() for path in own.iterdir()} == before


@pytest.mark.parametrize("host", ["", "two words", "a..b", "https://server", "256.0.0.1:8000", "ümlaut.example"])
def test_a_host_that_is_none_is_refused(tmp_path, host):
    with pytest.raises(ConfigError, match="Expected an address"):
        make(tmp_path / "keys", ["127.0.0.1", host], 1)
    assert not (tmp_path / "keys").exists()


@pytest.mark.parametrize("wrong", [{"hosts": []}, {"nodes": -1}, {"days": 0}])
def test_settings_that_make_no_sense_are_refused(tmp_path, wrong):
    with pytest.raises(ConfigError, match="Expected"):
        make(tmp_path / "keys", **{"hosts": ["127.0.0.1"], "nodes": 1, **wrong})


def test_days_count_from_now(tmp_path):
    now = datetime(2030, 1, 1, tzinfo=UTC)
    make(tmp_path / "keys", ["::1", "server.example.org"], 0, days=30, now=now)
    assert "2030-01-30, for ::1, server.example.org" in check(tmp_path / "keys", now=now)[1]
    check(tmp_path / "keys", now=now + timedelta(days=29))
    with pytest.raises(ConfigError, match=r"server.pem has expired, on 2030-01-30 .* federate certificates"):
        check(tmp_path / "keys", now=now + timedelta(days=31))
    with pytest.raises(ConfigError, match=r"not valid before 2029-12-31 .* clock"):
        check(tmp_path / "keys", now=now - timedelta(hours=1))


def _other_ca(own):
    make(own / "other", ["127.0.0.1"], 2)
    (own / "ca.pem").write_bytes((own / "other" / "ca.pem").read_bytes())


def _other_server_key(own):
    make(own / "other", ["127.0.0.1"], 2)
    (own / "server.key").write_bytes((own / "other" / "server.key").read_bytes())


def _other_public_half(own):
    (own / "node-0.pub").write_bytes((own / "node-1.pub").read_bytes())


def _open_key(own):
    (own / "node-1.key").chmod(0o640)


def _torn(own):
    (own / "server.pem").write_bytes((own / "server.pem").read_bytes()[:200])


def _gone(own):
    (own / "server.key").unlink()


def _other_curve(own):
    key, plain = ec.generate_private_key(ec.SECP256R1()), serialization.NoEncryption()
    (own / "node-0.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, plain))


def _other_kind(own):
    key, plain = ed25519.Ed25519PrivateKey.generate(), serialization.NoEncryption()
    (own / "node-0.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, plain))


def _passphrase(own):
    key, locked = ec.generate_private_key(ec.SECP384R1()), serialization.BestAvailableEncryption(b"secret")
    (own / "server.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked))


FAULTS = {
    _other_ca: "server.pem is signed by another CA than ca.pem",
    _other_server_key: "server.key is not the key of server.pem",
    _other_public_half: "node-0.pub is not the public half of node-0.key",
    _open_key: "node-1.key can be read by others. Mend it with: chmod 600",
    _torn: "Expected a certificate in PEM in .*server.pem",
    _gone: "server.key, got none: No such file",
    _other_curve: "Expected a key of the curve P-384 in .*node-0.key",
    _other_kind: "Expected a key of the curve P-384 in .*node-0.key",
    _passphrase: "Expected a key without a passphrase in .*server.key",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__[1:])
def test_every_fault_is_one_message(own, fault):
    fault(own)
    with pytest.raises(ConfigError, match=FAULTS[fault]):
        check(own)


def test_several_faults_are_one_message(own):
    _open_key(own)
    _other_public_half(own)
    with pytest.raises(ConfigError, match=r"node-0\.pub .* node-1\.key"):
        check(own)


def test_a_server_of_another_ca_is_not_trusted(keys, own):
    with serving(own) as address, pytest.raises(ConfigError, match=r"ca\.pem does not vouch .* (issuer|self-signed)"):
        handshake(keys / "ca.pem", address)


def test_a_server_whose_certificate_has_expired_is_not_trusted(tmp_path):
    make(tmp_path / "keys", ["127.0.0.1"], 0, now=PAST)
    with serving(tmp_path / "keys") as address, pytest.raises(ConfigError, match=r"does not vouch .* expired"):
        handshake(tmp_path / "keys" / "ca.pem", address)


def test_a_server_of_another_address_is_not_trusted(tmp_path):
    make(tmp_path / "keys", ["192.0.2.1"], 0)
    with serving(tmp_path / "keys") as address, pytest.raises(ConfigError, match=r"does not vouch .* IP address mismatch"):
        handshake(tmp_path / "keys" / "ca.pem", address)


def test_nobody_listens(keys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(ConfigError, match=f"Could not reach the server at 127.0.0.1:{port}"):
        handshake(keys / "ca.pem", f"127.0.0.1:{port}")


def test_it_does_not_speak_tls(keys):
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer():
            with listening.accept()[0] as plain:
                plain.recv(1)
                plain.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(ConfigError, match="does not answer over TLS"):
            handshake(keys / "ca.pem", f"127.0.0.1:{listening.getsockname()[1]}")
        thread.join()


@pytest.mark.parametrize("address", ["8000", "127.0.0.1", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:99999"])
def test_an_address_is_a_host_and_a_port(keys, address):
    with pytest.raises(ConfigError, match="HOST:PORT"):
        handshake(keys / "ca.pem", address)
