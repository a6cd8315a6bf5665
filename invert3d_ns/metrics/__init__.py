"""Evaluations and benchmarks: how every published figure is measured."""
