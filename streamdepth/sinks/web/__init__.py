"""The live page as a sink."""

from streamdepth.sinks.web.sink import WebSink

__all__ = ["WebSink"]
