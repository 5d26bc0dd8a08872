"""Remove the secrets from addresses, for logs, errors and status pages.

The scheme, host, port and the plain words of the path remain. Everything else becomes "***": user and password,
fragment, query values (except numbers of one or two digits, such as a channel), and parts of the path that contain "="
or ":" or look random. A password with "@", "/", "?" or "#" makes an address ambiguous. Then everything is removed that
could belong to a secret under any interpretation.
"""

import ipaddress
import re
from urllib.parse import unquote

HINT = "if the password contains @ / ? # or %, write %40 %2F %3F %23 %25 instead"
STARS = "***"

_NETWORK = r"(?i:rtsps?|https?|rtmps?|mqtts?|ftp)"
_SCHEME = re.compile(rf"([A-Za-z][A-Za-z0-9+.-]*)://|({_NETWORK}):/")  # one slash, as pathlib writes it
_ADDRESS = re.compile(rf"(?:[A-Za-z][A-Za-z0-9+.-]*://|\b{_NETWORK}:/)\S+")
_NO_SCHEME = re.compile(r"[^/\\\s:@]+:[^\s]*@(?=[^\s@]+$)")  # "user:password@host/path", without the scheme
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.%\w-]+\]|[\w.-]+)(?::\d{1,5})?")
_NAME = re.compile(r"[A-Za-z][\w.\[\]-]{0,31}")
_WORD = re.compile(r"[^\W\d_]{0,24}\d{0,14}[^\W\d_]{0,16}\d{0,2}")
_HEX = re.compile(r"(?=.*\d)(?=.*[a-f])[0-9a-f]{8,}", re.IGNORECASE)  # a key or digest
_SHORT = 6  # characters of a word that is too short to be a secret
_TURNS = re.compile(r"[a-z](?=[A-Z])|[A-Z](?=[a-z])")
_LOCAL = ("file",)  # a path of this machine, shown whole
_ENDS = "'\"),.;:!>]}"  # punctuation of the sentence around an address


def redact(url: str) -> str:
    """Return the address without secrets.

    `rtsp://user:pw@host:554/a?password=b` -> `rtsp://***@host:554/a?password=***`
    """
    begin = _SCHEME.match(url)
    if begin is None:
        return _NO_SCHEME.sub(f"{STARS}@", url)
    scheme, rest = begin[1] or begin[2], url[begin.end() :]
    found = _split(rest)
    if found is None:
        return f"{scheme}://{STARS}"
    has_user, host, tail = found
    path, query, fragment = _parts_of(tail)
    shown = f"{scheme}://{STARS + '@' if has_user else ''}{host}"
    shown += path if scheme.lower() in _LOCAL else "/".join(map(_step, path.split("/")))
    shown += "" if query is None else f"?{'&'.join(map(_parameter, re.split('[&;]', query)))}"
    return shown + ("" if fragment is None else f"#{STARS}")


def redact_text(text: str) -> str:
    """Return the text without the secrets in its addresses.

    "rtsp://u:p@cam/a: no route" -> "rtsp://***@cam/a: no route"
    """
    return _ADDRESS.sub(_redacted, text) if ":/" in text else text


def has_host(url: str) -> bool:
    """Return whether the address has a valid host, with or without user and port, between the scheme and the path."""
    authority = re.split("[/?#]", url.partition("://")[2], maxsplit=1)[0]
    return _HOST.fullmatch(authority.rpartition("@")[2]) is not None


def hint(url: str) -> str:
    """Return advice if special characters in the password seem to make the address invalid, else ""."""
    scheme, separator, rest = url.partition("://")
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    if not separator or scheme.lower() in _LOCAL:
        return ""
    is_cut = "@" in rest[len(authority) :] or authority.count("@") > 1
    return HINT if is_cut or not has_host(url) else ""


def _split(rest: str) -> tuple[bool, str, str] | None:
    """Split the part of an address after the scheme ("rtsp://").

    Return (whether it has a user, host and port, the rest); None if ambiguous.
    """
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    before, at, after = rest.rpartition("@")
    user, has_user, host = authority.rpartition("@")
    if not at or len(before) < len(authority):  # no "@" after the authority: it is complete
        return None if host and not _HOST.fullmatch(host) else (bool(has_user), host, rest[len(authority) :])
    # either a password with / ? or #, or an "@" in the path or query, where what follows it may be a secret
    later = re.split("[/?#]", after, maxsplit=1)[0]
    in_path = not re.search("[?#]", before)
    is_password = not _HOST.fullmatch(host) or (bool(user) and in_path)
    if _HOST.fullmatch(later) and (is_password or _is_address(later)):
        return True, later, after[len(later) :]
    return None


def _is_address(host: str) -> bool:
    """Return whether the host is an IP address, and so cannot be the end of a password."""
    try:
        ipaddress.ip_address(re.sub(r":\d+$", "", host).strip("[]") if not host.endswith("]") else host.strip("[]"))
    except ValueError:
        return False
    return True


def _parts_of(tail: str) -> tuple[str, str | None, str | None]:
    """Return path, query and fragment of the part after the host. Query and fragment are None if missing."""
    rest, hashed, fragment = tail.partition("#")
    path, asked, query = rest.partition("?")
    return path, query if asked else None, fragment if hashed else None


def _step(step: str) -> str:
    """Return one part of an address's path, or "***" unless it consists of plain words and numbers."""
    plain = unquote(step)
    if re.search(r"[=:;&@%\s]", plain):
        return STARS
    return step if all(map(_is_plain, re.split(r"[-_.~+,()]", plain))) else STARS


def _is_plain(word: str) -> bool:
    if len(word) <= _SHORT:
        return True
    if _HEX.fullmatch(word):
        return False
    return _WORD.fullmatch(word) is not None and len(_TURNS.findall(word)) < len(word) / 3


def _parameter(parameter: str) -> str:
    """Return a query parameter without secrets.

    "channel=1" is unchanged, "user=ann" -> "user=***", "s3cret" -> "***".
    """
    name, equals, value = parameter.partition("=")
    if not parameter or not equals or not _NAME.fullmatch(name):
        return STARS if parameter else ""
    return parameter if re.fullmatch(r"\d{0,2}", value) else f"{name}={STARS}"


def _redacted(found: re.Match[str]) -> str:
    address = found[0].rstrip(_ENDS)
    return redact(address) + found[0][len(address) :]
