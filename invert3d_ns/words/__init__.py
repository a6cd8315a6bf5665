"""Inversion, from a scene or photographs to words: the embedding, the objective that finds it, and its latents."""
