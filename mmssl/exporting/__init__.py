"""Stock formats: write a model as a class that needs no mmssl, with proof; start from checkpoints of such classes."""
