"""Connect to the broker of the settings, with a timeout on every step. Does not decide what is published."""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiomqtt

from agent.mqtt.causes import SettingsWrong
from agent.mqtt.wire import Client, what_we_take
from agent.runtime import pools
from agent.settings.mqtt import EMBEDDED, MqttSettings

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 10.0  # for each answer of the broker; after it the connection counts as lost
LEAVE_TIMEOUT_S = 2.0
KEEPALIVE_S = 20  # the broker notices a lost connection within 30 s, one and a half times as long
MAX_WAITING_MESSAGES = 256  # incoming messages beyond it are dropped and counted


@dataclass(frozen=True, slots=True)
class Identity:
    """The MQTT client id, and the last will that the broker publishes when the connection is lost."""

    client_id: str
    will: aiomqtt.Will


@asynccontextmanager
async def connected(
    settings: MqttSettings, address: tuple[str, int], identity: Identity, dropped: Callable[[], None]
) -> AsyncIterator[Client]:
    """Context manager: yield a connection that the broker has accepted, and close it afterwards.

    dropped: called for each incoming message that is dropped. Raises aiomqtt.MqttError. Connecting runs in a thread
    that cannot be interrupted, so a cancelled call waits for that thread: at most CONNECT_TIMEOUT_S each for the
    connection and for TLS, and ANSWER_TIMEOUT_S for the broker's answer.
    """
    client = await _prepared(settings, address, identity, dropped)
    connecting = asyncio.ensure_future(client.enter())
    try:
        await asyncio.shield(connecting)
    except asyncio.CancelledError:
        await asyncio.wait({connecting})
        if not connecting.cancelled() and connecting.exception() is None:
            await client.leave(LEAVE_TIMEOUT_S)
        raise
    try:
        yield client
    finally:
        await client.leave(LEAVE_TIMEOUT_S)


async def _prepared(
    settings: MqttSettings, address: tuple[str, int], identity: Identity, dropped: Callable[[], None]
) -> Client:
    """Return a client with the settings' credentials and TLS, not connected yet. Raises SettingsWrong."""
    is_v5 = settings.version == "5" and settings.url != EMBEDDED  # the embedded broker speaks 3.1.1 only
    try:
        return Client(
            *address,
            username=settings.user,
            password=await pools.alerts(settings.secret),
            identifier=identity.client_id,
            protocol=aiomqtt.ProtocolVersion.V5 if is_v5 else aiomqtt.ProtocolVersion.V311,
            clean_session=None if is_v5 else True,
            properties=what_we_take() if is_v5 else None,
            will=identity.will,
            keepalive=KEEPALIVE_S,
            timeout=ANSWER_TIMEOUT_S,
            connect_timeout_s=CONNECT_TIMEOUT_S,
            dropped=dropped,
            max_queued_incoming_messages=MAX_WAITING_MESSAGES,
            tls_context=await pools.alerts(settings.tls_context),
        )
    except UnicodeDecodeError:
        raise SettingsWrong(f"{settings.password_file} is not text: put the password there, in UTF-8") from None
    except OSError as error:
        raise SettingsWrong(_unreadable(settings, error)) from error
    except ValueError as error:
        raise SettingsWrong(f"the settings under mqtt cannot be used: {error}") from error


def _unreadable(settings: MqttSettings, error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        files = " and ".join(str(each) for each in (settings.ca, settings.cert, settings.key) if each is not None)
        reason = (error.reason or "no certificate in PEM form").replace("_", " ").lower()
        return f"the certificates cannot be used ({reason}): check {files or 'the system certificates'}"
    used = (settings.password_file, settings.ca, settings.cert, settings.key)
    missing = [str(each) for each in used if each is not None and not os.access(each, os.R_OK)]
    named = error.filename or ", ".join(missing) or "a file of mqtt"  # OpenSSL does not say which
    return f"{named} cannot be read ({error.strerror or error}): mqtt needs this file"
