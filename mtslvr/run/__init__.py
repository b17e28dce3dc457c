"""Many recordings in, one output out.

`decode` reads ahead, `extract` divides batches over threads, `job` goes over a list of files; `recorder` and `state`
hold what is finished while a run is on, `export` makes the output from it, `table` reads any output back, `shards` are
parts of the files, and their outputs joined.
"""
