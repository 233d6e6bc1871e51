"""What people do with the encoder afterwards: task heads, full, linear or with a PEFT adapter; and adapters alone.

finetune.py     MODEL + data + label column -> a folder that predicts
fitting.py      the objective on the encoder, in the one training loop; finishing.py, folder.py: what is left
options.py      its options; asking.py: how they are read and checked
jobs.py         what is trained and measured: the contract; supervised_job.py, teaching.py, retrieval.py: each kind
choosing.py     few labels: rate and steps by folds inside them, the linear probe among the candidates
self_training.py  rows without labels, labelled in rounds by what was learned: unlabelled.py which, pseudo.py by what
label_model.py  many weak rules, put together; reweighing.py: what kept rows count
kept.py         what is kept of an objective's head
partition.py    which rows are trained on, looked at and measured on
compare.py      is there a reason to pretrain: several ways to learn from the same few labels
arms.py         these ways; comparison.py: their report and tables
experts.py      heads for rare classes, weighed on rows without labels; following.py: a teacher that labels as it trains
supervised.py   the objective that the one training loop runs
task.py         encoder + head, saved and loaded; scores.py: what they are measured by
"""
