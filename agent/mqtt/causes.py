"""Explain to the operator why there is no connection to the broker: the cause, and what to do. Pure functions."""

import ssl

import aiomqtt
from aiomqtt.exceptions import MqttConnectError
from paho.mqtt.reasoncodes import ReasonCode

from agent.mqtt.wire import Client, HungUp, Unanswered
from agent.runtime.unreachable import CLOSED, why_unreachable
from agent.settings.mqtt import MqttSettings

_REFUSED = {
    "Unsupported protocol version": 'set mqtt.version to "3.1.1" or "5", whichever it is not',
    "Bad user name or password": "check mqtt.user and mqtt.password",
    "Not authorized": "check mqtt.user and mqtt.password, and the broker's access list",
    "Client identifier not valid": "set mqtt.client_id to a name that the broker accepts",
    "Banned": "the broker has banned this client: check its settings",
    "Bad authentication method": "the broker wants another login than user and password",
    "Server unavailable": "the broker is up but unavailable: check its log",
    "Server busy": "the broker is overloaded: the agent tries again",
    "Quota exceeded": "the broker's quota is used up: check its limits",
    "Connection rate exceeded": "the broker accepts no more connections for now: the agent tries again",
    "Retain not supported": "the agent tries again without retained messages",
    "QoS not supported": "the agent tries again with QoS 0",
    "Topic name invalid": "check mqtt.prefix",
    "Packet too large": "raise the broker's packet size limit",
    "Use another server": "check mqtt.url",
    "Server moved": "check mqtt.url",
}
_ENDED = {
    "Session taken over": "another client uses the same client id: give each its own mqtt.client_id",
    "Packet too large": "raise the broker's packet size limit",
    "Server shutting down": "the agent tries again",
    "Not authorized": "check the broker's access list",
    "Keep alive timeout": "the network is slow",
    "Administrative action": "an administrator closed it at the broker",
    "Quota exceeded": "the broker's quota is used up: check its limits",
    "Retain not supported": "the agent tries again without retained messages",
    "QoS not supported": "the agent tries again with QoS 0",
    "Topic name invalid": "check mqtt.prefix",
    "Message rate too high": "the broker allows fewer messages per second: check its limits",
}
_TLS_RECORDS = (0x14, 0x15, 0x16)
_CONNACK = 0x20


class SettingsWrong(aiomqtt.MqttError):
    """The settings under `mqtt`, or a file that they name, cannot be used. The operator must change them."""


class BrokerFailed(Exception):
    """The embedded broker cannot start, for example because its port is in use. The operator must change the settings."""


def in_words(
    error: BaseException,
    settings: MqttSettings,
    address: tuple[str, int],
    client: Client | None = None,
) -> str:
    """Return a sentence on the cause of `error`, with advice. client: the connection that ended, if it had been accepted."""
    if isinstance(error, SettingsWrong):
        return str(error)
    where = f"the broker at {address[0]}:{address[1]}"
    said = "; ".join(getattr(error, "__notes__", ())) if client is None else client.said
    own = f', in its own words "{said}"' if said else ""
    if isinstance(error, MqttConnectError):
        reason = str(error.rc) if isinstance(error.rc, ReasonCode) else str(error)
        return f"{where} refuses the connection: {reason}{own}{_advice(_REFUSED, reason)}"
    return f"no connection to {where}: {_end(error, settings, client)}{own}"


def _advice(known: dict[str, str], reason: str) -> str:
    return f" ({known[reason]})" if reason in known else ""


def _end(error: BaseException, settings: MqttSettings, client: Client | None) -> str:
    if isinstance(error, HungUp):
        return _hung_up(error, settings)
    why = None if client is None else client.why
    if client is not None and client.farewell is not None:
        return f"it closed the connection: {client.farewell}{_advice(_ENDED, str(client.farewell))}"
    if isinstance(why, str):
        return why
    if isinstance(error, Unanswered):
        return f"it accepts connections but gives {error}: is this the port of an MQTT broker, and is it healthy?"
    words = why_unreachable(why) if why is not None else None
    words = words or why_unreachable(error)
    if words is None:
        return "it closed the connection" if isinstance(error, aiomqtt.MqttError) and why is not None else str(error)
    if client is None and settings.tls and words == CLOSED:
        return f"{words} during the TLS handshake: is this its TLS port? (mqtt.url)"
    return f"{words}{_tls_advice(words)}"


def _tls_advice(words: str) -> str:
    """Return advice on which setting to change, for the text of a TLS error. "": there is none."""
    if "authority that is not trusted" in words:
        return ", or give its PEM file (mqtt.ca)"
    if "client certificate" in words:
        return " (mqtt.cert, mqtt.key)"
    return " (mqtt.url)" if "without TLS" in words else ""


def _hung_up(error: HungUp, settings: MqttSettings) -> str:
    """Return the cause when the connection ended before the broker accepted it.

    The first byte that it sent, if any, shows what kind of server it is.
    """
    if isinstance(error.failure, ssl.SSLError):
        words = why_unreachable(error.failure) or str(error.failure)
        return f"{words}{_tls_advice(words)}"
    if error.first in _TLS_RECORDS and not settings.tls:
        return "it speaks TLS on this port: write mqtts:// in mqtt.url, or use its port without TLS"
    if error.first == ord("H"):
        return "this is an HTTP or WebSocket port: use the broker's MQTT port in mqtt.url"
    if error.first == _CONNACK:
        return f"it refuses MQTT {settings.version}, or answers in an unknown format: try another mqtt.version"
    if error.first is not None:
        return "what answers there does not speak MQTT: check the port in mqtt.url"
    if settings.tls:
        wish = "it may want a client certificate (mqtt.cert, mqtt.key)"
    else:
        wish = "it may want TLS (mqtts:// in mqtt.url), or this is a WebSocket port"
    return (
        f"it closes the connection without an answer: {wish}; or it rejects this client: "
        f"check user, password and mqtt.version, and its log"
    )
