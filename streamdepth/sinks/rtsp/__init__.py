"""Depth as RTSP streams: a server, and publishing to one."""
