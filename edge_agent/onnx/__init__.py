"""Draft models as ONNX: their export, and the drafter that runs them with ONNX Runtime, without PyTorch."""

import os

# ONNX Runtime reads this when it is imported: else it keeps an identifier of the device and sends events to Microsoft.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
