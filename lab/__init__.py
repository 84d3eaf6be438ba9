"""Labelled captures from real servers and real clients in network namespaces.

``python -m lab --out lab/captures`` (root) draws runs, plays each one, and writes pcap files
with a label for every flow. Nothing else of the project is imported here.
"""
