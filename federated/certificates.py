"""Certificates and keys of a federation on real devices, for tests and small set-ups, and their check before a process trusts them."""

from __future__ import annotations

import ipaddress
import os
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from trustsnn.errors import ConfigError
from trustsnn.keys import is_private, write_new

CA, SERVER, SERVER_KEY = "ca.pem", "server.pem", "server.key"
_CURVE = ec.SECP384R1
_PEM, _SSH = serialization.Encoding.PEM, serialization.Encoding.OpenSSH
_PLAIN = serialization.NoEncryption()
_AGAIN = "Make new ones with: trustsnn federate certificates FOLDER"


def make(folder: Path, hosts: Sequence[str], nodes: int, *, days: int = 365, now: datetime | None = None) -> list[Path]:
    """Write a CA's certificate, the server's certificate and key, and a key pair (EC P-384) for each of so many nodes.

    The CA's own key signs the server's certificate and is never written: nobody can make another one that nodes would trust, and new
    certificates come with a new CA. Node keys are in OpenSSH's format, as `flower-supernode` and `flwr supernode register` of Flower 1.41 read them.

    Args:
        folder: a new or an empty folder; its owner alone may open it, and read the keys.
        hosts: addresses and names by which nodes reach the server.
        days: until the certificates expire. Node keys do not.
        now: the time, for tests.

    Returns:
        The files, of which a node needs ca.pem and its own key alone.

    Raises:
        ConfigError: the folder is not empty, a host is no address and no name, or there is nothing to write.
    """
    if not hosts or nodes < 0 or days < 1:
        raise ConfigError(f"Expected a host, no fewer than 0 nodes and a day at least, got {list(hosts)}, {nodes} and {days}.")
    names = [_general_name(host) for host in hosts]
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"Expected a new or an empty folder, got {folder}: keys are never written over. Choose another.")
    begins = (now or datetime.now(UTC)) - timedelta(minutes=5)  # clocks differ
    ends = begins + timedelta(days=days)
    ca_key, key = ec.generate_private_key(_CURVE()), ec.generate_private_key(_CURVE())
    ca_name, server_name = (_name(f"{who} of a federation") for who in ("CA", "server"))
    ca = _certificate(ca_name, ca_key.public_key(), ca_name, ca_key, begins, ends, None)
    server = _certificate(server_name, key.public_key(), ca_name, ca_key, begins, ends, names)
    files = {
        CA: (ca.public_bytes(_PEM), 0o644), SERVER: (server.public_bytes(_PEM), 0o644),
        SERVER_KEY: (key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, _PLAIN), 0o600),
    }  # fmt: skip
    for node in range(nodes):
        own = ec.generate_private_key(_CURVE())
        files[f"node-{node}.key"] = (own.private_bytes(_PEM, serialization.PrivateFormat.OpenSSH, _PLAIN), 0o600)
        files[f"node-{node}.pub"] = (own.public_key().public_bytes(_SSH, serialization.PublicFormat.OpenSSH) + b"\n", 0o644)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, (content, mode) in files.items():
        write_new(folder / name, content, mode)
    return [folder / name for name in files]


def check(folder: Path, *, now: datetime | None = None) -> list[str]:
    """What of such a folder is there and in order, a line each: on a node's own machine that is ca.pem and one key.

    Raises:
        ConfigError: with every problem in it: a certificate that has expired or is of another CA, a key that does not fit or that others can read.
    """
    now, told, problems = now or datetime.now(UTC), list[str](), list[str]()
    ca = _read_certificate(folder / CA)
    told.append(f"{CA}: until {ca.not_valid_after_utc:%Y-%m-%d}")
    problems += _expired(CA, ca, now)
    if (folder / SERVER).exists() or (folder / SERVER_KEY).exists():
        server = _read_certificate(folder / SERVER)
        told.append(f"{SERVER}: until {server.not_valid_after_utc:%Y-%m-%d}, for {', '.join(_hosts(server))}")
        problems += _expired(SERVER, server, now)
        try:
            server.verify_directly_issued_by(ca)
        except (InvalidSignature, ValueError, TypeError):
            problems.append(f"{SERVER} is signed by another CA than {CA}. {_AGAIN}")
        key = _read_key(folder / SERVER_KEY, serialization.load_pem_private_key)
        if key.public_key() != server.public_key():
            problems.append(f"{SERVER_KEY} is not the key of {SERVER}. {_AGAIN}")
    for path in sorted(folder.glob("node-*.key")):
        own = _read_key(path, serialization.load_ssh_private_key)
        told.append(f"{path.name}: {own.curve.name}")
        public = path.with_suffix(".pub")
        if public.exists() and public.read_bytes().split()[:2] != _public(own).split()[:2]:
            problems.append(f"{public.name} is not the public half of {path.name}. {_AGAIN}")
    problems += [
        f"{path.name} can be read by others. Mend it with: chmod 600 {path}"
        for path in sorted(folder.glob("*.key"))
        if not is_private(path)
    ]
    if problems:
        raise ConfigError(f"{folder}: " + " ".join(problems))
    return told


