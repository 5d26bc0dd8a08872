"""Who may do what: bearer tokens with scopes, and signed picture URLs that expire.

Tokens are made at first start and kept in `<data_dir>/tokens.json`, readable by its owner only, in the clear: the
local command line finds its token there. Times are arguments; nothing here reads a clock or knows HTTP routes.
"""

import base64
import binascii
import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from agent.runtime.files import create_private
from agent.settings.settings import TokenSettings
from agent.settings.types import check_scope

TOKENS_FILE = "tokens.json"
_VERSION = 1
_QUOTABLE = re.compile(r"[\w :*-]{1,80}", re.ASCII)
_ISSUED = "vt_"  # how a token begins that expires by itself
# What first start makes: one token for the owner and one for cameras, which must not be able to read what others see.
_FIRST_TOKENS: tuple[tuple[str, frozenset[str]], ...] = (
    ("owner", frozenset({"admin"})),
    ("publisher", frozenset({"publish:*"})),
    ("asker", frozenset({"ask"})),
)


class AuthError(Exception):
    """The caller may not do this: `status` is 401 (who are you?) or 403 (not you)."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = dict(headers or {})


class TokenFileError(Exception):
    """The token file cannot be read or made (the operator's to mend)."""


@dataclass(frozen=True, slots=True)
class Token:
    """A secret and what it opens."""

    name: str
    secret: str
    scopes: frozenset[str]

    def __repr__(self) -> str:
        return f"Token({self.name}, {sorted(self.scopes)})"

    def allows(self, scope: str) -> bool:
        """True when one of the token's scopes covers `scope`; "admin" covers everything."""
        if scope in self.scopes or "admin" in self.scopes:
            return True
        return scope.startswith("publish:") and "publish:*" in self.scopes


class Auth:
    """The one check in front of every route.

    With `enabled=False` every check passes (settings allow that on a loopback host only); signing still works.
    """

    def __init__(self, tokens: Iterable[Token], signing_key: bytes, *, enabled: bool = True) -> None:
        self.tokens = tuple(tokens)
        self.enabled = enabled
        self.created = False  # True when this start made the tokens: print them once
        self._signing_key = signing_key
        self._digests = [(hashlib.sha256(token.secret.encode()).digest(), token) for token in self.tokens]

    @classmethod
    def open(cls, data_dir: Path, *, enabled: bool = True, extra: Iterable[TokenSettings] = ()) -> "Auth":
        """Tokens of `data_dir` (made now if there are none) and those of the configuration.

        Raises TokenFileError when the file is damaged or cannot be written.
        """
        path = data_dir / TOKENS_FILE
        created = _create(path)
        tokens, signing_key = _read(path)
        configured = [Token(each.name, each.token.get_secret_value(), frozenset(each.scopes)) for each in extra]
        auth = cls([*tokens, *configured], signing_key, enabled=enabled)
        auth.created = created
        return auth

    def check(self, authorization: str | None, scope: str, now: float | None = None) -> Token | None:
        """The token in an `Authorization` header, if it covers `scope`; None when security is off.

        `now`: unix seconds, without which no issued token counts. Raises AuthError: 401 without a valid token, 403 when
        the token does not cover `scope`.
        """
        found = self.identify(authorization, now)
        if found is not None and not found.allows(scope):
            message = f'the token "{found.name}" does not cover "{scope}"'
            raise AuthError(403, message, _challenge(error="insufficient_scope", scope=scope))
        return found

    def issue(self, scope: str, now: float, ttl_s: float) -> Token:
        """A token for one scope that expires by itself; nothing is kept of it, so it cannot be withdrawn earlier.

        Its secret says what it opens and until when, signed: "vt_publish:gate.1795364705.<signature>".
        """
        claim = f"{check_scope(scope)}.{int(now + ttl_s)}"
        return Token(
            "link", f"{_ISSUED}{claim}.{self._signature(_ISSUED + claim, int(now + ttl_s))}", frozenset({scope})
        )

    def _issued(self, secret: str, now: float) -> Token:
        """The token that `issue` made. Raises AuthError when it is forged or has expired."""
        claim, _, signature = secret.removeprefix(_ISSUED).rpartition(".")
        scope, _, exp = claim.rpartition(".")
        try:
            self.verify_path(_ISSUED + claim, exp, signature, now)
        except AuthError as error:
            expired = "expired" in error.message
            message = "this link has expired: ask for a fresh one" if expired else "the token is not known here"
            raise AuthError(401, message, _challenge(error="invalid_token")) from None
        return Token("link", secret, frozenset({scope}))

    def identify(self, authorization: str | None, now: float | None = None) -> Token | None:
        """The token in an `Authorization` header, whatever it covers; None when security is off.

        Every known token is compared, each in constant time, so that timing tells nothing. Raises AuthError (401).
        """
        if not self.enabled:
            return None
        if not authorization:
            raise AuthError(401, "this needs a token: send `Authorization: Bearer <token>`", _challenge())
        kind, _, secret = authorization.partition(" ")
        secret = secret.strip() if kind.lower() == "bearer" else ""
        found = self._find(secret)
        if found is None and secret.startswith(_ISSUED) and now is not None:
            return self._issued(secret, now)
        if found is None:
            raise AuthError(401, "the token is not known here", _challenge(error="invalid_token"))
        return found

    def is_guess(self, authorization: str, now: float) -> bool:
        """Is this the header of somebody whose token was never valid here? One that has expired was."""
        try:
            self.identify(authorization, now)
        except AuthError as error:
            return "expired" not in error.message
        return False

    def _find(self, secret: str) -> Token | None:
        digest = hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
        found = None
        for known, token in self._digests:
            if hmac.compare_digest(known, digest):
                found = token
        return found

    def sign_path(self, path: str, now: float, ttl_s: float) -> str:
        """`path` with an expiry and a signature: "/v1/frames/7.jpg?exp=1795364705&sig=...".

        A query that `path` already has is signed with it.
        """
        expires = int(now + ttl_s)
        parts = urlsplit(path)
        query = [*parse_qsl(parts.query, keep_blank_values=True), ("exp", str(expires))]
        query.append(("sig", self._signature(path, expires)))
        return f"{parts.path}?{urlencode(query)}"

    def verify_path(self, path: str, exp: str | None, sig: str | None, now: float) -> None:
        """Accept `path` with the `exp` and `sig` of its query, as strings from the URL. Raises AuthError."""
        if not self.enabled:
            return
        if not exp or not sig:
            raise AuthError(401, "this needs a token or a signed URL", _challenge())
        if not (exp.isascii() and exp.isdigit() and len(exp) <= 12):
            raise AuthError(403, "the URL's signature is not valid")
        if not hmac.compare_digest(self._signature(path, int(exp)).encode(), sig.encode("utf-8", "surrogateescape")):
            raise AuthError(403, "the URL's signature is not valid")
        if now > int(exp):
            raise AuthError(403, "the URL has expired: ask again for a fresh one")

    def _signature(self, path: str, expires: int) -> str:
        digest = hmac.new(self._signing_key, f"{expires}\n{path}".encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def local_token(data_dir: Path, scope: str) -> str | None:
    """A secret from the token file of `data_dir` that covers `scope`; None when there is no such file or token.

    For the command line on the same machine. The narrowest token is taken. Raises TokenFileError on a damaged file.
    """
    path = data_dir / TOKENS_FILE
    try:
        tokens, _ = _read(path)
    except FileNotFoundError:
        return None
    fitting = [token for token in tokens if token.allows(scope)]
    fitting.sort(key=lambda token: "admin" in token.scopes)
    return fitting[0].secret if fitting else None


def _challenge(**parameters: str) -> dict[str, str]:
    """The header that says what is wanted; a value that cannot stand in one (a stranger's words) is left out."""
    listed = "".join(f', {name}="{value}"' for name, value in parameters.items() if _QUOTABLE.fullmatch(value))
    return {"WWW-Authenticate": 'Bearer realm="vilamp"' + listed}


def _create(path: Path) -> bool:
    """Write a first token file unless there is one; True when this call made it.

    The file appears complete or not at all, so two servers that start together agree on one file.
    """
    if os.path.lexists(path):
        return False
    first = {
        "version": _VERSION,
        "signing_key": base64.b64encode(secrets.token_bytes(32)).decode(),
        "tokens": [
            {"name": name, "token": f"vl_{secrets.token_urlsafe(32)}", "scopes": sorted(scopes)}
            for name, scopes in _FIRST_TOKENS
        ],
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except FileExistsError as error:
        raise TokenFileError(
            f"{path.parent} is no folder (a file, or a link that leads nowhere): name another data folder"
        ) from error
    except OSError as error:
        raise TokenFileError(
            f"{path.parent} cannot be made ({error.strerror}): check its place and the disk"
        ) from error
    try:
        return create_private(path, json.dumps(first, indent=2).encode() + b"\n")
    except OSError as error:
        raise TokenFileError(f"{path} cannot be written ({error.strerror}): check the folder and the disk") from error


def _read(path: Path) -> tuple[list[Token], bytes]:
    """Tokens and signing key. Raises TokenFileError; FileNotFoundError passes through."""
    try:
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
        content = json.loads(path.read_text(encoding="utf-8"))
        tokens = [_token(entry) for entry in content["tokens"]]
        return tokens, base64.b64decode(content["signing_key"], validate=True)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise TokenFileError(f"{path} cannot be read ({error.strerror}): it must belong to you") from error
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
        raise TokenFileError(f"{path} is damaged: restore it, or delete it to have new tokens made") from error


def _token(entry: Any) -> Token:
    name, secret = entry["name"], entry["token"]
    if not (isinstance(name, str) and isinstance(secret, str) and secret):
        raise TypeError("a token is text")
    return Token(name, secret, frozenset(map(check_scope, entry["scopes"])))
