"""Readers of the raw files of public data sets, as their publishers give them.

A reader turns `RawFiles` into a `Log`, and, where the raw files describe the items, into `RawItems`. Lines
that are no interaction are left out, and counted in `Log.malformed` with the first one and its fault.
"""
