"""Attention, gates, transformer networks and their description."""
