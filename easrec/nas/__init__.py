"""The supernet, its controllers, the resource constraint and the search."""
