"""Draft models as ONNX: their export, and the drafter that runs them with ONNX Runtime, without PyTorch."""
