"""The seven labels, in the order of every array and graph."""

LABELS = ("neutral", "happy", "sad", "angry", "fearful", "disgust", "surprised")
HEADS = ("video", "audio", "fused")
