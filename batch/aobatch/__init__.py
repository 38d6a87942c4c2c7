"""Offline batch text completion with a local ONNX model."""
