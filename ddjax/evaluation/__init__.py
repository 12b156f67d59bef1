"""Evaluation: metrics, reports and pictures."""
