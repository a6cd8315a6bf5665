"""The procedural world that bundled weights are trained on: captioned objects, drawn from a seed, and their renders."""
