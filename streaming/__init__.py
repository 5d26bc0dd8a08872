"""Frames in: WebRTC sessions over WHIP, RTSP cameras, files and webcams, sampled and stamped with wall-clock time.

Contract: every source yields `Frame` (unix seconds, RGB picture). Knows nothing of memory, models or questions.
"""
