"""Training of everything that is bundled: the prior, the CLIP towers and the judge."""
