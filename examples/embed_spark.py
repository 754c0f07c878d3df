"""Embeddings with Spark: `spark-submit embed_spark.py PROTEINS.parquet OUTPUT_FOLDER MODEL`.

PROTEINS.parquet, or a folder of such files, has the columns "id" and "sequence".
"""

import sys

from pyspark.sql import SparkSession

import protlm

proteins, output, model = sys.argv[1:]
spark = SparkSession.builder.appName("protlm").getOrCreate()
# one thread for each Python process, as many processes as cores; small batches, since long proteins need memory
spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", 1_024)
embedder = protlm.Embedder(model)
spark.read.parquet(proteins).select("id", "sequence").mapInPandas(
    embedder.map_pandas, "id string, sequence string, embedding array<float>"
).drop("sequence").write.parquet(output)
spark.stop()
