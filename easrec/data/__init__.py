"""Interaction logs, their split and training batches."""
