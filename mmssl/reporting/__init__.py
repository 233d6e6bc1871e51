"""A run as one page of HTML: what was logged, what was measured, and what the model sees.

    record      what the folder of a run says of itself
    settings    its options beside the defaults, and beside those of other runs
    panels      the numbers of `metrics.jsonl` on axes of their own
    looking     what the model makes of some samples: reconstructions, patches, embeddings, neighbours
    attention   where its last block looks
    embedding   the map of embeddings, and what lies near to what
    drawing     plots (matplotlib) and pictures (Pillow) that a page can hold
    painting    samples as pictures
    card        the pictures that a model's card carries
    page        all of it into `templates/`, by Jinja2 with escaping

Nothing here trains, or opens a run's data: `mmssl.training.reporting` does, for a run that ends and for one that is on
the disk.
"""
