"""The procedural world that bundled weights are trained on."""
