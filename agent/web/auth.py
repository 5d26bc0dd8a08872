"""Bearer tokens with scopes, and signed URLs that expire.

A scope names what a token allows: `ask` (read and ask), `publish:<camera>`, or `admin` (everything). The agent's first
start creates tokens and writes them to `<data_dir>/tokens.json`, unencrypted and readable by its owner only, from where
commands on the same machine read them. Times are arguments in unix seconds; no clock is read here.
"""

import base64
import binascii
import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from agent.errors import NotAllowed
from agent.runtime.files import create_private
from agent.settings.settings import TokenSettings
from agent.settings.types import check_scope

TOKENS_FILE = "tokens.json"
_VERSION = 1
_QUOTABLE = re.compile(r"[\w :*-]{1,80}", re.ASCII)
_ISSUED = "vt_"  # prefix of tokens that expire
# The tokens that the first start creates. The one for cameras can publish, but cannot open pictures.
_FIRST_TOKENS: tuple[tuple[str, frozenset[str]], ...] = (
    ("owner", frozenset({"admin"})),
    ("publisher", frozenset({"publish:*"})),
    ("asker", frozenset({"ask"})),
)


class Expired(NotAllowed):
    """The request's token was valid once, but has expired."""


class TokenFileError(Exception):
    """The token file cannot be read or written; the message tells the operator what to do."""


@dataclass(frozen=True, slots=True)
class Token:
    """A named secret, and the scopes that it allows."""

    name: str
    secret: str
    scopes: frozenset[str]

    def __repr__(self) -> str:
        return f"Token({self.name}, {sorted(self.scopes)})"

    def allows(self, scope: str) -> bool:
        """Return True when the token allows `scope`. The scope "admin" allows everything."""
        if scope in self.scopes or "admin" in self.scopes:
            return True
        return scope.startswith("publish:") and "publish:*" in self.scopes


