"""Embeddings with Ray Data: `python embed_ray.py PROTEINS.parquet OUTPUT_FOLDER MODEL WORKERS`.

PROTEINS.parquet, or a folder of such files, has the columns "id" and "sequence".
"""

import sys

import ray

import protlm

proteins, output, model, workers = sys.argv[1:]
embedded = ray.data.read_parquet(proteins).map_batches(
    protlm.Embedder,
    fn_constructor_args=(model,),
    batch_size=1_024,
    compute=ray.data.ActorPoolStrategy(size=int(workers)),  # each worker loads the model once
    num_cpus=1,  # or num_gpus=1
)
embedded.drop_columns(["sequence"]).write_parquet(output)
