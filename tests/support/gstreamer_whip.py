"""Publish raw pictures with GStreamer's `webrtcbin` over WHIP. Needs the system's Python with GObject introspection.

    ... | /usr/bin/python3 tests/support/gstreamer_whip.py URL TOKEN VP8|H264 WIDTH HEIGHT RATE

Reads I420 pictures from standard input and sends each as it comes. Ends, without DELETE, at the end of the input.
"""

import sys
import urllib.request

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstWebRTC", "1.0")
gi.require_version("GstSdp", "1.0")
from gi.repository import GLib, Gst, GstSdp, GstWebRTC  # noqa: E402

ENCODERS = {
    "VP8": "vp8enc deadline=1 cpu-used=8 keyframe-max-dist=300 target-bitrate=1500000 ! rtpvp8pay pt=96",
    "H264": "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=300 bitrate=1500 ! h264parse config-interval=-1"
    " ! rtph264pay pt=96 aggregate-mode=zero-latency",
}


def main(url: str, token: str, codec: str, width: str, height: str, rate: str) -> None:
    Gst.init(None)
    loop = GLib.MainLoop()
    caps = f"application/x-rtp,media=video,encoding-name={codec},payload=96"
    pipeline = Gst.parse_launch(
        f"webrtcbin name=peer bundle-policy=max-bundle fdsrc fd=0 do-timestamp=true"
        f" ! rawvideoparse format=i420 width={width} height={height} framerate={rate}/1"
        f" ! identity sync=false ! queue max-size-buffers=2 leaky=downstream ! videoconvert"
        f" ! {ENCODERS[codec]} ! {caps} ! peer."
    )
    peer = pipeline.get_by_name("peer")

    def gathered(peer, _):
        if peer.get_property("ice-gathering-state") != GstWebRTC.WebRTCICEGatheringState.COMPLETE:
            return
        offer = peer.get_property("local-description").sdp.as_text()
        headers = {"Content-Type": "application/sdp", "Authorization": f"Bearer {token}"}
        with urllib.request.urlopen(urllib.request.Request(url, offer.encode(), headers)) as response:
            text = response.read()
        _, message = GstSdp.SDPMessage.new_from_text(text.decode())
        answer = GstWebRTC.WebRTCSessionDescription.new(GstWebRTC.WebRTCSDPType.ANSWER, message)
        peer.emit("set-remote-description", answer, None)

    def created(promise, *_):
        reply = promise.get_reply()  # owns the offer
        offer = reply.get_value("offer")
        peer.emit("set-local-description", offer, None)

    peer.connect("notify::ice-gathering-state", gathered)
    peer.connect(
        "on-negotiation-needed",
        lambda peer: peer.emit("create-offer", None, Gst.Promise.new_with_change_func(created, None)),
    )
    bus = pipeline.get_bus()
    bus.add_signal_watch()
    bus.connect("message::eos", lambda *_: loop.quit())
    bus.connect("message::error", lambda _, message: (print(message.parse_error(), file=sys.stderr), loop.quit()))
    pipeline.set_state(Gst.State.PLAYING)
    loop.run()
    pipeline.set_state(Gst.State.NULL)


if __name__ == "__main__":
    main(*sys.argv[1:])
