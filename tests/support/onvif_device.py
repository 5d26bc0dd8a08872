"""An ONVIF camera: the SOAP calls that lead to the address of its video, with WS-Security passwords (user "ann")."""

import asyncio
import base64
import hashlib
import socket
import xml.etree.ElementTree as ElementTree
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from datetime import UTC, datetime

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_SOAP = "http://www.w3.org/2003/05/soap-envelope"
_WSSE = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd"
_WSU = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-utility-1.0.xsd"
_TDS, _TRT = "http://www.onvif.org/ver10/device/wsdl", "http://www.onvif.org/ver10/media/wsdl"
_HEAD = f'xmlns:s="{_SOAP}" xmlns:tds="{_TDS}" xmlns:trt="{_TRT}" xmlns:tt="http://www.onvif.org/ver10/schema"'


def _profile(token: str, width: int, height: int) -> str:
    return f"""<trt:Profiles token="{token}" fixed="true"><tt:Name>{token}</tt:Name>
      <tt:VideoEncoderConfiguration token="e"><tt:Name>e</tt:Name><tt:UseCount>1</tt:UseCount>
      <tt:Encoding>H264</tt:Encoding>
      <tt:Resolution><tt:Width>{width}</tt:Width><tt:Height>{height}</tt:Height></tt:Resolution>
      <tt:Quality>5</tt:Quality>
      <tt:Multicast><tt:Address><tt:Type>IPv4</tt:Type></tt:Address><tt:Port>0</tt:Port><tt:TTL>1</tt:TTL>
      <tt:AutoStart>false</tt:AutoStart></tt:Multicast><tt:SessionTimeout>PT60S</tt:SessionTimeout>
      </tt:VideoEncoderConfiguration></trt:Profiles>"""


class OnvifDevice:
    """The camera's answers. password: of user "ann". Profiles: 2560, 1280 and 640 pixels wide."""

    def __init__(self, password: str) -> None:
        self.password = password
        self.video = "rtsp://127.0.0.1:554"
        self.port = 0
        self.asked: list[str] = []

    async def answer(self, request: Request) -> Response:
        envelope = ElementTree.fromstring(await request.body())
        call = envelope.find(f"{{{_SOAP}}}Body")[0]  # type: ignore[index]
        name = call.tag.rpartition("}")[2]
        self.asked.append(name)
        if name != "GetSystemDateAndTime" and not self._may(envelope):
            return self._respond(
                "<s:Fault><s:Code><s:Value>s:Sender</s:Value></s:Code><s:Reason>"
                '<s:Text xml:lang="en">Sender not Authorized</s:Text></s:Reason></s:Fault>',
                400,
            )
        return self._respond(self._body(name, call))

    def _respond(self, body: str, status: int = 200) -> Response:
        text = f'<?xml version="1.0"?><s:Envelope {_HEAD}><s:Body>{body}</s:Body></s:Envelope>'
        return Response(text, status, media_type="application/soap+xml")

    def _may(self, envelope: ElementTree.Element) -> bool:
        """Return whether the request has the right password digest: base64(sha1(nonce + created + password))."""
        token = envelope.find(f".//{{{_WSSE}}}UsernameToken")
        if token is None or token.findtext(f"{{{_WSSE}}}Username") != "ann":
            return False
        nonce = base64.b64decode(token.findtext(f"{{{_WSSE}}}Nonce") or "")
        created = (token.findtext(f"{{{_WSU}}}Created") or "").encode()
        digest = base64.b64encode(hashlib.sha1(nonce + created + self.password.encode()).digest()).decode()
        return token.findtext(f"{{{_WSSE}}}Password") == digest

    def _body(self, name: str, call: ElementTree.Element) -> str:
        base = f"http://127.0.0.1:{self.port}/onvif"
        now = datetime.now(UTC)
        match name:
            case "GetSystemDateAndTime":
                return (
                    "<tds:GetSystemDateAndTimeResponse><tds:SystemDateAndTime><tt:DateTimeType>NTP</tt:DateTimeType>"
                    "<tt:DaylightSavings>false</tt:DaylightSavings><tt:UTCDateTime><tt:Time>"
                    f"<tt:Hour>{now.hour}</tt:Hour><tt:Minute>{now.minute}</tt:Minute><tt:Second>{now.second}</tt:Second>"
                    f"</tt:Time><tt:Date><tt:Year>{now.year}</tt:Year><tt:Month>{now.month}</tt:Month>"
                    f"<tt:Day>{now.day}</tt:Day></tt:Date></tt:UTCDateTime></tds:SystemDateAndTime>"
                    "</tds:GetSystemDateAndTimeResponse>"
                )
            case "GetServices":
                services = "".join(
                    f"<tds:Service><tds:Namespace>{space}</tds:Namespace><tds:XAddr>{base}/{path}</tds:XAddr>"
                    "<tds:Version><tt:Major>2</tt:Major><tt:Minor>0</tt:Minor></tds:Version></tds:Service>"
                    for space, path in ((_TDS, "device_service"), (_TRT, "media_service"))
                )
                return f"<tds:GetServicesResponse>{services}</tds:GetServicesResponse>"
            case "GetProfiles":
                profiles = _profile("main", 2560, 1440) + _profile("middle", 1280, 720) + _profile("sub", 640, 360)
                return f"<trt:GetProfilesResponse>{profiles}</trt:GetProfilesResponse>"
            case "GetStreamUri":
                token = call.findtext(f"{{{_TRT}}}ProfileToken")
                return (
                    f"<trt:GetStreamUriResponse><trt:MediaUri><tt:Uri>{self.video}/{token}</tt:Uri>"
                    "<tt:InvalidAfterConnect>false</tt:InvalidAfterConnect>"
                    "<tt:InvalidAfterReboot>false</tt:InvalidAfterReboot><tt:Timeout>PT60S</tt:Timeout>"
                    "</trt:MediaUri></trt:GetStreamUriResponse>"
                )
        return "<s:Fault><s:Code><s:Value>s:Receiver</s:Value></s:Code></s:Fault>"


@asynccontextmanager
async def onvif_device(password: str) -> AsyncIterator[OnvifDevice]:
    """Run the camera on a free port of 127.0.0.1."""
    device = OnvifDevice(password)
    listener = socket.create_server(("127.0.0.1", 0))
    device.port = listener.getsockname()[1]
    app = Starlette(routes=[Route("/onvif/{service}", device.answer, methods=["POST"])])
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
    server.capture_signals = lambda: nullcontext()  # type: ignore[method-assign]
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield device
    finally:
        server.should_exit = True
        await serving
