"""A robot that publishes a video file or a webcam, sends its pose and asks about what it saw (docs/robots.md).

    python examples/robot.py http://127.0.0.1:8080 --token ... --camera robot video.mp4 --ask "where did I see a red box?"

It needs only `pip install aiortc httpx`. A webcam is named by its device, such as /dev/video0.
"""

import argparse
import asyncio
import json
import math
import time

import httpx
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.contrib.media import MediaPlayer


async def main(args: argparse.Namespace) -> None:
    webcam = args.video.startswith("/dev/")
    player = MediaPlayer(args.video, format="v4l2" if webcam else None, loop=not webcam)
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    peer.addTransceiver(player.video, direction="sendonly")
    channel = peer.createDataChannel("vilamp")
    opened, answered = asyncio.Event(), asyncio.Event()

    @channel.on("message")
    def on_message(text: str) -> None:
        message = json.loads(text)
        if message["type"] == "ready":
            opened.set()
        elif message["type"] == "piece":
            print(message["text"], end="", flush=True)
        elif message["type"] == "answer":
            for frame in message["citations"]:
                print("\n", time.ctime(frame["time"]), frame["metadata"], frame["url"], end="")
            answered.set()
        elif message["type"] == "error":
            print(message["code"], message["message"])
            answered.set()

    await peer.setLocalDescription(await peer.createOffer())
    async with httpx.AsyncClient(base_url=args.server, headers={"Authorization": f"Bearer {args.token}"}) as http:
        sdp = {"Content-Type": "application/sdp"}
        response = await http.post(f"/whip/{args.camera}", content=peer.localDescription.sdp, headers=sdp)
        if response.status_code != 201:
            raise SystemExit(response.text)
        await peer.setRemoteDescription(RTCSessionDescription(response.text, "answer"))
        await opened.wait()

        began, asked = time.time(), False
        while not answered.is_set():
            angle = (time.time() - began) / 10  # replace by the robot's odometry: metres, degrees
            pose = {"x": 3 * math.cos(angle), "y": 3 * math.sin(angle), "heading": math.degrees(angle) + 90}
            channel.send(json.dumps({"type": "metadata", "time": time.time(), "data": pose}))
            if args.ask and not asked and time.time() > began + args.seconds:
                channel.send(json.dumps({"type": "ask", "id": "1", "question": args.ask}))
                asked = True
            await asyncio.sleep(0.2)
        await http.delete(response.headers["Location"])
    await peer.close()


parser = argparse.ArgumentParser(description="Publish a video with poses, and ask about it.")
parser.add_argument("server", help="such as http://127.0.0.1:8080")
parser.add_argument("video", help="a file, or a webcam such as /dev/video0")
parser.add_argument("--token", required=True, help="with the scopes publish:<camera> and, to ask, ask")
parser.add_argument("--camera", default="robot")
parser.add_argument("--ask", help="ask this after --seconds and end with the answer; without it Ctrl-C ends")
parser.add_argument("--seconds", type=float, default=10.0)
asyncio.run(main(parser.parse_args()))
