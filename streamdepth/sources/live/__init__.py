"""Live sources on the network: RTSP, RTMP, HTTP, UDP and TCP."""
