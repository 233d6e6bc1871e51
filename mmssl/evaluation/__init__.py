"""How good is an encoder? kNN, linear probe, zero-shot, retrieval and RankMe, always beside honest baselines.

The functions in `knn`, `linear`, `zero_shot`, `retrieval`, `rank` and `baselines` are pure (tensors in, numbers out);
`embedding` runs a model over data, `evaluate` puts both together, `table` prints the report.
"""
