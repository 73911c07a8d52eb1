import os

# ONNX Runtime reads this once, at its import, which must follow the import of this package. Without it version 1.31 and
# newer send events and keep a device ID in the user's cache folder.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
