"""An RTSP server as a sink, and the RTSP parts publishing shares with it."""
