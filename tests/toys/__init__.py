"""Toy modalities that keep the contracts honest: a table with missing cells, a signal with missing leads, a graph."""
