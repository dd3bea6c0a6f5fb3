"""Plans: a bundle compiled for one card, how it is made from the ONNX, kept, and checked."""
