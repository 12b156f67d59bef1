"""Stages: the steps of a run, one module each, by the registry."""
