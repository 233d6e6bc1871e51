"""What people do with the encoder afterwards: task heads, full, linear or with a PEFT adapter; and adapters alone.

finetune.py     MODEL + data + label column -> a folder that predicts
options.py      its options
partition.py    which rows are trained on, looked at and measured on
labels.py       label columns -> targets; splits.py: stratified, grouped, of a share of the labels
supervised.py   the objective that the one training loop runs; teaching.py: the label-free one
adapters.py     PEFT on an `MMSSLModel`; folder.py: adapter folders, written and read
convert.py      an adapter of ours -> one for the exported stock model
task.py         encoder + head, saved and loaded; scores.py, probe.py: what they are measured by
"""
