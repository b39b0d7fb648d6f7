"""ONNX files: the format in the middle, read and written like any other."""
