"""Certificates: making, keeping, renewing and refusing them, and one real handshake."""

import ipaddress
import socket
import ssl
import threading
import time
from pathlib import Path

import pytest
from cryptography import x509

from agent.settings.settings import TlsSettings
from agent.web.tls import RENEW_DAYS, VALID_DAYS, TlsError, TlsFiles, client_context, local_names, prepare_tls

DAY_S = 86_400
SELF_SIGNED = TlsSettings(self_signed=True)


def made(folder: Path, *, now: float | None = None, hosts: tuple[str, ...] = ()) -> TlsFiles:
    files = prepare_tls(SELF_SIGNED.model_copy(update={"hosts": tuple(hosts)}), folder, now=now or time.time())
    assert files is not None
    return files


def names_in(files: TlsFiles) -> x509.SubjectAlternativeName:
    certificate = x509.load_pem_x509_certificate(files.cert.read_bytes())
    return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value


def test_no_certificate_is_made_when_tls_is_off(tmp_path: Path) -> None:
    assert prepare_tls(TlsSettings(), tmp_path, now=time.time()) is None
    assert list(tmp_path.iterdir()) == []
    assert client_context(tmp_path) is None


def test_a_certificate_names_this_machine_and_the_configured_hosts(tmp_path: Path) -> None:
    names = names_in(made(tmp_path, hosts=("cam.example", "10.1.2.3")))
    assert {"localhost", "cam.example"} <= set(names.get_values_for_type(x509.DNSName))
    addresses = set(names.get_values_for_type(x509.IPAddress))
    assert {ipaddress.ip_address(text) for text in ("127.0.0.1", "::1", "10.1.2.3")} <= addresses
    assert socket.gethostname() in local_names()


def test_only_the_owner_reads_the_key(tmp_path: Path) -> None:
    files = made(tmp_path / "data")
    assert files.key.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700


def test_a_certificate_is_kept_until_it_is_about_to_expire(tmp_path: Path) -> None:
    now = time.time()
    first = made(tmp_path, now=now)
    assert made(tmp_path, now=now + (VALID_DAYS - RENEW_DAYS - 1) * DAY_S) == first
    assert made(tmp_path, now=now + (VALID_DAYS - RENEW_DAYS + 1) * DAY_S).fingerprint != first.fingerprint


def test_a_new_host_name_makes_a_new_certificate(tmp_path: Path) -> None:
    first = made(tmp_path)
    second = made(tmp_path, hosts=("new.example",))
    assert second.fingerprint != first.fingerprint
    assert made(tmp_path) == second  # the old names are all in the new one


def test_a_key_that_does_not_match_is_replaced(tmp_path: Path) -> None:
    first = made(tmp_path)
    first.key.write_bytes(made(tmp_path / "other").key.read_bytes())
    assert made(tmp_path).fingerprint != first.fingerprint


def test_a_client_trusts_the_certificate_in_the_data_folder(tmp_path: Path) -> None:
    files = made(tmp_path)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(files.cert, files.key)
    client = client_context(tmp_path)
    assert client is not None
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_greet, args=(listener, server))
        thread.start()
        raw = socket.create_connection(listener.getsockname())
        with raw, client.wrap_socket(raw, server_hostname="127.0.0.1") as connection:
            assert connection.recv(5) == b"hello"
        thread.join()


def _greet(listener: socket.socket, context: ssl.SSLContext) -> None:
    raw, _ = listener.accept()
    with raw, context.wrap_socket(raw, server_side=True) as connection:
        connection.sendall(b"hello")


def test_own_files_are_used_and_checked(tmp_path: Path) -> None:
    files, other = made(tmp_path / "a"), made(tmp_path / "b")
    own = TlsSettings(cert=files.cert, key=files.key)
    assert prepare_tls(own, tmp_path, now=time.time()) == files
    with pytest.raises(TlsError, match="does not fit"):
        prepare_tls(TlsSettings(cert=files.cert, key=other.key), tmp_path, now=time.time())
    with pytest.raises(TlsError, match="expired"):
        prepare_tls(own, tmp_path, now=time.time() + 400 * DAY_S)


def test_missing_and_invalid_files_are_refused(tmp_path: Path) -> None:
    files = made(tmp_path)
    absent, text = tmp_path / "absent.pem", tmp_path / "text.pem"
    text.write_text("hello")
    for cert, key, complaint in [
        (absent, files.key, "cannot be read"),
        (files.cert, absent, "cannot be read"),
        (text, files.key, "not a PEM certificate"),
        (files.cert, text, "does not fit"),
    ]:
        with pytest.raises(TlsError, match=complaint):
            prepare_tls(TlsSettings(cert=cert, key=key), tmp_path, now=time.time())


def test_an_invalid_host_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TlsError, match="neither a host name nor an address"):
        made(tmp_path, hosts=("a..b",))
