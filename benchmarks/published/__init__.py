"""What papers report, tried on the same or like public data: `python -m benchmarks.published [NAME ...] [--seeds 0 1]`.

Each claim says which arm a paper finds better than which other. Every arm has one setting, chosen on rows that are not
reported, so that a direction and its interval are told and not the record. Results go to results/published.json and
docs/benchmarks/published.md; what is stored is not made again.
"""