def handshake(ca: Path, address: str, *, timeout: float = 10.0) -> str:
    """Greet the server at `address`, HOST:PORT, over TLS as a node with that CA does, and say until when its certificate holds.

    Raises:
        ConfigError: nobody answers there, it does not speak TLS, or its certificate has expired, is of another CA or of another host.
    """
    _read_certificate(ca)
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"Expected the server as HOST:PORT, got {address!r}.")
    context = ssl.create_default_context(cafile=str(ca))
    try:
        with (
            socket.create_connection((host.strip("[]"), int(port)), timeout) as plain,
            context.wrap_socket(plain, server_hostname=host.strip("[]")) as secure,
        ):
            told = secure.getpeercert() or {}
    except ssl.SSLCertVerificationError as error:
        raise ConfigError(f"{ca} does not vouch for the server at {address}: {error.verify_message}. {_AGAIN}") from error
    except ssl.SSLError as error:
        raise ConfigError(
            f"{address} does not answer over TLS: {error.reason}. Start the SuperLink with its certificates."
        ) from error
    except OSError as error:
        raise ConfigError(
            f"Could not reach the server at {address}: {error.strerror or error}. Start the SuperLink first."
        ) from error
    return f"{address}: trusted, until {told.get('notAfter', '')}"


def _certificate(
    subject: x509.Name, public: ec.EllipticCurvePublicKey, issuer: x509.Name, key: ec.EllipticCurvePrivateKey,
    begins: datetime, ends: datetime, hosts: Sequence[x509.GeneralName] | None,
) -> x509.Certificate:  # fmt: skip
    """A CA's where `hosts` is None, else a server's for these."""
    of_ca = hosts is None
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only"), False
    )
    found = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public).serial_number(x509.random_serial_number())
        .not_valid_before(begins).not_valid_after(ends)
        .add_extension(x509.BasicConstraints(of_ca, 0 if of_ca else None), True)
        .add_extension(x509.KeyUsage(digital_signature=not of_ca, key_cert_sign=of_ca, crl_sign=of_ca, **usage), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), False)
    )  # fmt: skip
    if hosts is not None:
        found = found.add_extension(x509.SubjectAlternativeName(hosts), False)
        found = found.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
    return found.sign(key, hashes.SHA384())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general_name(host: str) -> x509.GeneralName:
    with suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(host))
    labels = host.split(".")
    if len(host) > 253 or not all(label.replace("-", "").isalnum() and label.isascii() for label in labels):
        raise ConfigError(f"Expected an address such as 127.0.0.1 or a name such as server.example.org, got {host!r}.")
    return x509.DNSName(host)


def _hosts(certificate: x509.Certificate) -> Iterator[str]:
    with suppress(x509.ExtensionNotFound):
        for each in certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value:
            yield str(each.value)


def _expired(name: str, certificate: x509.Certificate, now: datetime) -> list[str]:
    if now > certificate.not_valid_after_utc:
        return [f"{name} has expired, on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC. {_AGAIN}"]
    if now < certificate.not_valid_before_utc:
        return [f"{name} is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC. Set this machine's clock."]
    return []


def _public(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(_SSH, serialization.PublicFormat.OpenSSH)


def _read_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"Expected a certificate in PEM in {path}, got none: {_why(error)}. {_AGAIN}") from error


def _read_key(path: Path, load: object) -> ec.EllipticCurvePrivateKey:
    try:
        key = load(path.read_bytes(), None)  # type: ignore[operator]
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"Expected a key without a passphrase in {path}, got none: {_why(error)}. {_AGAIN}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, _CURVE):
        raise ConfigError(f"Expected a key of the curve P-384 in {path}, got another. {_AGAIN}")
    return key


def _why(error: Exception) -> str:
    return os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error) or type(error).__name__
