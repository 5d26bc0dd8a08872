"""Find ONVIF cameras in the local network, and ask each for the RTSP address of its video. Needs the extra `onvif`."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from agent.cli.common import CliError
from agent.runtime.unreachable import why_unreachable

SEARCH_S = 3
ANSWER_TIMEOUT_S = 15.0
_VIDEO_DEVICE = ("http://www.onvif.org/ver10/network/wsdl", "NetworkVideoTransmitter")
_ENOUGH_PIXELS = 1280  # the smallest stream at least this wide is taken: a larger one costs decoding time only


@dataclass(frozen=True, slots=True)
class OnvifCamera:
    """An ONVIF camera. url: RTSP address with user and password; "": it gave none, and `problem` says why."""

    host: str
    url: str = ""
    problem: str = ""


async def find_onvif(hosts: Sequence[str], user: str, password: str) -> list[OnvifCamera]:
    """Return the cameras at `hosts` ("host" or "host:port"), or without hosts those that answer in the network.

    Raises CliError if the extra is not installed.
    """
    try:
        import onvif  # noqa: F401
        import wsdiscovery  # noqa: F401
    except ImportError as error:
        raise CliError("ONVIF needs an extra: pip install 'vilamp-live[onvif]'") from error
    named = list(hosts) or await asyncio.to_thread(_discover)
    return list(await asyncio.gather(*(_ask(host, user, password) for host in dict.fromkeys(named))))


def _discover() -> list[str]:
    """Return "host:port" of each device that answers a WS-Discovery probe within SEARCH_S."""
    from wsdiscovery.discovery import ThreadedWSDiscovery
    from wsdiscovery.qname import QName

    search = ThreadedWSDiscovery()
    search.start()
    try:
        services = search.searchServices(types=[QName(*_VIDEO_DEVICE)], timeout=SEARCH_S)
        addresses = [address for service in services for address in service.getXAddrs()[:1]]
    finally:
        search.stop()
    return [host for address in addresses if (host := _host_of(address))]


def _host_of(address: str) -> str:
    """Return "host:port" of an HTTP address; "" of any other, as whatever is in the network may answer."""
    try:
        parts = urlsplit(address)
        return f"{parts.hostname}:{parts.port or 80}" if parts.scheme == "http" and parts.hostname else ""
    except ValueError:
        return ""


async def _ask(host: str, user: str, password: str) -> OnvifCamera:
    from onvif import ONVIFCamera, ONVIFError
    from zeep.exceptions import Error as SoapError

    name, _, port = host.partition(":")
    try:
        camera = ONVIFCamera(name, int(port or 80), user or None, password or None)
    except ValueError:
        return OnvifCamera(host, problem="this is no host or host:port")
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            await camera.update_xaddrs()
            media = await camera.create_media_service()
            profile = _chosen(await media.GetProfiles())
            setup = {"Stream": "RTP-Unicast", "Transport": {"Protocol": "RTSP"}}
            told = await media.GetStreamUri({"StreamSetup": setup, "ProfileToken": profile.token})
        return OnvifCamera(name, _with_login(str(told.Uri), user, password))
    except (ONVIFError, SoapError, OSError, TimeoutError, AttributeError, LookupError) as error:
        return OnvifCamera(name, problem=why_unreachable(error) or str(error) or type(error).__name__)
    except ValueError:
        return OnvifCamera(name, problem="it gives an address of its video that is not valid")
    finally:
        await camera.close()


def _chosen(profiles: Sequence[Any]) -> Any:
    """Return the media profile with the smallest picture that is wide enough, else the one with the largest."""

    def width(profile: Any) -> int:
        encoder = getattr(profile, "VideoEncoderConfiguration", None)
        return int(encoder.Resolution.Width) if encoder is not None and encoder.Resolution is not None else 0

    enough = [each for each in profiles if width(each) >= _ENOUGH_PIXELS]
    return min(enough, key=width) if enough else max(profiles, key=width)


def _with_login(url: str, user: str, password: str) -> str:
    """Return the address with user and password, unless it has its own. Raises ValueError unless it is RTSP or HTTP."""
    parts = urlsplit(url)
    if parts.scheme not in ("rtsp", "rtsps", "http", "https"):
        raise ValueError("not an address of video in the network")
    if not user or parts.username is not None:
        return url
    login = f"{quote(user, safe='')}:{quote(password, safe='')}"
    return urlunsplit(parts._replace(netloc=f"{login}@{parts.netloc}"))
