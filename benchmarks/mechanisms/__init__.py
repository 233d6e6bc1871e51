"""Every mechanism on real data, beside its untrained twin: `python -m benchmarks.mechanisms [NAME ...]`.

A row is a recipe NAME.yaml of this folder and an entry of rows.yaml, which says what it shows and what comes before it.
Each of its seeds is pretrained and judged by what the recipe's `evaluation` says; what is stored already of the same
recipe is not made again, unless `--again` says so. Results go to results/NAME.json, and all of them into
docs/benchmarks/mechanisms.md.
"""
