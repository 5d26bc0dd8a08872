"""Explain why a server cannot be reached, and what to do about it. Covers errors of sockets, host names and TLS."""

import errno
import socket
import ssl
from collections.abc import Iterator, Mapping

CLOSED = "it closes the connection"
_BY_NUMBER = {
    errno.ECONNREFUSED: "nothing listens there: is the server running, and the port right?",
    errno.ECONNRESET: CLOSED,
    errno.EPIPE: CLOSED,
    errno.ETIMEDOUT: "it does not answer: is the address right, and no firewall between?",
    errno.EHOSTUNREACH: "the host cannot be reached: is it switched on, and the network up?",
    errno.ENETUNREACH: "there is no network to it: is this machine connected?",
    errno.EADDRNOTAVAIL: "this machine has no address or port left to connect from",
    errno.EMFILE: "this process has too many files open: raise its limit (ulimit -n)",
    errno.ENFILE: "this machine has too many files open",
    errno.EACCES: "this machine does not let us connect there: look at its firewall",
    errno.EPERM: "this machine does not let us connect there: look at its firewall",
}
# OpenSSL's error codes for certificates (x509_vfy.h)
_EXPIRED, _NOT_YET, _SELF_SIGNED, _SELF_SIGNED_CHAIN, _NO_ISSUER, _NO_FIRST, _WRONG_HOST, _WRONG_ADDRESS = (
    10, 9, 18, 19, 20, 21, 62, 64,
)  # fmt: skip
# Ends of the reasons that OpenSSL gives for a TLS handshake that failed -> advice for the operator
_BY_REASON: Mapping[str, str] = {
    "WRONG_VERSION_NUMBER": "it does not speak TLS on this port: use the TLS port, or an address without TLS",
    "RECORD_LAYER_FAILURE": "it does not speak TLS on this port: use the TLS port, or an address without TLS",
    "HTTP_REQUEST": "it does not speak TLS on this port: use the TLS port, or an address without TLS",
    "UNEXPECTED_EOF_WHILE_READING": "it ends the TLS handshake: is this its TLS port?",
    "UNSUPPORTED_PROTOCOL": "it speaks only TLS versions that are too old to be safe: update it",
    "TLSV1_ALERT_PROTOCOL_VERSION": "it does not speak the TLS versions that this machine allows (1.2 and newer)",
    "NO_PROTOCOLS_AVAILABLE": "it does not speak the TLS versions that this machine allows (1.2 and newer)",
    "DH_KEY_TOO_SMALL": "its key exchange is too weak: update it",
    "EE_KEY_TOO_SMALL": "its certificate's key is too weak: give it a new certificate",
    "CA_MD_TOO_WEAK": "its certificate is signed with a hash that is not safe: give it a new one",
    "CERTIFICATE_REQUIRED": "it wants a client certificate",
    "BAD_CERTIFICATE": "it wants a client certificate, or another one",
    "UNKNOWN_CA": "it does not trust the authority of the client certificate that we show",
    "CERTIFICATE_EXPIRED": "the client certificate that we show has expired: renew it",
    "CERTIFICATE_UNKNOWN": "it does not take the client certificate that we show",
    "ACCESS_DENIED": "it does not take the client certificate that we show",
    "UNRECOGNIZED_NAME": "it does not go by this host name: check the address",
    "HANDSHAKE_FAILURE": "the two have no kind of TLS in common, or it wants a client certificate",
}  # fmt: skip


def why_unreachable(error: BaseException) -> str | None:
    """Return why the server cannot be reached, from `error` or the errors that caused it. None for any other error."""
    for each in _chain(error):
        if isinstance(each, ssl.SSLCertVerificationError):
            return _of_certificate(each)
        if isinstance(each, ssl.SSLError):
            return _of_tls(each)
        if isinstance(each, socket.gaierror):
            return "the host name is not known: check the address, and this machine's DNS"
        if isinstance(each, TimeoutError):
            return _BY_NUMBER[errno.ETIMEDOUT]
        if isinstance(each, OSError) and each.errno in _BY_NUMBER:
            return _BY_NUMBER[each.errno]
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield `error`, then the errors that caused it, including those hidden by `raise ... from None`."""
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        following = following.__cause__ or following.__context__


def _of_certificate(error: ssl.SSLCertVerificationError) -> str:
    match error.verify_code:
        case code if code == _EXPIRED:
            return "its certificate has expired: renew it, or set this machine's clock"
        case code if code == _NOT_YET:
            return "its certificate is not valid yet: set this machine's clock, or the server's"
        case code if code in (_WRONG_HOST, _WRONG_ADDRESS):
            return f"its certificate is for another name ({error.verify_message}): use a name that it lists"
        case code if code in (_SELF_SIGNED, _SELF_SIGNED_CHAIN, _NO_ISSUER, _NO_FIRST):
            return "its certificate is signed by an authority that is not trusted here: let this machine trust it"
    return f"its certificate is not trusted: {error.verify_message}"


def _of_tls(error: ssl.SSLError) -> str:
    reason = error.reason or ""
    for known, words in _BY_REASON.items():
        if reason.endswith(known):
            return words
    return f"TLS fails: {reason.replace('_', ' ').lower() or error}"
