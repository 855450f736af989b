"""Feature extraction: the pretrained network as a fixed function of its input."""
