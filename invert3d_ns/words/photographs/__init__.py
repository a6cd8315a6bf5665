"""Inversion of photographs that come without cameras."""
