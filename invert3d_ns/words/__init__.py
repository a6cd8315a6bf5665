"""Scene to words: the embedding, the objective that finds it, and the latents it is found on."""
