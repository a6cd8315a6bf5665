"""Errors, files, pictures, provenance and random streams, for every other room; imports none of them."""
