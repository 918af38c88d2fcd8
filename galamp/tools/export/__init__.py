"""Export of a trained agent to what other programs read: ONNX, TorchScript, safetensors."""
