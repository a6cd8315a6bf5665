"""Scene to words: object embeddings and the pipeline that finds them."""