class Auth:
    """Checks tokens and signed URLs, and makes new ones. Every check passes when `enabled` is False."""

    def __init__(self, tokens: Iterable[Token], signing_key: bytes, *, enabled: bool = True) -> None:
        self.tokens = tuple(tokens)
        self.enabled = enabled
        self.created = False  # True when this start created the tokens, so that they are printed once
        self._signing_key = signing_key
        self._digests = [(hashlib.sha256(token.secret.encode()).digest(), token) for token in self.tokens]

    @classmethod
    def open(cls, data_dir: Path, *, enabled: bool = True, extra: Iterable[TokenSettings] = ()) -> "Auth":
        """Return an Auth with the tokens stored in `data_dir` and those in `extra`, which come from the configuration.

        If no tokens are stored yet, they are created first. Raises TokenFileError when the file is damaged or cannot be
        written.
        """
        path = data_dir / TOKENS_FILE
        created = _create(path)
        tokens, signing_key = _read(path)
        configured = [Token(each.name, each.token.get_secret_value(), frozenset(each.scopes)) for each in extra]
        auth = cls([*tokens, *configured], signing_key, enabled=enabled)
        auth.created = created
        return auth

    def check(self, authorization: str | None, scope: str, now: float | None = None) -> Token | None:
        """Return the token in an `Authorization` header if it allows `scope`; None when security is off.

        Raises NotAllowed: with status 401 without a valid token, with 403 when the token does not allow `scope`.
        Without `now`, tokens that expire are refused as unknown.
        """
        found = self.identify(authorization, now)
        if found is not None and not found.allows(scope):
            message = f'the token "{found.name}" does not cover "{scope}"'
            raise NotAllowed(message, status=403, headers=_challenge(error="insufficient_scope", scope=scope))
        return found

    def identify(self, authorization: str | None, now: float | None = None) -> Token | None:
        """Return the token in an `Authorization` header, whatever its scopes; None when security is off.

        Raises NotAllowed (401) without a valid token. Without `now`, tokens that expire are refused as unknown. The
        secret is compared with every known token in constant time, so that the duration reveals nothing about them.
        """
        if not self.enabled:
            return None
        if not authorization:
            raise NotAllowed("this needs a token: send `Authorization: Bearer <token>`", headers=_challenge())
        kind, _, secret = authorization.partition(" ")
        secret = secret.strip() if kind.lower() == "bearer" else ""
        found = self._find(secret)
        if found is None and secret.startswith(_ISSUED) and now is not None:
            found = self._find_issued(secret, now)
        if found is None:
            raise NotAllowed("the token is not known here", headers=_challenge(error="invalid_token"))
        return found

    def is_guess(self, authorization: str, now: float) -> bool:
        """Return True if the token was never valid here. False for a valid token, and for one that has expired."""
        try:
            self.identify(authorization, now)
        except NotAllowed as error:
            return not isinstance(error, Expired)
        return False

    def issue(self, scope: str, now: float, ttl_s: float) -> Token:
        """Return a new token for one scope, which expires after `ttl_s`.

        It is not stored, so it cannot be revoked earlier.

        Its secret contains the scope, the time of expiry and a signature: "vt_publish:gate.1795364705.<signature>".
        """
        expires = int(now + ttl_s)
        claim = f"{_ISSUED}{check_scope(scope)}.{expires}"
        return Token("link", f"{claim}.{self._signature(claim, expires)}", frozenset({scope}))

    def _find_issued(self, secret: str, now: float) -> Token | None:
        """Return the token that `issue` made with this secret; None if the secret is forged. Raises Expired."""
        claim, _, signature = secret.rpartition(".")
        scope, _, expires = claim.removeprefix(_ISSUED).rpartition(".")
        if not self._is_signature(signature, claim, expires):
            return None
        if now > int(expires):
            raise Expired("this link has expired: ask for a fresh one", headers=_challenge(error="invalid_token"))
        return Token("link", secret, frozenset({scope}))

    def _find(self, secret: str) -> Token | None:
        digest = hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
        found = None
        for known, token in self._digests:
            if hmac.compare_digest(known, digest):
                found = token
        return found

    def sign_path(self, path: str, now: float, ttl_s: float) -> str:
        """Return `path` with an expiry and a signature added: "/v1/frames/7.jpg?exp=1795364705&sig=...".

        If `path` already has a query, the signature protects that query as well.
        """
        expires = int(now + ttl_s)
        parts = urlsplit(path)
        query = [*parse_qsl(parts.query, keep_blank_values=True), ("exp", str(expires))]
        query.append(("sig", self._signature(path, expires)))
        return f"{parts.path}?{urlencode(query)}"

    def verify_path(self, path: str, exp: str | None, sig: str | None, now: float) -> None:
        """Raise NotAllowed unless `sig` is a valid signature of `path` and `exp`, and `exp` has not passed.

        `path`, `exp` and `sig` are the parts of a URL made by `sign_path`.
        """
        if not self.enabled:
            return
        if not exp or not sig:
            raise NotAllowed("this needs a token or a signed URL", headers=_challenge())
        if not self._is_signature(sig, path, exp):
            raise NotAllowed("the URL's signature is not valid", status=403)
        if now > int(exp):
            raise NotAllowed("the URL has expired: ask again for a fresh one", status=403)

    def _is_signature(self, sig: str, signed: str, exp: str) -> bool:
        if not (exp.isascii() and exp.isdigit() and len(exp) <= 12):
            return False
        expected = self._signature(signed, int(exp)).encode()
        return hmac.compare_digest(expected, sig.encode("utf-8", "surrogateescape"))

    def _signature(self, path: str, expires: int) -> str:
        digest = hmac.new(self._signing_key, f"{expires}\n{path}".encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def local_token(data_dir: Path, scope: str) -> str | None:
    """Return the secret of a token stored in `data_dir` that allows `scope`; None when there is no such file or token.

    A token without the scope "admin" is preferred. Used by commands on the agent's own machine. Raises TokenFileError
    for a damaged file.
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
    """Return the `WWW-Authenticate` header (RFC 6750) of a refusal, with these parameters.

    A parameter is left out if its value has characters that a header cannot contain.
    """
    listed = "".join(f', {name}="{value}"' for name, value in parameters.items() if _QUOTABLE.fullmatch(value))
    return {"WWW-Authenticate": 'Bearer realm="vilamp"' + listed}


def _create(path: Path) -> bool:
    """Write a first token file unless there is one. Return True when this call wrote it.

    The file appears complete or not at all, so that two servers that start at the same time use the same file.
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
    """Return the tokens and the signing key in a token file. Raises TokenFileError, or FileNotFoundError."""
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
