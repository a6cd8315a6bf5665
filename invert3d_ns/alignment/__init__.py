"""CLIP towers: one space for images, views and words, for losses, metrics and retrieval."""
