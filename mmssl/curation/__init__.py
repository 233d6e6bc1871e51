"""Choosing data before a run: clusters of embeddings (`mmssl cluster`), rows worth training on (`mmssl select`).

Both read files of `mmssl embed` in batches, write a small file about the rows beside the data, and copy none of them.
"""
