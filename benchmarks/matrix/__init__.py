"""The matrix: every modality x {mae, contrastive, jepa} on real data, several seeds, three arms under one probe.

    python -m benchmarks.matrix                    run what has no result yet, then write RESULTS.md
    python -m benchmarks.matrix --only cora ptbxl_500/jepa --seeds 0
    python -m benchmarks.matrix --report           RESULTS.md from the results that are there
    python -m benchmarks.matrix --list             the cells and what is missing

`cells.yaml` says which shipped recipe a cell runs on which data, and how it is judged; a run leaves one JSON file in
`results/`, `tried.yaml` keeps what was tried where pretraining did not help. Data lies in `../shared/data`, or where
`$MMSSL_SHARED_DATA` says.
"""
