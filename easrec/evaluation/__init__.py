"""Ranking metrics under named protocols, and what a network costs to run."""
