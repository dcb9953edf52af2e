"""Models in other runtimes' formats: `onnx`."""
