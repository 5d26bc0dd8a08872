"""A WebRTC peer that publishes video and uses a data channel, like a robot."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from aiortc import RTCDataChannel, RTCPeerConnection, RTCSessionDescription

from streaming.ice import Ice
from tests.support.streams import track


class Robot:
    """The peer connection, its data channel and the messages it received."""

    def __init__(self, peer: RTCPeerConnection, label: str) -> None:
        self.peer = peer
        self.session_url = ""
        self.channel = self.open(label)
        self._heard: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    def open(self, label: str, **options: Any) -> RTCDataChannel:
        channel = self.peer.createDataChannel(label, **options)
        channel.on("message", lambda text: self._heard.put_nowait(json.loads(text)))
        return channel

    def say(self, **message: Any) -> None:
        self.channel.send(json.dumps(message))

    async def hear(self, kind: str | None = None) -> dict[str, Any]:
        """Return the next message, or the next one of the type `kind`."""
        while True:
            message = await asyncio.wait_for(self._heard.get(), 60)
            if kind in (None, message["type"]):
                return message

    async def closed(self) -> None:
        while self.channel.readyState != "closed":
            await asyncio.sleep(0.01)


@asynccontextmanager
async def robot(url: str, token: str, *, label: str = "vilamp", rate_hz: float = 10.0) -> AsyncIterator[Robot]:
    """Publish to the WHIP endpoint `url`. At the end the connection closes without a DELETE request."""
    ice = Ice()
    peer = ice.connection()
    try:
        it = Robot(peer, label)
        peer.addTransceiver(track(rate_hz=rate_hz), direction="sendonly")
        ice.prepare(peer)
        await peer.setLocalDescription(await peer.createOffer())
        headers = {"Content-Type": "application/sdp", "Authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(timeout=20.0) as http:
            response = await http.post(url, content=peer.localDescription.sdp, headers=headers)
        assert response.status_code == 201, response.text
        it.session_url = response.headers["Location"]
        await peer.setRemoteDescription(RTCSessionDescription(response.text, "answer"))
        yield it
    finally:
        await peer.close()
