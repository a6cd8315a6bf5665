"""Weights on disk and from hubs, for priors and CLIP towers alike."""
