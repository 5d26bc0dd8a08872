"""Tokens, scopes and signed URLs, on real files."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydantic import SecretStr

from agent.errors import NotAllowed
from agent.settings.settings import TokenSettings
from agent.web.auth import Auth, Token, TokenFileError, local_token

GATE = Token("gate", "gate-secret-0123456789", frozenset({"publish:gate"}))
ASKER = Token("asker", "ask-secret-0123456789", frozenset({"ask"}))
OWNER = Token("owner", "admin-secret-0123456789", frozenset({"admin"}))
ANY_CAMERA = Token("cameras", "any-secret-0123456789", frozenset({"publish:*"}))


def auth(*tokens: Token, enabled: bool = True) -> Auth:
    return Auth(tokens or (GATE, ASKER, OWNER, ANY_CAMERA), b"k" * 32, enabled=enabled)


@pytest.mark.parametrize(
    ("token", "scope", "allowed"),
    [
        (GATE, "publish:gate", True),
        (GATE, "publish:yard", False),
        (GATE, "ask", False),
        (GATE, "admin", False),
        (ANY_CAMERA, "publish:yard", True),
        (ANY_CAMERA, "ask", False),
        (ASKER, "ask", True),
        (ASKER, "publish:gate", False),
        (OWNER, "ask", True),
        (OWNER, "publish:gate", True),
        (OWNER, "admin", True),
    ],
)
def test_scopes(token: Token, scope: str, allowed: bool) -> None:
    header = f"Bearer {token.secret}"
    if allowed:
        assert auth().check(header, scope) == token
        return
    with pytest.raises(NotAllowed) as refused:
        auth().check(header, scope)
    assert refused.value.status == 403
    assert 'error="insufficient_scope"' in refused.value.headers["WWW-Authenticate"]
    assert scope in refused.value.message


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        "Basic Z2F0ZQ==",
        GATE.secret,
        "Bearer \udcff",
        "Bearer gate-secret",
    ],
)
def test_without_a_valid_token_it_is_401(header: str | None) -> None:
    with pytest.raises(NotAllowed) as refused:
        auth().check(header, "ask")
    assert refused.value.status == 401
    assert refused.value.headers["WWW-Authenticate"].startswith("Bearer")
    assert GATE.secret not in refused.value.message


def test_the_scheme_is_case_insensitive() -> None:
    assert auth().check(f"bearer {ASKER.secret}", "ask") == ASKER


def test_security_off_lets_all_through() -> None:
    off = auth(enabled=False)
    assert off.check(None, "admin") is None
    off.verify_path("/frames/1.jpg", None, None, now=0)


def test_secrets_are_not_shown() -> None:
    assert OWNER.secret not in repr(OWNER)


def signed(path: str, now: float = 1000.0, ttl_s: float = 60.0) -> tuple[str, str, str]:
    from urllib.parse import parse_qs, urlsplit

    url = auth().sign_path(path, now, ttl_s)
    query = parse_qs(urlsplit(url).query)
    return url, query["exp"][0], query["sig"][0]


def test_signed_urls_hold_until_they_expire() -> None:
    url, exp, sig = signed("/v1/frames/7.jpg")
    assert url.startswith("/v1/frames/7.jpg?exp=1060&sig=")
    auth().verify_path("/v1/frames/7.jpg", exp, sig, now=1060.0)
    with pytest.raises(NotAllowed, match="expired") as refused:
        auth().verify_path("/v1/frames/7.jpg", exp, sig, now=1060.5)
    assert refused.value.status == 403


def test_signed_urls_open_nothing_else() -> None:
    _, exp, sig = signed("/v1/frames/7.jpg")
    for path, other_exp, other_sig in [
        ("/v1/frames/8.jpg", exp, sig),
        ("/v1/frames/7.jpg", "9999999999", sig),
        ("/v1/frames/7.jpg", exp, sig[:-1]),
        ("/v1/frames/7.jpg", exp, "ä"),
        ("/v1/frames/7.jpg", "soon", sig),
        ("/v1/frames/7.jpg", "٣", sig),
        ("/v1/frames/7.jpg", "9" * 5000, sig),
    ]:
        with pytest.raises(NotAllowed) as refused:
            auth().verify_path(path, other_exp, other_sig, now=1000.0)
        assert refused.value.status == 403
    with pytest.raises(NotAllowed) as refused:
        auth().verify_path("/v1/frames/7.jpg", None, None, now=1000.0)
    assert refused.value.status == 401


def test_another_key_signs_differently() -> None:
    _, exp, sig = signed("/x")
    with pytest.raises(NotAllowed):
        Auth([], b"j" * 32).verify_path("/x", exp, sig, now=1000.0)


def test_first_start_makes_tokens_that_stay(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    first, second = Auth.open(folder), Auth.open(folder)
    assert (first.created, second.created) == (True, False)
    assert first.tokens == second.tokens
    assert {scope for token in first.tokens for scope in token.scopes} == {"admin", "ask", "publish:*"}
    assert (folder / "tokens.json").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in folder.iterdir()) == ["tokens.json"]
    second.verify_path("/x", *signed_by(first, "/x"), now=0)


def signed_by(signer: Auth, path: str) -> tuple[str, str]:
    exp, sig = signer.sign_path(path, 0, 60).partition("?exp=")[2].split("&sig=")
    return exp, sig


def test_starts_at_the_same_time_agree(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        opened = list(pool.map(lambda _: Auth.open(tmp_path), range(16)))
    assert sum(each.created for each in opened) == 1
    assert len({each.tokens for each in opened}) == 1


def test_a_file_that_others_can_read_is_closed_to_them(tmp_path: Path) -> None:
    Auth.open(tmp_path)
    (tmp_path / "tokens.json").chmod(0o644)
    Auth.open(tmp_path)
    assert (tmp_path / "tokens.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", ["", "{", "[]", '{"tokens": [{}], "signing_key": ""}', '{"tokens": []}'])
def test_a_damaged_file_says_what_to_do(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokens.json").write_text(content)
    with pytest.raises(TokenFileError, match="restore it, or delete it"):
        Auth.open(tmp_path)


def test_a_data_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TokenFileError, match="cannot be made"):
        Auth.open(tmp_path / "file" / "data")


def test_configured_tokens_work_and_are_not_written(tmp_path: Path) -> None:
    secret = "configured-secret-123"
    extra = TokenSettings(name="gate", token=SecretStr(secret), scopes=("publish:gate",))
    opened = Auth.open(tmp_path, extra=[extra])
    found = opened.check(f"Bearer {secret}", "publish:gate")
    assert found is not None
    assert found.name == "gate"
    assert secret not in (tmp_path / "tokens.json").read_text()


def test_the_local_command_line_finds_the_narrowest_token(tmp_path: Path) -> None:
    assert local_token(tmp_path, "ask") is None
    opened = Auth.open(tmp_path)
    entries = json.loads((tmp_path / "tokens.json").read_text())["tokens"]
    by_name = {entry["name"]: entry["token"] for entry in entries}
    assert local_token(tmp_path, "ask") == by_name["asker"]
    assert local_token(tmp_path, "publish:gate") == by_name["publisher"]
    assert local_token(tmp_path, "admin") == by_name["owner"]
    assert opened.check(f"Bearer {by_name['asker']}", "ask") is not None


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_token_file_of_another_user_is_refused(tmp_path: Path) -> None:
    Auth.open(tmp_path)
    (tmp_path / "tokens.json").chmod(0o000)
    with pytest.raises(TokenFileError, match="must belong to you"):
        Auth.open(tmp_path)


def test_a_configured_token_may_have_the_prefix_of_issued_ones(tmp_path: Path) -> None:
    """Such a token was once accepted in the configuration and then always refused."""
    settings = TokenSettings(name="gate", token=SecretStr("vt_0123456789abcdef"), scopes=("ask",))
    opened = Auth.open(tmp_path, extra=[settings])
    assert opened.check("Bearer vt_0123456789abcdef", "ask", now=1000.0) is not None
    issued = opened.issue("publish:gate", 1000.0, 60)
    assert opened.check(f"Bearer {issued.secret}", "publish:gate", now=1000.0) is not None
    assert opened.is_guess("Bearer vt_0123456789abcdee", 1000.0)
    assert not opened.is_guess(f"Bearer {issued.secret}", 2000.0)  # has expired


@pytest.mark.parametrize("scope", ['publish:"x"', "publish:a\r\nX: y", "publish:日本", "publish:" + "a" * 500])
def test_a_challenge_repeats_no_text_of_the_request(scope: str) -> None:
    with pytest.raises(NotAllowed) as refused:
        auth().check(f"Bearer {ASKER.secret}", scope)
    assert "scope=" not in refused.value.headers["WWW-Authenticate"]


@pytest.mark.parametrize("kind", ["file", "dangling link", "circle"])
def test_a_data_folder_that_is_not_a_folder_is_refused(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "data"
    match kind:
        case "file":
            folder.write_text("x")
        case "dangling link":
            folder.symlink_to(tmp_path / "absent")
        case "circle":
            folder.symlink_to(folder)
    with pytest.raises(TokenFileError, match=r"no folder|cannot be made"):
        Auth.open(folder)
