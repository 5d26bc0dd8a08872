"""Sources of frames: WebRTC publishers (WHIP), RTSP and HTTP cameras, webcams and files, sampled and timestamped.

Every source yields `Frame`: capture time in unix seconds and an RGB picture.
"""
