"""Provides the certificate for HTTPS: the operator's own, or a self-signed one that the agent creates.

The self-signed certificate lists this machine's host names and addresses, and is stored in the data folder. It is
replaced when it is about to expire or when the names have changed. Times are arguments in unix seconds.
"""

import ipaddress
import socket
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from agent.runtime.files import replace_private
from agent.settings.settings import TlsSettings

CERT_FILE = "self-signed.pem"
KEY_FILE = "self-signed.key"
# Browsers refuse certificates that are valid for longer than 398 days.
VALID_DAYS = 397
RENEW_DAYS = 30


class TlsError(Exception):
    """The certificate or key cannot be used; the message tells the operator what to do."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The server's certificate and key, as PEM files."""

    cert: Path
    key: Path
    fingerprint: str  # SHA-256 of the certificate, "AB:CD:...", to compare with the browser's


def prepare_tls(settings: TlsSettings, data_dir: Path, *, now: float) -> TlsFiles | None:
    """Return the certificate and key to use; None when TLS is off. Creates a self-signed one if that is configured.

    Raises TlsError if they cannot be read, have expired, or do not belong together.
    """
    if not settings.enabled:
        return None
    if settings.self_signed:
        names = [*local_names(), *settings.hosts]
        cert, key = data_dir / CERT_FILE, data_dir / KEY_FILE
        if not _is_usable(cert, key, names, now):
            _make(cert, key, names, now)
    else:
        if settings.cert is None or settings.key is None:
            raise TlsError("tls needs both cert and key")
        cert, key = settings.cert, settings.key
    certificate = _load(cert)
    _check_pair(cert, key)
    if certificate.not_valid_after_utc.timestamp() <= now:
        raise TlsError(f"{cert} expired on {certificate.not_valid_after_utc:%Y-%m-%d}: renew it")
    return TlsFiles(cert, key, certificate.fingerprint(hashes.SHA256()).hex(":").upper())


def local_names() -> list[str]:
    """Return the host names and addresses of this machine, found without sending a packet."""
    names = ["localhost", "127.0.0.1", "::1"]
    host = socket.gethostname()
    names.append(host)
    if "." not in host:
        names.append(f"{host}.local")
    try:
        names += [str(entry[4][0]) for entry in socket.getaddrinfo(host, None)]
    except OSError:
        pass  # not every host name can be resolved
    # connecting a UDP socket sends nothing, but shows the address that outgoing packets would have
    for family, outside in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((outside, 9))
                names.append(str(probe.getsockname()[0]))
        except OSError:
            continue  # no route for this address family
    return list(dict.fromkeys(name.partition("%")[0] for name in names if name))


def client_context(data_dir: Path) -> ssl.SSLContext | None:
    """Return an SSL context for clients on this machine, which trusts the self-signed certificate in `data_dir`.

    None if there is no such certificate.
    """
    cert = data_dir / CERT_FILE
    return ssl.create_default_context(cafile=str(cert)) if cert.exists() else None


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name.encode("idna").decode("ascii"))
    except UnicodeError as error:
        raise TlsError(f'"{name}" is neither a host name nor an address') from error


def _is_usable(cert: Path, key: Path, names: list[str], now: float) -> bool:
    try:
        certificate = _load(cert)
        _check_pair(cert, key)
        listed = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (TlsError, x509.ExtensionNotFound):
        return False
    lasts = certificate.not_valid_after_utc.timestamp() - now > RENEW_DAYS * 86_400
    return lasts and {_general_name(name) for name in names} <= set(listed)


def _make(cert: Path, key: Path, names: list[str], now: float) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ViLaMP Live (self-signed)")])
    try:
        start = datetime.fromtimestamp(now, UTC)
        end = start + timedelta(days=VALID_DAYS)
    except (OverflowError, ValueError) as error:
        raise TlsError(f"this machine's clock is wrong ({error}): set it, as a certificate needs a date") from error
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - timedelta(hours=1))  # a client's clock may be slow
        .not_valid_after(end)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in dict.fromkeys(names)]), False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
        .sign(private, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = private.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    try:
        cert.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # after a crash between the two writes the files do not match, and the next start creates a new pair
        replace_private(key, secret)
        replace_private(cert, certificate.public_bytes(pem))
    except OSError as error:
        raise TlsError(f"{cert} cannot be written ({error.strerror}): check the folder and the disk") from error


def _load(cert: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(cert.read_bytes())
    except OSError as error:
        raise TlsError(f"{cert} cannot be read ({error.strerror}): give a PEM file with the certificate") from error
    except ValueError as error:
        raise TlsError(f"{cert} is not a PEM certificate") from error


def _check_pair(cert: Path, key: Path) -> None:
    try:
        # for an encrypted key OpenSSL would prompt on the terminal; the empty password makes it fail instead
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password="")
    except ssl.SSLError as error:
        advice = "give the unencrypted PEM key that this certificate was made with"
        raise TlsError(f"{key} does not fit {cert} ({error.reason or 'not a PEM key'}): {advice}") from error
    except OSError as error:
        raise TlsError(f"{key} cannot be read ({error.strerror}): give a PEM file with the private key") from error
