"""Toy modalities that keep the contracts honest: a table with missing cells, a signal with missing leads, a graph."""

from mmssl.provenance import trust

trust("toys")  # they are named by dotted paths, also in the folders of models that tests save
