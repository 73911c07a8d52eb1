# mypy: ignore-errors
"""A GStreamer RTSP server to test against: runs under Debian's Python, the one that has ``gi``.

Plays a moving ball, or another pattern, at ``/cam`` and re-serves at ``/relay`` what is published to ``/in``. Prints
its port when ready.
"""

import argparse

import gi

gi.require_version("Gio", "2.0")
gi.require_version("Gst", "1.0")
gi.require_version("GstApp", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gio, GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402

ENCODERS = {
    "h264": "openh264enc gop-size=12 complexity=low ! h264parse ! rtph264pay name=pay0 pt=96 config-interval=-1",
    "jpeg": "jpegenc ! rtpjpegpay name=pay0 pt=26",
}


def camera(codec, width, height, pattern):
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_shared(True)
    factory.set_latency(0)
    factory.set_launch(
        f"( videotestsrc is-live=true pattern={pattern} ! "
        f"video/x-raw,format=I420,width={width},height={height},framerate=25/1 ! {ENCODERS[codec]} )"
    )
    return factory


class Relay:
    """What comes in by RECORD goes out by PLAY, one access unit at a time."""

    def __init__(self):
        self.sources = []
        self.record = GstRtspServer.RTSPMediaFactory()
        self.record.set_transport_mode(GstRtspServer.RTSPTransportMode.RECORD)
        self.record.set_latency(0)
        self.record.set_launch(
            "( rtph264depay name=depay0 ! h264parse config-interval=-1 ! "
            "video/x-h264,stream-format=byte-stream,alignment=au ! appsink name=sink emit-signals=true sync=false )"
        )
        self.record.connect("media-configure", self.on_record)
        self.play = GstRtspServer.RTSPMediaFactory()
        self.play.set_shared(True)
        self.play.set_latency(0)
        self.play.set_launch(
            "( appsrc name=src is-live=true do-timestamp=true format=time "
            "caps=video/x-h264,stream-format=byte-stream,alignment=au ! h264parse ! "
            "rtph264pay name=pay0 pt=96 config-interval=-1 aggregate-mode=zero-latency )"
        )
        self.play.connect("media-configure", self.on_play)

    def on_record(self, _factory, media):
        media.get_element().get_by_name("sink").connect("new-sample", self.on_sample)

    def on_play(self, _factory, media):
        source = media.get_element().get_by_name("src")
        self.sources.append(source)
        media.connect("unprepared", lambda _: self.sources.remove(source) if source in self.sources else None)

    def on_sample(self, sink):
        sample = sink.emit("pull-sample")
        for source in list(self.sources):
            if source.current_state != Gst.State.PLAYING:
                continue  # without a base time, do-timestamp gives a time hours ahead, for which the sink would wait
            unit = sample.get_buffer().copy()
            unit.pts = unit.dts = Gst.CLOCK_TIME_NONE
            source.emit("push-buffer", unit)
        return Gst.FlowReturn.OK


def protect(auth, mounts, user, password, method):
    auth.set_supported_methods(getattr(GstRtsp.RTSPAuthMethod, method.upper()))
    token = admit(mounts)
    if method == "basic":
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
    else:
        auth.add_digest(user, password, token)


def admit(mounts):
    """A token that opens every mount point."""
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "user")
    for factory in mounts:
        permissions = GstRtspServer.RTSPPermissions()
        permissions.add_permission_for_role("user", "media.factory.access", True)
        permissions.add_permission_for_role("user", "media.factory.construct", True)
        factory.set_permissions(permissions)
    return token


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", default="0")
    parser.add_argument("--codec", default="h264", choices=sorted(ENCODERS))
    parser.add_argument("--size", default="160x96")
    parser.add_argument("--pattern", default="ball")
    parser.add_argument("--auth", default="")
    parser.add_argument("--method", default="digest", choices=("basic", "digest"))
    parser.add_argument("--tls", default="", help="PEM file with certificate and key")
    options = parser.parse_args()
    Gst.init(None)
    relay = Relay()
    factories = {
        "/cam": camera(options.codec, *options.size.split("x"), options.pattern),
        "/in": relay.record,
        "/relay": relay.play,
    }
    server = GstRtspServer.RTSPServer()
    # With its one default thread a publisher and a player on one server wait for each other for ever.
    server.get_thread_pool().set_max_threads(-1)
    server.set_address("127.0.0.1")
    server.set_service(options.port)
    for path, factory in factories.items():
        server.get_mount_points().add_factory(path, factory)
    auth = GstRtspServer.RTSPAuth()
    if options.auth:
        user, _, password = options.auth.partition(":")
        protect(auth, factories.values(), user, password, options.method)
    else:
        auth.set_default_token(admit(factories.values()))
    if options.tls:
        auth.set_tls_certificate(Gio.TlsCertificate.new_from_file(options.tls))
    server.set_auth(auth)
    if not server.attach(None):
        raise SystemExit("cannot listen")
    print(server.get_bound_port(), flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()
