import os

# Peers import ONNX Runtime without streamdepth; see streamdepth/inference/__init__.py.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
